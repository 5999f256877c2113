"""Walk one source whenever a walk is due, and back off when it fails."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import structlog

from mirror import backoff
from mirror.errors import AuthError, LedgerError, ListError
from mirror.model import to_us

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime, timedelta

    from mirror.backoff import Pace
    from mirror.ledger import LedgerThread
    from mirror.metrics import Metrics
    from mirror.pipeline.discover.walker import Walker

_TOKEN_LOOK_S = 1.0
_log = structlog.get_logger()


class Lister:
    """Walks one source when a walk is due, and after failures.

    Args:
        token_changed: Tells whether the token file changed since it was last read.
        longest_wait: A failed walk is tried again after at most this.
        walked: Called after each walk that may have changed the ledger.

    Attributes:
        going: Cleared while the source is paused: no walk begins.
    """

    def __init__(
        self,
        name: str,
        walker: Walker,
        *,
        ledger: LedgerThread,
        metrics: Metrics,
        pace: Pace,
        longest_wait: timedelta,
        token_changed: Callable[[], Awaitable[bool]],
        walked: Callable[[], None],
        now: Callable[[], datetime],
    ) -> None:
        self.name = name
        self._walker = walker
        self._ledger = ledger
        self._metrics = metrics
        self._pace = pace
        self._longest_wait = longest_wait
        self._token_changed = token_changed
        self._walked = walked
        self._now = now
        self.poll_due = asyncio.Event()
        self.sweep_due = asyncio.Event()
        self.going = asyncio.Event()
        self.going.set()
        self.tried = False
        self._readable = asyncio.Event()
        self._readable.set()
        self._problem: str | None = None

    async def run(self) -> None:
        """Walk when due, until cancelled: polls and sweeps side by side."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._loop(self.poll_due, sweep=False))
            group.create_task(self._loop(self.sweep_due, sweep=True))

    async def once(self, tries: int) -> bool:
        """Sweep once, with up to `tries` tries; tell whether the list could be read."""
        for number in range(1, tries + 1):
            failure = await self.walk(sweep=True)
            if failure is None:
                return True
            if number < tries:
                await self._wait_after(failure, number)
        return False

    async def walk(self, *, sweep: bool) -> ListError | None:
        """Walk now; return how it failed, None if it did not."""
        self.tried = True
        try:
            report = await self._walker.walk(sweep=sweep)
        except ListError as exc:
            await self._failed(exc)
            # Pages read before the one that failed count.
            self._walked()
            return exc
        except LedgerError:
            raise
        except Exception as exc:  # noqa: BLE001 -- a fault of ours stops this walk only
            _log.error("list.crashed", source=self.name, exc_info=exc)
            # By its name alone: its text may hold the token, or urls.
            text = f"the walk failed: {type(exc).__name__}"
            failure = ListError("unexpected", text)
            await self._failed(failure)
            return failure
        self._metrics.poll_ended(self.name, "ok")
        self._readable.set()
        if self._problem is not None:
            _log.info("source.recovered", source=self.name)
            self._problem = None
        level = _log.info if report.new or sweep else _log.debug
        level(
            "list.walked",
            source=self.name,
            sweep=sweep,
            rows=report.rows,
            new=report.new,
            changed=report.changed,
            complete=report.complete,
        )
        self._walked()
        return None

    async def _loop(self, due: asyncio.Event, *, sweep: bool) -> None:
        failures = 0
        while True:
            await due.wait()
            if sweep:
                # While the list cannot be read, only polls try it.
                await self._readable.wait()
            await self.going.wait()
            due.clear()
            failure = await self.walk(sweep=sweep)
            if failure is None:
                failures = 0
                continue
            failures += 1
            await self._wait_after(failure, failures)
            due.set()

    async def _failed(self, exc: ListError) -> None:
        self._readable.clear()
        unauthorized = isinstance(exc, AuthError)
        outcome = "unauthorized" if unauthorized else "failed"
        self._metrics.poll_ended(self.name, outcome)
        text, now_us = str(exc), to_us(self._now())
        await self._ledger(
            lambda ledger: ledger.walks.walk_failed(self.name, text, now_us)
        )
        if self._problem != exc.reason:
            self._problem = exc.reason
            level = _log.error if unauthorized else _log.warning
            level("source.lost", source=self.name, reason=exc.reason, error=text)

    async def _wait_after(self, failure: ListError, failures: int) -> None:
        """Wait before the next try; a new token ends the wait."""
        wait = backoff.delay(
            failures,
            initial=self._pace.initial,
            maximum=self._longest_wait,
            jitter=random.random(),  # noqa: S311 -- spreads load, hides nothing
        )
        wait_s = max(wait.total_seconds(), failure.retry_after_s or 0.0)
        wait_s = min(wait_s, self._longest_wait.total_seconds())
        if not isinstance(failure, AuthError):
            await asyncio.sleep(wait_s)
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        # The file is changed by others, who set no event.
        while loop.time() < until and not await self._token_changed():  # noqa: ASYNC110
            await asyncio.sleep(min(_TOKEN_LOOK_S, max(0.0, until - loop.time())))
