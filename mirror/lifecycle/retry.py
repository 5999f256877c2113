"""Decide when an export is tried again, and what `retry` makes of it: pure, no I/O."""

from __future__ import annotations

import dataclasses

from mirror.lifecycle import version
from mirror.model import KEPT_STATES, Export, Reason, State

RARELY_US = 6 * 3_600_000_000
"""The longest wait between tries of a url that never gave a file."""
_ENDED = frozenset({State.LOST, State.UNAVAILABLE, State.DAMAGED, State.ERASED})


def due_now(export: Export, now_us: int) -> Export:
    """Return the export as `retry` leaves it; without a key it is a further version."""
    if export.doubtful and export.state in KEPT_STATES:
        if not export.has_file:
            return export
        asked = version.further(export, reason=Reason.MADE_AGAIN, now_us=now_us)
        # That it brings the same bytes says nothing of what the VMS shows by itself.
        return dataclasses.replace(asked, drops=export.drops - 1)
    if export.state is State.READY:
        return dataclasses.replace(export, due_us=0, not_before_us=0, timeouts=0)
    fresh = dataclasses.replace(
        export,
        due_us=0,
        not_before_us=0,
        attempts_without_gain=0,
        tries_without_file=0,
        without_walks=0,
        absent_sweeps=0,
        timeouts=0,
    )
    if export.state is State.PARKED:
        return dataclasses.replace(fresh, state=State.READY)
    if export.state in _ENDED:
        return dataclasses.replace(
            fresh, state=State.READY, reason=Reason.MADE_AGAIN, best_bytes=0
        )
    if export.state in {State.WAITING, State.EXCLUDED}:
        if export.shows_file:
            return dataclasses.replace(fresh, state=State.READY, reason=None)
        waiting = Reason.FILE_GONE if export.had_file else Reason.NO_FILE_YET
        return dataclasses.replace(fresh, state=State.WAITING, reason=waiting)
    return export


def unparked(export: Export) -> Export:
    """Return a parked export whose time has come, to be fetched."""
    if export.state is not State.PARKED:
        return export
    return dataclasses.replace(export, state=State.READY, due_us=0)


def waited(export: Export, walk_us: int) -> Export:
    """Return a waiting export whose wait is over, to be fetched.

    Its row shows a file, and is older than sweeps look; the last began at `walk_us`.
    """
    if export.state is not State.WAITING or not export.shows_file:
        return export
    return dataclasses.replace(export, state=State.READY, walk_us=walk_us)


def renewed(export: Export, *, reason: Reason | None, walk_us: int) -> Export:
    """Return the export as ready, with its history of failures forgotten.

    Its file was not there, and the walk that began at `walk_us` saw it.
    """
    return dataclasses.replace(
        export,
        state=State.READY,
        reason=reason,
        due_us=export.not_before_us,
        attempts_without_gain=0,
        tries_without_file=0,
        best_bytes=0,
        without_walks=0,
        absent_sweeps=0,
        ask_without_range=False,
        late=0,
        timeouts=0,
        walk_us=walk_us,
    )
