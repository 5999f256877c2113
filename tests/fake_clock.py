"""A loop whose clock leaps to its next timer once no thread works for it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor, Future


class FakeClock:
    """The clock of the running loop: hours pass at once, and to the microsecond.

    Attributes:
        now_s: Since the beginning.
    """

    def __init__(self) -> None:
        loop: Any = asyncio.get_running_loop()
        self.now_s = 0.0
        self._threads = 0
        self._loop = loop
        self._select = loop._selector.select
        self._submit = loop.run_in_executor
        self._wrap = asyncio.wrap_future

    @classmethod
    @contextlib.contextmanager
    def begin(cls) -> Iterator[FakeClock]:
        """Let time leap for as long as the block lasts."""
        clock = cls()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(clock._loop, "time", lambda: clock.now_s)
            patch.setattr(clock._loop, "run_in_executor", clock._run)
            patch.setattr(asyncio, "wrap_future", clock._wait_for)
            patch.setattr(clock._loop._selector, "select", clock._wait)
            yield clock

    def _run(
        self, pool: Executor | None, call: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        return self._count(self._submit(pool, call, *args))

    def _wait_for(self, job: Future[Any]) -> asyncio.Future[Any]:
        return self._count(self._wrap(job))

    def _count(self, future: asyncio.Future[Any]) -> asyncio.Future[Any]:
        self._threads += 1
        future.add_done_callback(self._ended)
        return future

    def _ended(self, _: object) -> None:
        self._threads -= 1

    def _wait(self, timeout: float | None = None) -> Any:
        if self._threads and timeout != 0:
            return self._select(None)
        ready = self._select(0 if timeout else timeout)
        if timeout and not ready:
            self.now_s += timeout
        return ready
