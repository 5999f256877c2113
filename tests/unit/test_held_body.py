"""What a body that is not proven whole means for its export."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from mirror.backoff import Pace
from mirror.lifecycle import held_body
from mirror.model import Reason, Receipt, State, Verdict
from tests import builders
from tests.builders import HOUR, MINUTE, NOW

if TYPE_CHECKING:
    from mirror.model import Export

PACE = Pace(initial=timedelta(seconds=5), maximum=timedelta(minutes=10))
MIB = 1024 * 1024


def body(**given: Any) -> Receipt:
    values: dict[str, Any] = {
        "size_bytes": MIB,
        "sha256": "aa" * 32,
        "etag": '"1"',
        "last_modified": None,
        "doubt": "samples are missing",
    }
    return Receipt(**(values | given))


def doubted(export: Export, receipt: Receipt, *, patient: bool = True) -> Export:
    return held_body.doubted(
        export,
        receipt,
        folder="spool",
        started_us=NOW - MINUTE,
        now_us=NOW,
        lifetime_us=3 * HOUR,
        pace=PACE,
        jitter=1.0,
        patient=patient,
    )


def held(**given: Any) -> Export:
    """Return an export of which a body is held and another was just had."""
    first = builders.export(state=State.FETCHING)
    after = doubted(first, body(**given))
    return dataclasses.replace(after, state=State.FETCHING)


def ends(export: Export) -> bool:
    return export.held_until_us == 0


def test_the_first_body_is_held_and_asked_for_again():
    """Nothing that came to its end is thrown away; its export is not spooled yet."""
    after = doubted(builders.export(state=State.FETCHING), body())

    assert (after.state, after.held_number, after.part_number) == (State.READY, 1, 2)
    assert after.held_sha256 == "aa" * 32
    assert after.held_doubt == "samples are missing"
    assert (after.part_bytes, after.spool_dir) == (0, None)
    assert after.bodies == 1
    assert after.held_until_us == NOW + 3 * HOUR - 30 * MINUTE


@pytest.mark.parametrize(
    ("left_us", "given", "wait_us"),
    [
        (3 * HOUR, {}, 2 * MINUTE),
        (3 * HOUR, {"size_bytes": 2 * 1024 * MIB}, 2 * MINUTE),
        (3 * HOUR, {"size_bytes": 2 * 1024 * MIB, "etag": None}, 90 * MINUTE),
        (3 * HOUR, {"etag": None}, 2 * MINUTE),
    ],
)
def test_when_it_is_asked_again(left_us, given, wait_us):
    """After two minutes; a large body without a validator at half the time left."""
    export = builders.export(state=State.FETCHING, deadline_us=NOW + left_us)

    assert doubted(export, body(**given)).not_before_us == NOW + wait_us


def test_a_tenth_of_the_time_left_is_less_than_two_minutes():
    export = builders.export(state=State.FETCHING, deadline_us=NOW + 10 * MINUTE)
    after = held_body.doubted(
        export,
        body(),
        folder="spool",
        started_us=NOW,
        now_us=NOW,
        lifetime_us=12 * MINUTE,
        pace=PACE,
        jitter=0,
        patient=True,
    )

    assert after.not_before_us == NOW + MINUTE


@pytest.mark.parametrize(
    ("second", "holds", "ended"),
    [
        ({}, "first", True),
        ({"sha256": "bb" * 32}, "second", False),
        ({"sha256": "bb" * 32, "size_bytes": MIB + 1}, "second", False),
        ({"sha256": "bb" * 32, "size_bytes": MIB - 1}, "first", False),
    ],
)
def test_the_longer_body_is_held_of_equal_length_the_newer(second, holds, ended):
    """The same bytes again confirm it."""
    before = held()
    after = doubted(before, body(**second))

    assert after.held_number == (2 if holds == "second" else 1)
    assert after.part_number > (after.held_number or 0)
    assert ends(after) is ended


def test_after_three_bodies_the_wait_is_over():
    second = doubted(held(), body(sha256="bb" * 32))
    third = doubted(
        dataclasses.replace(second, state=State.FETCHING), body(sha256="cc" * 32)
    )

    assert not ends(second)
    assert ends(third)
    assert third.held_sha256 == "cc" * 32


def test_a_small_body_is_asked_for_again_and_again():
    """A placeholder is the same each time, and does not confirm itself."""
    after = held(size_bytes=20)
    for _ in range(30):
        after = doubted(after, body(size_bytes=20))
        assert not ends(after)
        after = dataclasses.replace(after, state=State.FETCHING)

    assert after.bodies == 0
    assert after.due_us == NOW + 10 * MINUTE


@pytest.mark.parametrize("size_bytes", [20, MIB])
def test_in_one_run_two_equal_bodies_end_it(size_bytes):
    first = doubted(
        builders.export(state=State.FETCHING),
        body(size_bytes=size_bytes),
        patient=False,
    )
    again = dataclasses.replace(first, state=State.FETCHING)
    second = doubted(again, body(size_bytes=size_bytes), patient=False)

    assert (first.due_us, first.not_before_us) == (0, 0)
    assert not ends(first)
    assert ends(second)


@pytest.mark.parametrize("left_us", [30 * MINUTE, 0, -HOUR])
def test_no_time_is_left(left_us):
    """With less than half an hour left it is spooled at once."""
    export = builders.export(state=State.FETCHING, deadline_us=NOW + left_us)

    assert ends(doubted(export, body()))


def test_without_a_deadline_it_waits_half_an_hour():
    export = builders.export(state=State.FETCHING, deadline_us=None)
    first = doubted(export, body())
    later = held_body.held_until(first, NOW + HOUR, 3 * HOUR)

    assert first.held_until_us == later == NOW + 30 * MINUTE


@pytest.mark.parametrize("state", [State.WAITING, State.PARKED, State.LOST])
def test_a_held_body_is_kept_instead_of_waiting(state):
    """Its row goes before every row to waiting, parked or lost."""
    after = held_body.rather_kept(dataclasses.replace(held(), state=state))

    assert ends(after)
    assert after.state is State.READY
    assert held_body.rather_kept(builders.export(state=state)).state is state


def test_what_is_spooled_is_the_held_body():
    before = dataclasses.replace(
        held(), state=State.READY, part_bytes=7, spool_dir="elsewhere"
    )
    after = held_body.spooled_doubtful(before)

    assert (after.state, after.reason) == (State.SPOOLED, Reason.DOUBTFUL)
    assert (after.proof, after.doubt) == (Verdict.DOUBTFUL, "samples are missing")
    assert (after.spool_dir, after.part_number) == ("spool", 1)
    assert (after.size_bytes, after.sha256) == (MIB, "aa" * 32)
    assert (after.part_bytes, after.part_sha256) == (MIB, "aa" * 32)
    assert not after.held
