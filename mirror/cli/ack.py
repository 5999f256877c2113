"""The command by which people say that they know of a loss."""

from __future__ import annotations

from typing import Annotated

import typer

from mirror.cli.exports import find, reading
from mirror.cli.globals import globals_of
from mirror.errors import MirrorError
from mirror.model import State, to_us, utc_now


def ack(
    context: typer.Context,
    exports: Annotated[list[str], typer.Argument(metavar="SOURCE/ID...")],
    *,
    note: Annotated[
        str, typer.Option("--note", metavar="TEXT", help="What was done about it.")
    ],
) -> None:
    """Take note of lost exports: they are told of no more, and stay counted."""
    if not note.strip() or not note.isprintable():
        raise typer.BadParameter("--note takes one line of text that says something")
    with reading(globals_of(context).settings()) as ledger:
        chosen = [find(ledger, name) for name in exports]
        others = [each for each in chosen if each.state is not State.LOST]
        if others:
            labels = ", ".join(f"{each.label} ({each.state})" for each in others)
            raise MirrorError(
                f"only a lost export can be acknowledged, not {labels}; none was"
            )
        done = ledger.acknowledge(chosen, note.strip(), to_us(utc_now()))
    typer.echo(f"{done} of {len(chosen)} losses are acknowledged")
