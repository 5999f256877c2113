"""An answer before it is sent, and the one way to send it, whole or broken."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from aiohttp import web
from multidict import CIMultiDict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from mirror.simulator.journal import Request

_WRITE_BUFFER = 1024 * 1024
_FLUSH_S = 2.0
_TICKS_PER_S = 20


class Framing(StrEnum):
    """How the client learns where a body ends."""

    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


class Ending(StrEnum):
    """What happens after the last byte that is sent."""

    COMPLETE = "complete"
    CUT = "cut"
    RESET = "reset"
    STALL = "stall"


@dataclass(frozen=True, slots=True)
class Body:
    """Bytes to send.

    Attributes:
        length: How many; None if unknown or endless.
        chunks: Yields them from the start.
    """

    length: int | None
    chunks: Callable[[], Iterator[bytes | memoryview]]

    @classmethod
    def of(cls, data: bytes) -> Body:
        """Return a body of these bytes."""
        return cls(len(data), lambda: iter((data,)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Where and when an answer is made.

    Attributes:
        target: Path and query of the request.
        origin: Of this server.
        other_origin: A second one, always plain http.
        now: By the clock of the VMS.
    """

    target: str
    origin: str
    other_origin: str
    now: datetime


@dataclass(slots=True, kw_only=True)
class Answer:
    """An answer as it will be sent; faults change it.

    Attributes:
        first_byte: Offset in the file of the body's first byte.
        whole_bytes: Length of the file, for faults that happen at a share of it.
        preface: Bytes sent before the answer, how often, seconds after each.
        stop_after: Bytes of the body after which `ending` happens.
        rate: Bytes per second; None is no limit.
        drip: Bytes per piece, and seconds of silence after each.
        delay_s: Before the first byte of the answer; None is for ever.
    """

    status: int = 200
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    body: Body = field(default_factory=lambda: Body.of(b""))
    first_byte: int = 0
    whole_bytes: int = 0
    framing: Framing = Framing.LENGTH
    stop_after: int | None = None
    ending: Ending = Ending.COMPLETE
    stall_s: float | None = None
    preface: tuple[bytes, int, float] = (b"", 0, 0.0)
    rate: int | None = None
    drip: tuple[int, float] | None = None
    delay_s: float | None = 0.0

    def replace_body(self, status: int, content_type: str, data: bytes) -> None:
        """Answer with another status and body; what described the file goes."""
        self.status = status
        for name in ("Content-Range", "ETag", "Last-Modified", "Accept-Ranges"):
            self.headers.popall(name, None)
        self.headers["Content-Type"] = content_type
        self.body = Body.of(data)
        self.first_byte = 0
        self.whole_bytes = len(data)


class _Unframed(web.StreamResponse):
    """A response that sends its body even where the headers disagree."""

    _length_check = False


def _sent(record: Request, answer: Answer, size: int) -> None:
    """Count bytes that were sent; at the length it was told the client may leave."""
    record.sent_bytes += size
    known = answer.framing is Framing.LENGTH and answer.ending is Ending.COMPLETE
    if known and record.sent_bytes == answer.body.length:
        record.ended = "complete"


async def send(
    request: web.Request,
    answer: Answer,
    record: Request,
    moved: Callable[[], None],
) -> web.StreamResponse:
    """Send `answer`, faults included; call `moved` after each piece of the body.

    `record` gets the status, the bytes sent and how the answer ended.
    """
    await _pause(answer.delay_s)
    response = _Unframed(status=answer.status, headers=answer.headers)
    if answer.framing is Framing.LENGTH and answer.body.length is not None:
        response.headers["Content-Length"] = str(answer.body.length)
    elif answer.framing is Framing.CHUNKED:
        response.enable_chunked_encoding()
    else:
        response.force_close()
    transport = request.transport
    if transport is None:
        record.ended = "left"
        return response
    transport.set_write_buffer_limits(high=_WRITE_BUFFER)
    await _send_preface(transport, answer)
    record.status = answer.status
    await response.prepare(request)
    if request.method != "HEAD":
        for piece, wait_s in _paced(answer):
            await response.write(piece)
            _sent(record, answer, len(piece))
            moved()
            if wait_s is not None:
                await asyncio.sleep(wait_s)
    if answer.ending is Ending.COMPLETE:
        await response.write_eof()
        return response
    if answer.ending is Ending.STALL:
        await _pause(answer.stall_s)
    record.ended = answer.ending.value
    if answer.ending is Ending.RESET:
        await _reset(transport)
    else:
        transport.close()
    return response


async def _send_preface(transport: asyncio.Transport, answer: Answer) -> None:
    before, times, wait_s = answer.preface
    for _ in range(times):
        if transport.is_closing():
            return
        transport.write(before)
        await asyncio.sleep(wait_s)


def _limited(answer: Answer) -> Iterator[memoryview]:
    """Yield the body up to `stop_after`."""
    left = answer.stop_after
    for chunk in answer.body.chunks():
        view = memoryview(chunk)
        if left is not None:
            view = view[:left]
            left -= len(view)
        if len(view):
            yield view
        if left == 0:
            return


def _paced(answer: Answer) -> Iterator[tuple[memoryview, float | None]]:
    """Yield the body in pieces, each with the wait that follows it."""
    size, wait_s = None, None
    if answer.drip is not None:
        size, wait_s = answer.drip
    elif answer.rate is not None:
        size = max(1, answer.rate // _TICKS_PER_S)
    loop = asyncio.get_running_loop()
    due = loop.time()
    for view in _limited(answer):
        if size is None:
            yield view, None
            continue
        for start in range(0, len(view), size):
            piece = view[start : start + size]
            if answer.drip is None and answer.rate is not None:
                due += len(piece) / answer.rate
                wait_s = max(0.0, due - loop.time())
            yield piece, wait_s


async def _pause(seconds: float | None) -> None:
    """Wait; None waits until the client leaves, which cancels the handler."""
    if seconds is None:
        await asyncio.Event().wait()
    elif seconds > 0:
        await asyncio.sleep(seconds)


async def _reset(transport: asyncio.Transport) -> None:
    """End the connection with RST once all that was written has been received."""
    raw: socket.socket | None = transport.get_extra_info("socket")
    if raw is None:
        transport.abort()
        return
    # A reset throws away what still waits to be sent, so let that drain first.
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(_FLUSH_S):
            while transport.get_write_buffer_size() or _unsent(raw):  # noqa: ASYNC110 -- the kernel tells nobody when it has sent
                await asyncio.sleep(0.005)
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _unsent(raw: socket.socket) -> int:
    answer = fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    return int.from_bytes(answer, "little")
