"""Keep the fetchers busy: the nearest deadline first, within all bounds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from mirror.errors import FetchError, LedgerError, SpoolError
from mirror.model import to_us

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime, timedelta

    from mirror.mirroring.fetch import Fetcher
    from mirror.mirroring.gate import Gate
    from mirror.model import Export
    from mirror.ports import Source
    from mirror.state import LedgerThread

_MISSED_S = 0.5
"""Wait for what is due already and has no room; its room wakes us sooner."""
_log = structlog.get_logger()


class Lane:
    """A source and the gate of its origin, which sources may share."""

    __slots__ = ("gate", "running", "source")

    def __init__(self, source: Source, gate: Gate) -> None:
        self.source = source
        self.gate = gate
        self.running = 0


class FetchPool:
    """Claims exports and runs an attempt for each.

    Args:
        concurrency: Fetches at once over all sources; if more sources than this
            have work, each has one.
        longest_wait: No due time lies further ahead; see `Fetches.claim`.
        spool_pause_s: How long nothing is claimed after the spool failed.
        unparks: Parked exports are tried again when their time has come.
        wake: Set by whoever made an export ready.
        fetched: Called after each attempt.

    Attributes:
        paused: Sources of which nothing new is fetched.
    """

    def __init__(
        self,
        *,
        ledger: LedgerThread,
        fetcher: Fetcher,
        lanes: Mapping[str, Lane],
        concurrency: int,
        longest_wait: timedelta,
        spool_pause_s: float,
        unparks: bool,
        wake: asyncio.Event,
        fetched: Callable[[], None],
        now: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self._fetcher = fetcher
        self.lanes = dict(lanes)
        self._concurrency = concurrency
        self._horizon_us = round(longest_wait.total_seconds() * 1e6)
        self._spool_pause_s = spool_pause_s
        self._unparks = unparks
        self._wake = wake
        self._fetched = fetched
        self._now = now
        self._tasks: set[asyncio.Task[None]] = set()
        self._spool_free_at = 0.0
        self.paused: frozenset[str] = frozenset()
        self.spool_failures = 0

    @property
    def running(self) -> int:
        """Fetches under way."""
        return len(self._tasks)

    async def run(self) -> None:
        """Fetch until cancelled; then what is in flight keeps its bytes."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._wake.clear()
                    await self._start_all(group)
                    await self._sleep()
        finally:
            self._tasks.clear()

    async def idle_until(self) -> int | None:
        """Return when the next export falls due, in microseconds; None if none is."""
        paused = self.paused
        return await self._ledger(lambda ledger: ledger.fetches.next_due(paused))

    async def _sleep(self) -> None:
        """Wait to be woken, or until the next export falls due."""
        due_us = await self.idle_until()
        wait_s = 60.0
        if due_us is not None:
            wait_s = min(wait_s, (due_us - to_us(self._now())) / 1e6)
        pauses = [lane.gate.pause_s for lane in self.lanes.values()]
        held_up = [pause for pause in (*pauses, self._spool_wait_s()) if pause > 0]
        if wait_s <= 0:
            wait_s = min(held_up, default=_MISSED_S)
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
        busy = await self._ledger(
            lambda ledger: ledger.fetches.sources_with_work(
                now_us=now_us, horizon_us=horizon_us
            )
        )
        while self._spool_wait_s() <= 0:
            sources = self._with_room(busy)
            if not sources:
                return
            export = await self._ledger(
                lambda ledger, sources: ledger.fetches.claim(
                    sources, now_us=now_us, horizon_us=horizon_us
                ),
                sources,
            )
            if export is None:
                busy = [name for name in busy if name not in sources]
                continue
            self._start(group, export)

    def _with_room(self, busy: list[str]) -> list[str]:
        """Return the sources that may start one more; those without any first."""
        busy = [name for name in busy if name not in self.paused]
        working = {name for name, lane in self.lanes.items() if lane.running}
        most = max(self._concurrency, len(working | set(busy)))
        if len(self._tasks) >= most:
            return []
        free = [
            name for name in busy if name in self.lanes and self.lanes[name].gate.room
        ]
        unserved = [name for name in free if not self.lanes[name].running]
        return unserved or free

    def _start(self, group: asyncio.TaskGroup, export: Export) -> None:
        lane = self.lanes[export.source]
        lane.running += 1
        lane.gate.running += 1
        task = group.create_task(
            self._attempt(lane, export), name=f"fetch {export.label}"
        )
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            lane.running -= 1
            lane.gate.running -= 1
            self._tasks.discard(task)
            self._wake.set()
            self._fetched()

        task.add_done_callback(ended)

    async def _attempt(self, lane: Lane, export: Export) -> None:
        try:
            failure = await self._fetcher.attempt(lane.source, export)
        except LedgerError:
            raise
        except Exception as exc:  # noqa: BLE001 -- a fault of ours stops this file only
            _log.error("fetch.crashed", export=export.label, exc_info=exc)
            # By its name alone: its text may hold the url.
            text = f"the attempt failed: {type(exc).__name__}"
            failure = FetchError("unexpected", text)
            await self._fetcher.give_back(export, failure)
        lane.gate.ended(export.key or 0, failure)
        self._note_spool(failure)

    def _note_spool(self, failure: Exception | None) -> None:
        """Claim nothing for a while after the spool failed; say so once."""
        if isinstance(failure, SpoolError):
            loop = asyncio.get_running_loop()
            self._spool_free_at = loop.time() + self._spool_pause_s
            if not self.spool_failures:
                _log.error("spool.lost", reason=failure.reason, error=str(failure))
            self.spool_failures += 1
        elif failure is None and self.spool_failures:
            self.spool_failures = 0
            _log.info("spool.recovered")

    def _spool_wait_s(self) -> float:
        return max(0.0, self._spool_free_at - asyncio.get_running_loop().time())
