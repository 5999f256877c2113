"""The command that makes exports due now."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from mirror.cli.exports import find, reading
from mirror.cli.globals import globals_of
from mirror.errors import MirrorError
from mirror.lifecycle import version
from mirror.model import KEPT_STATES, Export, Reason, State, to_us, utc_now


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
        done = ledger.retry(chosen, _due_now)
    others = "; the others are kept, under way or were due" * (done < len(chosen))
    typer.echo(f"{done} of {len(chosen)} exports are due now{others}")


def _due_now(export: Export) -> Export:
    """Return the export as `retry` leaves it."""
    fresh = dataclasses.replace(
        export,
        due_us=0,
        not_before_us=0,
        barren=0,
        misses=0,
        without_walks=0,
        absent_sweeps=0,
        timeouts=0,
    )
    if export.doubtful and export.state in KEPT_STATES:
        if not export.has_file:
            return export
        now_us = to_us(utc_now())
        asked = version.further(export, reason=Reason.MADE_AGAIN, now_us=now_us)
        # That it brings the same bytes says nothing of what the VMS shows by itself.
        return dataclasses.replace(asked, drops=export.drops - 1)
    match export.state:
        case State.READY:
            return dataclasses.replace(export, due_us=0, not_before_us=0, timeouts=0)
        case State.PARKED:
            return dataclasses.replace(fresh, state=State.READY)
        case State.LOST | State.UNAVAILABLE | State.DAMAGED | State.ERASED:
            return dataclasses.replace(
                fresh, state=State.READY, reason=Reason.MADE_AGAIN, best_bytes=0
            )
        case State.WAITING | State.EXCLUDED:
            if export.shows_file:
                return dataclasses.replace(fresh, state=State.READY, reason=None)
            waiting = Reason.FILE_GONE if export.had_file else Reason.NO_FILE_YET
            return dataclasses.replace(fresh, state=State.WAITING, reason=waiting)
        case _:
            return export
