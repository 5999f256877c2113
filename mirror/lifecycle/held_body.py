"""Decide what a body that is not proven whole means for an export: pure, no I/O.

Such a body is held in the spool beside any new partial, and is asked for again. When it
is confirmed, or nothing better can be had, it is spooled as doubtful.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from mirror import backoff
from mirror.model import Reason, State, Verdict

if TYPE_CHECKING:
    from mirror.backoff import Pace
    from mirror.model import Export, Receipt

SMALL_BYTES: Final = 64 * 1024
"""A shorter body may be a placeholder: an equal one does not confirm it."""
LARGE_BYTES: Final = 1024**3
"""A longer body is fetched a second time at half the time left only."""
MOST_BODIES: Final = 3
_AGAIN_US: Final = 120_000_000
_SHARE_OF_LEFT: Final = 10
_RESERVE_US: Final = 30 * 60_000_000
_RESERVE_SHARE: Final = 6
_QUEUED: Final = frozenset({State.READY, State.WAITING, State.PARKED})
_WAITING: Final = frozenset({State.WAITING, State.PARKED, State.LOST})


def doubted(
    export: Export,
    body: Receipt,
    *,
    folder: str,
    started_us: int,
    now_us: int,
    lifetime_us: int,
    pace: Pace,
    jitter: float,
    patient: bool,
) -> Export:
    """Return the export after a body that ended as announced and is not proven whole.

    Its number is `part_number` of `export`, and it lies in the spool at `folder`. If
    `patient`, it may be asked for again later; else at once, and by its bytes. The VMS
    keeps a file for `lifetime_us`; `jitter` is a uniform draw in [0, 1).
    """
    must_be_fetching(export)
    small = body.size_bytes < SMALL_BYTES
    equal = export.held_sha256 == body.sha256
    bodies = export.bodies + (not small or not patient)
    until_us = held_until(export, now_us, lifetime_us)
    confirmed = equal and not (small and patient)
    after = dataclasses.replace(
        _hold(export, body, folder, started_us, now_us),
        state=State.READY,
        last_error=not_proven(body.doubt),
        bodies=bodies,
        attempts_without_gain=0,
        tries_without_file=export.tries_without_file + 1 if small else 0,
        without_walks=0,
        best_bytes=0,
        due_us=0,
        spool_dir=None,
        part_bytes=0,
        part_sha256=None,
        part_total=None,
        part_etag=None,
        part_modified=None,
        ask_without_range=False,
        held_until_us=until_us,
    )
    if confirmed or bodies >= MOST_BODIES or now_us >= until_us:
        return _ready(after)
    if not patient:
        return after
    if small:
        wait = backoff.delay(
            after.tries_without_file,
            initial=pace.initial,
            maximum=pace.maximum,
            jitter=jitter,
        )
        return dataclasses.replace(
            after, due_us=now_us + round(wait.total_seconds() * 1e6)
        )
    left_us = (export.deadline_us or until_us) - now_us
    wait_us = min(_AGAIN_US, left_us // _SHARE_OF_LEFT)
    if body.size_bytes > LARGE_BYTES and not can_look(after):
        wait_us = left_us // 2
    again_us = now_us + wait_us
    return dataclasses.replace(after, due_us=again_us, not_before_us=again_us)


def must_be_fetching(export: Export) -> None:
    """Refuse the end of an attempt that no claim began.

    Raises:
        ValueError: The export is not being fetched.
    """
    if export.state is not State.FETCHING:
        raise ValueError(f"{export.label} is {export.state}, not being fetched")


def not_proven(doubt: str | None) -> str:
    """Say that a body is not proven whole."""
    return f"not proven whole: {doubt}"


def held_until(export: Export, now_us: int, lifetime_us: int) -> int:
    """Return when a held body is spooled as doubtful, whatever comes until then."""
    if export.deadline_us is not None:
        return export.deadline_us - min(_RESERVE_US, lifetime_us // _RESERVE_SHARE)
    return export.held_until_us or now_us + _RESERVE_US


def can_look(export: Export) -> bool:
    """Tell whether a look at the headers may confirm the held body."""
    size_bytes = export.held_bytes or 0
    validator = export.held_etag or export.held_modified
    return validator is not None and size_bytes >= SMALL_BYTES


def wait_over(export: Export) -> Export:
    """Return an export whose held body waits no longer to be confirmed."""
    return dataclasses.replace(
        export, reason=None, due_us=0, not_before_us=0, held_until_us=0
    )


def ending(export: Export) -> Export:
    """Return an export that is fetched no more: its held body is spooled next."""
    must_be_fetching(export)
    return _ready(export)


def rather_kept(export: Export) -> Export:
    """Return an export on its way to waiting, parked or lost; a held body is kept."""
    return _ready(export) if export.held and export.state in _WAITING else export


def spooled_doubtful(export: Export) -> Export:
    """Return the export with its held body as its file, to be published.

    Raises:
        ValueError: None is held, or it is being fetched or has ended.
    """
    if not export.held or export.state not in _QUEUED:
        raise ValueError(f"no held body of {export.label} is to be spooled")
    return dataclasses.replace(
        export.without_held(),
        state=State.SPOOLED,
        reason=Reason.DOUBTFUL,
        attempts_without_gain=0,
        tries_without_file=0,
        without_walks=0,
        absent_sweeps=0,
        due_us=0,
        not_before_us=0,
        spool_dir=export.held_dir,
        part_number=export.held_number or 1,
        part_bytes=export.held_bytes or 0,
        part_sha256=export.held_sha256,
        part_total=export.held_bytes,
        part_etag=export.held_etag,
        part_modified=export.held_modified,
        size_bytes=export.held_bytes,
        sha256=export.held_sha256,
        proof=Verdict.DOUBTFUL,
        doubt=export.held_doubt,
        proof_notes=None,
        started_us=export.held_started_us,
        spooled_us=export.held_us,
    )


def _ready(export: Export) -> Export:
    return dataclasses.replace(wait_over(export), state=State.READY)


def _hold(
    export: Export, body: Receipt, folder: str, started_us: int, now_us: int
) -> Export:
    """Hold the longer of two bodies; of equal length the newer."""
    if export.held:
        held_bytes = export.held_bytes or 0
        if body.size_bytes < held_bytes or body.sha256 == export.held_sha256:
            return export
    return dataclasses.replace(
        export,
        held_dir=folder,
        held_number=export.part_number,
        held_bytes=body.size_bytes,
        held_sha256=body.sha256,
        held_etag=body.etag,
        held_modified=body.last_modified,
        held_doubt=body.doubt,
        held_started_us=started_us,
        held_us=now_us,
        part_number=max(export.part_number, export.held_number or 0) + 1,
    )


def set_apart(export: Export, version: int) -> Export:
    """Return what is kept of an export as a version of its own, without the held body.

    That body has other bytes.
    """
    return dataclasses.replace(
        export.without_held(),
        version=version,
        spool_dir=None,
        part_bytes=0,
        part_sha256=None,
        look_due_us=None,
    )


def alone(export: Export) -> Export:
    """Return an export that waits for nothing but to be kept by its held body."""
    if export.state not in _QUEUED | {State.FETCHING} or not export.held:
        return export
    return dataclasses.replace(
        _ready(export),
        size_bytes=None,
        sha256=None,
        proof=None,
        doubt=None,
        proof_notes=None,
        look_due_us=None,
        spooled_us=None,
        saved_us=None,
    )
