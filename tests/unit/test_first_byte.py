"""How long a first byte is waited for."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mirror.pipeline.fetch.first_byte import MOST_S, FirstByteWait

HERE, THERE = "https://vms.example", "https://other.example"


@pytest.fixture
def first_byte_wait():
    return FirstByteWait(timedelta(seconds=60))


@pytest.mark.parametrize(
    ("late", "left_s", "expected"),
    [
        (0, None, 60),
        (1, None, 120),
        (3, None, 480),
        (4, None, MOST_S),
        (10**9, None, MOST_S),
        (4, 10_000, MOST_S),
        (3, 600, 300),
        (0, 600, 60),
        (3, 100, 60),
        (3, 0, 60),
        (3, -5, 60),
    ],
)
def test_the_wait_doubles_within_its_bounds(first_byte_wait, late, left_s, expected):
    """Up to 15 minutes and half the time left, and never less than the first wait."""
    assert first_byte_wait.wait_s(HERE, late=late, left_s=left_s) == expected


def test_a_first_wait_longer_than_the_bound_stands():
    """It is what the operator says."""
    first_byte_wait = FirstByteWait(timedelta(seconds=2000))

    assert first_byte_wait.wait_s(HERE, late=0, left_s=None) == 2000
    assert first_byte_wait.wait_s(HERE, late=3, left_s=None) == 2000


def test_the_next_exports_of_an_origin_begin_with_what_was_long_enough(first_byte_wait):
    """Those of another do not; a short wait takes nothing back."""
    first_byte_wait.answered(HERE, 100.0)
    first_byte_wait.answered(HERE, 3.0)

    assert first_byte_wait.wait_s(HERE, late=0, left_s=None) == 120
    assert first_byte_wait.wait_s(HERE, late=1, left_s=None) == 240
    assert first_byte_wait.wait_s(THERE, late=0, left_s=None) == 60
