"""Decide when an export is lost, and when it is unavailable: pure, no I/O."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mirror.lifecycle import deadline, held_body
from mirror.model import Reason, State

if TYPE_CHECKING:
    from mirror.lifecycle.walk import Walk
    from mirror.model import Export

EXPIRED_WALKS = 3
"""Walks without the file after which, past its deadline, it counts as expired."""
GONE_SWEEPS = 2
"""Complete sweeps without the row after which, past its deadline, it is gone."""
_MAY_BE_GONE = frozenset({State.WAITING, State.READY, State.PARKED})


def seen_without(
    export: Export,
    *,
    walk_us: int,
    now_us: int,
    oldest_us: int | None,
    looked_for: bool,
) -> Export:
    """Return a waiting export that a walk, or a try after it, saw without its file.

    It is lost if it had a file, its deadline has passed (see `deadline.has_passed`),
    `EXPIRED_WALKS` saw it so, and it was `looked_for` on the targets since its file
    vanished; a held body is kept instead. Each walk, known by when it began, counts
    once.
    """
    if export.had_file and export.without_walk_us != walk_us:
        export = dataclasses.replace(
            export,
            without_walk_us=walk_us,
            without_walks=min(export.without_walks + 1, EXPIRED_WALKS),
        )
    if (
        export.had_file
        and looked_for
        and export.without_walks >= EXPIRED_WALKS
        and deadline.has_passed(export, now_us, oldest_us)
    ):
        export = _lost(export, Reason.EXPIRED)
    return held_body.rather_kept(export)


def absent(
    export: Export, now_us: int, oldest_us: int | None, *, looked_for: bool
) -> Export:
    """Return the export that a complete sweep should have shown and did not.

    It is lost only if it was looked for on the targets since it was first missed.
    """
    if export.state not in _MAY_BE_GONE:
        return export
    sweeps = min(export.absent_sweeps + 1, GONE_SWEEPS)
    export = dataclasses.replace(export, absent_sweeps=sweeps)
    passed = deadline.has_passed(export, now_us, oldest_us)
    if sweeps < GONE_SWEEPS or not passed or not looked_for:
        return export
    return held_body.rather_kept(_lost(export, Reason.ROW_GONE))


def overdue(export: Export, walk: Walk) -> Export:
    """Return a waiting export that never had a file; unavailable after too long."""
    if export.state is not State.WAITING or export.had_file or export.has_file:
        return export
    born_us = export.first_seen_us
    if export.created_us is not None:
        born_us = export.created_us - walk.clock_offset_us
    if walk.at_us - born_us <= walk.waiting_limit_us:
        return export
    before = export.first_seen_us - born_us > walk.waiting_limit_us
    return dataclasses.replace(
        export,
        state=State.UNAVAILABLE,
        reason=Reason.BEFORE_FIRST_RUN if before else Reason.NEVER_HAD_A_FILE,
    )


def _lost(export: Export, reason: Reason) -> Export:
    """Return the export as lost and not yet acknowledged."""
    return dataclasses.replace(
        export, state=State.LOST, reason=reason, acknowledged_us=None, note=None
    )
