"""Decide where a copy stands, and its export with it: pure, no I/O."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from mirror.model import KEPT_STATES, Copy, CopyState, Reason, State

if TYPE_CHECKING:
    from collections.abc import Collection

    from mirror.model import Export

OPEN: Final = frozenset({CopyState.PENDING, CopyState.PUBLISHING, CopyState.FAILED})
"""These copies are still to be made."""
_REVIVED = frozenset(
    {State.DAMAGED, State.READY, State.PARKED, State.WAITING, State.LOST}
)


def owed(key: int, target: str) -> Copy:
    """Return the copy that is to be made of an export on a target."""
    return Copy(
        export=key,
        target=target,
        state=CopyState.PENDING,
        path=None,
        verified_us=None,
        saved_us=None,
        attempts=0,
        due_us=0,
        last_error=None,
    )


def owed_again(copy: Copy) -> Copy:
    """Return a copy whose file came into the spool; a saved one stays."""
    if copy.state is CopyState.SAVED:
        return copy
    return dataclasses.replace(pending(copy), attempts=0, verified_us=None)


def of_other_bytes(copy: Copy) -> Copy:
    """Return a copy of an export that has other bytes now: it is to be made anew."""
    return dataclasses.replace(
        pending(copy), attempts=0, verified_us=None, saved_us=None
    )


def claimed(copy: Copy) -> Copy:
    """Return a copy that is published from now on."""
    if copy.state not in {CopyState.PENDING, CopyState.FAILED}:
        return copy
    return dataclasses.replace(
        copy, state=CopyState.PUBLISHING, attempts=copy.attempts + 1
    )


def saved(copy: Copy, *, verified: bool, now_us: int) -> Copy:
    """Return a copy that was published and proven; `verified` by reading it back."""
    return dataclasses.replace(
        copy,
        state=CopyState.SAVED,
        saved_us=now_us,
        verified_us=now_us if verified else None,
        last_error=None,
        due_us=0,
    )


def failed(copy: Copy, *, error: str, due_us: int) -> Copy:
    """Return a copy whose publish failed; it is tried again at `due_us`."""
    return dataclasses.replace(
        copy, state=CopyState.FAILED, last_error=error, due_us=due_us
    )


def released(copy: Copy, *, error: str | None = None, due_us: int = 0) -> Copy:
    """Return a claimed copy to the queue; the attempt does not count against it."""
    return dataclasses.replace(
        copy,
        state=CopyState.PENDING,
        attempts=copy.attempts - 1,
        last_error=copy.last_error if error is None else error,
        due_us=due_us,
    )


def due_now(copy: Copy) -> Copy:
    """Return a failed copy that `retry` makes due."""
    return pending(copy) if copy.state is CopyState.FAILED else copy


def interrupted(copy: Copy) -> Copy:
    """Return a copy whose publish a stopped service left behind."""
    return pending(copy) if copy.state is CopyState.PUBLISHING else copy


def without_spool_file(copy: Copy) -> Copy:
    """Return a copy whose file in the spool is gone: it waits for another."""
    tried = copy.state in {CopyState.PUBLISHING, CopyState.FAILED}
    return pending(copy) if tried else copy


def good(copy: Copy, export: Export, *, note: str | None, now_us: int) -> Copy:
    """Return a kept copy that was read and is good; `note` what is wrong beside it."""
    # The fetch under way owes the copies that are not good; it would know of one more
    # that is when nothing waits for it any more.
    fetching = export.state is State.FETCHING
    return dataclasses.replace(
        copy,
        state=copy.state if fetching else CopyState.SAVED,
        verified_us=now_us,
        checked_us=now_us,
        last_error=note,
    )


def bad(copy: Copy, *, spooled: bool, error: str, now_us: int) -> Copy:
    """Return a kept copy that was read and is not good; owed again if `spooled`."""
    return dataclasses.replace(
        copy,
        state=CopyState.PENDING if spooled else CopyState.DAMAGED,
        checked_us=now_us,
        last_error=error,
        due_us=0,
    )


def kept_as(*, doubtful: bool) -> tuple[State, Reason | None]:
    """Return the state of an export that is kept, and the reason."""
    return (State.DOUBTFUL, Reason.DOUBTFUL) if doubtful else (State.SAVED, None)


def export_saved(
    export: Export,
    copies: Collection[Copy],
    *,
    required: Collection[str],
    now_us: int,
) -> Export:
    """Return a spooled export as kept, if its copies, all there are, are enough.

    Every required target must hold one; if there are none, one copy is enough.
    """
    if export.state is not State.SPOOLED:
        return export
    holders = {copy.target for copy in copies if copy.state is CopyState.SAVED}
    if not (holders >= set(required) if required else holders):
        return export
    state, reason = kept_as(doubtful=export.doubtful)
    return dataclasses.replace(export, state=state, reason=reason, saved_us=now_us)


def spool_lost(export: Export, error: str) -> Export:
    """Return an export whose spooled file is gone or damaged; not yet kept: ready."""
    after = dataclasses.replace(
        export, spool_dir=None, part_bytes=0, part_sha256=None, last_error=error
    )
    if export.state is not State.SPOOLED:
        return after
    return dataclasses.replace(
        after,
        state=State.READY,
        reason=Reason.SPOOL_LOST,
        due_us=0,
        attempts_without_gain=0,
        best_bytes=0,
    )


def after_good(export: Export) -> Export:
    """Return the export that has a copy proven good."""
    if export.state not in _REVIVED:
        return export
    state, reason = kept_as(doubtful=export.doubtful)
    return dataclasses.replace(
        export.without_held(), state=state, reason=reason, last_error=None, due_us=0
    )


def after_bad(export: Export, *, spooled: bool, others: bool, error: str) -> Export:
    """Return the export one of whose copies is not good; `error` says why.

    If `spooled`, the whole file lies in the spool, to be published again; if `others`,
    there is a good copy on another target.
    """
    if export.state not in {State.SAVED, State.DOUBTFUL} or others:
        return export
    state = State.SPOOLED if spooled else State.DAMAGED
    reason = Reason.DOUBTFUL if spooled and export.doubtful else None
    return dataclasses.replace(export, state=state, reason=reason, last_error=error)


def has_spool_file(export: Export) -> bool:
    """Tell whether the spool has the file that is kept, as far as the record knows."""
    return (
        export.state in KEPT_STATES
        and export.spool_dir is not None
        and export.part_bytes == export.size_bytes
        and export.part_sha256 == export.sha256
    )


def pending(copy: Copy) -> Copy:
    """Return a copy that is to be made, at once."""
    return dataclasses.replace(copy, state=CopyState.PENDING, due_us=0)
