"""Commands that keep the service going: its token, a copy of its ledger."""

from __future__ import annotations

import errno
import os
import sys
from datetime import UTC, datetime
from pathlib import Path  # noqa: TC003 -- typer reads the annotation
from typing import Annotated

import typer

from mirror.cli import render
from mirror.cli.globals import given
from mirror.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("backup")(backup)
    token = typer.Typer(help="The token of a source.", no_args_is_help=True)
    token.command("set")(token_set)
    app.add_typer(token, name="token")
    config = typer.Typer(help="The configuration.", no_args_is_help=True)
    config.command("show")(config_show)
    app.add_typer(config, name="config")


def config_show(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Print the configuration as it is in effect, and where each value came from.

    What is printed is itself a valid configuration. There is no secret in it: tokens
    are only ever named by their files.
    """
    from mirror import config  # noqa: PLC0415 -- costs a quarter of a second

    settings = config.explain(given(context).config_path(), os.environ)
    if as_json:
        shown = {
            ".".join(one.path): {"value": one.value, "from": one.origin}
            for one in settings
        }
        render.as_json(shown)
        return
    table: tuple[str, ...] = ()
    for one in sorted(settings, key=lambda each: len(each.path) > 1):
        if one.path[:-1] != table:
            table = one.path[:-1]
            typer.echo(f"\n[{'.'.join(table)}]")
        line = f"{one.path[-1]} = {one.value}"
        if one.value is None:
            line = f"# {one.path[-1]} is not set"
        typer.echo(f"{line:<40}  # {one.origin}" if one.value is not None else line)


def backup(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file yet to be.")],
) -> None:
    """Copy the ledger to a new file, whole, beside a running service."""
    settings = given(context).settings()

    from mirror.app import backup as copying  # noqa: PLC0415 -- slow imports

    size = copying.write(settings.state_dir, path.absolute())
    typer.echo(f"the ledger is copied to {path} ({render.size(size)})")
    typer.echo(
        "to go back to it: stop the service, move ledger.sqlite3 and, if it is there, "
        f"ledger.sqlite3-wal out of {settings.state_dir}, and put the copy there as "
        "ledger.sqlite3; then `archive-mirror rebuild --force` takes up what was saved "
        "since"
    )


def token_set(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE")],
) -> None:
    """Read a token from standard input into the source's token file.

    A running service takes it up within seconds. On a terminal it is not shown.
    """
    globals_ = given(context)
    settings = globals_.settings()
    if source not in settings.sources:
        named = ", ".join(settings.sources)
        raise typer.BadParameter(f"there is no source {source}; there are: {named}")
    path = settings.sources[source].token_file
    if path is None:
        problem = "is not set, so that there is no file to put the token into; set "
        problem += (
            f'token_file = "/etc/archive-mirror/{source}.token". If the unit has '
        )
        problem += "LoadCredential=, write it into the file named there and restart"
        raise ConfigError([f"sources.{source}.token_file: {problem}"])

    from mirror.vms import token as tokens  # noqa: PLC0415 -- slow imports

    if sys.stdin.isatty():
        raw = typer.prompt(f"token of {source}", hide_input=True).encode()
    else:
        raw = sys.stdin.buffer.read(tokens.MAX_BYTES + 1)
    token = tokens.parse(raw, "standard input")
    globals_.redactor.add(token)
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
    ends = tokens.expiry(token)
    until = "" if ends is None else f"; it is good until {_day(ends)}"
    typer.echo(f"the token of {source} is in {path}{until}")


def _day(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
