"""Fix the deadline of an export, and tell whether it has passed: pure, no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirror.lifecycle.walk import Walk
    from mirror.model import Export, Row


def deadline_of(prior: Export | None, row: Row, walk: Walk) -> int:
    """Return when the VMS may delete the file that this walk first shows."""
    oldest_us = walk.at_us - walk.lifetime_us
    born_us = _last_without(prior, row, walk)
    for stamp_us in (row.created_us, row.updated_us):
        if born_us is None and stamp_us is not None:
            ours_us = stamp_us - walk.clock_offset_us
            if ours_us > oldest_us:
                born_us = min(ours_us, walk.at_us)
    return (walk.at_us if born_us is None else born_us) + walk.lifetime_us


def _last_without(prior: Export | None, row: Row, walk: Walk) -> int | None:
    """Return when a walk last saw the row without a file, if one did."""
    if prior is None:
        return None
    if prior.shows_file:
        known = prior.without_us is not None and prior.without_us <= walk.at_us
        return prior.without_us if known else None
    for began_us, since_us in walk.previous:
        if prior.first_seen_us <= began_us <= walk.at_us and (
            row.created_us is None or row.created_us >= since_us
        ):
            return began_us
    return None


def has_passed(export: Export, now_us: int, oldest_us: int | None) -> bool:
    """Tell whether the deadline is over by our clock, and may be by the VMS's.

    Ours may have been put forward since it was fixed.

    Args:
        export: Of any state.
        now_us: By our clock.
        oldest_us: When, by the clock of the VMS, an export was created whose file is
            deleted now at the earliest; None if that clock is not known.
    """
    if oldest_us is None or not export.past_deadline(now_us):
        return False
    return export.created_us is None or export.created_us < oldest_us
