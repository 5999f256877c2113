"""The command that mirrors files from the bundled simulator."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 -- typer reads the annotation
from typing import Annotated

import typer

from mirror.cli import signals
from mirror.cli.globals import globals_of


def demo(
    context: typer.Context,
    *,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep all that was made in this folder."),
    ] = None,
) -> None:
    """Mirror real files from a VMS that misbehaves, and tell what happened."""
    from mirror.cli.demo_scenario import demonstrate  # noqa: PLC0415 -- slow imports

    if (
        keep is not None
        and keep.exists()
        and (not keep.is_dir() or any(keep.iterdir()))
    ):
        raise typer.BadParameter(f"--keep: {keep} is not an empty folder")
    raise typer.Exit(signals.run(demonstrate(keep, globals_of(context).redactor)))
