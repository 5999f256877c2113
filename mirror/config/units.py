"""Durations, sizes and rates as people write them; ValueError says what is right."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Final

_DURATION: Final = re.compile(
    r"(?:(?P<days>\d{1,9})d)?(?:(?P<hours>\d{1,9})h)?(?:(?P<minutes>\d{1,9})m(?!s))?"
    r"(?:(?P<seconds>\d{1,9})s)?(?:(?P<milliseconds>\d{1,9})ms)?",
    re.ASCII,
)
_AMOUNT: Final = re.compile(
    r"(?P<number>\d{1,15}(?:\.\d{1,9})?) ?(?P<unit>[A-Za-z]*)", re.ASCII
)
_LONGEST: Final = timedelta(days=36_500)
_BYTES: Final = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_BITS: Final = {"bit": 1, "kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9}
_DURATION_HELP: Final = (
    'must be a duration in quotes with its unit, such as "250ms", "30s", "5m", '
    '"1h30m" or "90d"'
)
_SIZE_HELP: Final = (
    'must be a size in quotes, such as "64KiB", "500MB" or "5GiB", or a number of bytes'
)
_RATE_HELP: Final = (
    'must be a rate in quotes with its unit, such as "1KiB/s", "20MB/s" or "400Mbit/s"'
)


def parse_duration(value: object) -> timedelta:
    """Return the duration `value` stands for, zero or longer.

    It is whole numbers with `d`, `h`, `m`, `s` or `ms`, largest unit first.
    """
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    parts = {k: int(v) for k, v in match.groupdict().items() if v} if match else {}
    if not parts:
        raise ValueError(_DURATION_HELP)
    try:
        duration = timedelta(**parts)
    except OverflowError:
        duration = timedelta.max
    if duration > _LONGEST:
        raise ValueError('is too long; the longest duration is "36500d"')
    return duration


def parse_size(value: object) -> int:
    """Return the bytes `value` stands for, zero or more."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return int(_scaled(value, {"": 1, **_BYTES}, _SIZE_HELP))


def parse_rate(value: object) -> float:
    """Return the bytes per second `value` stands for, more than zero."""
    amount, slash, per = (
        value.strip().rpartition("/") if isinstance(value, str) else ("",) * 3
    )
    if not slash or per != "s":
        raise ValueError(_RATE_HELP)
    units = {unit: Decimal(n) for unit, n in _BYTES.items()}
    units |= {unit: Decimal(n) / 8 for unit, n in _BITS.items()}
    rate = float(_scaled(amount, units, _RATE_HELP))
    if rate <= 0:
        raise ValueError("must be more than zero; leave the key out for no limit")
    return rate


def _scaled(
    value: object, units: dict[str, int] | dict[str, Decimal], problem: str
) -> Decimal:
    match = _AMOUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match["unit"] not in units:
        raise ValueError(problem)
    return Decimal(match["number"]) * units[match["unit"]]
