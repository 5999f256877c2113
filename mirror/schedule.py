"""Trigger what is due; all the work is done elsewhere."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

if TYPE_CHECKING:
    from collections.abc import Callable

STEP_S = 5.0
"""A wall clock that moved by more than this against the monotonic one was set."""


class Schedule:
    """Calls functions at intervals, on the running loop.

    Args:
        wall: The wall clock, seconds since 1970.
        monotonic: A clock that is never set.
    """

    def __init__(
        self,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._difference_s = wall() - monotonic()
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            job_defaults={
                "coalesce": True,
                "max_instances": 1,
                "misfire_grace_time": None,
            },
        )

    def every(
        self,
        name: str,
        interval: timedelta,
        trigger: Callable[[], None],
        *,
        jitter: timedelta | None = None,
        immediately: bool = False,
    ) -> None:
        """Call `trigger` at each interval, give or take `jitter`.

        Args:
            name: Unique; a job of that name is replaced, which reschedules it.
            interval: At least 1 ms.
            trigger: Sets an event or is over at once: work is done elsewhere.
            jitter: So that machines do not fall into step.
            immediately: Call it at the start too.
        """
        first = {"next_run_time": datetime.now(UTC)} if immediately else {}
        self._scheduler.add_job(
            _as_coroutine(trigger),
            IntervalTrigger(
                seconds=max(interval.total_seconds(), 0.001),
                jitter=jitter.total_seconds() if jitter else None,
                timezone=UTC,
            ),
            id=name,
            replace_existing=True,
            **first,
        )

    def start(self) -> None:
        """Begin to call."""
        self._scheduler.start()

    def stop(self) -> None:
        """Call no more."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def check_clock(self) -> float | None:
        """Make all jobs due if the wall clock was set; return by how many seconds.

        The scheduler sleeps until a time of the wall clock: put back by three hours,
        that clock would keep it asleep for so long.
        """
        difference_s = self._wall() - self._monotonic()
        step_s = difference_s - self._difference_s
        if abs(step_s) <= STEP_S:
            return None
        self._difference_s = difference_s
        for job in self._scheduler.get_jobs():
            job.modify(next_run_time=datetime.now(UTC))
        return step_s


def _as_coroutine(trigger: Callable[[], None]) -> Callable[[], object]:
    """Let the job run on the loop itself: plain functions go to a thread."""

    async def call() -> None:
        trigger()

    return call
