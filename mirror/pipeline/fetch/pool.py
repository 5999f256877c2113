"""Fetch what is due: the nearest deadline first, within all limits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from mirror.errors import FetchError, LedgerError, NoRoomError, SpoolError
from mirror.model import to_us
from mirror.pipeline.fetch import fair_share
from mirror.tasks import run_to_end

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime, timedelta

    from mirror.ledger import Ledger, LedgerThread
    from mirror.model import Export
    from mirror.pipeline.fetch.attempt import Fetcher
    from mirror.pipeline.fetch.origin_limit import OriginLimit
    from mirror.pipeline.progress import Progress
    from mirror.ports import Source

PATIENCE_S = 60.0
"""A fetch that brings too little may keep its slot so long while others wait."""
_NO_ROOM_S = 0.5
"""The wait for what is due and has no room; room that comes ends it sooner."""
_log = structlog.get_logger()


class FetchSource:
    """A source, and the limit of its origin, which sources may share.

    Attributes:
        waits_until: Nothing is claimed before that, by the loop's clock: the spool has
            no room for what this source has.
    """

    __slots__ = ("client", "limit", "running", "waits_until")

    def __init__(self, client: Source, limit: OriginLimit) -> None:
        self.client = client
        self.limit = limit
        self.running = 0
        self.waits_until = 0.0


@dataclass(slots=True, kw_only=True)
class _Fetch:
    """A fetch under way.

    Attributes:
        since: When it began, by the loop's clock.
        measured_at: When `measured_bytes` of the file were there.
        slow: It brought too little in the last `patience_s`.
        cancelled: It gives its slot or its room to others.
        late: It does so because it took too long.
    """

    source: FetchSource
    export: Export
    since: float
    measured_at: float
    measured_bytes: int
    slow: bool = False
    task: asyncio.Task[None] | None = None
    cancelled: bool = False
    late: bool = False


class FetchPool:
    """Claims exports and runs an attempt for each.

    Args:
        progress: How far each fetch is.
        concurrency: Fetches at once over all sources; each source that has work may
            always have one.
        longest_wait: No due time lies further ahead; see `FetchQueue.claim`.
        spool_pause_s: How long nothing is claimed after the spool failed, and nothing
            of a source that it has no room for.
        unparks: Parked exports are tried again when their time has come.
        wake: Set when an export may have become ready.
        fetched: Called after each attempt.
        leaving: Keys of exports whose parts are being removed: they are not claimed.

    Attributes:
        paused: Sources of which nothing new is fetched.
        patience_s: See `PATIENCE_S`.
    """

    def __init__(
        self,
        *,
        ledger: LedgerThread,
        fetcher: Fetcher,
        progress: Progress,
        sources: Mapping[str, FetchSource],
        concurrency: int,
        longest_wait: timedelta,
        spool_pause_s: float,
        unparks: bool,
        wake: asyncio.Event,
        fetched: Callable[[], None],
        leaving: Collection[int],
        now: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self.fetcher = fetcher
        self._progress = progress
        self.sources = dict(sources)
        self._concurrency = concurrency
        self._horizon_us = round(longest_wait.total_seconds() * 1e6)
        self._spool_pause_s = spool_pause_s
        self._unparks = unparks
        self._wake = wake
        self._fetched = fetched
        self._leaving = leaving
        self._now = now
        self.patience_s = PATIENCE_S
        self._fetches: dict[int, _Fetch] = {}
        self._spool_free_at = 0.0
        self._next_due_us: int | None = None
        self._spool_lost = False
        self.paused: frozenset[str] = frozenset()
        self.spool_failures = 0

    @property
    def running(self) -> int:
        """Fetches under way."""
        return len(self._fetches)

    async def run(self) -> None:
        """Fetch until cancelled; fetches under way keep their bytes then."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._wake.clear()
                    await self._start_all(group)
                    await self._sleep()
        finally:
            self._fetches.clear()

    def end(self, key: int) -> None:
        """Cancel a fetch for others; its bytes stay, and it is tried again."""
        fetch = self._fetches.get(key)
        if fetch is not None and fetch.task is not None and not fetch.cancelled:
            fetch.cancelled = True
            _log.warning("fetch.gave_way", export=fetch.export.label)
            fetch.task.cancel()

    async def _sleep(self) -> None:
        """Wait to be woken, or until the next export falls due."""
        due_us, wait_s = self._next_due_us, 60.0
        if due_us is not None:
            wait_s = min(wait_s, (due_us - to_us(self._now())) / 1e6)
        if wait_s <= 0:
            sources = self.sources.values()
            pauses = [source.limit.pause_s for source in sources]
            pauses += [self._left_s(source.waits_until) for source in sources]
            pauses.append(self._left_s(self._spool_free_at))
            wait_s = min([pause for pause in pauses if pause > 0], default=_NO_ROOM_S)
            wait_s = min(wait_s, _NO_ROOM_S) if self._fetches else wait_s
        try:
            async with asyncio.timeout(max(0.02, wait_s)):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _start_all(self, group: asyncio.TaskGroup) -> None:
        now_us, horizon_us = to_us(self._now()), self._horizon_us
        times = {"now_us": now_us, "horizon_us": horizon_us}
        paused = self.paused

        def look(ledger: Ledger) -> Mapping[str, bool]:
            if self._unparks:
                ledger.fetches.unpark(**times)
            self._next_due_us = ledger.fetches.next_due(paused)
            return ledger.fetches.sources_with_work(**times)

        work = await self._ledger(look)
        while self._left_s(self._spool_free_at) <= 0:
            demands = self._demands(work)
            sources = fair_share.may_start(demands, self._concurrency)
            if not sources:
                break
            running = self._running()
            late = {
                demand.name
                for demand in demands
                if fair_share.late_may_start(demand, running)
            }
            export = await self._ledger(
                lambda ledger, sources, late: ledger.fetches.claim(
                    sources, **times, late=late, but=(*self._leaving, *self._fetches)
                ),
                sources,
                late,
            )
            if export is None:
                work = {name: work[name] for name in work if name not in sources}
                continue
            self._start(group, export)
        self._free_slot(work)

    def _demands(self, work: Mapping[str, bool]) -> list[fair_share.SourceDemand]:
        """Return what each source has to fetch, and how much it may."""
        demands = []
        for name, source in self.sources.items():
            waits = name in self.paused or source.limit.pause_s > 0
            waits = waits or self._left_s(source.waits_until) > 0
            demands.append(
                fair_share.SourceDemand(
                    name=name,
                    origin=id(source.limit),
                    allowed=source.limit.allowed,
                    has_room=source.limit.has_room,
                    running=source.running,
                    due=name in work and not waits,
                    untried=work.get(name, False) and not waits,
                )
            )
        return demands

    def _running(self) -> list[fair_share.RunningFetch]:
        transfers = self._progress.transfers
        return [
            fair_share.RunningFetch(
                key=key,
                source=fetch.export.source,
                origin=id(fetch.source.limit),
                since=fetch.since,
                late=fetch.export.timeouts > 0,
                began=key in transfers and transfers[key].began,
                slow=fetch.slow,
            )
            for key, fetch in self._fetches.items()
            if not fetch.cancelled
        ]

    def _free_slot(self, work: Mapping[str, bool]) -> None:
        """Cancel a fetch that brings too little, if an export waits for its slot."""
        now = asyncio.get_running_loop().time()
        for fetched, fetch in self._fetches.items():
            self._measure(fetched, fetch, now)
        key = fair_share.to_end(
            self._demands(work),
            self._running(),
            concurrency=self._concurrency,
            before=now - self.patience_s,
        )
        if key is not None:
            self._fetches[key].late = True
            self.end(key)

    def _measure(self, key: int, fetch: _Fetch, now: float) -> None:
        """Measure whether a fetch brought too little over the last `patience_s`."""
        transfer = self._progress.transfers.get(key)
        if transfer is None or not transfer.began:
            fetch.measured_at = now
        elif now - fetch.measured_at >= self.patience_s:
            gained = transfer.done_bytes - fetch.measured_bytes
            fetch.slow = gained < fair_share.LEAST_RATE * self.patience_s
            fetch.measured_at, fetch.measured_bytes = now, transfer.done_bytes

    def _start(self, group: asyncio.TaskGroup, export: Export) -> None:
        source, key = self.sources[export.source], export.stored_key
        source.running += 1
        source.limit.running += 1
        now = asyncio.get_running_loop().time()
        fetch = self._fetches[key] = _Fetch(
            source=source,
            export=export,
            since=now,
            measured_at=now,
            measured_bytes=export.part_bytes,
        )
        fetch.task = group.create_task(
            self.attempt(source, export), name=f"fetch {export.label}"
        )

        def ended(_: asyncio.Task[None]) -> None:
            source.running -= 1
            source.limit.running -= 1
            self._fetches.pop(key, None)
            self._wake.set()
            self._fetched()

        fetch.task.add_done_callback(ended)

    async def attempt(self, source: FetchSource, export: Export) -> None:
        """Make an attempt, and adjust the limits by how it ended."""
        key = export.stored_key
        try:
            failure = await self.fetcher.attempt(source.client, export)
        except LedgerError:
            raise
        except asyncio.CancelledError:
            fetch = self._fetches.get(key)
            if fetch is not None and fetch.late:
                await run_to_end(
                    self._ledger(lambda ledger: ledger.fetches.gave_way(key))
                )
            raise
        except Exception as exc:  # noqa: BLE001 -- a fault of ours stops this file only
            _log.error("fetch.crashed", export=export.label, exc_info=exc)
            # By its name alone: its text may hold the url.
            text = f"the attempt failed: {type(exc).__name__}"
            failure = FetchError("unexpected", text)
            await self.fetcher.give_back(source.client, export, failure)
        began = not isinstance(failure, FetchError) or failure.began
        source.limit.ended(key, failure, began=began)
        self._note_spool(source, failure)

    def _note_spool(self, source: FetchSource, failure: Exception | None) -> None:
        """Claim nothing for a while after the spool failed; log it once.

        If only room for a file is missing, other sources go on.
        """
        if isinstance(failure, SpoolError):
            again_at = asyncio.get_running_loop().time() + self._spool_pause_s
            if not isinstance(failure, NoRoomError):
                self._spool_free_at = again_at
            elif not failure.never:
                source.waits_until = again_at
            self.spool_failures += 1
            if not isinstance(failure, NoRoomError) and not self._spool_lost:
                self._spool_lost = True
                _log.error("spool.lost", reason=failure.reason, error=str(failure))
        elif failure is None:
            self.spool_failures = 0
            if self._spool_lost:
                self._spool_lost = False
                _log.info("spool.recovered")

    @staticmethod
    def _left_s(until: float) -> float:
        return max(0.0, until - asyncio.get_running_loop().time())
