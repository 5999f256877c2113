"""Decide where the end of an attempt to fetch leaves an export: pure, no I/O."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.errors import FetchError, FileGoneError, OriginRefusedError, SpoolError
from mirror.lifecycle import attempt, held_body
from mirror.lifecycle.second_look import Shown, first_due
from mirror.model import Attempt, Reason
from mirror.ports import FIRST_BYTE, UNFIT_RANGE

if TYPE_CHECKING:
    from mirror.backoff import Pace
    from mirror.model import EtagUse, Export, Receipt

_TIMEOUTS = frozenset({"timeout", FIRST_BYTE, "too_slow"})


@dataclass(slots=True, kw_only=True)
class AttemptFacts:
    """What is known of an attempt, collected until its end.

    Attributes:
        oldest_us: See `deadline.has_passed`; as it was when the attempt began.
        lifetime_us: How long the VMS keeps a file.
        second_look: The source allows second looks.
        offset_bytes: Where in the file the first byte received belongs.
        held_bytes: Bytes that are durable in the part.
        folder: Of the spool; empty until a part is open.
        began: A body has begun.
        complete: A body came to its end.
        etag_use: As learnt; None if nothing was asked.
        shown: What a look showed of the held body; None if none was taken.
        receipt: Of the body that came to its end; None if the attempt has none.
        failure: What failed. With neither it nor a receipt the attempt was interrupted,
            or a look showed enough.
        looked_for: See `loss.seen_without`; as it was when the attempt ended.
    """

    started_us: int
    oldest_us: int | None
    lifetime_us: int
    second_look: bool
    offset_bytes: int
    held_bytes: int
    folder: str = ""
    began: bool = False
    complete: bool = False
    etag_use: EtagUse | None = None
    shown: Shown | None = None
    receipt: Receipt | None = None
    failure: Exception | None = None
    ended_us: int = 0
    looked_for: bool = False

    @property
    def reason(self) -> str | None:
        """The reason of a `FetchError`; None for all other ends."""
        return self.failure.reason if isinstance(self.failure, FetchError) else None

    @property
    def outcome(self) -> str:
        """The name the attempt is recorded and counted by."""
        if self.receipt is not None:
            return "whole" if self.receipt.doubt is None else "doubtful"
        if self.shown is Shown.UNCHANGED:
            return "unchanged"
        if self.failure is None:
            return "interrupted"
        return str(getattr(self.failure, "reason", Reason.ORIGIN_REFUSED))

    @property
    def attempt(self) -> Attempt:
        """What is recorded of it; its number is given by the ledger."""
        error = None if self.failure is None else str(self.failure)
        if self.receipt is not None and self.receipt.doubt is not None:
            error = held_body.not_proven(self.receipt.doubt)
        return Attempt(
            number=0,
            times=1,
            started_us=self.started_us,
            ended_us=self.ended_us,
            outcome=self.outcome,
            offset_bytes=self.offset_bytes,
            held_bytes=self.held_bytes,
            error=error,
        )


def after_attempt(
    export: Export, facts: AttemptFacts, *, pace: Pace, jitter: float, patient: bool
) -> Export:
    """Return the export, as it stands in the ledger now, after an attempt.

    If `patient`, a doubtful body is asked for again later, not at once; `jitter` is a
    uniform draw in [0, 1).
    """
    export, receipt = _learn(export, facts), facts.receipt
    if receipt is None:
        return _without_file(export, facts, pace, jitter)
    if export.held_until_us == 0:
        # Its row speaks of other footage by now; so may this body.
        return held_body.ending(export)
    if receipt.doubt is not None:
        return held_body.doubted(
            attempt.gave_bytes(export, receipt.size_bytes),
            receipt,
            folder=facts.folder,
            started_us=facts.started_us,
            now_us=facts.ended_us,
            lifetime_us=facts.lifetime_us,
            pace=pace,
            jitter=jitter,
            patient=patient,
        )
    export = dataclasses.replace(export, spool_dir=facts.folder)
    after = attempt.whole(export, receipt, facts.attempt)
    due_us = first_due(after, facts.ended_us, facts.lifetime_us)
    return dataclasses.replace(after, look_due_us=due_us if facts.second_look else None)


def timed_out(failure: Exception | None) -> bool:
    """Tell whether an attempt ended because it took too long."""
    return isinstance(failure, FetchError) and failure.reason in _TIMEOUTS


def _learn(export: Export, facts: AttemptFacts) -> Export:
    """Return the export with what the attempt learnt, however it ended."""
    late = 0 if facts.began or facts.failure is None else export.late
    timeouts = export.timeouts
    if facts.complete or isinstance(facts.failure, FetchError | FileGoneError):
        timeouts = timeouts + 1 if timed_out(facts.failure) else 0
    looked = facts.shown is not None
    return dataclasses.replace(
        export,
        etag_use=facts.etag_use or export.etag_use,
        late=export.late + 1 if facts.reason == FIRST_BYTE else late,
        timeouts=timeouts,
        looks=export.looks + looked,
        looked_us=facts.ended_us if looked else export.looked_us,
    )


def _without_file(
    export: Export, facts: AttemptFacts, pace: Pace, jitter: float
) -> Export:
    """Return the export after an attempt that brought no file."""
    if facts.shown is Shown.UNCHANGED:
        return held_body.ending(export)
    plain = facts.reason == UNFIT_RANGE or (
        export.ask_without_range and not facts.began
    )
    export = dataclasses.replace(export, ask_without_range=plain)
    failure, error, now_us = facts.failure, str(facts.failure), facts.ended_us
    if isinstance(failure, FileGoneError):
        return attempt.gone(
            export,
            reason=Reason(failure.reason),
            error=error,
            now_us=now_us,
            oldest_us=facts.oldest_us,
            looked_for=facts.looked_for,
            pace=pace,
        )
    if isinstance(failure, OriginRefusedError):
        return attempt.refused(export, error=error, now_us=now_us, pace=pace)
    if isinstance(failure, SpoolError):
        if failure.reason == "spool_full" and export.held:
            return held_body.ending(export)
        wait_s = failure.retry_after_s
        return attempt.postponed(
            export, error=error, now_us=now_us, pace=pace, wait_s=wait_s
        )
    if isinstance(failure, FetchError):
        return attempt.failed(
            export, error=error, now_us=now_us, pace=pace, jitter=jitter
        )
    return attempt.interrupted(export)
