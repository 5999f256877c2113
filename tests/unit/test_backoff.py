"""Waits: how they grow, where they end, and what a server may ask for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror import backoff

INITIAL = timedelta(seconds=5)
MAXIMUM = timedelta(minutes=10)
NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("attempt", "jitter", "seconds"),
    [
        (1, 1.0, 5),
        (2, 1.0, 10),
        (3, 1.0, 20),
        (7, 1.0, 320),
        (8, 1.0, 600),
        (3, 0.5, 10),
        (3, 0.0, 0.5),
        (1, 0.05, 0.5),
        (0, 1.0, 5),
        (-3, 1.0, 5),
        (10**9, 1.0, 600),
    ],
)
def test_delay(attempt: int, jitter: float, seconds: float) -> None:
    """It doubles, is drawn from the whole span, and has a floor and a ceiling."""
    wait = backoff.delay(attempt, initial=INITIAL, maximum=MAXIMUM, jitter=jitter)

    assert wait.total_seconds() == pytest.approx(seconds)


@given(
    attempt=st.integers(-10, 10**30),
    initial=st.timedeltas(timedelta(milliseconds=1), timedelta(days=1)),
    maximum=st.timedeltas(timedelta(milliseconds=1), timedelta(days=30)),
    jitter=st.floats(0, 1, exclude_max=True),
)
def test_delay_stays_in_bounds(
    attempt: int, initial: timedelta, maximum: timedelta, jitter: float
) -> None:
    """Whatever the numbers: more than nothing, at most the maximum, no overflow."""
    wait = backoff.delay(attempt, initial=initial, maximum=maximum, jitter=jitter)

    assert timedelta(0) < wait <= maximum


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        ("1.5", 1.5),
        ("-5", 0),
        ("9" * 400, 86_400),
        ("Mon, 23 Nov 2026 12:01:30 GMT", 90),
        ("Monday, 23-Nov-26 12:01:30 GMT", 90),
        ("Mon Nov 23 12:01:30 2026", 90),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400),
        ("", None),
        ("soon", None),
        ("12 seconds", None),
        ("1e5", None),
        ("nan", None),
        ("inf", None),
        ("١٢", None),
        ("Mon, 99 Nov 2026 12:01:30 GMT", None),
        ("Mon, 23 Nov 2026 12:01:30 +9999999", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    """Seconds or a date; nonsense asks for nothing."""
    assert backoff.retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        (None, 90),
        ("Mon, 23 Nov 2026 12:01:00 GMT", 30),
        ("Mon, 23 Nov 2026 13:00:00 GMT", 0),
        ("nonsense", 90),
    ],
)
def test_a_moment_to_retry_after_is_by_the_clock_of_the_server(date, seconds):
    """Its `Date` says what that clock shows."""
    value = "Mon, 23 Nov 2026 12:01:30 GMT"

    assert backoff.retry_after(value, NOW, date) == seconds


@given(st.text(max_size=60))
def test_retry_after_takes_any_text(value: str) -> None:
    wait_s = backoff.retry_after(value, NOW)

    assert wait_s is None or 0 <= wait_s <= backoff.MAX_RETRY_AFTER_S
