"""The command that makes exports due now."""

from __future__ import annotations

from typing import Annotated

import typer

from mirror.cli.exports import find, reading
from mirror.cli.globals import globals_of
from mirror.errors import MirrorError
from mirror.model import State, to_us, utc_now


def retry(
    context: typer.Context,
    exports: Annotated[list[str] | None, typer.Argument(metavar="SOURCE/ID...")] = None,
    *,
    state: Annotated[
        State | None, typer.Option(help="All exports in this state.")
    ] = None,
) -> None:
    """Make exports due now, whatever they wait for."""
    if not exports and state is None:
        raise typer.BadParameter("name exports as SOURCE/ID, or a state with --state")
    with reading(globals_of(context).settings()) as ledger:
        try:
            chosen = [find(ledger, name) for name in exports or []]
        except MirrorError as exc:
            typer.echo(str(exc), err=True)
            raise typer.Exit(1) from exc
        if state is not None:
            chosen += ledger.by_state(state)
        done = ledger.retry(chosen, to_us(utc_now()))
    others = "; the others are kept, under way or were due" * (done < len(chosen))
    typer.echo(f"{done} of {len(chosen)} exports are due now{others}")
