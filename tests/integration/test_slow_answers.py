"""Servers that answer late, or send for ever what is no byte of a file."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from mirror.errors import FetchError, ListError
from mirror.model import State
from mirror.ports import Batch
from mirror.simulator import Vms, fault
from tests.site import Site
from tests.vms_client import WHOLE, ask, client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_HEAD = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
_INTERIM = b"HTTP/1.1 103 Early Hints\r\n\r\n"


@contextlib.asynccontextmanager
async def server(
    first: bytes, again: bytes
) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Send once, then a piece again and again until the client has left."""
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            writer.write(first)
            await writer.drain()
            if not again:
                await reader.read()
            while not writer.is_closing() and not reader.at_eof():
                writer.write(again)
                await writer.drain()
                await asyncio.sleep(0.002)
        except OSError:
            pass
        finally:
            left.set()
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", left
    finally:
        listening.close()


ENDLESS = {
    "nothing": (b"", b"", "first_byte"),
    "blank_lines": (b"", b"\r\n", "first_byte"),
    "one_header": (_HEAD + b"X-Filler: ", b"a", "first_byte"),
    "few_interim": (_INTERIM * 20, b"", "first_byte"),
    "interim": (b"", _INTERIM, "bad_answer"),
    "interim_at_once": (_INTERIM * 5000, _INTERIM * 5000, "bad_answer"),
    "no_body": (_HEAD + b"Content-Length: 9\r\n\r\n", b"", "first_byte"),
    "extension": (_CHUNKED + b"1;", b"x", "first_byte"),
    "later_extension": (_CHUNKED + b"3\r\nabc\r\n1;", b"x", "timeout"),
    "trailer": (_CHUNKED + b"3\r\nabc\r\n0\r\nX-Filler: ", b"x", "timeout"),
}


@pytest.mark.parametrize("name", ENDLESS)
async def test_what_is_no_byte_of_the_file_holds_no_attempt(tmp_path, name):
    """Whatever keeps coming, the attempt ends and the connection is let go."""
    first, again, reason = ENDLESS[name]
    async with (
        server(first, again) as (url, left),
        client(tmp_path, url, stall_s=0.2) as made,
        asyncio.timeout(30),
    ):
        with pytest.raises(FetchError) as failed:
            async with made.open_file(
                f"{url}/a.mp4", None, WHOLE, first_byte_s=0.3
            ) as body:
                while await body.fill(Batch(1000)):
                    pass
        await left.wait()

    assert failed.value.reason == reason
    words = {"first_byte": "first_byte_timeout", "timeout": "stall_timeout"}
    assert words.get(reason, "not final") in str(failed.value)


async def test_a_flood_of_interim_answers_ends_a_list_too(tmp_path):
    async with (
        server(b"", _INTERIM * 100) as (url, left),
        client(tmp_path, url) as made,
        asyncio.timeout(30),
    ):
        with pytest.raises(ListError, match="not final"):
            await ask(made)
        await left.wait()


async def test_a_few_interim_answers_are_no_matter(tmp_path):
    """A server may send hints before each answer."""
    async with Vms() as vms:
        vms.script_list(then="interim")
        site = Site.make(tmp_path, vms)
        served = vms.add(size=200_000, then="interim")
        await site.once()

    assert site.export(served).state is State.SAVED
    assert site.export(served).attempts == 1


async def test_a_file_made_on_demand_is_had(tmp_path):
    """The wait grows until it is long enough; then each file has its first byte."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms, concurrency=1)
        site.tables["transfer"] |= {
            "first_byte_timeout": "25ms",
            "stall_timeout": "5s",
        }
        made = [
            vms.add(size=50_000, then=fault("delay", seconds=0.3)) for _ in range(3)
        ]
        await site.once()

    assert all(site.export(one).state is State.SAVED for one in made)
    assert all(site.export(one).late == 0 for one in made)
    first, *_ = site.dossier(made[0]).attempts
    assert first.outcome == "first_byte"
    assert "0.025 s, by first_byte_timeout" in (first.error or "")


async def test_headers_at_once_and_bytes_late_are_waited_for_likewise(tmp_path):
    """Some send their headers before they make the file."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_HEAD + b"Content-Length: 3\r\n\r\n")
        await asyncio.sleep(0.5)
        writer.write(b"abc")
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with (
        client(tmp_path, url, stall_s=0.05) as made,
        made.open_file(f"{url}/a.mp4", None, WHOLE, first_byte_s=30) as body,
    ):
        batch = Batch(1000)
        assert await body.fill(batch)
        assert bytes(batch.held) == b"abc"
    listening.close()
