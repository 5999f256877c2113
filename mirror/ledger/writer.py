"""The one thread that owns the ledger, and calls on it from asynchronous code."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import structlog

from mirror.errors import LedgerError
from mirror.ledger.errors import FAULTS, damaged, is_damage

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.ledger.ledger import Ledger
    from mirror.ledger.walks import Slice

P = ParamSpec("P")
T = TypeVar("T")
_REPEAT_S = 1.0
_log = structlog.get_logger()


class LedgerThread:
    """Runs calls on the ledger in its one thread, in order.

    A call that fails because the disk is full or the file is busy has changed nothing:
    it is retried until it succeeds.

    Args:
        ledger: Used by this thread alone.
        patience_s: A call that fails for longer raises; None retries for ever.
    """

    def __init__(self, ledger: Ledger, *, patience_s: float | None = None) -> None:
        self._ledger = ledger
        self._patience_s = patience_s
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
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
                result = await loop.run_in_executor(
                    self._pool, partial(call, self._ledger, *args, **kwargs)
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

    async def close(self) -> None:
        """Wait for what was asked, then close the ledger."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._pool, self._ledger.close)
        self._pool.shutdown(wait=False)


async def in_slices(
    ledger: LedgerThread, change: Callable[[Ledger, int], Slice]
) -> None:
    """Change all that is to be changed, a slice at a time; other calls run between."""
    after: int | None = 0
    while after is not None:
        after = (await ledger(change, after)).after
