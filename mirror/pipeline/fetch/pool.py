"""Keep the fetchers busy: the nearest deadline first, within all bounds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from mirror.errors import FetchError, LedgerError, NoRoomError, SpoolError
from mirror.model import to_us
from mirror.pipeline.fetch import fair_share
from mirror.tasks import finish

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime, timedelta

    from mirror.ledger import LedgerThread
    from mirror.model import Export
    from mirror.pipeline.fetch.attempt import Fetcher
    from mirror.pipeline.fetch.origin_limit import Gate
    from mirror.pipeline.progress import Progress
    from mirror.ports import Source

PATIENCE_S = 60.0
"""So long a fetch that brings nothing may keep its slot from what waits."""
_MISSED_S = 0.5
"""Wait for what is due already and has no room; its room wakes us sooner."""
_log = structlog.get_logger()


class Lane:
    """A source and the gate of its origin, which sources may share.

    Attributes:
        waits_until: Nothing is claimed before, by the loop's clock: the spool has no
            room for what this source has.
    """

    __slots__ = ("gate", "running", "source", "waits_until")

    def __init__(self, source: Source, gate: Gate) -> None:
        self.source = source
        self.gate = gate
        self.running = 0
        self.waits_until = 0.0


@dataclass(slots=True, kw_only=True)
class _Fetch:
    """A fetch under way.

    Attributes:
        since: When it began, by the loop's clock.
        seen_at: When `seen_bytes` of the file were there.
        slow: It brought too little in the last `patience_s`.
        ended: It ends for others.
        late: So it does because it took too long.
    """

    lane: Lane
    export: Export
    since: float
    seen_at: float
    seen_bytes: int
    slow: bool = False
    task: asyncio.Task[None] | None = None
    ended: bool = False
    late: bool = False


class FetchPool:
    """Claims exports and runs an attempt for each.

    Args:
        progress: How far each fetch is.
        concurrency: Fetches at once over all sources; if more sources than this
            have work, each has one.
        longest_wait: No due time lies further ahead; see `Fetches.claim`.
        spool_pause_s: How long nothing is claimed after the spool failed, and nothing
            of a source that it has no room for.
        unparks: Parked exports are tried again when their time has come.
        wake: Set by whoever made an export ready.
        fetched: Called after each attempt.
        leaving: Keys of exports whose parts are being removed: not claimed meanwhile.
        patience_s: See `PATIENCE_S`.

    Attributes:
        paused: Sources of which nothing new is fetched.
    """

    def __init__(
        self,
        *,
        ledger: LedgerThread,
        fetcher: Fetcher,
        progress: Progress,
        lanes: Mapping[str, Lane],
        concurrency: int,
        longest_wait: timedelta,
        spool_pause_s: float,
        unparks: bool,
        wake: asyncio.Event,
        fetched: Callable[[], None],
        leaving: Collection[int],
        now: Callable[[], datetime],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._ledger = ledger
        self._fetcher = fetcher
        self._progress = progress
        self.lanes = dict(lanes)
        self._concurrency = concurrency
        self._horizon_us = round(longest_wait.total_seconds() * 1e6)
        self._spool_pause_s = spool_pause_s
        self._unparks = unparks
        self._wake = wake
        self._fetched = fetched
        self._leaving = leaving
        self._now = now
        self._patience_s = patience_s
        self._fetches: dict[int, _Fetch] = {}
        self._spool_free_at = 0.0
        self._spool_lost = False
        self.paused: frozenset[str] = frozenset()
        self.spool_failures = 0

    @property
    def running(self) -> int:
        """Fetches under way."""
        return len(self._fetches)

    async def run(self) -> None:
        """Fetch until cancelled; then what is in flight keeps its bytes."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._wake.clear()
                    await self._start_all(group)
                    await self._sleep()
        finally:
            self._fetches.clear()

    async def idle_until(self) -> int | None:
        """Return when the next export falls due, in microseconds; None if none is."""
        paused = self.paused
        return await self._ledger(lambda ledger: ledger.fetches.next_due(paused))

    def end(self, key: int) -> None:
        """End a fetch for others; what it received stays, and it is tried again."""
        fetch = self._fetches.get(key)
        if fetch is not None and fetch.task is not None and not fetch.ended:
            fetch.ended = True
            _log.warning("fetch.gave_way", export=fetch.export.label)
            fetch.task.cancel()

    async def _sleep(self) -> None:
        """Wait to be woken, or until the next export falls due."""
        due_us = await self.idle_until()
        wait_s = 60.0
        if due_us is not None:
            wait_s = min(wait_s, (due_us - to_us(self._now())) / 1e6)
        if wait_s <= 0:
            lanes = self.lanes.values()
            pauses = [lane.gate.pause_s for lane in lanes]
            pauses += [self._left_s(lane.waits_until) for lane in lanes]
            pauses.append(self._left_s(self._spool_free_at))
            wait_s = min([each for each in pauses if each > 0], default=_MISSED_S)
            wait_s = min(wait_s, _MISSED_S) if self._fetches else wait_s
        try:
            async with asyncio.timeout(max(0.02, wait_s)):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _start_all(self, group: asyncio.TaskGroup) -> None:
        now_us, horizon_us = to_us(self._now()), self._horizon_us
        if self._unparks:
            await self._ledger(
                lambda ledger: ledger.fetches.unpark(
                    now_us=now_us, horizon_us=horizon_us
                )
            )
        work = await self._ledger(
            lambda ledger: ledger.fetches.sources_with_work(
                now_us=now_us, horizon_us=horizon_us
            )
        )
        while self._left_s(self._spool_free_at) <= 0:
            claimants = self._claimants(work)
            sources = fair_share.may_start(claimants, self._concurrency)
            if not sources:
                break
            running = self._running()
            late = {
                one.name for one in claimants if fair_share.late_may_start(one, running)
            }
            export = await self._ledger(
                lambda ledger, sources, late: ledger.fetches.claim(
                    sources,
                    now_us=now_us,
                    horizon_us=horizon_us,
                    late=late,
                    but=(*self._leaving, *self._fetches),
                ),
                sources,
                late,
            )
            if export is None:
                work = {name: work[name] for name in work if name not in sources}
                continue
            self._start(group, export)
        self._end_one(work)

    def _claimants(self, work: Mapping[str, bool]) -> list[fair_share.Claimant]:
        """Return each source with what it may do now, given what is due of it."""
        claimants = []
        for name, lane in self.lanes.items():
            held = name in self.paused or lane.gate.pause_s > 0
            held = held or self._left_s(lane.waits_until) > 0
            claimants.append(
                fair_share.Claimant(
                    name=name,
                    origin=id(lane.gate),
                    allowed=lane.gate.allowed,
                    asks=lane.gate.room,
                    running=lane.running,
                    due=name in work and not held,
                    untried=work.get(name, False) and not held,
                )
            )
        return claimants

    def _running(self) -> list[fair_share.Running]:
        transfers = self._progress.transfers
        return [
            fair_share.Running(
                key=key,
                source=fetch.export.source,
                origin=id(fetch.lane.gate),
                since=fetch.since,
                late=fetch.export.timeouts > 0,
                began=key in transfers and transfers[key].began,
                slow=fetch.slow,
            )
            for key, fetch in self._fetches.items()
            if not fetch.ended
        ]

    def _end_one(self, work: Mapping[str, bool]) -> None:
        """End a fetch that brings nothing, if something waits for its slot."""
        now = asyncio.get_running_loop().time()
        for key, fetch in self._fetches.items():
            self._measure(key, fetch, now)
        last = fair_share.to_end(
            self._claimants(work),
            self._running(),
            concurrency=self._concurrency,
            before=now - self._patience_s,
        )
        if last is not None:
            self._fetches[last].late = True
            self.end(last)

    def _measure(self, key: int, fetch: _Fetch, now: float) -> None:
        """Note whether a fetch brought too little for as long as we are patient."""
        transfer = self._progress.transfers.get(key)
        if transfer is None or not transfer.began:
            fetch.seen_at = now
        elif now - fetch.seen_at >= self._patience_s:
            gained = transfer.done_bytes - fetch.seen_bytes
            fetch.slow = gained < fair_share.LEAST_RATE * self._patience_s
            fetch.seen_at, fetch.seen_bytes = now, transfer.done_bytes

    def _start(self, group: asyncio.TaskGroup, export: Export) -> None:
        lane, key = self.lanes[export.source], export.stored_key
        lane.running += 1
        lane.gate.running += 1
        now = asyncio.get_running_loop().time()
        fetch = self._fetches[key] = _Fetch(
            lane=lane,
            export=export,
            since=now,
            seen_at=now,
            seen_bytes=export.part_bytes,
        )
        fetch.task = group.create_task(
            self._attempt(lane, export), name=f"fetch {export.label}"
        )

        def ended(_: asyncio.Task[None]) -> None:
            lane.running -= 1
            lane.gate.running -= 1
            self._fetches.pop(key, None)
            self._wake.set()
            self._fetched()

        fetch.task.add_done_callback(ended)

    async def _attempt(self, lane: Lane, export: Export) -> None:
        key = export.stored_key
        try:
            failure = await self._fetcher.attempt(lane.source, export)
        except LedgerError:
            raise
        except asyncio.CancelledError:
            fetch = self._fetches.get(key)
            if fetch is not None and fetch.late:
                await finish(self._ledger(lambda ledger: ledger.fetches.gave_way(key)))
            raise
        except Exception as exc:  # noqa: BLE001 -- a fault of ours stops this file only
            _log.error("fetch.crashed", export=export.label, exc_info=exc)
            # By its name alone: its text may hold the url.
            text = f"the attempt failed: {type(exc).__name__}"
            failure = FetchError("unexpected", text)
            await self._fetcher.give_back(export, failure)
        began = not isinstance(failure, FetchError) or failure.began
        lane.gate.ended(key, failure, began=began)
        self._note_spool(lane, failure)

    def _note_spool(self, lane: Lane, failure: Exception | None) -> None:
        """Claim nothing for a while after the spool failed; say so once.

        One without room for a file is none of other sources' business.
        """
        if isinstance(failure, SpoolError):
            again_at = asyncio.get_running_loop().time() + self._spool_pause_s
            if not isinstance(failure, NoRoomError):
                self._spool_free_at = again_at
            elif not failure.never:
                lane.waits_until = again_at
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
