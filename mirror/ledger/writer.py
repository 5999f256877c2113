"""The one thread that owns the ledger, and calls on it from asynchronous code."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import structlog

from mirror.errors import LedgerError
from mirror.ledger.errors import FAULTS, damaged, is_damage

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.ledger.ledger import Ledger
    from mirror.ledger.walks import Slice

    _Call = tuple[Callable[[Ledger], Any], asyncio.Future[Any]]
    _Outcome = tuple[asyncio.Future[Any], Any, BaseException | None]

P = ParamSpec("P")
T = TypeVar("T")
_REPEAT_S = 1.0
_GROUP_CALLS = 64
_GROUP_S = 0.05
"""No group begins another call later: commands wait to write too."""
_log = structlog.get_logger()


class LedgerThread:
    """Runs calls on the ledger in its one thread, in order.

    Calls that meet share one commit; none gives its result before that. A call that
    fails because the disk is full or the file is busy has changed nothing: it is
    retried until it succeeds.

    Args:
        ledger: Used by this thread alone.
        patience_s: A call that fails for longer raises; None retries for ever.
    """

    def __init__(self, ledger: Ledger, *, patience_s: float | None = None) -> None:
        self._ledger = ledger
        self._patience_s = patience_s
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._calls: deque[_Call] = deque()
        self._busy = False
        self._lock = threading.Lock()
        self.problem: str | None = None

    async def __call__(
        self,
        call: Callable[Concatenate[Ledger, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Return what `call` gives; once begun it ends, whatever we await.

        Raises:
            LedgerError: Patience ran out, or the ledger is damaged.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            try:
                result: T = await self._add(
                    lambda ledger: call(ledger, *args, **kwargs)
                )
            except FAULTS as exc:
                if is_damage(exc):
                    raise damaged(self._ledger.path, exc) from exc
                if not isinstance(exc, sqlite3.OperationalError):
                    raise
                waited_s = loop.time() - began
                if self._patience_s is not None and waited_s > self._patience_s:
                    raise LedgerError(
                        f"the ledger cannot be written: {exc}; check its disk and the "
                        "space there"
                    ) from exc
                if self.problem is None:
                    _log.error("ledger.lost", error=str(exc))
                self.problem = str(exc)
                await asyncio.sleep(_REPEAT_S)
            else:
                if self.problem is not None:
                    _log.info("ledger.recovered")
                    self.problem = None
                return result

    def _add(self, call: Callable[[Ledger], Any]) -> asyncio.Future[Any]:
        """Add a call to the group that runs or the next one."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        with self._lock:
            self._calls.append((call, future))
            idle, self._busy = not self._busy, True
        if idle:
            loop.run_in_executor(self._pool, self._run)
        return future

    def _run(self) -> None:
        """Run all calls there are, a group at a time."""
        while True:
            with self._lock:
                self._busy = bool(self._calls)
                if not self._busy:
                    return
            ended: list[_Outcome] = []
            try:
                with self._ledger.group():
                    self._run_group(ended)
            except BaseException as exc:  # noqa: BLE001 -- it is given to the callers
                ended = [(future, None, error or exc) for future, _, error in ended]
            if ended:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    ended[0][0].get_loop().call_soon_threadsafe(_give, ended)

    def _run_group(self, ended: list[_Outcome]) -> None:
        until = time.monotonic() + _GROUP_S
        while self._calls and len(ended) < _GROUP_CALLS and time.monotonic() < until:
            call, future = self._calls.popleft()
            if future.cancelled():
                continue
            try:
                ended.append((future, call(self._ledger), None))
            except BaseException as exc:  # noqa: BLE001 -- it is given to the caller
                ended.append((future, None, exc))
                if isinstance(exc, FAULTS):
                    return

    async def close(self) -> None:
        """Wait for what was asked, then close the ledger."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._pool, self._ledger.close)
        self._pool.shutdown(wait=False)


def _give(ended: list[_Outcome]) -> None:
    for future, result, error in ended:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


async def in_slices(
    ledger: LedgerThread, change: Callable[[Ledger, int], Slice]
) -> None:
    """Change all that is to be changed, a slice at a time; other calls run between."""
    after: int | None = 0
    while after is not None:
        after = (await ledger(change, after)).after
