"""Answers to requests for files: as a good server gives them, and with its faults."""

from __future__ import annotations

import itertools
import re
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from multidict import CIMultiDict

from mirror.simulator.answer import Answer, Body, Framing
from mirror.simulator.common_faults import http_date, offset
from mirror.simulator.exports import Stage
from mirror.simulator.faults import Fault, Kind
from mirror.simulator.footage import Filler, noise, without_moov

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from mirror.simulator.exports import Export
    from mirror.simulator.footage import Content

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_BOUNDARY = "6414641664136415"
_PARTIAL = 206


@dataclass(slots=True, kw_only=True)
class Terms:
    """What of a file is served, and with which validators; faults change it.

    Attributes:
        content: The bytes of the file.
        etag: As sent, with its quotes; None is not sent.
        last_modified: As sent; None is not sent.
        range: The request's header; None serves the whole.
        if_range: The request's header; None asks for no version.
        name: For `Content-Disposition`.
    """

    content: Content
    etag: str | None
    last_modified: str | None
    range: str | None
    if_range: str | None
    name: str

    @property
    def unchanged(self) -> bool:
        """The client has a part of this version, by what it says."""
        if self.if_range is None:
            return True
        if self.if_range.startswith(('"', "W/")):
            # RFC 9110 13.1.5: only strong tags count.
            return self.if_range == self.etag and not self.if_range.startswith("W/")
        return self.if_range == self.last_modified


def parse_range(header: str, size_bytes: int) -> tuple[int, int] | None:
    """Return start and stop of the one range asked for.

    Returns:
        None if the header is to be ignored; a stop that is not past the start if
        the range cannot be satisfied.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        return max(0, size_bytes - int(last)), size_bytes if int(last) else 0
    if last and int(last) < int(first):
        return None
    stop = min(int(last) + 1, size_bytes) if last else size_bytes
    return int(first), stop


def part(content: Content, start: int, stop: int) -> Body:
    """Return a body of the bytes from `start` to `stop`."""
    return Body(stop - start, lambda: content.chunks(start, stop))


def serve_file(terms: Terms) -> Answer:
    """Return 200, 206 or 416, as RFC 9110 has it."""
    size = terms.content.size_bytes
    name = quote(terms.name, safe="", errors="surrogatepass")
    answer = Answer(
        headers=CIMultiDict(
            {
                "Content-Type": "video/mp4",
                "Accept-Ranges": "bytes",
                # The vendor's own form, with quotes where RFC 8187 has none.
                "Content-Disposition": f'attachment; filename*=UTF-8"{name}"',
            }
        ),
        whole_bytes=size,
    )
    if terms.etag is not None:
        answer.headers["ETag"] = terms.etag
    if terms.last_modified is not None:
        answer.headers["Last-Modified"] = terms.last_modified
    span = None
    if terms.range is not None and terms.unchanged:
        span = parse_range(terms.range, size)
    if span is None:
        answer.body = part(terms.content, 0, size)
        return answer
    start, stop = span
    if stop <= start:
        refuse_range(answer, size)
        return answer
    answer.status = _PARTIAL
    answer.first_byte = start
    _set_range(answer, start, stop, size)
    answer.body = part(terms.content, start, stop)
    return answer


def refuse_range(answer: Answer, size_bytes: int) -> None:
    """Turn the answer into a 416."""
    page = b"<html><head><title>416 Requested Range Not Satisfiable</title></head>\n"
    answer.replace_body(416, "text/html", page)
    answer.headers["Content-Range"] = f"bytes */{size_bytes}"


def _set_range(answer: Answer, start: int, stop: int, total: int | str) -> None:
    answer.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{total}"


def change_file(export: Export, fault: Fault, now: datetime) -> None:
    """Apply `fault` to the file itself, just before it is asked for."""
    version = export.current
    if version is None or export.stage is not Stage.MADE:
        return
    size = version.content.size_bytes
    match fault.kind:
        case Kind.CHANGE | Kind.CHANGE_HIDDEN:
            hidden = fault.kind is Kind.CHANGE_HIDDEN
            export.make(now, size_bytes=size, hidden=hidden)
        case Kind.SHRINK:
            export.make(now, size_bytes=size - fault.size)
        case Kind.GROW:
            export.make(now, size_bytes=size + fault.size)
        case Kind.DELETE:
            export.delete()


def change_terms(terms: Terms, fault: Fault, export: Export, now: datetime) -> None:  # noqa: C901, PLR0912 -- one case a kind
    """Apply `fault` to what is served, and to its validators."""
    content, etag = terms.content, terms.etag
    match fault.kind:
        case Kind.IGNORE_RANGE:
            terms.range = None
        case Kind.IF_RANGE_FULL:
            if (terms.if_range or "").startswith(('"', "W/")):
                terms.range = None
        case Kind.IGNORE_IF_RANGE:
            terms.if_range = None
        case Kind.TRUNCATED_MP4:
            terms.content = content.cut(offset(fault.at or 0, content.size_bytes))
        case Kind.NO_MOOV:
            terms.content = without_moov(export.clip, content)
        case Kind.GARBAGE:
            terms.content = noise(export.seed, content.size_bytes)
        case Kind.WEAK_ETAG:
            if etag and not etag.startswith("W/"):
                terms.etag = f"W/{etag}"
        case Kind.OTHER_ETAG:
            terms.etag = etag and f'{etag[:-1]}-2"'
        case Kind.NEW_ETAG:
            terms.etag = etag and f'{etag[:-1]}-{uuid.uuid4()}"'
        case Kind.MODIFIED_NOW:
            terms.last_modified = http_date(now)
        case Kind.NO_ETAG:
            terms.etag = None
        case Kind.NO_VALIDATORS:
            terms.etag = terms.last_modified = None


def change_file_answer(answer: Answer, fault: Fault, terms: Terms) -> None:
    """Apply `fault` to the answer, if it is of a kind that only files can have."""
    content, size = terms.content, terms.content.size_bytes
    match fault.kind:
        case Kind.NO_CONTENT_RANGE:
            answer.headers.popall("Content-Range", None)
        case Kind.RANGE_REFUSED:
            refuse_range(answer, size + fault.shift)
        case Kind.ENDLESS:
            _endless(answer)
    if answer.status != _PARTIAL:
        return
    start, stop = answer.first_byte, answer.first_byte + (answer.body.length or 0)
    match fault.kind:
        case Kind.WRONG_START:
            answer.first_byte = min(max(0, start + fault.shift), stop - 1)
            answer.body = part(content, answer.first_byte, stop)
            _set_range(answer, answer.first_byte, stop, size)
        case Kind.LYING_RANGE:
            moved = max(0, start - fault.shift)
            answer.body = part(content, moved, moved + stop - start)
        case Kind.WRONG_TOTAL:
            _set_range(answer, start, stop, size + fault.shift)
        case Kind.UNKNOWN_TOTAL:
            _set_range(answer, start, stop, "*")
        case Kind.MULTIPART:
            _multipart(answer)


def _multipart(answer: Answer) -> None:
    plain = answer.body
    head = (
        f"\r\n--{_BOUNDARY}\r\nContent-Type: video/mp4\r\n"
        f"Content-Range: {answer.headers.popone('Content-Range')}\r\n\r\n"
    ).encode()
    tail = f"\r\n--{_BOUNDARY}--\r\n".encode()
    answer.headers["Content-Type"] = f"multipart/byteranges; boundary={_BOUNDARY}"
    answer.body = Body(
        len(head) + (plain.length or 0) + len(tail),
        lambda: itertools.chain((head,), plain.chunks(), (tail,)),
    )


def _endless(answer: Answer) -> None:
    plain = answer.body.chunks

    def chunks() -> Iterator[bytes | memoryview]:
        yield from plain()
        yield from Filler(0, 0).chunks(0, 2**63)

    answer.headers.popall("Content-Range", None)
    answer.status = 200 if answer.status == _PARTIAL else answer.status
    answer.body = Body(None, chunks)
    answer.framing = Framing.CHUNKED
