"""The two HTTP sessions, for the API and for files. They share nothing."""

from __future__ import annotations

import ssl
from asyncio import constants, selector_events, sslproto
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import aiohttp

from mirror import __version__
from mirror.vms.response import Response

if TYPE_CHECKING:
    from pathlib import Path

_AGENT = f"archive-mirror/{__version__}"
_TCP_S = 15
CONNECT_S = 30
"""Until there is a connection: name, TCP, answer of the proxy, TLS."""
_READ_BUFFER = 16384


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How a source's certificate is checked.

    Attributes:
        ca_file: Trusted besides the system's authorities.
        fingerprint: SHA-256 of the one certificate that is trusted, whatever its
            dates, its names and its authority.
        verify: False trusts any certificate.
    """

    ca_file: Path | None = None
    fingerprint: bytes | None = None
    verify: bool = True

    def context(self) -> ssl.SSLContext | aiohttp.Fingerprint | bool:
        """Return what aiohttp takes as `ssl`, for the source's own origin.

        Raises:
            OSError: The `ca_file` cannot be read or holds no certificate.
        """
        if self.fingerprint is not None:
            return aiohttp.Fingerprint(self.fingerprint)
        return self.context_elsewhere() if self.verify else False

    def context_elsewhere(self) -> ssl.SSLContext | bool:
        """Return the same for other origins: always verified; raises as `context`."""
        if self.ca_file is None:
            return True
        context = ssl.create_default_context()
        context.load_verify_locations(self.ca_file)
        return context


class Sessions:
    """Opens both sessions; use as a context manager.

    Args:
        read_bytes: The most to read from a connection at once.

    Attributes:
        api: For lists; sends JSON headers, decompresses.
        files: For files; asks for them uncompressed and never decodes. It limits only
            the wait for a connection; who reads a body limits the rest.
        stall_s: The longest pause in a body that has begun.
    """

    api: aiohttp.ClientSession
    files: aiohttp.ClientSession

    def __init__(
        self,
        *,
        stall_timeout_s: float,
        list_timeout_s: float = 60,
        read_bytes: int = 128 * 1024,
    ) -> None:
        self.stall_s = stall_timeout_s
        self._list_s = list_timeout_s
        self._read_bytes = read_bytes

    async def __aenter__(self) -> Self:
        """Open both."""
        _take_at_once(self._read_bytes)
        self.api = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": _AGENT, "Accept": "application/json"},
            timeout=aiohttp.ClientTimeout(
                total=self._list_s,
                connect=CONNECT_S,
                sock_connect=_TCP_S,
                sock_read=self.stall_s,
            ),
            response_class=Response,
        )
        self.files = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": _AGENT, "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(
                total=None, connect=CONNECT_S, sock_connect=_TCP_S
            ),
            response_class=Response,
            auto_decompress=False,
            read_bufsize=_READ_BUFFER,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close both."""
        await self.api.close()
        await self.files.close()


def _take_at_once(size_bytes: int) -> None:
    """Set how much asyncio reads from a connection at once.

    Its own limits are 256 KiB, and more than 1 MiB with TLS, of memory for each
    connection. They hold for all connections, and there is no public way to them.
    """
    selector_events._SelectorSocketTransport.max_size = size_bytes  # type: ignore[attr-defined] # noqa: SLF001 -- see above
    sslproto.SSLProtocol.max_size = size_bytes
    constants.FLOW_CONTROL_HIGH_WATER_SSL_READ = max(1, size_bytes // 1024)  # type: ignore[misc]  # see above
