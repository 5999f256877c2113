"""The body of a file's answer, read as it arrives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp

from mirror.errors import FetchError
from mirror.vms.failures import explained

if TYPE_CHECKING:
    from mirror.vms.answer import Offer


class Body:
    """A `ports.Body` over an open response."""

    def __init__(self, response: aiohttp.ClientResponse, offer: Offer) -> None:
        self._content = response.content
        self._length = offer.length
        self._received = 0
        self.start_bytes = offer.start_bytes
        self.total_bytes = offer.total_bytes
        self.explicit_end = offer.explicit_end
        self.etag = offer.etag
        self.last_modified = offer.last_modified

    async def read(self) -> bytes:
        """Return the next bytes; empty at the announced end."""
        if self._received == self._length:
            return b""
        try:
            chunk = await self._content.readany()
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            chunk = self._left_over()
            if not chunk:
                reason, text = explained(exc)
                raise FetchError(reason, f"the transfer broke off: {text}") from exc
        self._received += len(chunk)
        if not chunk and self._length is not None and self._received < self._length:
            raise FetchError("cut", "the transfer ended before the announced length")
        return chunk

    def _left_over(self) -> bytes:
        """Return what had arrived before the body broke off.

        aiohttp raises at once and keeps these bytes to itself; thrown away each
        time, a line that breaks often would never bring a file.
        """
        return self._content._read_nowait(-1)  # noqa: SLF001 -- no public way
