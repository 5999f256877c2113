"""An HTTP response: few interim ones (1xx) before it, and its certificate."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
from typing_extensions import override

if TYPE_CHECKING:
    from aiohttp.connector import Connection

MOST_INTERIM = 20
"""A server sends one or two: only 100 and 103 are of use to a GET."""


class InterimFloodError(aiohttp.ClientError):
    """More interim answers came than any sound server sends."""


class Response(aiohttp.ClientResponse):
    """A response that fails after `MOST_INTERIM` answers that are not final.

    aiohttp itself reads on as long as they come.
    """

    _certificate: dict[str, object] | None = None

    @property
    def certificate_end_s(self) -> int | None:
        """When the server's certificate ends, in seconds since 1970.

        None without TLS, or if the certificate is not verified.
        """
        end = (self._certificate or {}).get("notAfter")
        return int(ssl.cert_time_to_seconds(end)) if isinstance(end, str) else None

    @override
    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Read up to the final status; raise InterimFloodError if it does not come."""
        protocol, transport = connection.protocol, connection.transport
        if transport is not None:
            self._certificate = transport.get_extra_info("peercert")
        if protocol is None:
            return await super().start(connection)
        read, interim = protocol.read, 0

        async def counted() -> Any:  # noqa: ANN401 -- as aiohttp has it
            nonlocal interim
            message, payload = await read()
            interim += 100 <= message.code < 200  # noqa: PLR2004 -- 1xx
            if interim > MOST_INTERIM:
                raise InterimFloodError
            return message, payload

        protocol.read = counted  # type: ignore[method-assign]  # counts what it reads
        try:
            return await super().start(connection)
        finally:
            del protocol.read
