"""A client of a VMS, and a server that sends what a test wrote."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from yarl import URL

from mirror.model import to_us
from mirror.ports import Batch, ResumePoint
from mirror.vms import Origins, Sessions, Tls, TokenFile, VmsClient, VmsOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


SECRET = "s3cret-bearer-token-0123456789"
SINCE = to_us(datetime(2026, 11, 23, 7, 0, tzinfo=UTC))
UNTIL = to_us(datetime(2026, 11, 24, 8, 30, 15, tzinfo=UTC))
WHOLE = ResumePoint(size_bytes=0)
EMPTY = b'{"data":[],"meta":{"total":0,"last_page":1}}'


@contextlib.asynccontextmanager
async def client(
    folder: Path,
    url: str,
    *,
    tls: Tls | None = None,
    token: Path | None = None,
    **changes: Any,
) -> AsyncIterator[VmsClient]:
    """Give a client of the VMS at `url`, its token in a file."""
    if token is None:
        token = folder / "client.token"
        token.write_text(SECRET)
    allowed = frozenset(changes.pop("allowed", ()))
    stall_s = changes.pop("stall_s", 5)
    values: dict[str, Any] = {
        "name": "hq",
        "list_url": URL(url + "/api/v1/downloads"),
        "origins": Origins(base=URL(url), allowed=allowed),
        "tls": tls or Tls(),
        "per_page": 100,
        "date_format": "%Y-%m-%dT%H:%M:%SZ",
        "footage_zone": UTC,
        "client": "web",
        "send_token_to_files": False,
        "max_file_bytes": 2**40,
        "file_lifetime": timedelta(hours=3),
    }
    async with Sessions(stall_timeout_s=stall_s, list_timeout_s=10) as sessions:
        yield VmsClient(
            VmsOptions(**(values | changes)),
            sessions=sessions,
            token=TokenFile(token, source="hq", learned=lambda _: None),
            device_uuid="6d1c0a5e-device",
        )


async def ask(made: VmsClient) -> Any:
    """Read the first page."""
    return await made.page(1, since_us=SINCE, until_us=UNTIL)


async def fetch(made: VmsClient, url: str) -> bytes:
    """Read a whole file."""
    body, batch = bytearray(), Batch(100_000)
    async with made.open_file(url, None, WHOLE, first_byte_s=5) as opened:
        while await opened.fill(batch):
            body += batch.held
            batch.size = 0
    return bytes(body)


@dataclass(slots=True)
class Asked:
    """A request as it came over the wire."""

    target: str
    headers: dict[str, str]

    @property
    def query(self) -> dict[str, str]:
        """The parameters."""
        return dict(parse_qsl(urlsplit(self.target).query, strict_parsing=True))


class Raw:
    """A server that sends what a test wrote, byte by byte; one request a connection.

    Attributes:
        answers: By path; `*` for all others.
    """

    def __init__(self, answers: dict[str, bytes] | None = None) -> None:
        self.answers = answers or {}
        self.asked: list[Asked] = []
        self.url = ""
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Raw:
        """Listen on a free port of the loopback."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip().split("\r\n")
            target = first.split(" ")[1]
            pairs = [line.partition(": ")[::2] for line in lines]
            self.asked.append(Asked(target, dict(pairs)))
            path = target.split("?")[0]
            writer.write(self.answers.get(path, self.answers.get("*", b"")))
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def answer(status: int = 200, body: bytes = EMPTY, **headers: str) -> bytes:
    """Return an answer's bytes."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


async def ask_wide(made: VmsClient) -> Any:
    """Read the first page of everything."""
    now_us = to_us(datetime.now(UTC))
    return await made.page(1, since_us=0, until_us=now_us + 86_400_000_000)
