"""Decode one row of the list into a `Row`."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

import msgspec

from mirror.model import Row, to_us
from mirror.vms.values import MAX_TEXT, moment, number, text

if TYPE_CHECKING:
    from datetime import datetime, tzinfo


def decode_row(raw: bytes, received: bytes, footage_zone: tzinfo) -> Row:
    """Return one row of the list; `raw` is `received` with no half of a surrogate pair.

    Footage times that carry no zone are of `footage_zone`.

    Raises:
        ValueError: It has no usable id, so that nothing can be kept of it.
    """
    try:
        fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as exc:
        raise ValueError(f"the row is not a JSON object ({exc})") from exc
    export_id = number(_value(fields, "id"))
    if export_id is None:
        raise ValueError("the row has no id that is a whole number")
    created = _value(fields, "created_at")
    created_at = moment(created, UTC)
    stream = _value(fields, "stream")
    stream = stream if isinstance(stream, dict) else {}
    url = text(_value(fields, "url"))
    begin = moment(_value(fields, "from"), footage_zone)
    user = _value(fields, "user")
    user_id = number(_value(fields, "user_id"))
    if user_id is None and isinstance(user, dict):
        user_id = number(user.get("id"))
    return Row(
        export_id=export_id,
        created_key=_created_key(created, created_at),
        created_at=_as_listed(created, created_at),
        created_us=_us(created_at),
        updated_at=text(_value(fields, "updated_at")),
        updated_us=_us(moment(_value(fields, "updated_at"), UTC)),
        url=url.strip() if url and url.strip() else None,
        has_file=_value(fields, "is_file_exists") is True,
        name=text(_value(fields, "name")),
        camera_id=number(stream.get("camera_id")),
        stream_type=text(stream.get("type")),
        footage_from=_instant(begin),
        footage_to=_instant(_end(_value(fields, "to"), begin, footage_zone)),
        user_id=user_id,
        raw=received,
    )


def _value(fields: dict[str, msgspec.Raw], name: str) -> Any:  # noqa: ANN401 -- JSON
    """Return one field's value; None where it is absent or unreadable."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return msgspec.json.decode(bytes(raw).decode("utf-8", "replace"))
    except (msgspec.MsgspecError, RecursionError):
        return None


def _us(instant: datetime | None) -> int | None:
    return None if instant is None else to_us(instant)


def _end(value: object, begin: datetime | None, zone: tzinfo) -> datetime | None:
    """Return when footage ends: not before it begins if there is a choice."""
    end = moment(value, zone)
    if begin is None or end is None or end >= begin:
        return end
    again = moment(value, zone, fold=1)
    return end if again is None or again < begin else again


def _instant(instant: datetime | None) -> str | None:
    if instant is None:
        return None
    digits = "microseconds" if instant.microsecond else "seconds"
    return instant.replace(tzinfo=None).isoformat(timespec=digits) + "Z"


def _created_key(listed: object, instant: datetime | None) -> str:
    if instant is not None:
        return instant.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    if isinstance(listed, str):
        return listed[:MAX_TEXT]
    return "" if listed is None else msgspec.json.encode(listed).decode()[:MAX_TEXT]


def _as_listed(listed: object, instant: datetime | None) -> str | None:
    if instant is None or not isinstance(listed, str):
        return None
    shown = listed.strip()
    if shown.endswith("Z") and "T" in shown:
        return shown
    return _created_key(listed, instant)
