"""Decode the list, row by row, as far as each can be decoded.

The shape is that of a Laravel paginator; a row is one download record.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any

import msgspec

from mirror.errors import ListError
from mirror.model import Row, to_us
from mirror.ports import BadRow, Page, Rows
from mirror.vms import large_pages

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.vms.large_pages import Scratch

_MAX_ID = 2**63 - 1
_MANY_VALUES = 200_000
"""A page of more is not decoded at once."""
_AT_ONCE = 500
_AT_ONCE_BYTES = 1024 * 1024
_SHOWN_BYTES = 16384
"""Of a row that cannot be used."""
_SECRET_LENGTH = 16
_MAX_TEXT = 8192
_FIRST_YEAR, _LAST_YEAR = 1900, 9000
_DIGITS = re.compile(r"[0-9]{1,19}", re.ASCII)
_SURROGATES = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
_PAIR = 12
_FRACTION = re.compile(r"(\.\d{6})\d+")


class _Answer(msgspec.Struct):
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
        ListError: It is not a list, or holds more than any page could; a bad row
            alone is no reason.
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
        taken = _Taken(body, split, frame.data, secret, footage_zone)
        rows, later, digest = taken.some(), taken, split.digest + _digest(frame.data)
    if len(frame.data) > large_pages.MAX_ROWS:
        raise large_pages.too_many_rows()
    meta = _object(bytes(frame.meta))
    return Page(
        rows=rows.rows,
        bad_rows=rows.bad_rows,
        size=len(frame.data),
        total=_number(meta.get("total")),
        last_page=_number(meta.get("last_page")),
        clock_offset_us=clock_offset_us,
        per_page=_number(meta.get("per_page")),
        digest=digest,
        later=later,
    )


def without(body: bytes, secret: str) -> bytes:
    """Return the body without our token, should it be quoted: rows are kept.

    One that is too short for a secret might be part of anything.
    """
    if len(secret) < _SECRET_LENGTH:
        return body
    for written in (secret, secret.replace("/", "\\/")):
        body = body.replace(written.encode(), b"[token]")
    return body


def _framed(body: bytes) -> tuple[_Answer, bytes]:
    if body.count(b",") > _MANY_VALUES:
        raise large_pages.too_many_rows()
    try:
        return _answer(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as exc:
        raise ListError("not_a_list", _not_a_list(body, exc)) from exc


def _digest(rows: list[msgspec.Raw]) -> bytes:
    """Return what tells a page that was met before; empty if it has no rows."""
    made = hashlib.sha256()
    for raw in rows:
        made.update(b"%d," % len(bytes(raw)))
        made.update(bytes(raw))
    return made.digest() if rows else b""


def _rows(frame: _Answer, readable: bytes, body: bytes, zone: tzinfo) -> Rows:
    rows, at = Rows(rows=[], bad_rows=[]), 0
    for raw in frame.data:
        text = bytes(raw)
        at = readable.index(text, at)
        received = body[at : at + len(text)]
        at += len(text)
        _take(rows, text, received, zone)
    return rows


def _take(rows: Rows, text: bytes, received: bytes, zone: tzinfo) -> None:
    """Decode one row, and put it where it belongs."""
    try:
        rows.rows.append(_row(text, received, zone))
    except ValueError as exc:
        _refuse(rows, received, str(exc))


def _refuse(rows: Rows, received: bytes, error: str) -> None:
    shown = received[:_SHOWN_BYTES].decode("utf-8", "replace")
    rows.bad_rows.append(BadRow(raw=shown, error=error))


class _Taken:
    """The rows of a large answer, decoded some at a time, in threads.

    Args:
        answer: As received.
        split: Where its rows lie.
        listed: All rows of its frame; those taken out are `{}` there.
        secret: Taken out of each.
        zone: Of footage times that carry no zone.
    """

    def __init__(
        self,
        answer: Scratch,
        split: large_pages.Split,
        listed: list[msgspec.Raw],
        secret: str,
        zone: tzinfo,
    ) -> None:
        self._answer = answer
        self._places = zip(split.starts, split.sizes, strict=True)
        self._listed = iter(listed)
        self._secret = secret
        self._zone = zone
        self._over = False

    def __aiter__(self) -> _Taken:
        return self

    async def __anext__(self) -> Rows:
        if self._over:
            raise StopAsyncIteration
        return await asyncio.to_thread(self.some)

    def some(self) -> Rows:
        """Decode the next rows, up to so many or so long."""
        rows, room = Rows(rows=[], bad_rows=[]), _AT_ONCE_BYTES
        while room > 0 and len(rows.rows) + len(rows.bad_rows) < _AT_ONCE:
            raw = next(self._listed, None)
            if raw is None:
                self._over = True
                break
            room -= self._decode(bytes(raw), rows)
        return rows

    def _decode(self, raw: bytes, rows: Rows) -> int:
        """Decode one row; return how long it is."""
        place = next(self._places, None) if raw == large_pages.PLACE else None
        if place is None:
            _take(rows, raw, raw, self._zone)
            return len(raw)
        start, size = place
        received = self._answer.read(start, min(size, large_pages.MAX_ROW_BYTES))
        received = without(received, self._secret)
        if size > large_pages.MAX_ROW_BYTES:
            _refuse(rows, received, "the row is longer than 4 MiB")
        else:
            readable = _SURROGATES.sub(_whole_pair, received)
            _take(rows, readable, received, self._zone)
        return size


def _answer(body: bytes) -> tuple[_Answer, bytes]:
    """Decode the frame; half a surrogate pair in one name costs no other row.

    Returns:
        The frame, and the bytes it was decoded from, as many as in `body`.
    """
    try:
        return msgspec.json.decode(body, type=_Answer), body
    except msgspec.MsgspecError:
        whole = _SURROGATES.sub(_whole_pair, body)
        if whole == body:
            raise
        return msgspec.json.decode(whole, type=_Answer), whole


def _whole_pair(found: re.Match[bytes]) -> bytes:
    text = found.group()
    return text if text == rb"\\" or len(text) == _PAIR else rb"\ufffd"


def validation_errors(body: bytes, *, secret: str) -> str:
    """Return what a 422 says of each field, on one line; empty if unreadable.

    Args:
        body: Of the answer.
        secret: Not shown, however it is written in the JSON.
    """
    errors = _object(body).get("errors")
    if isinstance(errors, str):
        return _one_line(errors, secret)
    if not isinstance(errors, dict):
        return ""
    parts = []
    for field, texts in list(errors.items())[:20]:
        said = texts if isinstance(texts, list) else [texts]
        parts.append(f"{field}: {' '.join(str(text) for text in said[:5])}")
    return _one_line("; ".join(parts), secret)


def _one_line(text: str, secret: str) -> str:
    shown = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(shown.split()).replace(secret, "[token]")[:1000]


def _not_a_list(body: bytes, exc: Exception) -> str:
    head = body[:64].lstrip().lower()
    if not body.strip():
        return "the answer is empty"
    if head.startswith((b"<!doctype", b"<html", b"<")):
        return "the answer is an HTML page, not the list; check url and list_path"
    if isinstance(exc, RecursionError):
        return "the answer is nested too deeply to be a list"
    return f"the answer is not the list that was asked for ({exc})"


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _row(raw: bytes, received: bytes, footage_zone: tzinfo) -> Row:
    """Decode one row.

    Args:
        raw: With no half of a surrogate pair.
        received: The same as it was received.
        footage_zone: Of footage times that carry no zone.

    Raises:
        ValueError: It has no usable id, so that nothing can be kept of it.
    """
    fields = _fields(raw)
    export_id = _number(_value(fields, "id"))
    if export_id is None or export_id > _MAX_ID:
        raise ValueError("the row has no id that is a whole number")
    created = _value(fields, "created_at")
    created_moment = _moment(created, UTC)
    created_us = None if created_moment is None else to_us(created_moment)
    stream = _value(fields, "stream")
    stream = stream if isinstance(stream, dict) else {}
    url = _text(_value(fields, "url"))
    begin = _moment(_value(fields, "from"), footage_zone)
    user = _value(fields, "user")
    user_id = _number(_value(fields, "user_id"))
    if user_id is None and isinstance(user, dict):
        user_id = _number(user.get("id"))
    return Row(
        export_id=export_id,
        created_key=_created_key(created, created_moment),
        created_at=_as_listed(created, created_moment),
        created_us=created_us,
        updated_at=_text(_value(fields, "updated_at")),
        updated_us=_us(_moment(_value(fields, "updated_at"), UTC)),
        url=url.strip() if url and url.strip() else None,
        has_file=_value(fields, "is_file_exists") is True,
        name=_text(_value(fields, "name")),
        camera_id=_number(stream.get("camera_id")),
        stream_type=_text(stream.get("type")),
        footage_from=_instant(begin),
        footage_to=_instant(_end(_value(fields, "to"), begin, footage_zone)),
        user_id=user_id,
        raw=received,
    )


def _fields(raw: bytes) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as exc:
        raise ValueError(f"the row is not a JSON object ({exc})") from exc


def _value(fields: dict[str, msgspec.Raw], name: str) -> Any:  # noqa: ANN401 -- JSON
    """Return one field's value; None where it is absent or unreadable."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return msgspec.json.decode(bytes(raw).decode("utf-8", "replace"))
    except (msgspec.MsgspecError, RecursionError):
        return None


def _number(value: object) -> int | None:
    """Return a whole number given as one or as digits; None otherwise."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if isinstance(value, int) and 0 <= value <= _MAX_ID:
        return value
    return None


def _text(value: object) -> str | None:
    return value[:_MAX_TEXT] if isinstance(value, str) else None


def _moment(value: object, zone: tzinfo, *, fold: int = 0) -> datetime | None:
    """Return the aware instant of an ISO 8601 text; without a zone, in `zone`.

    Args:
        value: Perhaps such a text.
        zone: Of a text that names none.
        fold: 1 takes a time that comes twice, in autumn, for the second one.
    """
    if not isinstance(value, str) or not 8 <= len(value) <= 40:  # noqa: PLR2004 -- bounds
        return None
    try:
        moment = datetime.fromisoformat(_FRACTION.sub(r"\1", value.strip()))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone, fold=fold)
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if _FIRST_YEAR <= moment.year <= _LAST_YEAR else None


def _us(moment: datetime | None) -> int | None:
    return None if moment is None else to_us(moment)


def _end(value: object, begin: datetime | None, zone: tzinfo) -> datetime | None:
    """Return when footage ends: not before it begins if there is a choice."""
    end = _moment(value, zone)
    if begin is None or end is None or end >= begin:
        return end
    again = _moment(value, zone, fold=1)
    return end if again is None or again < begin else again


def _instant(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    digits = "microseconds" if moment.microsecond else "seconds"
    return moment.replace(tzinfo=None).isoformat(timespec=digits) + "Z"


def _created_key(listed: object, moment: datetime | None) -> str:
    if moment is not None:
        return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    if isinstance(listed, str):
        return listed[:_MAX_TEXT]
    return "" if listed is None else msgspec.json.encode(listed).decode()[:_MAX_TEXT]


def _as_listed(listed: object, moment: datetime | None) -> str | None:
    if moment is None or not isinstance(listed, str):
        return None
    text = listed.strip()
    if text.endswith("Z") and "T" in text:
        return text
    return _created_key(listed, moment)
