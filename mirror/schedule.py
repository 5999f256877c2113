"""Call functions at intervals; the work is done elsewhere."""

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
    """Calls functions at intervals, on the running loop."""

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
        """Call `trigger` at each interval, plus or minus `jitter`.

        Args:
            name: Unique; a job of that name is replaced, which reschedules it.
            interval: At least 1 ms.
            trigger: Sets an event, or returns at once in another way.
            jitter: Keeps several machines from asking at the same moment.
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
        """Start calling."""
        self._scheduler.start()

    def stop(self) -> None:
        """Stop calling."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def check_clock(self) -> float | None:
        """Make all jobs due if the wall clock was set; return by how many seconds.

        The scheduler sleeps until a time of the wall clock: a clock set back by three
        hours would make it sleep three hours more.
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
    """Return a coroutine function: apscheduler runs plain functions in threads."""

    async def call() -> None:
        trigger()

    return call
