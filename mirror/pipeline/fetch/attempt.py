"""One attempt to fetch one file into the spool."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import time
from typing import TYPE_CHECKING

import structlog

from mirror.errors import (
    FetchError,
    FileGoneError,
    NoRoomError,
    OriginRefusedError,
    SpoolError,
)
from mirror.ledger import Partial
from mirror.lifecycle import attempt as outcome
from mirror.lifecycle import held_body
from mirror.lifecycle.second_look import MOST_LOOKS, Shown, compare, first_due
from mirror.model import Attempt, EtagUse, Reason, Receipt, State, is_folder, to_us
from mirror.pipeline.fetch import resume
from mirror.pipeline.fetch.fair_share import by_time
from mirror.pipeline.fetch.receive import ErrorPageError, Pump, look
from mirror.pipeline.progress import Progress, Transfer
from mirror.pipeline.spool.part import Part
from mirror.tasks import finish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime
    from pathlib import Path

    from mirror.ledger import FetchResult, LedgerThread
    from mirror.metrics import Metrics
    from mirror.model import Export
    from mirror.pipeline.fetch.first_byte import Patience
    from mirror.pipeline.fetch.receive import PumpLimits
    from mirror.pipeline.spool.spool import Spool
    from mirror.ports import Body, Held, Source

UNFIT_RANGE = "unfit_range"
"""The reason of an answer to Range that cannot be joined to what is held."""
FIRST_BYTE = "first_byte"
"""The reason of a file whose first byte did not come in time."""
_BEFORE_MARKUP = b" \t\r\n\0\xef\xbb\xbf\xff\xfe"
"""White space and byte order marks."""
_log = structlog.get_logger()


class Fetcher:
    """Carries out attempts and records how each ended.

    Args:
        targets: Names of the targets that will be owed a copy.
        patient: A doubtful body is asked for again later, not at once.
    """

    def __init__(
        self,
        *,
        ledger: LedgerThread,
        spool: Spool,
        metrics: Metrics,
        progress: Progress,
        limits: PumpLimits,
        pace: outcome.Pace,
        patience: Patience,
        targets: Callable[[], list[str]],
        patient: bool = True,
        now: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self._spool = spool
        self._metrics = metrics
        self._progress = progress
        self._limits = limits
        self._pace = pace
        self._patience = patience
        self._targets = targets
        self._patient = patient
        self._now = now

    async def attempt(self, source: Source, export: Export) -> Exception | None:
        """Try once and record it; return what failed, for whoever paces the tries."""
        key = _key(export)
        began, began_us = time.monotonic(), to_us(self._now())
        run = _Run(
            offset_bytes=export.part_bytes,
            held_bytes=export.part_bytes,
            oldest_us=source.oldest_us,
            lifetime_us=source.lifetime_us,
            looks=source.second_look,
        )
        transfer = Transfer(label=export.label, deadline_us=export.deadline_us)
        self._progress.transfers[key] = transfer
        receipt: Receipt | None = None
        failure: Exception | None = None
        try:
            async with asyncio.timeout(self._left_s(export)):
                if not await self._confirmed(source, export, run):
                    receipt = await self._transfer(source, export, run)
        except asyncio.CancelledError:
            await finish(self._settle(key, began_us, run, None, None))
            raise
        except TimeoutError:
            failure = FetchError(
                "held", "no whole body came in time; the doubtful one is kept"
            )
        except (FetchError, FileGoneError, OriginRefusedError, SpoolError) as exc:
            failure = exc
            if isinstance(exc, FetchError):
                exc.began = run.began
        finally:
            self._progress.transfers.pop(key, None)
        after = await finish(self._settle(key, began_us, run, receipt, failure))
        await finish(self._discard(export, run, after))
        self._metrics.fetch_ended(
            source.name, run.ended_as(failure, receipt), time.monotonic() - began
        )
        return failure

    async def give_back(self, export: Export, failure: FetchError) -> None:
        """Record an attempt that ended in a way nobody foresaw."""
        run = _Run(offset_bytes=export.part_bytes, held_bytes=export.part_bytes)
        began_us = to_us(self._now())
        await self._settle(_key(export), began_us, run, None, failure)

    def _left_s(self, export: Export) -> float | None:
        """Return how long the attempt may take: a held body does not wait for ever."""
        if export.held_until_us is None:
            return None
        return max(0.0, (export.held_until_us - to_us(self._now())) / 1e6)

    async def _confirmed(self, source: Source, export: Export, run: _Run) -> bool:
        """Look whether the file is still the body that is held, if that can tell."""
        looks = self._patient and run.looks and export.looks < MOST_LOOKS
        if not looks or not held_body.can_look(export) or export.url is None:
            return False
        try:
            seen = await source.look(export.url, export.name)
        except (FetchError, FileGoneError, OriginRefusedError):
            self._metrics.looked(source.name, "failed")
            raise
        empty = await self._ledger(
            lambda ledger: ledger.second_looks.empty(export.source)
        )
        run.shown = compare(
            seen,
            size_bytes=export.held_bytes,
            etag=export.held_etag,
            modified=export.held_modified,
            empty=empty,
        )
        self._metrics.looked(source.name, run.shown)
        return run.shown is Shown.UNCHANGED

    async def _transfer(self, source: Source, export: Export, run: _Run) -> Receipt:
        part = await self._spool.open(export)
        run.folder, run.paths = str(part.path.parent), {part.path}
        try:
            receipt = await self._fill(source, export, part, run)
            run.proven = True
            return receipt
        finally:
            await finish(self._put_away(export, part, run))

    async def _fill(
        self, source: Source, export: Export, part: Part, run: _Run
    ) -> Receipt:
        run.offset_bytes = run.held_bytes = part.size
        run.etag_use = export.etag_use
        if part.size:
            run.known = resume.Validators(
                total_bytes=export.part_total,
                etag=export.part_etag,
                last_modified=export.part_modified,
                firm=export.part_firm,
            )
            if part.size == run.total:
                return await self._prove(part, run, explicit_end=True)
        if export.url is None:
            raise FileGoneError(Reason.FILE_GONE, "the list shows no url any more")
        held = resume.held(
            0 if export.ask_without_range else part.size, run.known, run.etag_use
        )
        await self._ask_for_room(export, part)
        explicit_end: bool | None = None
        while explicit_end is None:
            async with self._ask(source, export, held) as body:
                before = run.etag_use
                run.etag_use = resume.learn(before, run.known, held, body)
                again = run.etag_use is not before and run.known.firm
                if not (again and held.size_bytes):
                    explicit_end = await self._take(export, body, part, run)
            # It is the same file: what is held of it need not be given up.
            held = resume.held(part.size, run.known, run.etag_use)
        return await self._prove(part, run, explicit_end=explicit_end)

    @contextlib.asynccontextmanager
    async def _ask(
        self, source: Source, export: Export, held: Held
    ) -> AsyncIterator[Body]:
        """Ask for the file or its rest, as long as it may take to come."""
        left_s = None
        if export.deadline_us is not None:
            left_s = (export.deadline_us - to_us(self._now())) / 1e6
        wait_s = self._patience.wait_s(source.origin, late=export.late, left_s=left_s)
        began, url = time.monotonic(), export.url or ""
        async with source.open_file(
            url, export.name, held, first_byte_s=wait_s
        ) as body:
            self._patience.answered(source.origin, time.monotonic() - began)
            yield body

    async def _take(self, export: Export, body: Body, part: Part, run: _Run) -> bool:
        """Receive a body; tell whether its end was announced."""
        first = b""
        if body.start_bytes == 0 < part.size:
            # A page instead of the file must not cost the bytes held.
            first = await self._look(export, body)
            await self._spool.use(part, Part.restart)
            run.offset_bytes = 0
        elif body.start_bytes < part.size:
            first = await self._compare(body, part, part.size - body.start_bytes)
        run.began = True
        run.known = resume.Validators.of(body)
        await self._spool.make_room(
            part, None if run.total is None else run.total - part.size
        )
        await self._receive(export, body, part, run, first)
        return body.explicit_end or run.total is not None

    async def _compare(self, body: Body, part: Part, size: int) -> bytes:
        """Read again the last bytes that are held; return what came behind them.

        Raises:
            FetchError: They are others, or the body broke off.
        """
        came = b""
        while len(came) < size and (chunk := await body.read()):
            came += chunk
        if came[:size] != await self._spool.use(part, Part.tail, size):
            raise FetchError(
                UNFIT_RANGE, "the file has changed: other bytes came than are held"
            )
        return came[size:]

    async def _ask_for_room(self, export: Export, part: Part) -> None:
        """Make sure of room before anything is asked of the VMS.

        Of a file of which nothing is held the length may be another by now: one that
        the spool can never hold is asked for all the same.
        """
        total = export.part_total
        rest = None if total is None else max(0, total - part.size)
        try:
            await self._spool.make_room(part, rest, begun=False)
        except NoRoomError as exc:
            if part.size or not exc.never:
                raise
            await self._spool.make_room(part, None, begun=False)

    async def _look(self, export: Export, body: Body) -> bytes:
        try:
            return await look(body)
        except ErrorPageError as exc:
            raise _error_page(export, exc.head) from exc

    async def _receive(
        self, export: Export, body: Body, part: Part, run: _Run, first: bytes
    ) -> None:
        transfer = self._progress.transfers[_key(export)]
        transfer.done_bytes, transfer.total_bytes = part.size, run.total
        transfer.began = True

        def received(number: int, size: int) -> None:
            self._metrics.bytes_fetched(number)
            self._progress.received_bytes += number
            transfer.done_bytes = size

        pump = Pump(
            self._spool,
            part,
            limits=self._limits,
            checkpoint=lambda: self._checkpoint(export, part, run),
            received=received,
        )
        try:
            await pump.move(body, first)
        except ErrorPageError as exc:
            raise _error_page(export, exc.head) from exc
        if run.total is not None and part.size != run.total:
            raise FetchError(
                "cut", f"the transfer ended at {part.size} of {run.total} bytes"
            )

    async def _prove(self, part: Part, run: _Run, *, explicit_end: bool) -> Receipt:
        """Find out whether the file is whole, and make it durable."""
        proof = await self._spool.use(part, Part.examine, explicit_end)
        sha256 = await self._spool.use(part, Part.finish)
        run.held_bytes = part.size
        return Receipt(
            size_bytes=part.size,
            sha256=sha256,
            etag=run.known.etag,
            last_modified=run.known.last_modified,
            doubt=proof.doubt,
            notes=proof.notes,
        )

    async def _discard(self, before: Export, run: _Run, after: Export) -> None:
        """Remove from the spool the bodies that the export needs no more."""
        kept = self._spool.paths_of(after)
        for path in (self._spool.paths_of(before) | run.paths) - kept:
            try:
                await self._spool.sweep(path)
            except SpoolError as exc:
                _log.warning("spool.failed", export=after.label, error=str(exc))

    async def _put_away(self, export: Export, part: Part, run: _Run) -> None:
        """Make durable what an unfinished attempt received, and close."""
        try:
            if not run.proven:
                await self._checkpoint(export, part, run)
                if not part.size:
                    await self._spool.use(part, Part.discard)
        except SpoolError as exc:
            _log.warning("spool.failed", export=export.label, error=str(exc))
        finally:
            await self._spool.put_away(part)

    async def _checkpoint(self, export: Export, part: Part, run: _Run) -> None:
        size, sha256 = await self._spool.use(part, Part.flush)
        partial = Partial(
            spool_dir=run.folder,
            size_bytes=size,
            sha256=sha256,
            total_bytes=run.total,
            etag=run.known.etag,
            last_modified=run.known.last_modified,
            firm=run.known.firm,
        )
        key = _key(export)
        await self._ledger(lambda ledger: ledger.fetches.checkpoint(key, partial))
        run.held_bytes = size

    async def _settle(
        self,
        key: int,
        began_us: int,
        run: _Run,
        receipt: Receipt | None,
        failure: Exception | None,
    ) -> Export:
        now_us = to_us(self._now())
        attempt = Attempt(
            number=0,
            times=1,
            started_us=began_us,
            ended_us=now_us,
            outcome=run.ended_as(failure, receipt),
            offset_bytes=run.offset_bytes,
            held_bytes=run.held_bytes,
            error=_error(failure, receipt),
        )
        jitter = random.random()  # noqa: S311 -- spreads load, hides nothing
        targets = self._targets()

        def decide(export: Export) -> Export:
            export = run.noted(export, failure)
            if run.shown is not None:
                looks = export.looks + 1
                export = dataclasses.replace(export, looks=looks, looked_us=now_us)
            if receipt is None:
                return self._after(export, failure, run, now_us=now_us, jitter=jitter)
            if export.held_until_us == 0:
                # Its row speaks of other footage by now; so may this body.
                return held_body.ending(export)
            if receipt.doubt is None:
                export = dataclasses.replace(export, spool_dir=run.folder)
                after = outcome.whole(export, receipt, attempt)
                due_us = None
                if run.looks:
                    due_us = first_due(after, now_us, run.lifetime_us)
                return dataclasses.replace(after, look_due_us=due_us)
            return held_body.doubted(
                outcome.gave_bytes(export, receipt.size_bytes),
                receipt,
                folder=run.folder,
                started_us=began_us,
                now_us=now_us,
                lifetime_us=run.lifetime_us,
                pace=self._pace,
                jitter=jitter,
                patient=self._patient,
            )

        settled = await self._ledger(
            lambda ledger: ledger.fetches.settle(key, decide, attempt, targets)
        )
        self._tell(settled, failure, run)
        return settled.after

    def _after(
        self,
        export: Export,
        failure: Exception | None,
        run: _Run,
        *,
        now_us: int,
        jitter: float,
    ) -> Export:
        """Decide where an attempt that brought no file leaves the export."""
        if run.shown is Shown.UNCHANGED:
            return held_body.ending(export)
        unfit = getattr(failure, "reason", None) == UNFIT_RANGE
        plain = unfit or (export.ask_without_range and not run.began)
        export = dataclasses.replace(export, ask_without_range=plain)
        error, pace = str(failure), self._pace
        if isinstance(failure, FileGoneError):
            return outcome.gone(
                export,
                reason=Reason(failure.reason),
                error=error,
                now_us=now_us,
                oldest_us=run.oldest_us,
                pace=pace,
            )
        if isinstance(failure, OriginRefusedError):
            return outcome.refused(export, error=error, now_us=now_us, pace=pace)
        if isinstance(failure, SpoolError):
            if failure.reason == "spool_full" and export.held:
                return held_body.ending(export)
            wait_s = failure.retry_after_s
            return outcome.postponed(
                export, error=error, now_us=now_us, pace=pace, wait_s=wait_s
            )
        if isinstance(failure, FetchError):
            return outcome.failed(
                export, error=error, now_us=now_us, pace=pace, jitter=jitter
            )
        return outcome.interrupted(export)

    def _tell(self, settled: FetchResult, failure: Exception | None, run: _Run) -> None:
        now_us, after = to_us(self._now()), settled.after
        if settled.dropped:
            _log.info("version.dropped", export=after.label, reason=after.reason)
            return
        if after.state is State.SPOOLED:
            self._progress.fetched_files += 1
            if after.deadline_us is not None:
                self._metrics.deadline_margin((after.deadline_us - now_us) / 1e6)
        if after.held and failure is None:
            _log.warning(
                "body.held",
                export=after.label,
                doubt=after.held_doubt,
                held_bytes=after.held_bytes,
            )
        if failure is None:
            return
        facts: dict[str, object] = {
            "export": after.label,
            "state": after.state,
            "reason": after.reason,
            "error": str(failure),
            "held_bytes": run.held_bytes,
            "attempts": after.attempts,
        }
        if after.state is not State.WAITING:
            facts["retry_in_s"] = max(0.0, round((after.due_us - now_us) / 1e6, 1))
        # A file that is still not there is no news.
        level = _log.debug if after.tries_without_file > 1 else _log.warning
        level("export.postponed", **facts)
        if after.state is State.LOST:
            _log.error("export.lost", export=after.label, reason=after.reason)


@dataclasses.dataclass(slots=True, kw_only=True)
class _Run:
    """What one attempt has come to so far.

    Attributes:
        oldest_us: As the source had it at the beginning; so the next two.
        looks: The source allows second looks.
        paths: Of the part, once it is open.
        shown: What a look showed of the body that is held.
        known: Which version of the file the part belongs to.
        etag_use: As learnt; None if nothing was asked.
    """

    offset_bytes: int
    held_bytes: int
    oldest_us: int | None = None
    lifetime_us: int = 0
    looks: bool = False
    paths: set[Path] = dataclasses.field(default_factory=set)
    shown: Shown | None = None
    known: resume.Validators = dataclasses.field(default_factory=resume.Validators)
    etag_use: EtagUse | None = None
    folder: str = ""
    began: bool = False
    proven: bool = False

    @property
    def total(self) -> int | None:
        """Length of the whole file, if known."""
        return self.known.total_bytes

    def noted(self, export: Export, failure: Exception | None) -> Export:
        """Return the export with what was learnt of its server."""
        late = 0 if self.began or failure is None else export.late
        if getattr(failure, "reason", None) == FIRST_BYTE:
            late = export.late + 1
        timeouts = export.timeouts
        if self.proven or isinstance(failure, FetchError | FileGoneError):
            timeouts = timeouts + 1 if by_time(failure) else 0
        return dataclasses.replace(
            export,
            etag_use=self.etag_use or export.etag_use,
            late=late,
            timeouts=timeouts,
        )

    def outcome(self, failure: Exception | None) -> str:
        """Return the name an attempt that did not succeed is recorded by."""
        if self.shown is Shown.UNCHANGED:
            return "unchanged"
        if failure is None:
            return "interrupted"
        return str(getattr(failure, "reason", Reason.ORIGIN_REFUSED))

    def ended_as(self, failure: Exception | None, receipt: Receipt | None) -> str:
        """Return the name an attempt is recorded and counted by."""
        if receipt is None:
            return self.outcome(failure)
        return "whole" if receipt.doubt is None else "doubtful"


def _error(failure: Exception | None, receipt: Receipt | None) -> str | None:
    """Return what an attempt is recorded with."""
    if receipt is not None and receipt.doubt is not None:
        return held_body.not_proven(receipt.doubt)
    return None if failure is None else str(failure)


def _error_page(export: Export, head: bytes) -> Exception:
    what = "text" if head else "nothing"
    # In UTF-16 each character has a zero beside it.
    if head.lstrip(_BEFORE_MARKUP).startswith(b"<"):
        what = "an HTML page"
    text = f"the VMS sends {what} instead of the file"
    if export.url is not None and is_folder(export.url):
        return FileGoneError(Reason.URL_WITHOUT_FILE, text)
    return FetchError("error_page", text)


def _key(export: Export) -> int:
    if export.key is None:
        raise ValueError("the export is not from the ledger")
    return export.key
