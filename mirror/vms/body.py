"""The body of a file's answer, read as it arrives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import hdrs

from mirror.errors import FetchError
from mirror.vms.http_errors import explained, late
from mirror.vms.wire import Wire

if TYPE_CHECKING:
    from mirror.ports import Batch
    from mirror.vms.file_answer import Offer

_CHUNK_BYTES = 64 * 1024
LEAST_TAKEN_BYTES = 1024 * 1024
"""For less, a connection that can be used again is worth more."""


class Body:
    """A `ports.FileBody` over an open response.

    Args:
        response: Its status is final.
        offer: What its headers promise.
        first_by: When its first byte must have come, by the loop's clock, but not
            before `stall_s` is over.
        first_byte_s: The whole wait that ends then; for the error text.
        stall_s: The longest pause between bytes of the file. Extensions of chunks and
            trailers do not count.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        offer: Offer,
        *,
        first_by: float,
        first_byte_s: float,
        stall_s: float,
    ) -> None:
        self._response = response
        self._content = response.content
        self._wire: Wire | None = None
        self._first_by = first_by
        self._first_byte_s = first_byte_s
        self._stall_s = stall_s
        self._length = offer.length
        self._received = 0
        self.start_bytes = offer.start_bytes
        self.total_bytes = offer.total_bytes
        self.explicit_end = offer.explicit_end
        self.etag = offer.etag
        self.last_modified = offer.last_modified
        self.firm = offer.firm

    async def fill(self, batch: Batch, until: float = 0.0) -> bool:
        """Add the next bytes to a batch; see `ports.FileBody`."""
        if self._received == self._length:
            return False
        before = batch.size
        try:
            try:
                await self._next(batch, until)
            finally:
                self._received += batch.size - before
        except TimeoutError as exc:
            raise self._silent() from exc
        except (aiohttp.ClientError, OSError) as exc:
            left_over = self._left_over(len(batch.free))
            if not left_over:
                reason, text = explained(exc)
                raise FetchError(reason, f"the transfer broke off: {text}") from exc
            batch.add(left_over)
            self._received += len(left_over)
        came = batch.size > before
        if not came and self._length is not None:
            raise FetchError("cut", "the transfer ended before the announced length")
        return came

    async def _next(self, batch: Batch, until: float) -> None:
        before = batch.size
        silent_at = asyncio.get_running_loop().time() + self._stall_s
        if not self._received:
            # The first byte may take longer than any pause behind it.
            silent_at, until = max(silent_at, self._first_by), 0.0
        wire = self._wire = self._wire or self._take_over()
        if wire is not None:
            await wire.fill(batch, until, silent_at)
        if batch.size == before:
            async with asyncio.timeout_at(silent_at):
                most = min(len(batch.free), _CHUNK_BYTES)
                batch.add(await self._content.read(most))

    def _take_over(self) -> Wire | None:
        """Take the connection over, once all that aiohttp read of the body is used.

        It is left to aiohttp if little is to come, if the body is in chunks, or if it
        ends with the connection.
        """
        connection, content = self._response.connection, self._content
        if (
            self._length is None
            or self._length - self._received < LEAST_TAKEN_BYTES
            or hdrs.TRANSFER_ENCODING in self._response.headers
            or content.total_bytes != self._received
            or content.exception() is not None
            or connection is None
            or connection.protocol is None
            or connection.transport is None
            or connection.transport.is_closing()
        ):
            return None
        left_bytes = self._length - self._received
        return Wire(
            connection.transport, connection.protocol, left_bytes, self._stall_s
        )

    def _silent(self) -> FetchError:
        if not self._received:
            return late(max(self._first_byte_s, self._stall_s))
        return FetchError(
            "timeout",
            "the transfer broke off: no byte for too long "
            f"({self._stall_s:g} s, by stall_timeout)",
        )

    def _left_over(self, most: int) -> bytes:
        """Return bytes that had arrived before the body broke off.

        aiohttp raises at once and keeps them; without them, a line that breaks often
        would never bring a file.
        """
        return self._content._read_nowait(most)  # noqa: SLF001 -- no public way
