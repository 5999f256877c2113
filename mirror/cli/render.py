"""Print to people and to programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from mirror.wording import ADVICE, clean, size, span

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["ADVICE", "as_json", "clean", "size", "span", "table"]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns of text, aligned; the last one as long as it is."""
    lines = [list(head), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        typer.echo("  ".join(cells).rstrip())


def as_json(value: dict[str, Any]) -> None:
    """Print one JSON object on one line."""
    typer.echo(json.dumps(value))
