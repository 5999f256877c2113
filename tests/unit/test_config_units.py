"""Durations, sizes and rates: what is read, and what is refused."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.config.units import parse_duration, parse_rate, parse_size


def written(duration: timedelta) -> str:
    """Return `duration` as an operator would write it."""
    minutes, seconds = divmod(duration.seconds, 60)
    parts = {
        "d": duration.days,
        "h": minutes // 60,
        "m": minutes % 60,
        "s": seconds,
        "ms": duration.microseconds // 1000,
    }
    return "".join(f"{n}{unit}" for unit, n in parts.items() if n) or "0s"


@given(st.integers(0, 36_500 * 86_400_000))
def test_durations_round_trip(milliseconds: int) -> None:
    """Every duration in whole milliseconds can be written and read."""
    duration = timedelta(milliseconds=milliseconds)

    assert parse_duration(written(duration)) == duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("3h", 10_800),
        ("90d", 7_776_000),
        ("1h30m", 5_400),
        ("250ms", 0.25),
        ("1m500ms", 60.5),
        (" 90s ", 90),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize(
    "value",
    ["", "30", 30, 0.5, True, None, "-5s", "5 s", "5S", "30m1h", "1h1h", "s", "5w", []],
)
def test_what_is_no_duration(value: object) -> None:
    """A number without a unit is refused, and the right form shown."""
    with pytest.raises(ValueError, match=r'must be a duration .* such as "250ms"'):
        parse_duration(value)


@pytest.mark.parametrize("text", ["36501d", "999999999d", "999999999h"])
def test_durations_end_somewhere(text: str) -> None:
    with pytest.raises(ValueError, match="is too long"):
        parse_duration(text)


@given(
    st.integers(0, 10**6),
    st.sampled_from([("B", 1), ("kB", 10**3), ("MB", 10**6), ("GB", 10**9)])
    | st.sampled_from([("KiB", 2**10), ("MiB", 2**20), ("GiB", 2**30), ("", 1)]),
)
def test_sizes_round_trip(number: int, unit: tuple[str, int]) -> None:
    assert parse_size(f"{number}{unit[0]}") == number * unit[1]
    assert parse_size(f"{number} {unit[0]}".strip()) == number * unit[1]


@pytest.mark.parametrize(
    ("value", "size_bytes"),
    [("5GiB", 5 * 2**30), ("500MB", 500_000_000), ("1.5KiB", 1536), (4096, 4096)],
)
def test_sizes(value: object, size_bytes: int) -> None:
    assert parse_size(value) == size_bytes


@pytest.mark.parametrize(
    "value", ["", "GiB", "-1", -1, 1.5, True, None, "5gib", "5Gb", "5Mbit", "1e3", []]
)
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(ValueError, match=r'must be a size .* such as "64KiB"'):
        parse_size(value)


@given(
    st.integers(1, 10**6),
    st.sampled_from([("B", 1), ("KiB", 1024), ("MB", 1e6), ("Mbit", 125_000)]),
)
def test_rates_round_trip(number: int, unit: tuple[str, float]) -> None:
    assert parse_rate(f"{number}{unit[0]}/s") == number * unit[1]


def test_rates() -> None:
    assert parse_rate("1KiB/s") == 1024.0
    assert parse_rate("400Mbit/s") == 50_000_000.0


@pytest.mark.parametrize(
    "value", ["", 5, 5.0, "5", "5/s", "1KiB", "1KiB/m", "1Mb/s", "-1B/s", True, None]
)
def test_what_is_no_rate(value: object) -> None:
    """A number without a unit is refused, and the right form shown."""
    with pytest.raises(ValueError, match=r'must be a rate .* such as "1KiB/s"'):
        parse_rate(value)


def test_no_rate_is_zero() -> None:
    with pytest.raises(ValueError, match="leave the key out for no limit"):
        parse_rate("0B/s")
