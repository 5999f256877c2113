"""The faults that any answer can have, of a list or of a file."""

from __future__ import annotations

import json
import zlib
from datetime import timedelta
from email.utils import format_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

from mirror.simulator.answer import Answer, Body, Ending, Framing
from mirror.simulator.faults import Fault, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from mirror.simulator.answer import Scene

JSON = "application/json"
HTML = "text/html; charset=utf-8"
_GZIP_WBITS = 31
_GZIP_IN_MEMORY = 16 * 1024 * 1024
_PAGE = (
    b"<!DOCTYPE html>\n<html><head><title>Video</title></head>"
    b'<body><div id="app"></div><script src="/js/app.js"></script></body></html>\n'
)
_JSON_PAGE = b'{"message": "Server Error"}'
_MESSAGES = {
    401: "Unauthenticated.",
    422: "The given data was invalid.",
    429: "Too Many Attempts.",
}


def error_body(status: int, errors: Mapping[str, list[str]] | None = None) -> bytes:
    """Return the JSON a VMS sends with an error status."""
    message = _MESSAGES.get(status) or HTTPStatus(status).phrase
    content: dict[str, object] = {"message": message}
    if errors is not None:
        content["errors"] = errors
    return json.dumps(content).encode()


def http_date(moment: datetime) -> str:
    """Return `moment` as headers carry it."""
    return format_datetime(moment, usegmt=True)


def point(answer: Answer, fault: Fault) -> int | None:
    """Return after how many bytes of this body a fault happens; None if never."""
    if fault.after is not None:
        return fault.after
    if fault.at is None:
        return None
    return max(0, offset(fault.at, answer.whole_bytes) - answer.first_byte)


def offset(at: int | float, size_bytes: int) -> int:
    """Return the offset that `Fault.at` means in a file or body of this size."""
    if isinstance(at, float):
        return int(size_bytes * at)
    return at if at >= 0 else size_bytes + at


def change_answer(answer: Answer, fault: Fault, scene: Scene) -> None:  # noqa: C901, PLR0912 -- one case a kind
    """Apply `fault` to `answer`, if it is of a kind that any answer can have."""
    match fault.kind:
        case Kind.STATUS:
            _status(answer, fault, scene)
        case Kind.HTML:
            answer.replace_body(200, HTML, fault.text.encode() or _PAGE)
        case Kind.JSON_PAGE:
            answer.replace_body(200, JSON, fault.text.encode() or _JSON_PAGE)
        case Kind.EMPTY:
            kind = answer.headers.get("Content-Type", JSON)
            answer.replace_body(fault.status, kind, b"")
        case Kind.HANG | Kind.DELAY:
            answer.delay_s = fault.seconds
        case Kind.CUT | Kind.RESET | Kind.STALL:
            answer.stop_after = point(answer, fault)
            answer.ending = Ending(fault.kind.value)
            answer.stall_s = fault.seconds
        case Kind.DRIP:
            answer.drip = (max(1, fault.size), fault.seconds or 0.0)
        case Kind.RATE:
            answer.rate = fault.rate
        case Kind.NO_LENGTH:
            _frame(answer, fault, Framing.CLOSE)
        case Kind.CHUNKED:
            _frame(answer, fault, Framing.CHUNKED)
        case Kind.GZIP:
            gzip(answer)
        case Kind.MANY_HEADERS:
            for number in range(fault.size):
                answer.headers.add(f"X-Filler-{number}", "1")
        case Kind.HUGE_HEADER:
            answer.headers["X-Filler"] = "f" * fault.size
        case Kind.REDIRECT:
            _redirect(answer, fault, scene)
        case Kind.WRONG_DATE:
            moment = scene.now + timedelta(seconds=fault.seconds or 0)
            answer.headers["Date"] = http_date(moment)
        case Kind.WRONG_TYPE:
            answer.headers["Content-Type"] = fault.text
        case Kind.PREFACE:
            answer.preface = (fault.text.encode(), fault.size, fault.seconds or 0.0)
        case Kind.EXTENSION:
            _without_end(answer, fault, b"1;", b"x" * 4096)
        case Kind.TRAILERS:
            _without_end(answer, fault, b"0\r\n", b"X-Filler: 1\r\n" * 64)


def _status(answer: Answer, fault: Fault, scene: Scene) -> None:
    errors = None
    if fault.status == HTTPStatus.UNPROCESSABLE_ENTITY:
        errors = {"from": ["The from is not a valid date."]}
    body = fault.text.encode() or error_body(fault.status, errors)
    bodiless = fault.status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}
    answer.replace_body(fault.status, JSON, b"" if bodiless else body)
    if fault.retry_after_s is not None:
        at = scene.now + timedelta(seconds=fault.retry_after_s)
        wait = http_date(at) if fault.retry_as_date else str(fault.retry_after_s)
        answer.headers["Retry-After"] = wait
    if fault.status == HTTPStatus.TOO_MANY_REQUESTS:
        answer.headers["X-RateLimit-Limit"] = "60"
        answer.headers["X-RateLimit-Remaining"] = "0"


def _frame(answer: Answer, fault: Fault, framing: Framing) -> None:
    answer.framing = framing
    answer.stop_after = point(answer, fault)
    if answer.stop_after is not None:
        answer.ending = Ending.CUT


def gzip(answer: Answer) -> None:
    """Compress the body and say so; a long one is sent without its length."""
    plain = answer.body.chunks

    def chunks() -> Iterator[bytes]:
        packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP_WBITS)
        for chunk in plain():
            if packed := packer.compress(chunk):
                yield packed
        yield packer.flush()

    answer.headers["Content-Encoding"] = "gzip"
    answer.headers["Vary"] = "Accept-Encoding"
    if (answer.body.length or _GZIP_IN_MEMORY) < _GZIP_IN_MEMORY:
        answer.body = Body.of(b"".join(chunks()))
    else:
        answer.body = Body(None, chunks)
        answer.framing = Framing.CHUNKED


def _redirect(answer: Answer, fault: Fault, scene: Scene) -> None:
    path = scene.target.split("?loop=", 1)[0]
    joint = "&" if "?" in path else "?"
    places = {
        "same": f"{scene.origin}{path}{joint}moved=1",
        "other": f"{scene.other_origin}{path}{joint}moved=1",
        "http": f"{scene.other_origin}{path}{joint}moved=1",
        "loop": f"{path}{joint}loop=1",
    }
    status = fault.status if fault.status in range(300, 400) else 302
    answer.replace_body(status, HTML, b"")
    answer.headers["Location"] = places.get(fault.to, fault.to)


def _without_end(answer: Answer, fault: Fault, before: bytes, again: bytes) -> None:
    """Send one chunk, then `before`, then `again` for ever."""
    plain = answer.body.chunks
    stop = point(answer, fault)

    def chunks() -> Iterator[bytes]:
        data = b"".join(plain())[:stop]
        if data:
            yield b"%x\r\n%b\r\n" % (len(data), data)
        yield before
        while True:
            yield again

    answer.body = Body(None, chunks)
    answer.framing = Framing.CLOSE
    answer.headers["Transfer-Encoding"] = "chunked"
