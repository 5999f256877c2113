"""Read JSON that may hold anything: None, or nothing, for what is of another kind."""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo
from typing import Any

import msgspec

MAX_NUMBER = 2**63 - 1
MAX_TEXT = 8192
_FIRST_YEAR, _LAST_YEAR = 1900, 9000
_DIGITS = re.compile(r"[0-9]{1,19}", re.ASCII)
_FRACTION = re.compile(r"(\.\d{6})\d+")


def json_object(raw: bytes) -> dict[str, Any]:
    """Return a JSON object; an empty one for anything else."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def number(value: object) -> int | None:
    """Return a whole number given as one or as digits; None otherwise."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    return value if isinstance(value, int) and 0 <= value <= MAX_NUMBER else None


def text(value: object) -> str | None:
    """Return a text, cut at `MAX_TEXT` characters."""
    return value[:MAX_TEXT] if isinstance(value, str) else None


def moment(value: object, zone: tzinfo, *, fold: int = 0) -> datetime | None:
    """Return the aware instant of an ISO 8601 text; without a zone, in `zone`.

    `fold` 1 takes a time that comes twice, in autumn, for the second one.
    """
    if not isinstance(value, str) or not 8 <= len(value) <= 40:  # noqa: PLR2004 -- bounds
        return None
    try:
        instant = datetime.fromisoformat(_FRACTION.sub(r"\1", value.strip()))
        if instant.tzinfo is None:
            instant = instant.replace(tzinfo=zone, fold=fold)
        instant = instant.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return instant if _FIRST_YEAR <= instant.year <= _LAST_YEAR else None
