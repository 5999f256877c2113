"""Requests for parts of a file."""

import pytest

from mirror.simulator.files import parse_range


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-", (0, 100)),
        ("bytes=10-19", (10, 20)),
        ("bytes=90-500", (90, 100)),
        ("bytes=-30", (70, 100)),
        ("bytes=-500", (0, 100)),
        ("bytes=100-", (100, 100)),
        ("bytes=20-10", None),
        ("bytes=0-1,5-6", None),
        ("bytes=-", None),
        ("lines=1-2", None),
    ],
)
def test_ranges_are_read_as_the_rfc_has_them(
    header: str, span: tuple[int, int] | None
) -> None:
    assert parse_range(header, 100) == span
