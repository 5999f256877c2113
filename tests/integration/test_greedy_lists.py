"""A list that is far too long, or says nothing, costs its own source alone."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from mirror.ledger import AT_ONCE, in_slices, walks
from mirror.model import State
from mirror.pipeline.discover import pages, walker
from mirror.ports import BadRow, Page, Rows
from tests.builders import HOUR, MINUTE, NOW
from tests.scripted_list import WalkBench, listed, page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mirror.ledger import Ledger, Slice


def nothing_said(*raw: str, digest: bytes = b"") -> Page:
    """Return a page without numbers of which no row can be used."""
    return Page(
        rows=[],
        bad_rows=[BadRow(raw=text, error="no id") for text in raw],
        size=len(raw),
        total=None,
        last_page=None,
        clock_offset_us=None,
        digest=digest,
    )


async def longest(bench: WalkBench) -> int:
    """Walk; return the most rows that one transaction changed."""
    connection = await bench.ledger(lambda ledger: ledger._db.connection)
    changes: list[int] = [connection.total_changes]
    connection.set_trace_callback(
        lambda said: (
            changes.append(connection.total_changes) if said == "COMMIT" else None
        )
    )
    await bench.sweep()
    connection.set_trace_callback(None)
    return max(after - before for before, after in itertools.pairwise(changes))


async def test_others_get_their_turn_while_a_long_page_is_taken(bench):
    """No transaction holds more than 500 rows; what was asked meanwhile comes first."""
    bench.source.shows(*(listed(number) for number in range(20 * AT_ONCE)))
    seen: list[int] = []

    async def neighbour() -> None:
        while not seen or seen[-1] < 20 * AT_ONCE:
            counts = await bench.ledger(lambda ledger: ledger.queries.counts())
            seen.append(sum(counts.values()))

    async with asyncio.timeout(60):
        await asyncio.gather(bench.poll(), neighbour())

    steps = [after - before for before, after in itertools.pairwise([0, *seen])]
    assert max(steps) <= AT_ONCE
    assert len({*seen}) >= 20


async def test_a_page_that_comes_in_pieces_is_met_whole(bench):
    """Its later rows count as its first ones do."""

    async def later() -> AsyncIterator[Rows]:
        for first in range(3, 2000, 700):
            rows = [listed(number) for number in range(first, first + 700)]
            refused = [BadRow(raw=str(first), error="no id")]
            yield Rows(rows=rows, bad_rows=refused)

    bench.source.answer = lambda _: page(
        listed(1), listed(2), total=2105, size=2105, later=later()
    )
    report = await bench.sweep()

    assert (report.new, report.rows, report.bad_rows) == (2102, 2105, 3)
    assert report.complete


async def test_refused_rows_met_again_end_the_walk(bench):
    """Nothing else tells that the list goes round."""
    bench.source.answer = lambda _: nothing_said("a", "b", digest=b"same")
    with capture_logs() as logs:
        report = await bench.poll()

    assert len(bench.source.asked) == 2
    assert not report.complete
    assert [one["event"] for one in logs].count("list.endless") == 1


@pytest.mark.parametrize("sweep", [False, True])
async def test_pages_that_come_round_end_the_walk(bench, sweep):
    """By their rows, or the exports in them where each answer is written anew."""
    numbers = itertools.count()
    for digest in (lambda n: b"%d" % (n % 3), lambda _: b"%d" % next(numbers)):
        bench.source.asked.clear()
        bench.source.answer = lambda n, digest=digest: page(
            listed(n % 3), total=None, digest=digest(n), last_page=None
        )
        bench.source.answer = _without_total(bench.source.answer)
        await bench.walker.walk(sweep=sweep)

        assert len(bench.source.asked) == 4


def _without_total(answer):
    def answered(number: int) -> Page:
        shown = answer(number)
        return Page(
            rows=shown.rows,
            bad_rows=[],
            size=1,
            total=None,
            last_page=None,
            clock_offset_us=0,
            digest=shown.digest,
        )

    return answered


async def test_pages_without_one_row_that_can_be_used_end_the_walk(bench):
    """Each of them new: a hundred are enough."""
    bench.source.answer = lambda n: nothing_said(f"row {n}", digest=b"%d" % n)
    report = await bench.poll()

    assert len(bench.source.asked) == pages.MAX_UNUSABLE
    assert not report.complete


@pytest.mark.parametrize("sweep", [False, True])
async def test_requests_for_the_list_are_paced(bench, monkeypatch, sweep):
    """Between two pages of a poll as of a sweep."""
    paces: list[float] = []
    sleep = asyncio.sleep

    async def slept(seconds: float) -> None:
        paces.append(seconds)
        await sleep(0)

    monkeypatch.setattr(walker, "PACE_S", 0.05)
    monkeypatch.setattr(asyncio, "sleep", slept)
    bench.source.pages(*(page(listed(n), total=3) for n in range(3)))
    await bench.walker.walk(sweep=sweep)

    assert paces == [0.05, 0.05]


async def test_a_walk_has_no_more_rows_than_any_list(bench, monkeypatch):
    """However large its pages are."""
    monkeypatch.setattr(pages, "MAX_ROWS", 1000)
    bench.source.answer = lambda n: Page(
        rows=[listed(number) for number in range(400 * n, 400 * n + 400)],
        bad_rows=[],
        size=400,
        total=None,
        last_page=10**9,
        clock_offset_us=0,
    )
    report = await bench.sweep()

    assert len(bench.source.asked) == 3
    assert not report.complete


async def test_20_000_refused_rows_cost_few_transactions(bench):
    """And no more of their texts are kept than of any."""
    bench.source.answer = lambda _: nothing_said(
        *map(str, range(20_000)), digest=b"same"
    )
    with capture_logs() as logs:
        report = await bench.poll()
    number = await bench.ledger(
        lambda ledger: ledger._db.connection.execute(
            "SELECT number FROM commits"
        ).fetchone()[0]
    )

    assert report.bad_rows == 20_000 * len(bench.source.asked)
    assert number < 20
    refused = [one for one in logs if one["event"] == "row.refused"]
    assert len(refused) == walks.BAD_ROWS_KEPT


# -- undecided rows are bounded ----------------------------------------------------


async def test_rows_without_a_file_are_left_out_when_there_are_too_many(
    bench, monkeypatch
):
    """Told, until it is over; what shows a file is always taken in."""
    monkeypatch.setattr(walks, "UNDECIDED_KEPT", 10)
    rows = [listed(number, has_file=False) for number in range(15)]
    files = [listed(number) for number in range(100, 130)]
    bench.source.shows(*rows, *files)
    with capture_logs() as logs:
        await bench.poll()
        await bench.poll()
        report = await bench.poll()
    known = await bench.exports()
    (status,) = await bench.ledger(lambda ledger: ledger.queries.sources())

    assert sorted(known) == [*range(10), *range(100, 130)]
    assert (report.left_out, status.left_out) == (5, 5)
    told = [one for one in logs if one["event"] == "rows.left_out"]
    assert [(one["source"], one["rows"]) for one in told] == [("hq", 5)]

    bench.source.shows(*(listed(number) for number in range(15)), *files)
    await bench.poll()
    (status,) = await bench.ledger(lambda ledger: ledger.queries.sources())
    assert {(await bench.exports())[number].state for number in range(15)} == {
        State.READY
    }
    assert status.left_out == 0


async def test_rows_that_ended_without_a_file_are_bounded_too(bench, monkeypatch):
    """A list of ever new ids, each too old to have a file."""
    monkeypatch.setattr(walks, "FILELESS_KEPT", 7)
    old = NOW - 100 * HOUR
    for turn in range(3):
        bench.source.shows(
            *(
                listed(number, has_file=False, created_us=old)
                for number in range(10 * turn, 10 * turn + 10)
            ),
            listed(1000 + turn),
        )
        await bench.poll()
    states = [one.state for one in (await bench.exports()).values()]

    assert states.count(State.UNAVAILABLE) == 7
    assert states.count(State.READY) == 3


async def test_one_source_does_not_use_up_the_room_of_another(bench, monkeypatch):
    monkeypatch.setattr(walks, "UNDECIDED_KEPT", 5)
    bench.source.shows(*(listed(number, has_file=False) for number in range(20)))
    await bench.poll()
    bench.source.name = "depot"
    bench.source.shows(*(listed(number, has_file=False) for number in range(4)))
    report = await bench.walker_with().walk(sweep=False)

    assert (report.new, report.left_out) == (4, 0)


# -- what a walk concludes ---------------------------------------------------------


@pytest.fixture
async def many(bench: WalkBench, monkeypatch: pytest.MonkeyPatch) -> WalkBench:
    """Return a bench of more exports than are changed at once, of any kind."""
    monkeypatch.setattr("mirror.ledger.rows.AT_ONCE", 7)
    monkeypatch.setattr(walker, "AT_ONCE", 7)
    return bench


async def test_what_is_absent_is_noticed_some_at_a_time(many):
    many.source.shows(*(listed(number) for number in range(100)))
    await many.sweep()
    many.source.shows(listed(50))
    many.now_us += 4 * HOUR
    await many.sweep()
    changed = await longest(many)
    exports = await many.exports()

    lost = [number for number, one in exports.items() if one.state is State.LOST]
    assert sorted(lost) == [number for number in range(100) if number != 50]
    assert changed < 100


async def test_what_never_had_a_file_ends_some_at_a_time(many):
    many.source.shows(*(listed(number, has_file=False) for number in range(100)))
    await many.poll()
    many.source.shows()
    many.now_us += 30 * HOUR
    changed = await longest(many)
    states = [one.state for one in (await many.exports()).values()]

    assert states == [State.UNAVAILABLE] * 100
    assert changed < 100


async def test_all_deadlines_follow_a_clock_put_back(many):
    """Each once, though the walk that noticed it was cut off in between."""
    many.source.shows(*(listed(number) for number in range(100)))
    await many.poll()
    before = {n: one.order_us for n, one in (await many.exports()).items()}
    many.now_us -= 2 * HOUR
    await many.ledger(lambda ledger: ledger.walks.correct_clock("hq", many.now_us))
    await many.ledger(lambda ledger: ledger.walks.follow_clock("hq"))
    many.source.shows()
    await many.poll()
    await many.poll()
    after = {n: one.order_us for n, one in (await many.exports()).items()}

    shifts = {before[number] - after[number] for number in before}
    assert shifts == {2 * HOUR}


async def test_a_clock_put_back_twice_is_followed_twice(many):
    many.source.shows(*(listed(number) for number in range(100)))
    await many.poll()
    before = {n: one.order_us for n, one in (await many.exports()).items()}
    many.now_us -= 2 * HOUR
    await many.ledger(lambda ledger: ledger.walks.correct_clock("hq", many.now_us))
    many.now_us -= MINUTE
    await many.ledger(lambda ledger: ledger.walks.walk_failed("hq", "x", many.now_us))
    many.source.shows()
    await many.poll()
    after = {n: one.order_us for n, one in (await many.exports()).items()}

    shifts = {before[number] - after[number] for number in before}
    assert shifts == {2 * HOUR + MINUTE}


# -- what a start does -------------------------------------------------------------


async def test_a_new_target_is_filled_some_at_a_time(many, monkeypatch):
    """And what it holds already is saved; no visit changes more than a slice."""
    monkeypatch.setattr("mirror.ledger.copies._WINDOW", 7)
    many.source.shows(*(listed(number) for number in range(50)))
    await many.poll()
    ledger = await many.ledger(lambda ledger: ledger)
    connection = ledger._db.connection
    with ledger._db.transaction():
        connection.execute("UPDATE exports SET state = 'spooled' WHERE key <= 40")
    done: list[int] = []

    def fill(opened: Ledger, after: int) -> Slice:
        filled = opened.copies.fill("nas", after)
        done.append(filled.done)
        return filled

    await in_slices(many.ledger, fill)
    with ledger._db.transaction():
        connection.execute("UPDATE copies SET state = 'saved' WHERE export % 2 = 0")
    await in_slices(
        many.ledger,
        lambda opened, after: opened.copies.settle_spooled((), NOW, after),
    )
    states = [one.state for one in (await many.exports()).values()]

    assert (sum(done), max(done)) == (40, 7)
    assert states.count(State.SAVED) == 20
    assert states.count(State.SPOOLED) == 20
