"""Bring spooled files to one target; one pool for each target."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING

from mirror.model import to_us
from mirror.pipeline.publish.target_health import CHECK_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

    from mirror.ledger import CopyToPublish, Ledger, LedgerThread
    from mirror.pipeline.publish.attempt import CopyPublisher
    from mirror.pipeline.publish.target_health import TargetMonitor
    from mirror.ports import Target


SMALL_BYTES = 1024 * 1024
"""Files up to this are published together: none keeps the others waiting for long."""


class Publisher:
    """Claims copies for one target and publishes them.

    Args:
        copies: Publishes one.
        monitor: Knows whether the target can be used.
        longest_wait: The longest there can be before a retry.
        changed: Called after each publish.

    Attributes:
        wake: Set by whoever made a copy pending.
        paused: Nothing new is published, and the target not looked at.
    """

    def __init__(
        self,
        target: Target,
        *,
        copies: CopyPublisher,
        monitor: TargetMonitor,
        ledger: LedgerThread,
        longest_wait: timedelta,
        changed: Callable[[], None],
        now: Callable[[], datetime],
    ) -> None:
        self.target = target
        self.copies = copies
        self.monitor = monitor
        self._ledger = ledger
        self._at_once = target.traits.at_once
        self._longest_wait = longest_wait
        self._changed = changed
        self._now = now
        self.wake = asyncio.Event()
        self.paused = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_due_us: int | None = None

    @property
    def name(self) -> str:
        """The target's name."""
        return self.target.name

    @property
    def running(self) -> int:
        """Publishes under way."""
        return len(self._tasks)

    async def run(self) -> None:
        """Publish until cancelled; what a thread has begun ends first."""
        async with asyncio.TaskGroup() as group:
            while True:
                self.wake.clear()
                if self.paused:
                    await self._sleep(CHECK_S)
                elif await self.monitor.check():
                    await self._start_all(group)
                    if self.monitor.looked_at:
                        await self._sleep(self._idle_s())
                else:
                    await asyncio.sleep(self.monitor.rest.total_seconds())

    @property
    def _most(self) -> int:
        """Publishes at once; one where it is not known whether the target takes it."""
        return 1 if self.monitor.on_trial else self._at_once

    async def _start_all(self, group: asyncio.TaskGroup) -> None:
        while self.monitor.looked_at and len(self._tasks) < self._most:
            duties = await self.claim()
            if not duties:
                if self.monitor.refuses:
                    await self.monitor.forgive()
                return
            task = group.create_task(
                self.copies.publish(duties),
                name=f"publish {duties[0].export.label} to {self.name}",
            )
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    async def claim(self) -> list[CopyToPublish]:
        """Claim the copy that is due next, small ones together, and fix their paths.

        Returns:
            None or one; several only if the first is small, and then small ones.
        """
        now_us, name = to_us(self._now()), self.name
        horizon_us = round(self._longest_wait.total_seconds() * 1e6)
        smallest = self.monitor.refuses
        alone = smallest or self.monitor.on_trial
        in_batch = 1 if alone else self.target.traits.in_batch

        def claim(ledger: Ledger) -> list[CopyToPublish]:
            duties: list[CopyToPublish] = []
            most_bytes = None
            while len(duties) < in_batch:
                duty = ledger.copies.claim(
                    name,
                    now_us=now_us,
                    horizon_us=horizon_us,
                    smallest=smallest,
                    most_bytes=most_bytes,
                )
                if duty is None:
                    break
                # What fails here fails again when it is published, and is told then.
                with contextlib.suppress(Exception):
                    path = self.copies.fix_path(ledger, duty)
                    duty = dataclasses.replace(duty, path=path)
                duties.append(duty)
                if (duty.export.size_bytes or 0) > SMALL_BYTES:
                    break
                most_bytes = SMALL_BYTES
            if not duties:
                self._next_due_us = ledger.copies.next_due([name])
            return duties

        return await self._ledger(claim)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.wake.set()
        self._changed()

    def _idle_s(self) -> float:
        """Return how long it may wait after it found nothing to claim."""
        if self._next_due_us is None or len(self._tasks) >= self._at_once:
            return CHECK_S
        return (self._next_due_us - to_us(self._now())) / 1e6

    async def _sleep(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(max(0.05, min(wait_s, CHECK_S))):
                await self.wake.wait()
        except TimeoutError:
            return
