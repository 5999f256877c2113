"""The body of a file's answer, read as it arrives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp

from mirror.errors import FetchError
from mirror.vms.http_errors import explained, late

if TYPE_CHECKING:
    from mirror.vms.file_answer import Offer


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
        self._content = response.content
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

    async def read(self) -> bytes:
        """Return the next bytes; empty at the announced end."""
        if self._received == self._length:
            return b""
        due = asyncio.get_running_loop().time() + self._stall_s
        if not self._received:
            due = max(due, self._first_by)
        try:
            async with asyncio.timeout_at(due):
                chunk = await self._content.readany()
        except TimeoutError as exc:
            raise self._silent() from exc
        except (aiohttp.ClientError, OSError) as exc:
            chunk = self._left_over()
            if not chunk:
                reason, text = explained(exc)
                raise FetchError(reason, f"the transfer broke off: {text}") from exc
        self._received += len(chunk)
        if not chunk and self._length is not None and self._received < self._length:
            raise FetchError("cut", "the transfer ended before the announced length")
        return chunk

    def _silent(self) -> FetchError:
        if not self._received:
            return late(max(self._first_byte_s, self._stall_s))
        return FetchError(
            "timeout",
            "the transfer broke off: no byte for too long "
            f"({self._stall_s:g} s, by stall_timeout)",
        )

    def _left_over(self) -> bytes:
        """Return the bytes that had arrived before the body broke off.

        aiohttp raises at once and keeps them; without them, a line that breaks often
        would never bring a file.
        """
        return self._content._read_nowait(-1)  # noqa: SLF001 -- no public way
