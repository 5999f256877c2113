"""Decide what the end of a fetch attempt means for an export: pure, no I/O."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import TYPE_CHECKING

from mirror import backoff
from mirror.lifecycle import held_body, loss
from mirror.lifecycle.held_body import must_be_fetching
from mirror.lifecycle.retry import RARELY_US
from mirror.model import Reason, State, Verdict

if TYPE_CHECKING:
    from mirror.backoff import Pace
    from mirror.model import Attempt, Export, Receipt

MOST_WITHOUT_GAIN = 10
"""Attempts in a row that gained nothing, after which an export is parked."""
QUIET_TRIES = 5
"""Tries at every walk before a url without a file is tried less often."""
_RARELY = timedelta(microseconds=RARELY_US)


def claimed(export: Export) -> Export:
    """Return a ready or parked export that is fetched from now on."""
    if export.state not in {State.READY, State.PARKED}:
        return export
    return dataclasses.replace(
        export, state=State.FETCHING, attempts=export.attempts + 1, not_before_us=0
    )


def whole(export: Export, receipt: Receipt, attempt: Attempt) -> Export:
    """Return the export whose file lies whole and proven in the spool."""
    must_be_fetching(export)
    return dataclasses.replace(
        gave_bytes(export, receipt.size_bytes).without_held(),
        state=State.SPOOLED,
        reason=None,
        last_error=None,
        attempts_without_gain=0,
        tries_without_file=0,
        without_walks=0,
        not_before_us=0,
        size_bytes=receipt.size_bytes,
        sha256=receipt.sha256,
        proof=Verdict.WHOLE,
        doubt=None,
        proof_notes="; ".join(receipt.notes) or None,
        part_bytes=receipt.size_bytes,
        part_sha256=receipt.sha256,
        part_total=receipt.size_bytes,
        part_etag=receipt.etag,
        part_modified=receipt.last_modified,
        started_us=attempt.started_us,
        spooled_us=attempt.ended_us,
    )


def gave_bytes(export: Export, size_bytes: int) -> Export:
    """Return the export knowing that there was a file, if bytes of it came."""
    if export.had_file or not size_bytes:
        return export
    return dataclasses.replace(export, had_file=True, deadline_us=export.order_us)


def failed(
    export: Export, *, error: str, now_us: int, pace: Pace, jitter: float
) -> Export:
    """Return the export after an attempt that did not bring the whole file.

    `part_bytes` are as the attempt left them; `jitter` is a uniform draw in [0, 1).
    """
    must_be_fetching(export)
    export = gave_bytes(export, export.part_bytes)
    gained = export.part_bytes > export.best_bytes
    without_gain = 0 if gained else export.attempts_without_gain + 1
    wait = backoff.delay(
        max(without_gain, 1), initial=pace.initial, maximum=pace.maximum, jitter=jitter
    )
    after = dataclasses.replace(
        export,
        state=State.READY,
        attempts_without_gain=without_gain,
        tries_without_file=0,
        best_bytes=max(export.part_bytes, export.best_bytes),
        last_error=error,
        due_us=now_us + _us(wait),
    )
    if without_gain < MOST_WITHOUT_GAIN:
        return after
    return _parked(after, Reason.NO_PROGRESS, now_us, pace)


def refused(export: Export, *, error: str, now_us: int, pace: Pace) -> Export:
    """Return the export whose url leads to an origin that is not allowed."""
    must_be_fetching(export)
    after = dataclasses.replace(export, last_error=error)
    return _parked(after, Reason.ORIGIN_REFUSED, now_us, pace)


def gone(
    export: Export,
    *,
    reason: Reason,
    error: str,
    now_us: int,
    oldest_us: int | None,
    looked_for: bool,
    pace: Pace,
) -> Export:
    """Return the export for which there was no file behind the url.

    `reason` is `file_gone`, or `url_without_file` for a folder url; of `oldest_us` see
    `deadline.has_passed`, of `looked_for` `loss.seen_without`.
    """
    must_be_fetching(export)
    tries = export.tries_without_file + 1
    after = dataclasses.replace(
        export,
        state=State.WAITING,
        reason=reason,
        last_error=error,
        tries_without_file=tries,
        due_us=now_us + _us(_pause(export, tries, now_us, pace)),
        without_us=export.walk_us,
    )
    return loss.seen_without(
        after,
        walk_us=export.walk_us,
        now_us=now_us,
        oldest_us=oldest_us,
        looked_for=looked_for,
    )


def interrupted(export: Export) -> Export:
    """Return the export whose attempt ended through no fault of its own."""
    must_be_fetching(export)
    return dataclasses.replace(
        gave_bytes(export, export.part_bytes),
        state=State.READY,
        best_bytes=max(export.part_bytes, export.best_bytes),
        due_us=0,
    )


def postponed(
    export: Export,
    *,
    error: str,
    now_us: int,
    pace: Pace,
    wait_s: float | None = None,
) -> Export:
    """Return the export that our own spool could not take just now.

    It is tried again after `wait_s`; None: as long as after a first failure.
    """
    wait = pace.initial if wait_s is None else timedelta(seconds=wait_s)
    return dataclasses.replace(
        interrupted(export), last_error=error, due_us=now_us + _us(wait)
    )


def _parked(export: Export, reason: Reason, now_us: int, pace: Pace) -> Export:
    due_us = now_us + _us(pace.maximum)
    return held_body.rather_kept(
        dataclasses.replace(export, state=State.PARKED, reason=reason, due_us=due_us)
    )


def _pause(export: Export, tries: int, now_us: int, pace: Pace) -> timedelta:
    """Return how long no further try is made: none for the first few."""
    if tries <= QUIET_TRIES:
        return timedelta()
    hopeless = not export.had_file and now_us > export.order_us
    limit = max(_RARELY, pace.maximum) if hopeless else pace.maximum
    return backoff.delay(
        tries - QUIET_TRIES + 1, initial=pace.initial, maximum=limit, jitter=1.0
    )


def _us(span: timedelta) -> int:
    return round(span.total_seconds() * 1_000_000)
