"""What the ledger knows of turns: who is claimed, and what lies in the spool."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from mirror.ledger import Ledger
from mirror.lifecycle.list_row import plan
from mirror.model import Attempt, Export, State
from tests import builders
from tests.builders import HOUR, MINUTE, NOW

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TIMES = {"now_us": NOW, "horizon_us": HOUR}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path)
    yield opened
    opened.close()


def add(ledger: Ledger, number: int, source: str = "hq", **given: Any) -> int:
    """List an export, the lower numbers with the nearer deadlines; return its key."""
    ledger.walks.source(source)
    listed = builders.row(
        export_id=number,
        created_key=str(number),
        created_us=NOW - HOUR + number * MINUTE,
    )
    around = builders.walk(source=source)
    ledger.walks.meet(source, [listed], lambda prior, row: plan(prior, row, around))
    (export,) = ledger.queries.find(number)
    key = export.stored_key
    change(ledger, key, **given)
    return key


def change(ledger: Ledger, key: int, **given: Any) -> Export:
    end = Attempt(
        number=0,
        times=1,
        started_us=NOW,
        ended_us=NOW + 2_000_000,
        outcome="cut",
        offset_bytes=given.pop("offset", 0),
        held_bytes=given.get("part_bytes", 0),
        error=None,
    )
    settled = ledger.fetches.settle(
        key, lambda one: dataclasses.replace(one, **given), end
    )
    return settled.after


@pytest.mark.parametrize(
    ("late", "but", "order"),
    [
        (None, (), [1, 2, 3]),
        ({"hq"}, (), [1, 2, 3]),
        (set(), (), [2, 3]),
        ({"depot"}, (), [2, 3]),
        (None, (1, 2), [3]),
    ],
)
def test_who_is_claimed(ledger, late, but, order):
    """The nearest deadline; without its turn not what took too long."""
    for number, timeouts in ((1, 2), (2, 0), (3, 0)):
        add(ledger, number, timeouts=timeouts)
    claimed = []
    while export := ledger.fetches.claim(["hq"], **TIMES, late=late, but=but):
        claimed.append(export.export_id)

    assert claimed == order


def test_whether_a_source_has_what_was_not_tried(ledger):
    add(ledger, 1, timeouts=1)
    assert ledger.fetches.sources_with_work(**TIMES) == {"hq": False}

    add(ledger, 2)
    add(ledger, 3, "depot", timeouts=1)
    assert ledger.fetches.sources_with_work(**TIMES) == {"hq": True, "depot": False}


def test_what_gave_way_is_what_took_too_long(ledger):
    key = add(ledger, 1)
    ledger.fetches.gave_way(key)

    assert ledger.queries.find(1)[0].timeouts == 1


def test_what_lies_in_a_folder_of_the_spool(ledger):
    """Whole files count for their source and never give way."""
    part: dict[str, Any] = {"spool_dir": "/s", "part_bytes": 10}
    add(ledger, 1, **part)
    add(ledger, 2, **part, state=State.PARKED)
    add(ledger, 3, **part, state=State.SPOOLED)
    add(ledger, 4, "depot", **part, state=State.FETCHING)
    add(ledger, 5, "harbour", **part, state=State.WAITING)
    add(ledger, 6, **part | {"spool_dir": "/other"})
    use = ledger.fetches.spool_use("/s")

    assert use.kept_bytes == {"hq": 30, "harbour": 10}
    assert [one.export_id for one in use.idle] == [5, 2, 1]
    assert [one.export_id for one in use.fetching] == [4]
    assert use.busy == {"hq", "depot"}


@pytest.mark.parametrize(
    ("state", "dropped"),
    [
        (State.READY, True),
        (State.PARKED, True),
        (State.WAITING, True),
        (State.FETCHING, False),
        (State.SPOOLED, False),
        (State.SAVED, False),
    ],
)
def test_a_part_gives_way_unless_it_is_worked_on_or_whole(ledger, state, dropped):
    key = add(ledger, 1, state=state, spool_dir="/s", part_bytes=10, part_sha256="d")
    prior = ledger.fetches.drop_part(key)
    (after,) = ledger.queries.find(1)

    assert (prior is not None) is dropped
    assert (after.spool_dir is None, after.part_bytes == 0) == (dropped, dropped)
    assert after.state is state


def test_how_fast_bytes_came(ledger):
    """At the last attempt that brought any."""
    key = add(ledger, 1)
    assert ledger.fetches.rate(key) == 0.0

    change(ledger, key, part_bytes=4000)
    change(ledger, key, part_bytes=4000, offset=4000)
    assert ledger.fetches.rate(key) == 2000.0


def test_the_largest_file_seen(ledger):
    """Be it here or only announced."""
    assert ledger.queries.largest() == 0
    add(ledger, 1, size_bytes=5)
    add(ledger, 2, part_total=7)

    assert ledger.queries.largest() == 7
