"""How long to wait before the next attempt: pure; clock and jitter are arguments."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

MAX_RETRY_AFTER_S: Final = 86_400.0
"""A server can ask for a day at most."""

_MAX_DOUBLINGS: Final = 64
_FLOOR: Final = 0.1
_SECONDS: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast failures are retried: the longest wait after the first, and ever."""

    initial: timedelta
    maximum: timedelta


def delay(
    attempt: int, *, initial: timedelta, maximum: timedelta, jitter: float
) -> timedelta:
    """Return the wait before the next attempt.

    Exponential with full jitter, so that attempts that failed together do not meet
    again; never less than a tenth of `initial`, so that a low draw is no busy loop.

    Args:
        attempt: The number of the attempt that just failed, from 1.
        initial: Longest wait after the first failure.
        maximum: Longest wait ever, floor included.
        jitter: Uniform draw in [0, 1).
    """
    doublings = min(max(attempt, 1) - 1, _MAX_DOUBLINGS)
    most_s = maximum.total_seconds()
    initial_s = initial.total_seconds()
    ceiling_s = min(most_s, initial_s * 2.0**doublings)
    floor_s = min(most_s, initial_s * _FLOOR)
    return timedelta(seconds=max(floor_s, ceiling_s * jitter))


def retry_after(
    value: str | None, now: datetime, date: str | None = None
) -> float | None:
    """Return the seconds a `Retry-After` header asks for; None if it asks for none.

    A moment in the past is 0, more than `MAX_RETRY_AFTER_S` is cut to that.

    Args:
        value: Seconds or an HTTP date (RFC 9110, section 10.2.3), as received.
        now: Aware; a date is compared with it if the answer has no `Date`.
        date: The answer's own `Date`: the server's clock may differ from ours.
    """
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        wait_s = float(text)
    else:
        moment = http_date(text)
        if moment is None:
            return None
        asked_at = now if date is None else http_date(date) or now
        wait_s = (moment - asked_at).total_seconds()
    return min(max(wait_s, 0.0), MAX_RETRY_AFTER_S)


def http_date(text: str | None) -> datetime | None:
    """Return the aware moment of an HTTP date; None if it is none."""
    try:
        moment = parsedate_to_datetime(text or "")
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
