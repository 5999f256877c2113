"""One attempt to fetch one file into the spool."""

from __future__ import annotations

import asyncio
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
from mirror.mirroring import outcome
from mirror.mirroring.finish import finish
from mirror.mirroring.part import Part
from mirror.mirroring.progress import Progress, Transfer
from mirror.mirroring.pump import NotMp4Error, Pump, look
from mirror.mirroring.share import by_time
from mirror.model import Attempt, Reason, Receipt, State, is_folder, to_us
from mirror.ports import Held
from mirror.state import Partial

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from mirror.metrics import Metrics
    from mirror.mirroring.pump import PumpLimits
    from mirror.mirroring.spool import Spool
    from mirror.model import Export
    from mirror.ports import Body, Source
    from mirror.state import LedgerThread

UNFIT_RANGE = "unfit_range"
"""The reason of an answer to Range that cannot be joined to what is held."""
_log = structlog.get_logger()


class Fetcher:
    """Carries out attempts and records how each ended.

    Args:
        targets: Names of the targets that will be owed a copy.
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
        targets: Callable[[], list[str]],
        now: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self._spool = spool
        self._metrics = metrics
        self._progress = progress
        self._limits = limits
        self._pace = pace
        self._targets = targets
        self._now = now

    async def attempt(self, source: Source, export: Export) -> Exception | None:
        """Try once and record it; return what failed, for whoever paces the tries."""
        key = _key(export)
        began, began_us = time.monotonic(), to_us(self._now())
        run = _Run(
            offset_bytes=export.part_bytes,
            held_bytes=export.part_bytes,
            oldest_us=source.oldest_us,
        )
        transfer = Transfer(label=export.label, deadline_us=export.deadline_us)
        self._progress.transfers[key] = transfer
        receipt: Receipt | None = None
        failure: Exception | None = None
        try:
            receipt = await self._transfer(source, export, run)
        except asyncio.CancelledError:
            await finish(self._settle(key, began_us, run, None, None))
            raise
        except (FetchError, FileGoneError, OriginRefusedError, SpoolError) as exc:
            failure = exc
            if isinstance(exc, FetchError):
                exc.began = run.began
        finally:
            self._progress.transfers.pop(key, None)
        await finish(self._settle(key, began_us, run, receipt, failure))
        self._metrics.fetch_ended(
            source.name, run.ended_as(failure), time.monotonic() - began
        )
        return failure

    async def give_back(self, export: Export, failure: FetchError) -> None:
        """Record an attempt that ended in a way nobody foresaw."""
        run = _Run(offset_bytes=export.part_bytes, held_bytes=export.part_bytes)
        began_us = to_us(self._now())
        await self._settle(_key(export), began_us, run, None, failure)

    async def _transfer(self, source: Source, export: Export, run: _Run) -> Receipt:
        part = await self._spool.open(export)
        run.folder = str(part.path.parent)
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
        if part.size:
            run.follow(export.part_total, export.part_etag, export.part_modified)
            if part.size == run.total:
                return await self._prove(part, run, explicit_end=True)
        if export.url is None:
            raise FileGoneError(Reason.FILE_GONE, "the list shows no url any more")
        held = Held(
            size_bytes=0 if export.part_plain else part.size,
            total_bytes=run.total,
            etag=run.etag,
            last_modified=run.last_modified,
        )
        await self._ask_for_room(export, part)
        async with source.open_file(export.url, export.name, held) as body:
            first = b""
            if body.start_bytes != part.size:
                # A page instead of the file must not cost the bytes held.
                first = await self._look(export, body)
                await self._spool.use(part, Part.restart)
                run.offset_bytes = 0
            run.began = True
            run.follow(body.total_bytes, body.etag, body.last_modified)
            await self._spool.make_room(
                part, None if run.total is None else run.total - part.size
            )
            await self._receive(export, body, part, run, first)
        explicit = body.explicit_end or run.total is not None
        return await self._prove(part, run, explicit_end=explicit)

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
        except NotMp4Error as exc:
            raise _no_mp4(export, exc.head) from exc

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
        except NotMp4Error as exc:
            raise _no_mp4(export, exc.head) from exc
        if not part.size:
            raise _no_mp4(export, b"")
        if run.total is not None and part.size != run.total:
            raise FetchError(
                "cut", f"the transfer ended at {part.size} of {run.total} bytes"
            )

    async def _prove(self, part: Part, run: _Run, *, explicit_end: bool) -> Receipt:
        """Check that the file is whole and make it durable."""
        problem = await self._spool.use(part, Part.examine, explicit_end)
        if problem is not None:
            await self._spool.use(part, Part.restart)
            raise FetchError("not_whole", f"the file is not a whole mp4: {problem}")
        sha256 = await self._spool.use(part, Part.finish)
        run.held_bytes = part.size
        return Receipt(
            size_bytes=part.size,
            sha256=sha256,
            etag=run.etag,
            last_modified=run.last_modified,
        )

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
            etag=run.etag,
            last_modified=run.last_modified,
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
    ) -> None:
        now_us = to_us(self._now())
        attempt = Attempt(
            number=0,
            times=1,
            started_us=began_us,
            ended_us=now_us,
            outcome="whole" if receipt else run.outcome(failure),
            offset_bytes=run.offset_bytes,
            held_bytes=run.held_bytes,
            error=None if failure is None else str(failure),
        )
        jitter = random.random()  # noqa: S311 -- spreads load, hides nothing
        targets = self._targets()

        def decide(export: Export) -> Export:
            if receipt is not None:
                export = dataclasses.replace(export, spool_dir=run.folder, timeouts=0)
                return outcome.whole(export, receipt, attempt)
            unfit = getattr(failure, "reason", None) == UNFIT_RANGE
            plain = unfit or (export.part_plain and not run.began)
            export = dataclasses.replace(export, part_plain=plain)
            if isinstance(failure, FetchError | FileGoneError):
                timeouts = export.timeouts + 1 if by_time(failure) else 0
                export = dataclasses.replace(export, timeouts=timeouts)
            return self._after(export, failure, run, now_us=now_us, jitter=jitter)

        after = await self._ledger(
            lambda ledger: ledger.fetches.settle(key, decide, attempt, targets)
        )
        self._tell(after, failure, run)

    def _after(
        self,
        export: Export,
        failure: Exception | None,
        run: _Run,
        *,
        now_us: int,
        jitter: float,
    ) -> Export:
        """Decide where a failed attempt leaves the export."""
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
            wait_s = failure.retry_after_s
            return outcome.postponed(
                export, error=error, now_us=now_us, pace=pace, wait_s=wait_s
            )
        if isinstance(failure, FetchError):
            return outcome.failed(
                export, error=error, now_us=now_us, pace=pace, jitter=jitter
            )
        return outcome.interrupted(export)

    def _tell(self, after: Export, failure: Exception | None, run: _Run) -> None:
        now_us = to_us(self._now())
        if after.state is State.SPOOLED:
            self._progress.fetched_files += 1
            if after.deadline_us is not None:
                self._metrics.deadline_margin((after.deadline_us - now_us) / 1e6)
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
        level = _log.debug if after.misses > 1 else _log.warning
        level("export.postponed", **facts)
        if after.state is State.LOST:
            _log.error("export.lost", export=after.label, reason=after.reason)


@dataclasses.dataclass(slots=True, kw_only=True)
class _Run:
    """What one attempt has come to so far.

    Attributes:
        oldest_us: As the source had it at the beginning.
    """

    offset_bytes: int
    held_bytes: int
    oldest_us: int | None = None
    total: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    folder: str = ""
    began: bool = False
    proven: bool = False

    def follow(
        self, total: int | None, etag: str | None, last_modified: str | None
    ) -> None:
        """Take over which version of the file the part belongs to."""
        self.total, self.etag, self.last_modified = total, etag, last_modified

    def outcome(self, failure: Exception | None) -> str:
        """Return the name an attempt that did not succeed is recorded by."""
        if failure is None:
            return "interrupted"
        return str(getattr(failure, "reason", Reason.ORIGIN_REFUSED))

    def ended_as(self, failure: Exception | None) -> str:
        """Return the name an attempt is counted by."""
        return "whole" if failure is None else self.outcome(failure)


def _no_mp4(export: Export, head: bytes) -> Exception:
    what = "an HTML page" if head.lstrip()[:1] == b"<" else "something else"
    text = f"the VMS sends {what if head else 'nothing'} instead of an mp4"
    if export.url is not None and is_folder(export.url):
        return FileGoneError(Reason.URL_WITHOUT_FILE, text)
    return FetchError("not_mp4", text)


def _key(export: Export) -> int:
    if export.key is None:
        raise ValueError("the export is not from the ledger")
    return export.key
