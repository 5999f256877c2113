"""The faults that any answer can have, of a list or of a file."""
# ruff: noqa: ARG001 -- what stands in one table has one signature

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

from mirror.simulator.answer import Answer, Body, Ending, Framing
from mirror.simulator.faults import Fault, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

JSON = "application/json"
_GZIP_WBITS = 31
_GZIP_IN_MEMORY = 16 * 1024 * 1024
_PAGE = (
    b"<!DOCTYPE html>\n<html><head><title>Video</title></head>"
    b'<body><div id="app"></div><script src="/js/app.js"></script></body></html>\n'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Where an answer is made.

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


def error_body(status: int, errors: Mapping[str, list[str]] | None = None) -> bytes:
    """Return the JSON a VMS sends with an error status."""
    message = "Too Many Attempts." if status == HTTPStatus.TOO_MANY_REQUESTS else ""
    if status == HTTPStatus.UNAUTHORIZED:
        message = "Unauthenticated."
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        message = "The given data was invalid."
    content: dict[str, object] = {"message": message or HTTPStatus(status).phrase}
    if errors is not None:
        content["errors"] = errors
    return json.dumps(content).encode()


def http_date(moment: datetime) -> str:
    """Return `moment` as headers carry it."""
    return format_datetime(moment, usegmt=True)


def point(answer: Answer, fault: Fault) -> int | None:
    """Return after how many bytes of this body a fault happens, if it says so."""
    if fault.after is not None:
        return fault.after
    if fault.at is None:
        return None
    if isinstance(fault.at, float):
        offset = int(answer.whole_bytes * fault.at)
    else:
        offset = fault.at if fault.at >= 0 else answer.whole_bytes + fault.at
    return max(0, offset - answer.first_byte)


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


def _html(answer: Answer, fault: Fault, scene: Scene) -> None:
    answer.replace_body(200, "text/html; charset=utf-8", fault.text.encode() or _PAGE)


def _json_page(answer: Answer, fault: Fault, scene: Scene) -> None:
    body = fault.text.encode() or b'{"message": "Server Error"}'
    answer.replace_body(200, JSON, body)


def _empty(answer: Answer, fault: Fault, scene: Scene) -> None:
    kind = answer.headers.get("Content-Type", JSON)
    answer.replace_body(fault.status, kind, b"")


def _hang(answer: Answer, fault: Fault, scene: Scene) -> None:
    answer.delay_s = fault.seconds


def _end(ending: Ending) -> Callable[[Answer, Fault, Scene], None]:
    def alter(answer: Answer, fault: Fault, scene: Scene) -> None:
        answer.stop_after = point(answer, fault)
        answer.ending = ending
        answer.stall_s = fault.seconds

    return alter


def _drip(answer: Answer, fault: Fault, scene: Scene) -> None:
    answer.drip = (max(1, fault.size), fault.seconds or 0.0)


def _rate(answer: Answer, fault: Fault, scene: Scene) -> None:
    answer.rate = fault.rate


def _frame(framing: Framing) -> Callable[[Answer, Fault, Scene], None]:
    def alter(answer: Answer, fault: Fault, scene: Scene) -> None:
        answer.framing = framing
        answer.stop_after = point(answer, fault)
        if answer.stop_after is not None:
            answer.ending = Ending.CUT

    return alter


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


def _gzip(answer: Answer, fault: Fault, scene: Scene) -> None:
    gzip(answer)


def _many_headers(answer: Answer, fault: Fault, scene: Scene) -> None:
    for number in range(fault.size):
        answer.headers.add(f"X-Filler-{number}", "1")


def _huge_header(answer: Answer, fault: Fault, scene: Scene) -> None:
    answer.headers["X-Filler"] = "f" * fault.size


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
    answer.replace_body(status, "text/html; charset=utf-8", b"")
    answer.headers["Location"] = places.get(fault.to, fault.to)


def _wrong_date(answer: Answer, fault: Fault, scene: Scene) -> None:
    answer.headers["Date"] = http_date(
        scene.now + timedelta(seconds=fault.seconds or 0)
    )


def _wrong_type(answer: Answer, fault: Fault, scene: Scene) -> None:
    answer.headers["Content-Type"] = fault.text


def _preface(answer: Answer, fault: Fault, scene: Scene) -> None:
    answer.preface = (fault.text.encode(), fault.size, fault.seconds or 0.0)


def _without_end(before: bytes, again: bytes) -> Callable[[Answer, Fault, Scene], None]:
    """Send one chunk, and then what carries chunks, for ever."""

    def alter(answer: Answer, fault: Fault, scene: Scene) -> None:
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

    return alter


_ALTER: Mapping[Kind, Callable[[Answer, Fault, Scene], None]] = {
    Kind.STATUS: _status,
    Kind.HTML: _html,
    Kind.JSON_PAGE: _json_page,
    Kind.EMPTY: _empty,
    Kind.HANG: _hang,
    Kind.DELAY: _hang,
    Kind.CUT: _end(Ending.CUT),
    Kind.RESET: _end(Ending.RESET),
    Kind.STALL: _end(Ending.STALL),
    Kind.DRIP: _drip,
    Kind.RATE: _rate,
    Kind.NO_LENGTH: _frame(Framing.CLOSE),
    Kind.CHUNKED: _frame(Framing.CHUNKED),
    Kind.GZIP: _gzip,
    Kind.MANY_HEADERS: _many_headers,
    Kind.HUGE_HEADER: _huge_header,
    Kind.REDIRECT: _redirect,
    Kind.WRONG_DATE: _wrong_date,
    Kind.WRONG_TYPE: _wrong_type,
    Kind.PREFACE: _preface,
    Kind.EXTENSION: _without_end(b"1;", b"x" * 4096),
    Kind.TRAILERS: _without_end(b"0\r\n", b"X-Filler: 1\r\n" * 64),
}


def mangle(answer: Answer, fault: Fault, scene: Scene) -> None:
    """Do to `answer` what `fault` says, if it is of the kind any answer can have."""
    alter = _ALTER.get(fault.kind)
    if alter is not None:
        alter(answer, fault, scene)
