"""The command that writes the support bundle."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mirror.cli import render
from mirror.cli.globals import globals_of


def support_bundle(
    context: typer.Context,
    path: Annotated[
        Path | None, typer.Argument(metavar="[PATH]", help="A file yet to be.")
    ] = None,
    *,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log", metavar="FILE", help="Log lines to add, such as of journalctl."
        ),
    ] = None,
) -> None:
    """Write configuration, status, checks and versions to a tar.gz, without secrets.

    It is mode 0600. Look into it before you send it: it names hosts, paths and sources.
    """
    globals_ = globals_of(context)
    settings = globals_.settings(as_root=True)

    from mirror import config  # noqa: PLC0415 -- slow imports
    from mirror.app import support_bundle as support  # noqa: PLC0415 -- slow imports

    name = f"archive-mirror-support-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar.gz"
    path = path or Path(name)
    size, names = asyncio.run(
        support.make(
            path,
            settings,
            effective=config.explain(globals_.config_path(), os.environ),
            log=log,
            redactor=globals_.redactor,
            opened=partial(globals_.become_service_user, settings),
        )
    )
    typer.echo(f"{path} ({render.size(size)}): {', '.join(names)}")
    typer.echo(
        "it names hosts, paths and sources, and no secrets: look before you send"
    )
