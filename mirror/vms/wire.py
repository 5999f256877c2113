"""The bytes of a body straight from the connection into a batch."""

from __future__ import annotations

import asyncio

from typing_extensions import override

from mirror.ports import Batch

_NONE = Batch(0)


class Wire(asyncio.BufferedProtocol):
    """Takes an answer's connection over from aiohttp, which copies each byte twice.

    The connection is of no use for another answer after that.

    Args:
        transport: Of the connection.
        before: What read from it until now; it is told when the connection is lost.
        left_bytes: Still to come of the body; what comes behind it is not read.
        stall_s: The longest pause between bytes.

    Attributes:
        lost: Nothing more comes; `before` knows why.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        before: asyncio.Protocol,
        left_bytes: int,
        stall_s: float,
    ) -> None:
        self.lost = False
        self._transport = transport
        self._before = before
        self._left_bytes = left_bytes
        self._stall_s = stall_s
        self._loop = asyncio.get_running_loop()
        self._ready = self._loop.create_future()
        self._batch = _NONE
        self._until = self._silent_at = 0.0
        transport.pause_reading()
        transport.set_protocol(self)

    async def fill(self, batch: Batch, until: float, silent_at: float) -> None:
        """Wait until a batch is full, or nothing more comes.

        However this ends, what came is in the batch.

        Args:
            batch: It is not full.
            until: Then any byte ends the wait, by the loop's clock.
            silent_at: The first byte must have come by then.

        Raises:
            TimeoutError: No byte came for too long.
        """
        if self.lost:
            return
        self._batch, self._ready = batch, self._loop.create_future()
        self._until, self._silent_at = until, silent_at
        self._transport.resume_reading()
        try:
            while not self._ready.done():
                left_s = self._silent_at - self._loop.time()
                if left_s <= 0:
                    raise TimeoutError
                await asyncio.wait([self._ready], timeout=left_s)
        finally:
            self._transport.pause_reading()
            # A connection with TLS is closed long after its last byte.
            self._batch = _NONE

    @override
    def get_buffer(self, _: int) -> memoryview:
        """Return where the next bytes go; asked only while reading is not paused."""
        return self._batch.free[: self._left_bytes]

    @override
    def buffer_updated(self, nbytes: int) -> None:
        """Take note of what came."""
        self._batch.size += nbytes
        self._left_bytes -= nbytes
        now = self._loop.time()
        self._silent_at = now + self._stall_s
        if not (self._left_bytes and self._batch.free):
            self._transport.pause_reading()
        elif now < self._until:
            return
        self._wake()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that nothing more comes."""
        self.lost = True
        self._before.connection_lost(exc)
        self._wake()

    def _wake(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)
