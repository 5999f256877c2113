"""The command by which people say that they know of a loss."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from mirror.cli.exports import find, reading
from mirror.cli.globals import expect_known, globals_of
from mirror.errors import MirrorError
from mirror.model import State, to_us, utc_now


def ack(
    context: typer.Context,
    exports: Annotated[list[str] | None, typer.Argument(metavar="SOURCE/ID...")] = None,
    *,
    note: Annotated[
        str, typer.Option("--note", metavar="TEXT", help="What was done about it.")
    ],
    state: Annotated[
        Literal["lost"] | None,
        typer.Option(help="All losses that nobody has taken note of yet."),
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --state: of this source.")
    ] = None,
) -> None:
    """Take note of lost exports: they are told of no more, and stay counted."""
    if not note.strip() or not note.isprintable():
        raise typer.BadParameter("--note takes one line of text that says something")
    if not exports and state is None:
        raise typer.BadParameter("name exports as SOURCE/ID, or all by --state lost")
    if source is not None and state is None:
        raise typer.BadParameter("--source goes with --state lost")
    settings = globals_of(context).settings()
    with reading(settings) as ledger:
        known = {*settings.sources, *(one.name for one in ledger.queries.sources())}
        expect_known("--source", source, known)
        chosen = [find(ledger, name) for name in exports or []]
        others = [each for each in chosen if each.state is not State.LOST]
        if others:
            labels = ", ".join(f"{each.label} ({each.state})" for each in others)
            raise MirrorError(
                f"only a lost export can be acknowledged, not {labels}; none was"
            )
        if state is not None:
            chosen += [
                each
                for each in ledger.by_state(State.LOST)
                if each.acknowledged_us is None and source in {None, each.source}
            ]
        done = ledger.acknowledge(chosen, note.strip(), to_us(utc_now()))
    none = "no loss waits to be acknowledged"
    typer.echo(f"{done} of {len(chosen)} losses are acknowledged" if chosen else none)
