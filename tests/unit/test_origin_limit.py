"""How much an origin is asked for at once, after what it answered."""

from __future__ import annotations

import pytest

from mirror.errors import FetchError, FileGoneError, SpoolError
from mirror.pipeline.fetch.origin_limit import OriginLimit

TIMEOUT = FetchError("timeout", "no byte came")
CUT = FetchError("cut", "the transfer ended early")


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limit(clock: Clock) -> OriginLimit:
    return OriginLimit(most=8, longest_pause_s=60.0, clock=clock)


def busy(retry_after_s: float | None = None) -> FetchError:
    """Return the failure of a 429 or 503."""
    return FetchError("busy", "429", retry_after_s=retry_after_s)


def test_no_more_than_the_limit_start(limit):
    """There is room up to the limit and not beyond it."""
    limit.running = 7
    assert limit.has_room
    limit.running = 8
    assert not limit.has_room


def test_busy_halves_down_to_one_and_never_to_none(limit):
    """Each 429 or 503 halves what is allowed; one always is."""
    seen = []
    for _ in range(5):
        limit.ended(1, busy())
        seen.append(limit.allowed)

    assert seen == [4, 2, 1, 1, 1]
    assert limit.has_room


def test_each_fetched_file_gives_one_back_up_to_the_limit(limit):
    """Growth is by one per success and ends at the limit."""
    for _ in range(3):
        limit.ended(1, busy())
    seen = []
    for _ in range(9):
        limit.ended(1, None)
        seen.append(limit.allowed)

    assert seen == [2, 3, 4, 5, 6, 7, 8, 8, 8]


def test_two_different_exports_that_time_out_halve(limit):
    """One slow export says nothing about the origin, two do."""
    limit.ended(1, TIMEOUT)
    assert limit.allowed == 8
    limit.ended(2, TIMEOUT)
    assert limit.allowed == 4


def test_one_export_that_times_out_for_ever_does_not_halve(limit):
    """The same export counts once."""
    for _ in range(10):
        limit.ended(1, TIMEOUT)

    assert limit.allowed == 8


def test_a_success_between_two_timeouts_clears_the_first(limit):
    """Only timeouts with no success between them count together."""
    limit.ended(1, TIMEOUT)
    limit.ended(3, None)
    limit.ended(2, TIMEOUT)

    assert limit.allowed == 8


def test_after_a_fall_by_timeouts_two_more_are_needed(limit):
    """A fall starts the count anew."""
    for key in (1, 2, 3):
        limit.ended(key, TIMEOUT)
    assert limit.allowed == 4

    limit.ended(4, TIMEOUT)
    assert limit.allowed == 2


@pytest.mark.parametrize(
    "failure", [CUT, FileGoneError("file_gone", "404"), SpoolError("spool_full", "")]
)
def test_other_failures_say_nothing_about_the_load(limit, failure):
    """A cut, a 404 or our own full disk neither slow the origin down nor pause it."""
    for key in range(5):
        limit.ended(key, failure)

    assert (limit.allowed, limit.pause_s) == (8, 0.0)


def test_other_failures_do_not_count_as_a_success(limit):
    """A 404 between two timeouts clears nothing."""
    limit.ended(1, TIMEOUT)
    limit.ended(3, FileGoneError("file_gone", "404"))
    limit.ended(2, TIMEOUT)

    assert limit.allowed == 4


def test_retry_after_pauses_until_its_time(limit, clock):
    """Nothing starts before Retry-After is over, then it may."""
    limit.ended(1, busy(30.0))
    assert (limit.has_room, limit.pause_s) == (False, 30.0)
    clock.now += 29.9
    assert not limit.has_room
    clock.now += 0.2
    assert (limit.has_room, limit.pause_s) == (True, 0.0)


def test_retry_after_is_honoured_up_to_the_longest_pause(limit):
    """A VMS cannot silence us for a day."""
    limit.ended(1, busy(86_400.0))

    assert limit.pause_s == 60.0


def test_a_shorter_retry_after_does_not_end_a_longer_one(limit, clock):
    """The latest end of all pauses holds."""
    limit.ended(1, busy(50.0))
    clock.now += 1.0
    limit.ended(2, busy(5.0))
    limit.ended(3, busy())

    assert limit.pause_s == 49.0


def test_a_success_does_not_end_a_pause(limit):
    """What was already under way when we were told to wait proves nothing."""
    limit.ended(1, busy(50.0))
    limit.ended(2, None)

    assert not limit.has_room
