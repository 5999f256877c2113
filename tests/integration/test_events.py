"""What is told first: sources take turns, losses go before saves, none is starved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirror.ledger import Ledger
from mirror.lifecycle.list_row import plan
from mirror.model import State
from tests import builders

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirror.ledger import Event


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path)
    opened.node_id(1)
    opened.events.listen(on=True)
    yield opened
    opened.close()


def happen(ledger: Ledger, source: str, *ids: int, state: State = State.SAVED) -> None:
    """Have exports of a source, known or new, come to a state one after the other."""
    walk = builders.walk(source=source)
    listed = [builders.row(export_id=number, created_key="k") for number in ids]
    with ledger._db.transaction() as connection:
        ledger.walks.meet(source, listed, lambda prior, row: plan(prior, row, walk))
        for number in ids:
            connection.execute(
                "UPDATE exports SET state = ? WHERE source = ? AND export_id = ?",
                (state, source, number),
            )


def told(events: list[Event]) -> list[str]:
    """Name events in short."""
    return [
        f"{one.export.source} {one.export.export_id} {one.event.partition('.')[2]}"
        if one.export
        else f"{one.name} {one.event}"
        for one in events
    ]


def take_all(ledger: Ledger, most: int) -> list[str]:
    """Take so many at a time until there are no more."""
    taken: list[str] = []
    while some := ledger.events.take(most):
        assert len(some) <= most
        taken += told(some)
    return taken


@pytest.mark.parametrize("most", [1, 4, 50])
def test_2000_saves_of_one_source_drown_no_other(ledger, most):
    """Of five events of a neighbour each is among the first ten."""
    happen(ledger, "flood", *range(2000))
    happen(ledger, "hq", *range(5))
    ledger.events.trim(1000)
    taken = take_all(ledger, most)

    assert [each for each in taken[:10] if each.startswith("hq")] == [
        f"hq {number} saved" for number in range(5)
    ]
    assert len(taken) == 1000
    floods = [int(each.split()[1]) for each in taken if each.startswith("flood")]
    assert floods == list(range(2000 - 995, 2000))


def test_more_sources_than_are_told_at_once_all_have_their_turn(ledger):
    """Who was told of waits until all others were."""
    for number, name in enumerate("abcdefghi"):
        happen(ledger, name, *range(3), 10 + number)
    taken = take_all(ledger, 2)

    for turn in range(4):
        of_turn = taken[9 * turn : 9 * turn + 9]
        assert sorted(each[0] for each in of_turn) == list("abcdefghi")


def test_a_loss_goes_before_the_saves_of_its_source(ledger):
    """Each kind in the order it happened."""
    happen(ledger, "hq", 1, 2, 3)
    happen(ledger, "hq", 4, state=State.LOST)
    happen(ledger, "hq", 5)
    happen(ledger, "hq", 6, 2, state=State.DAMAGED)

    assert [each.split(" ", 1)[1].split()[0] for each in take_all(ledger, 2)] == [
        *("4", "6", "2"),
        *("1", "2", "3", "5"),
    ]


def test_a_loss_goes_before_what_is_kept_and_doubtful(ledger):
    happen(ledger, "hq", 1, state=State.DOUBTFUL)
    happen(ledger, "hq", 2)
    happen(ledger, "hq", 3, state=State.LOST)

    assert take_all(ledger, 2) == ["hq 3 lost", "hq 1 doubtful", "hq 2 saved"]


def test_losses_of_one_source_do_not_starve_the_saves_of_another(ledger):
    happen(ledger, "flood", *range(300), state=State.DAMAGED)
    happen(ledger, "hq", 1, 2)

    assert {"hq 1 saved", "hq 2 saved"} <= set(take_all(ledger, 4)[:6])


def test_the_last_to_be_dropped_are_losses(ledger):
    """And nothing of a source of which little waits."""
    happen(ledger, "flood", *range(10), state=State.LOST)
    happen(ledger, "flood", *range(10, 500))
    happen(ledger, "hq", 1, 2, 3)
    ledger.walks.source("hq")
    ledger.walks.walk_failed("hq", "away", builders.NOW)
    dropped = ledger.events.trim(20)
    taken = take_all(ledger, 5)

    assert dropped == 504 - 20
    assert sum(each.endswith("lost") and "flood" in each for each in taken) == 10
    assert sum(each.startswith("hq") for each in taken) == 4


def test_a_source_that_comes_and_goes_is_told_in_that_order(ledger):
    """A target of the same name is another."""
    ledger.walks.source("hq")
    ledger.targets.checked("hq", marker_id="m", free_bytes=1, problem=None, now_us=1)
    for number in range(6):
        now = builders.NOW + number
        if number % 2:
            ledger.walks.walked(
                "hq",
                sweep=False,
                complete=True,
                began_us=now,
                since_us=0,
                offset_us=0,
                now_us=now,
            )
        else:
            ledger.walks.walk_failed("hq", "away", now)
        ledger.targets.checked(
            "hq",
            marker_id="m",
            free_bytes=1,
            problem=None if number % 2 else "away",
            now_us=now,
        )
    taken = take_all(ledger, 4)

    for kind in ("source", "target"):
        own = [each for each in taken if kind in each]
        assert own == [f"hq {kind}.lost", f"hq {kind}.recovered"] * 3
