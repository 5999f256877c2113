"""The command that stores the token of a source."""

from __future__ import annotations

import asyncio
import errno
import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from mirror.cli.globals import globals_of
from mirror.errors import AuthError, ConfigError, ListError, MirrorError


def token_set(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE")],
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Store it though the VMS refuses it.")
    ] = False,
) -> None:
    """Read a token from standard input, try it, and put it into its file.

    A token that the VMS refuses is not stored (exit 1). If the VMS cannot be asked now,
    it is stored, and stderr says so. A running service takes it up within seconds. On a
    terminal it is not shown.
    """
    globals_ = globals_of(context)
    settings = globals_.settings(as_root=True)
    if source not in settings.sources:
        named = ", ".join(settings.sources)
        raise typer.BadParameter(f"there is no source {source}; there are: {named}")
    path = settings.sources[source].token_file
    if path is None:
        problem = "is not set, so that there is no file to put the token into; set "
        problem += f'token_file = "/etc/archive-mirror/{source}.token". If the unit '
        problem += "has LoadCredential=, write it into the file named there and restart"
        raise ConfigError([f"sources.{source}.token_file: {problem}"])

    from mirror.app.check.token import try_token  # noqa: PLC0415 -- slow imports
    from mirror.vms import token as tokens  # noqa: PLC0415 -- slow imports

    if sys.stdin.isatty():
        raw = typer.prompt(f"token of {source}", hide_input=True).encode()
    else:
        raw = sys.stdin.buffer.read(tokens.MAX_BYTES + 1)
    token = tokens.parse(raw, "standard input")
    globals_.redactor.add(token)
    verdict = "the VMS accepts it"
    try:
        asyncio.run(try_token(settings, source, token, secret=globals_.redactor.add))
    except AuthError as exc:
        verdict = "the VMS refuses it (401)"
        if not force:
            raise MirrorError(
                f"the VMS refuses this token (401): it is not stored, {path} is as it "
                "was. Make another on the VMS; --force stores this one all the same"
            ) from exc
    except ListError as exc:
        verdict = "the VMS could not be asked about it"
        typer.echo(f"the token could not be tried: {exc}", err=True)
    try:
        tokens.store(path, token, reader=settings.state_dir)
    except OSError as exc:
        problem = f"the token cannot be written to {path} ({exc.strerror or exc}); "
        problem += (
            "root follows no links: set token_file to the file's real path"
            if exc.errno == errno.ELOOP
            else "run this as one who may write there, such as root"
        )
        raise ConfigError([f"sources.{source}.token_file: {problem}"]) from exc
    until, end_s = "", tokens.expiry(token)
    if end_s is not None:
        end = datetime.fromtimestamp(end_s, UTC)
        until = f"; it is good until {end:%Y-%m-%d %H:%M} UTC"
    typer.echo(f"the token of {source} is in {path}; {verdict}{until}")
