"""Who may start a fetch, and which fetch must end for another."""

from __future__ import annotations

from typing import Any

import pytest

from mirror.pipeline.fetch.fair_share import (
    RunningFetch,
    SourceDemand,
    late_may_start,
    may_start,
    share_of,
    to_end,
)


def source(name: str = "a", **given: Any) -> SourceDemand:
    values: dict[str, Any] = {
        "name": name,
        "origin": name,
        "allowed": 4,
        "has_room": True,
        "running": 0,
        "due": True,
        "untried": True,
    }
    return SourceDemand(**(values | given))


def running(key: int = 1, name: str = "a", **given: Any) -> RunningFetch:
    values: dict[str, Any] = {
        "key": key,
        "source": name,
        "origin": name,
        "since": 0.0,
        "late": False,
        "began": True,
        "slow": False,
    }
    return RunningFetch(**(values | given))


@pytest.mark.parametrize(
    ("demands", "most", "named"),
    [
        ([source()], 16, ["a"]),
        ([source(due=False)], 16, []),
        ([source(has_room=False)], 16, []),
        # One with none running starts, however many others do.
        ([source(running=16), source("b")], 16, ["b"]),
        ([source(running=8), source("c", running=8), source("b")], 16, ["b"]),
        # All have some: as many as may be, and no more.
        ([source(running=2, allowed=9)], 2, []),
        ([source(running=1, allowed=9)], 2, ["a"]),
        # Beyond its share none starts one as long as another is below its own.
        ([source(running=8, allowed=16), source("b", running=1)], 16, ["b"]),
        ([source(running=8, allowed=16), source("b", running=4)], 16, ["a", "b"]),
        (
            [source(running=8, allowed=16), source("b", running=1, has_room=False)],
            16,
            ["a"],
        ),
        # At one origin likewise.
        (
            [
                source(running=2, origin="o"),
                source("b", running=1, origin="o"),
            ],
            16,
            ["b"],
        ),
    ],
)
def test_who_may_start(demands, most, named):
    """A source with none running first, then those below their share."""
    assert may_start(demands, most) == named


@pytest.mark.parametrize(
    ("demands", "most", "share"),
    [
        ([source(allowed=9)], 16, 9),
        ([source(allowed=9)], 4, 4),
        ([source(allowed=9), source("b")], 16, 8),
        ([source(allowed=9), source("b", due=False)], 16, 9),
        ([source(allowed=9), source("b", due=False, running=1)], 16, 8),
        ([source(allowed=9, origin=1), source("b", origin=1)], 16, 4),
        ([source(str(n)) for n in range(40)], 16, 1),
    ],
)
def test_the_share_of_a_source(demands, most, share):
    """Of all fetches and of those of its origin, and one at least."""
    assert share_of(demands[0], demands, most) == share


@pytest.mark.parametrize(
    ("allowed", "untried", "late", "may"),
    [
        # While something untried waits: one slot, and none of an only one.
        (4, True, 0, True),
        (4, True, 1, False),
        (1, True, 0, False),
        # Else all but one.
        (4, False, 2, True),
        (4, False, 3, False),
        (2, False, 1, False),
        (1, False, 0, True),
        (1, False, 1, False),
    ],
)
def test_what_took_too_long_yields(allowed, untried, late, may):
    """A slot is always kept for what was not tried."""
    under_way = [running(key, late=True) for key in range(late)]
    under_way += [running(9), running(10, "b", late=True)]
    asking = source(allowed=allowed, untried=untried)

    assert late_may_start(asking, under_way) is may


FULL = source(running=2, allowed=2, has_room=False)
MUTE: dict[str, Any] = {"late": True, "began": False}


@pytest.mark.parametrize(
    ("demands", "under_way", "most", "key"),
    [
        # The last slot of an origin, held by what timed out before.
        ([FULL], [running(1, **MUTE), running(2, **MUTE)], 16, 1),
        ([FULL], [running(1, since=5, **MUTE), running(2, **MUTE)], 16, 2),
        (
            [FULL],
            [running(1, since=11, **MUTE), running(2, since=11, **MUTE)],
            16,
            None,
        ),
        # It is kept: something else runs, brings bytes, or was not tried before.
        ([FULL], [running(1, **MUTE), running(2)], 16, None),
        ([FULL], [running(1, **MUTE), running(2, began=False)], 16, None),
        ([FULL], [running(1, late=True), running(2, late=True)], 16, None),
        # What brings next to nothing is the same.
        ([FULL], [running(1, slow=True), running(2, slow=True)], 16, 1),
        ([FULL], [running(1), running(2, slow=True)], 16, None),
        # Nothing untried waits.
        (
            [source(running=2, has_room=False, untried=False)],
            [running(1, **MUTE), running(2, **MUTE)],
            16,
            None,
        ),
        # All slots are taken: a source over its share gives what is slow.
        (
            [source(running=3), source("b", running=1)],
            [running(1), running(2, slow=True), running(3), running(4, "b")],
            4,
            2,
        ),
        (
            [source(running=3), source("b", running=1)],
            [running(1), running(2), running(3), running(4, "b", slow=True)],
            4,
            None,
        ),
        (
            [source(running=2), source("b", running=2)],
            [running(1, slow=True), running(2), running(3, "b"), running(4, "b")],
            4,
            None,
        ),
        (
            [source(running=3), source("b", running=1)],
            [running(1), running(2, slow=True), running(3), running(4, "b")],
            5,
            None,
        ),
    ],
)
def test_what_must_end_for_others(demands, under_way, most, key):
    """Only an old fetch that brings too little, for work that has no slot."""
    assert to_end(demands, under_way, concurrency=most, before=10) == key
