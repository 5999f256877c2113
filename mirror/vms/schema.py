"""Decode the list, row by row, as far as each can be decoded.

The shape is that of a Laravel paginator; a row is one download record.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import TYPE_CHECKING

import msgspec

from mirror.errors import ListError
from mirror.ports import BadRow, Page, Rows
from mirror.vms import large_pages
from mirror.vms.row import decode_row
from mirror.vms.values import json_object, number

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from datetime import tzinfo
    from pathlib import Path

    from mirror.vms.large_pages import Scratch

_MANY_VALUES = 200_000
"""A page of more is not decoded at once."""
_AT_ONCE = 500
_AT_ONCE_BYTES = 1024 * 1024
_SHOWN_BYTES = 16384
"""Of a row that cannot be used."""
_SECRET_LENGTH = 16
_SURROGATES = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
_PAIR = 12


class _ListJson(msgspec.Struct):
    data: list[msgspec.Raw]
    meta: msgspec.Raw = msgspec.Raw(b"null")


def decode_page(
    body: bytes | Scratch,
    *,
    footage_zone: tzinfo,
    clock_offset_us: int | None,
    secret: str = "",
    folder: Path | None = None,
) -> Page:
    """Decode one answer of the list.

    Args:
        body: As received, decompressed.
        footage_zone: Of footage times that carry no zone.
        clock_offset_us: Measured on the answer; passed on.
        secret: Taken out of what lies in a file.
        folder: Where an answer of very many values is put, to be taken in pieces.

    Raises:
        ListError: It is not a list, or holds more than any page could. A bad row
            alone does not raise.
    """
    if isinstance(body, bytes) and body.count(b",") > _MANY_VALUES:
        answer = large_pages.Scratch(folder)
        answer.write(body)
        body = answer
    if isinstance(body, bytes):
        frame, readable = _framed(body)
        rows, digest = _rows(frame, readable, body, footage_zone), _digest(frame.data)
        later = None
    else:
        split = large_pages.Split(body)
        frame, _ = _framed(without(bytes(split.frame), secret))
        pieces = _pieces(body, split, frame.data, secret, footage_zone)
        rows, later = next(pieces), _in_threads(pieces)
        digest = split.digest + _digest(frame.data)
    if len(frame.data) > large_pages.MAX_ROWS:
        raise large_pages.too_many_rows()
    meta = json_object(bytes(frame.meta))
    return Page(
        rows=rows.rows,
        bad_rows=rows.bad_rows,
        size=len(frame.data),
        total=number(meta.get("total")),
        last_page=number(meta.get("last_page")),
        clock_offset_us=clock_offset_us,
        per_page=number(meta.get("per_page")),
        digest=digest,
        later=later,
    )


def without(body: bytes, secret: str) -> bytes:
    """Return the body without our token, should the VMS quote it: rows are kept.

    A token that is too short may be part of anything, and is left.
    """
    if len(secret) < _SECRET_LENGTH:
        return body
    for written in (secret, secret.replace("/", "\\/")):
        body = body.replace(written.encode(), b"[token]")
    return body


def _framed(body: bytes) -> tuple[_ListJson, bytes]:
    if body.count(b",") > _MANY_VALUES:
        raise large_pages.too_many_rows()
    try:
        return _answer(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as exc:
        raise ListError("not_a_list", _not_a_list(body, exc)) from exc


def _digest(rows: list[msgspec.Raw]) -> bytes:
    """Return the digest that shows a repeated page; empty if it has no rows."""
    digest = hashlib.sha256()
    for raw in rows:
        digest.update(b"%d," % len(bytes(raw)))
        digest.update(bytes(raw))
    return digest.digest() if rows else b""


def _rows(frame: _ListJson, readable: bytes, body: bytes, zone: tzinfo) -> Rows:
    rows, at = Rows(rows=[], bad_rows=[]), 0
    for raw in frame.data:
        text = bytes(raw)
        at = readable.index(text, at)
        received = body[at : at + len(text)]
        at += len(text)
        _take(rows, text, received, zone)
    return rows


def _take(rows: Rows, text: bytes, received: bytes, zone: tzinfo) -> None:
    """Decode one row, and add it to the good or the bad ones."""
    try:
        rows.rows.append(decode_row(text, received, zone))
    except ValueError as exc:
        _refuse(rows, received, str(exc))


def _refuse(rows: Rows, received: bytes, error: str) -> None:
    shown = received[:_SHOWN_BYTES].decode("utf-8", "replace")
    rows.bad_rows.append(BadRow(raw=shown, error=error))


def _pieces(
    answer: Scratch,
    split: large_pages.Split,
    listed: list[msgspec.Raw],
    secret: str,
    zone: tzinfo,
) -> Iterator[Rows]:
    """Decode the rows of a large answer, up to so many or so long at a time."""
    places = zip(split.starts, split.sizes, strict=True)
    rows, room = Rows(rows=[], bad_rows=[]), _AT_ONCE_BYTES
    for raw in map(bytes, listed):
        place = next(places, None) if raw == large_pages.PLACE else None
        start, size = place or (0, len(raw))
        if place is None:
            _take(rows, raw, raw, zone)
        else:
            received = answer.read(start, min(size, large_pages.MAX_ROW_BYTES))
            received = without(received, secret)
            if size > large_pages.MAX_ROW_BYTES:
                _refuse(rows, received, "the row is longer than 4 MiB")
            else:
                _take(rows, _SURROGATES.sub(_whole_pair, received), received, zone)
        room -= size
        if room <= 0 or len(rows.rows) + len(rows.bad_rows) == _AT_ONCE:
            yield rows
            rows, room = Rows(rows=[], bad_rows=[]), _AT_ONCE_BYTES
    yield rows


async def _in_threads(pieces: Iterator[Rows]) -> AsyncIterator[Rows]:
    while rows := await asyncio.to_thread(next, pieces, None):
        yield rows


def _answer(body: bytes) -> tuple[_ListJson, bytes]:
    """Decode the frame; half a surrogate pair in one row spoils no other row.

    With it comes what it was decoded from, of the length of `body`.
    """
    try:
        return msgspec.json.decode(body, type=_ListJson), body
    except msgspec.MsgspecError:
        whole = _SURROGATES.sub(_whole_pair, body)
        if whole == body:
            raise
        return msgspec.json.decode(whole, type=_ListJson), whole


def _whole_pair(match: re.Match[bytes]) -> bytes:
    text = match.group()
    return text if text == rb"\\" or len(text) == _PAIR else rb"\ufffd"


def _not_a_list(body: bytes, exc: Exception) -> str:
    head = body[:64].lstrip().lower()
    if not body.strip():
        return "the answer is empty"
    if head.startswith((b"<!doctype", b"<html", b"<")):
        return "the answer is an HTML page, not the list; check url and list_path"
    if isinstance(exc, RecursionError):
        return "the answer is nested too deeply to be a list"
    return f"the answer is not the list that was asked for ({exc})"
