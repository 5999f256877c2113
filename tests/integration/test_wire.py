"""A body of known length comes straight from its connection, and nothing else does."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from mirror.errors import FetchError
from mirror.ports import Batch, ResumePoint
from mirror.vms import Tls
from mirror.vms.wire import Wire
from tests.proof.test_memory import _certified
from tests.vms_client import WHOLE, client

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

BODY = b"".join(
    hashlib.sha256(bytes([n % 251, n // 251])).digest() for n in range(9000)
)
LENGTH = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()


@contextlib.asynccontextmanager
async def server(
    *pieces: bytes, ends: bool = True, context: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Answer each request with the pieces, one after another; give the url."""
    tasks: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
            if not ends:
                await reader.read()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    scheme = "https" if context else "http"
    yield f"{scheme}://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    listening.close()
    async with asyncio.timeout(30):
        await asyncio.gather(*tasks)


async def received(body, batch_bytes: int, got: bytearray) -> None:
    """Read a body to its end; what came is in `got`, whatever ends it."""
    more = True
    while more:
        batch = Batch(batch_bytes)
        try:
            more = await body.fill(batch, time.monotonic() + 60)
        finally:
            got += batch.held


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Collect an entry for each connection that is taken over."""
    made: list[bool] = []
    real = Wire.__init__

    def init(*given: Any) -> None:
        made.append(True)
        real(*given)

    monkeypatch.setattr(Wire, "__init__", init)
    return made


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("batch_bytes", [1000, 100_000, 1_000_000])
@pytest.mark.parametrize(
    "cut",
    [
        lambda: (LENGTH, BODY),
        lambda: (LENGTH[:20], LENGTH[20:] + BODY[:5], BODY[5:]),
        lambda: (LENGTH, *(BODY[i : i + 7000] for i in range(0, len(BODY), 7000))),
    ],
)
async def test_each_byte_comes_once_and_in_order(
    tmp_path: Path, taken, tls, batch_bytes, cut: Callable[[], tuple[bytes, ...]]
):
    """However it is cut up, and though the server closes at once behind it."""
    context = _certified(tmp_path) if tls else None
    got = bytearray()
    async with (
        server(*cut(), context=context) as url,
        client(tmp_path, url, tls=Tls(verify=False)) as made,
        made.open_file(f"{url}/a.mp4", None, WHOLE, first_byte_s=30) as body,
    ):
        await received(body, batch_bytes, got)

    assert bytes(got) == BODY
    assert taken


async def test_what_comes_behind_the_body_is_not_read(tmp_path):
    """A server may send more than it announced."""
    got = bytearray()
    async with (
        server(LENGTH, BODY + b"more", b"and more") as url,
        client(tmp_path, url) as made,
        made.open_file(f"{url}/a.mp4", None, WHOLE, first_byte_s=30) as body,
    ):
        await received(body, 50_000, got)

    assert bytes(got) == BODY


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(("ends", "reason"), [(True, "cut"), (False, "timeout")])
async def test_what_came_before_a_break_is_kept(tmp_path, taken, tls, ends, reason):
    """Be it a connection that is lost, or one that falls silent for stall_timeout."""
    context = _certified(tmp_path) if tls else None
    got = bytearray()
    async with (
        server(
            LENGTH, BODY[:100_000], BODY[100_000:-1], ends=ends, context=context
        ) as url,
        client(tmp_path, url, stall_s=0.3, tls=Tls(verify=False)) as made,
        made.open_file(f"{url}/a.mp4", None, WHOLE, first_byte_s=300) as body,
    ):
        with pytest.raises(FetchError) as failed:
            await received(body, 1_000_000, got)

    assert failed.value.reason == reason
    assert bytes(got) == BODY[:-1]
    assert taken


async def test_what_came_before_a_cancellation_is_in_the_batch(tmp_path, taken):
    """The batch belongs to whoever waits."""
    batch = Batch(1_000_000)
    async with (
        server(LENGTH, BODY[:100_000], ends=False) as url,
        client(tmp_path, url) as made,
        made.open_file(f"{url}/a.mp4", None, WHOLE, first_byte_s=30) as body,
    ):

        async def fill() -> None:
            while await body.fill(batch, time.monotonic() + 60):
                pass

        filling = asyncio.create_task(fill())
        async with asyncio.timeout(30):
            while batch.size < 100_000:
                await asyncio.sleep(0.01)
        filling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await filling

    assert batch.held == BODY[:100_000]
    assert taken


async def test_a_body_in_chunks_is_left_to_aiohttp(tmp_path, taken):
    """Also where its range says how long it is."""
    size = 100_000
    rest = BODY[size:]
    head = (
        "HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\n"
        f'ETag: "e"\r\nContent-Range: bytes {size}-{len(BODY) - 1}/{len(BODY)}\r\n\r\n'
    )
    chunks = [
        b"%x\r\n%b\r\n" % (len(rest[i : i + 9999]), rest[i : i + 9999])
        for i in range(0, len(rest), 9999)
    ]
    point = ResumePoint(size_bytes=size, total_bytes=len(BODY), etag='"e"')
    got = bytearray()
    async with (
        server(head.encode(), *chunks, b"0\r\n\r\n") as url,
        client(tmp_path, url) as made,
        made.open_file(f"{url}/a.mp4", None, point, first_byte_s=30) as body,
    ):
        await received(body, 50_000, got)

    assert bytes(got) == rest
    assert not taken
