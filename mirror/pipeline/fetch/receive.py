"""Receive one body into one part of the spool."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror import mp4
from mirror.errors import FetchError, SpoolError
from mirror.pipeline.spool.part import Part
from mirror.ports import Batch
from mirror.tasks import run_to_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirror.disk.lanes import Job
    from mirror.pipeline.spool.spool import Spool
    from mirror.ports import FileBody

BATCH_BYTES = 256 * 1024
"""How many bytes of a transfer are given to a thread in one call, by default."""
CHECKPOINT_S = 1.0
"""How often the bytes of a running transfer are made durable."""
RATE_SPAN_S = 300.0
_LEAST_HEAD_BYTES = 8
"""Fewer bytes of a body that broke off do not show what it is."""


class ErrorPageError(Exception):
    """The body is an error page, or empty; not a byte of it was kept.

    Attributes:
        head: Its first bytes.
    """

    def __init__(self, head: bytes) -> None:
        super().__init__("an error page")
        self.head = head


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveLimits:
    """Bounds of one transfer.

    Attributes:
        max_bytes: Larger files are refused.
        min_rate: Bytes per second over five minutes; None sets no floor.
        batch_bytes: A thread is given at most so many in one call.
    """

    max_bytes: int
    min_rate: float | None
    batch_bytes: int = BATCH_BYTES


async def read_head(body: FileBody, batch: Batch) -> None:
    """Read the first bytes of a body that begins with the file's first byte.

    Raises:
        ErrorPageError: They are those of an error page, or there are none.
        FetchError: The body broke off.
    """
    while batch.size < mp4.HEAD_BYTES and await body.fill(batch):
        pass
    _check_head(batch)


class Receiver:
    """Fills batches; one batch is written while the next is filled.

    Args:
        spool: Runs the writes.
        part: Where the bytes go; nothing else may touch it meanwhile.
        limits: Of the transfer.
        checkpoint: Makes the part durable and records its length.
        received: Called with (bytes, length of the part) after each batch.
    """

    def __init__(
        self,
        spool: Spool,
        part: Part,
        *,
        limits: ReceiveLimits,
        checkpoint: Callable[[], Awaitable[None]],
        received: Callable[[int, int], None],
    ) -> None:
        self._spool = spool
        self._part = part
        self._limits = limits
        self._checkpoint = checkpoint
        self._received = received
        self._batch = self._spare = Batch(0)
        self._writing: Job[None] | None = None
        self._checkpoint_at = time.monotonic()
        self._rate_since = (self._checkpoint_at, part.size)

    async def run(self, body: FileBody, first: Batch | None = None) -> None:
        """Read the body to its end; what came is written, whatever ends it.

        Args:
            body: To be read.
            first: Bytes already read from it.

        Raises:
            FetchError: It broke off, or is larger or slower than allowed.
            ErrorPageError: It is an error page, or empty.
            SpoolError: It could not be written.
        """
        self._batch = first or Batch(self._limits.batch_bytes)
        try:
            await self._take_all(body)
        except asyncio.CancelledError:
            with contextlib.suppress(ErrorPageError, FetchError, SpoolError):
                await run_to_end(self._drain(_LEAST_HEAD_BYTES))
            raise
        except BaseException:
            await run_to_end(self._drain(_LEAST_HEAD_BYTES))
            raise
        await run_to_end(self._drain(1))
        if not self._part.size:
            raise ErrorPageError(b"")

    async def _take_all(self, body: FileBody) -> None:
        more = True
        while more:
            due_at = self._checkpoint_at + CHECKPOINT_S
            due = time.monotonic() >= due_at
            if due or not self._batch.free:
                await self._hand_over()
            if due:
                await self._make_durable()
            more = await body.fill(self._batch, due_at)

    async def _drain(self, least: int) -> None:
        await self._hand_over(least)
        await self._written()

    async def _hand_over(self, least: int = mp4.HEAD_BYTES) -> None:
        """Give the batch to a thread, once the one before is written.

        Args:
            least: How many first bytes of a file show what it is.
        """
        batch, size = self._batch, self._batch.size
        try:
            await self._written()
            if size < (1 if self._part.size else least):
                return
            if not self._part.size:
                _check_head(batch)
            await self._spool.keep_room(self._part, size)
            self._writing = self._spool.start(self._part, Part.append, [batch.held])
        except (ErrorPageError, FetchError, SpoolError):
            # What follows must not be written behind a gap.
            batch.size = 0
            raise
        self._batch, self._spare = self._spare, batch
        if not self._batch.free:
            self._batch = Batch(self._limits.batch_bytes)

    async def _written(self) -> None:
        """Wait until the batch before is written."""
        if self._writing is None:
            return
        try:
            await self._spool.end(self._part, self._writing)
        except SpoolError:
            self._writing = None
            raise
        size, self._spare.size, self._writing = self._spare.size, 0, None
        self._received(size, self._part.size)
        if self._part.size > self._limits.max_bytes:
            raise FetchError("too_large", "the file is larger than max_file_size")

    async def _make_durable(self) -> None:
        await self._written()
        await self._checkpoint()
        await self._spool.keep_room(self._part)
        now = self._checkpoint_at = time.monotonic()
        since, size = self._rate_since
        if self._limits.min_rate is None or now - since < RATE_SPAN_S:
            return
        rate = (self._part.size - size) / (now - since)
        if rate < self._limits.min_rate:
            raise FetchError("too_slow", f"only {rate:.0f} bytes/s over 5 minutes")
        self._rate_since = (now, self._part.size)


def _check_head(batch: Batch) -> None:
    """Check the first bytes of a file before any is written."""
    head = bytes(batch.held[: mp4.HEAD_BYTES])
    if mp4.is_error_page(head):
        raise ErrorPageError(head)
