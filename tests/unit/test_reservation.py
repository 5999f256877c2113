"""How much a transfer may write to the spool, and what gives way to it."""

from __future__ import annotations

from typing import Any

import pytest

from mirror.pipeline.spool.reservation import (
    LEAST_BYTES,
    Answer,
    Holder,
    Request,
    SpoolState,
    Wait,
    decide,
    wanted,
)

MIB = 1024 * 1024
GIB = 1024 * MIB
NOW = 1_790_000_000_000_000
MINUTE = 60_000_000
NO = Answer()


def asker(**given: Any) -> Request:
    values: dict[str, Any] = {
        "key": 1,
        "source": "a",
        "order_us": NOW + 60 * MINUTE,
        "rest_bytes": 10 * MIB,
    }
    return Request(**(values | given))


def holder(key: int, **given: Any) -> Holder:
    values: dict[str, Any] = {
        "key": key,
        "source": "a",
        "order_us": NOW + (100 + key) * MINUTE,
        "held_bytes": 8 * MIB,
    }
    return Holder(**(values | given))


def state(room_mib: float, *holders: Holder, **given: Any) -> SpoolState:
    kept: dict[str, int] = {}
    for one in holders:
        kept[one.source] = kept.get(one.source, 0) + one.held_bytes
    values: dict[str, Any] = {
        "room_bytes": int(room_mib * MIB),
        "holders": holders,
        "kept_bytes": kept,
        "busy": frozenset({one.source for one in holders} | {"a"}),
    }
    return SpoolState(**(values | given))


@pytest.mark.parametrize(
    ("given", "wants"),
    [
        ({"rest_bytes": MIB}, MIB),
        ({"rest_bytes": GIB}, LEAST_BYTES),
        ({"rest_bytes": None}, LEAST_BYTES),
        ({"rest_bytes": GIB, "rate": 1.0 * MIB}, 300 * MIB),
        ({"rest_bytes": 200 * MIB, "rate": 1.0 * MIB}, 200 * MIB),
        ({"rest_bytes": None, "rate": 1.0 * MIB}, 300 * MIB),
        ({"rest_bytes": 0}, 0),
        ({"rest_bytes": GIB, "finishing": True}, GIB),
    ],
)
def test_what_a_transfer_wants(given, wants):
    """What it can receive in 5 minutes, at least 64 MiB, or its rest."""
    assert wanted(asker(**given)) == wants


@pytest.mark.parametrize(
    ("given", "room_mib", "granted"),
    [
        ({}, 10, 10 * MIB),
        ({"rest_bytes": 40 * GIB}, 50_000, LEAST_BYTES),
        # Of unknown length: half of what is there, and the next batch in any case.
        ({"rest_bytes": None}, 10, 5 * MIB),
        ({"rest_bytes": None}, 10_000, LEAST_BYTES),
        ({"rest_bytes": None, "next_bytes": 99}, 0, 99),
        # An answer that has not begun holds nothing that others could use.
        ({"rest_bytes": None, "begun": False}, 10, 0),
        ({"rest_bytes": 0}, 0, 0),
    ],
)
def test_what_is_granted(given, room_mib, granted):
    assert decide(asker(**given), state(room_mib), NOW) == Answer(granted_bytes=granted)


@pytest.mark.parametrize(
    ("given", "around"),
    [
        ({"rest_bytes": None}, state(-1)),
        ({"rest_bytes": 0}, state(-1)),
        # What is reserved for another is not there.
        ({}, state(15, holder(2, reserved_bytes=6 * MIB, running=True, ends=True))),
        ({"rest_bytes": None}, state(5, holder(2, reserved_bytes=6 * MIB))),
    ],
)
def test_what_is_refused(given, around):
    assert decide(asker(**given), around, NOW) == NO


@pytest.mark.parametrize(
    ("rest_mib", "held_mib", "never"),
    [(18, 0, False), (19, 0, True), (18, 5, False), (19, 5, True)],
)
def test_what_never_fits(rest_mib, held_mib, never):
    """Even if all that others have there were gone."""
    around = state(10, holder(2), kept_bytes={"a": (8 + held_mib) * MIB})
    asking = asker(rest_bytes=rest_mib * MIB, held_bytes=held_mib * MIB)

    assert decide(asking, around, NOW).never is never


FAST = {"rate": 1.0 * MIB}


@pytest.mark.parametrize(
    ("given", "holders", "drop", "stop"),
    [
        # The latest deadline first, and no more than it takes.
        (FAST, [holder(2), holder(3)], (3,), ()),
        (FAST | {"rest_bytes": 15 * MIB}, [holder(2), holder(3)], (3, 2), ()),
        # Not what is nearer, and nothing in vain.
        (FAST, [holder(2, order_us=NOW)], (), ()),
        (
            FAST | {"rest_bytes": 15 * MIB},
            [holder(2, order_us=NOW), holder(3)],
            (),
            (),
        ),
        # What was announced is no proof; nor what came, if it cannot end in time.
        ({"rate": 0.0}, [holder(2)], (), ()),
        ({"rate": 100.0}, [holder(2)], (), ()),
        ({"rate": 100.0 * 1024, "order_us": NOW + MINUTE}, [holder(2)], (), ()),
        (FAST | {"order_us": NOW - MINUTE}, [holder(2)], (2,), ()),
        # Once in a while only.
        (FAST | {"favoured": True}, [holder(2)], (), ()),
        # What runs ends first, unless it has room to its end.
        (FAST, [holder(2, running=True)], (), (2,)),
        (FAST, [holder(2, running=True, ends=True)], (), ()),
    ],
)
def test_what_gives_way(given, holders, drop, stop):
    """Later deadlines, to a transfer that can then finish."""
    around = state(2, *holders)

    answer = decide(asker(**given), around, NOW)

    assert (answer.granted_bytes, answer.drop, answer.stop) == (None, drop, stop)
    assert answer.finishing is bool(drop or stop)


GREEDY = [holder(n, source="b", order_us=NOW - n * MINUTE) for n in (2, 3, 4)]


def test_a_source_beyond_half_yields_to_another():
    """Whatever its deadlines are, and though nothing of the other came yet."""
    assert decide(asker(), state(2, *GREEDY), NOW) == Answer(drop=(2,))
    unknown = asker(rest_bytes=None, begun=False)
    assert decide(unknown, state(-1, *GREEDY), NOW) == Answer(drop=(2,))


def test_a_source_beyond_half_yields_while_it_runs():
    """Also what has room to its end."""
    holders = [
        holder(n, source="b", running=True, reserved_bytes=MIB, ends=True)
        for n in (2, 3, 4)
    ]

    assert decide(asker(), state(2, *holders), NOW) == Answer(stop=(4, 3))


def test_a_source_below_half_does_not_yield():
    around = state(30, *GREEDY[:1], holder(9, source="c", held_bytes=40 * MIB))

    assert decide(asker(rest_bytes=35 * MIB), around, NOW).drop == (9,)


def test_a_source_beyond_half_takes_nothing_from_others():
    """It may do with its own what it likes."""
    others = holder(2, source="b", order_us=NOW + 999 * MINUTE)
    own = [holder(3), holder(4), holder(5)]
    asking = asker(held_bytes=20 * MIB, **FAST)
    kept = {"a": 44 * MIB, "b": 8 * MIB}
    answer = decide(asking, state(1, others, *own, kept_bytes=kept), NOW)

    assert answer.drop == (5, 4, 3)
    assert decide(asking, state(1, others, kept_bytes=kept), NOW) == NO


@pytest.mark.parametrize(
    ("busy", "granted"), [({"a"}, 10 * MIB), ({"a", "b"}, None), ({"b"}, None)]
)
def test_a_source_beyond_half_leaves_room_while_another_has_work(busy, granted):
    """A quarter of the spool, or 64 MiB."""
    around = state(15, kept_bytes={"a": 25 * MIB}, busy=frozenset(busy))

    assert decide(asker(), around, NOW).granted_bytes == granted


@pytest.mark.parametrize(
    ("wait", "granted"),
    [
        # The nearer one would never get what each smaller one takes.
        ({}, None),
        ({"order_us": NOW + 99 * MINUTE}, 10 * MIB),
        ({"wanted_bytes": 5 * MIB}, 10 * MIB),
        # It is no business of other sources; nor does it block for what cannot be.
        ({"source": "b"}, 10 * MIB),
        ({"wanted_bytes": 50 * MIB}, 10 * MIB),
    ],
)
def test_the_nearest_deadline_of_a_source_goes_first(wait, granted):
    given = {"source": "a", "order_us": NOW, "wanted_bytes": 22 * MIB} | wait
    around = state(18, holder(2, running=True, ends=True), waits=[Wait(**given)])

    assert decide(asker(), around, NOW).granted_bytes == granted
