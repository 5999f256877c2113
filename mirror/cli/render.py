"""Print to people and to programs."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, Final

import typer

from mirror.wording import ADVICE, clean, distance, size, span

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

__all__ = ["ADVICE", "clean", "distance", "size", "span"]

_STYLES: Final = {
    "saved": "green",
    "fetching": "cyan",
    "parked": "yellow",
    "doubtful": "yellow",
    "damaged": "red",
    "lost": "bold red",
}
_ENDLESS = 10_000


def console() -> Console:
    """Return what prints in the terminal's width; elsewhere nothing is cut."""
    from rich.console import Console  # noqa: PLC0415 -- rich is slow

    free = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(
        width=None if free else _ENDLESS, markup=False, highlight=False, emoji=False
    )


def show(*parts: RenderableType) -> None:
    """Print texts and tables one below the other."""
    from rich.console import Group  # noqa: PLC0415 -- rich is slow

    printer = console()
    with printer.capture() as shown:
        printer.print(Group(*parts))
    typer.echo("\n".join(line.rstrip() for line in shown.get().splitlines()))


def state(word: str) -> Text:
    """Return a state in its colour."""
    from rich.text import Text  # noqa: PLC0415 -- rich is slow

    return Text.assemble((word, _STYLES.get(word, "")))


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[RenderableType]],
    *,
    cut: Collection[str] = (),
) -> Table:
    """Return columns without those in which nothing stands.

    Those named by `cut` give way where the terminal is narrow: strings are cut there.
    """
    from rich.table import Table  # noqa: PLC0415 -- rich is slow
    from rich.text import Text  # noqa: PLC0415 -- rich is slow

    lines = list(rows)
    used = [n for n in range(len(head)) if any(line[n] for line in lines)]
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for n in used:
        shown.add_column(head[n], no_wrap=head[n] not in cut)
    for line in lines:
        cells = [
            Text(cell, no_wrap=True, overflow="ellipsis")
            if isinstance(cell, str)
            else cell
            for cell in line
        ]
        shown.add_row(*(cells[n] for n in used))
    return shown


def as_json(value: dict[str, Any]) -> None:
    """Print one JSON object on one line."""
    typer.echo(json.dumps(value))
