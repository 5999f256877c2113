"""The command that copies the ledger."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 -- typer reads the annotation
from typing import Annotated

import typer

from mirror.cli import render
from mirror.cli.globals import globals_of


def backup(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file yet to be.")],
) -> None:
    """Copy the ledger to a new file, whole, beside a running service."""
    settings = globals_of(context).settings(as_root=True)

    from mirror.app import backup as copying  # noqa: PLC0415 -- slow imports

    size = copying.write(settings.state_dir, path.absolute())
    typer.echo(f"the ledger is copied to {path} ({render.size(size)})")
    typer.echo(
        "to go back to it: stop the service, move ledger.sqlite3 and, if it is there, "
        f"ledger.sqlite3-wal out of {settings.state_dir}, and put the copy there as "
        "ledger.sqlite3; then `archive-mirror rebuild --force` takes up what was saved "
        "since"
    )
