"""The faults only a file's answer can have."""
# ruff: noqa: ARG001 -- what stands in one table has one signature

from __future__ import annotations

import itertools
import uuid
from email.utils import format_datetime
from typing import TYPE_CHECKING

from mirror.simulator.answer import Answer, Body, Framing
from mirror.simulator.exports import Stage
from mirror.simulator.faults import Fault, Kind
from mirror.simulator.files import Terms, part, refuse_range
from mirror.simulator.footage import Filler, noise, without_moov

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from mirror.simulator.exports import Export

_BOUNDARY = "6414641664136415"
_PARTIAL = 206


def before_file(export: Export, fault: Fault, now: datetime) -> None:
    """Do what happens to the file itself just before it is asked for."""
    version = export.current
    if version is None or export.stage is not Stage.MADE:
        return
    size = version.size_bytes
    if fault.kind is Kind.CHANGE:
        export.make(now, size_bytes=size)
    elif fault.kind is Kind.CHANGE_HIDDEN:
        export.make(now, size_bytes=size, hidden=True)
    elif fault.kind is Kind.SHRINK:
        export.make(now, size_bytes=size - fault.size)
    elif fault.kind is Kind.GROW:
        export.make(now, size_bytes=size + fault.size)
    elif fault.kind is Kind.DELETE:
        export.delete()


def bend_terms(terms: Terms, fault: Fault, export: Export, now: datetime) -> None:
    """Change what is served, or on what terms, before the answer is made."""
    kind, content = fault.kind, terms.content
    if kind is Kind.IGNORE_RANGE or (
        kind is Kind.IF_RANGE_FULL and (terms.if_range or "").startswith(('"', "W/"))
    ):
        terms.range = None
    elif kind is Kind.IGNORE_IF_RANGE:
        terms.if_range = None
    elif kind is Kind.TRUNCATED_MP4:
        terms.content = content.cut(_cut_point(fault, content.size_bytes))
    elif kind is Kind.NO_MOOV:
        terms.content = without_moov(export.clip, content)
    elif kind is Kind.GARBAGE:
        terms.content = noise(export.seed, content.size_bytes)
    else:
        _bend_validators(terms, kind, now)


def _bend_validators(terms: Terms, kind: Kind, now: datetime) -> None:
    if kind is Kind.WEAK_ETAG and terms.etag and not terms.etag.startswith("W/"):
        terms.etag = f"W/{terms.etag}"
    elif kind is Kind.OTHER_ETAG and terms.etag:
        terms.etag = f'{terms.etag[:-1]}-2"'
    elif kind is Kind.NEW_ETAG and terms.etag:
        terms.etag = f'{terms.etag[:-1]}-{uuid.uuid4()}"'
    elif kind is Kind.MODIFIED_NOW:
        terms.last_modified = format_datetime(now, usegmt=True)
    elif kind in {Kind.NO_ETAG, Kind.NO_VALIDATORS}:
        terms.etag = None
        if kind is Kind.NO_VALIDATORS:
            terms.last_modified = None


def _cut_point(fault: Fault, size_bytes: int) -> int:
    if isinstance(fault.at, float):
        return int(size_bytes * fault.at)
    at = fault.at or 0
    return at if at >= 0 else size_bytes + at


def mangle_file(answer: Answer, fault: Fault, terms: Terms) -> None:
    """Do to a finished answer what `fault` says, if it is a file's own."""
    alter = _ALTER.get(fault.kind)
    if alter is not None:
        alter(answer, fault, terms)


def _span(answer: Answer) -> tuple[int, int]:
    return answer.first_byte, answer.first_byte + (answer.body.length or 0)


def _wrong_start(answer: Answer, fault: Fault, terms: Terms) -> None:
    if answer.status != _PARTIAL:
        return
    start, stop = _span(answer)
    start = min(max(0, start + fault.shift), stop - 1)
    answer.first_byte = start
    answer.body = part(terms.content, start, stop)
    size = terms.content.size_bytes
    answer.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"


def _lying_range(answer: Answer, fault: Fault, terms: Terms) -> None:
    if answer.status != _PARTIAL:
        return
    start, stop = _span(answer)
    moved = max(0, start - fault.shift)
    answer.body = part(terms.content, moved, moved + stop - start)


def _wrong_total(answer: Answer, fault: Fault, terms: Terms) -> None:
    if answer.status == _PARTIAL:
        start, stop = _span(answer)
        total = terms.content.size_bytes + fault.shift
        answer.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{total}"


def _unknown_total(answer: Answer, fault: Fault, terms: Terms) -> None:
    if answer.status == _PARTIAL:
        start, stop = _span(answer)
        answer.headers["Content-Range"] = f"bytes {start}-{stop - 1}/*"


def _no_content_range(answer: Answer, fault: Fault, terms: Terms) -> None:
    answer.headers.popall("Content-Range", None)


def _multipart(answer: Answer, fault: Fault, terms: Terms) -> None:
    if answer.status != _PARTIAL:
        return
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


def _range_refused(answer: Answer, fault: Fault, terms: Terms) -> None:
    refuse_range(answer, terms.content.size_bytes + fault.shift)


def _endless(answer: Answer, fault: Fault, terms: Terms) -> None:
    plain = answer.body.chunks

    def chunks() -> Iterator[bytes | memoryview]:
        yield from plain()
        yield from Filler(0, 0).chunks(0, 2**63)

    answer.headers.popall("Content-Range", None)
    answer.status = 200 if answer.status == _PARTIAL else answer.status
    answer.body = Body(None, chunks)
    answer.framing = Framing.CHUNKED


_ALTER: Mapping[Kind, Callable[[Answer, Fault, Terms], None]] = {
    Kind.WRONG_START: _wrong_start,
    Kind.LYING_RANGE: _lying_range,
    Kind.WRONG_TOTAL: _wrong_total,
    Kind.UNKNOWN_TOTAL: _unknown_total,
    Kind.NO_CONTENT_RANGE: _no_content_range,
    Kind.MULTIPART: _multipart,
    Kind.RANGE_REFUSED: _range_refused,
    Kind.ENDLESS: _endless,
}
