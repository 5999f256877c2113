"""Which pages of a list a walk reads, and whether it has read all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mirror.errors import ListError
from mirror.model import Reason, State
from mirror.pipeline.discover import pages
from mirror.ports import Page
from tests.builders import NOW
from tests.scripted_list import (
    DAY,
    SECOND,
    WalkBench,
    bad,
    listed,
    met_and_past,
    page,
    state_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.model import Row


async def test_all_pages_are_read_by_number(bench):
    """Rows of every page end up in the ledger, whatever links there are."""
    bench.source.pages(
        *(page(listed(2 * n), listed(2 * n + 1), total=6) for n in range(3))
    )
    report = await bench.sweep()

    assert sorted(await bench.exports()) == [0, 1, 2, 3, 4, 5]
    assert (report.pages, report.rows, report.new) == (3, 6, 6)
    assert report.complete


@pytest.mark.parametrize(
    ("given", "asked"),
    [({"last_page": 2}, [1, 2]), ({"last_page": None, "total": None}, [1, 2, 3])],
)
async def test_where_the_list_ends(bench, given, asked):
    """At the last page if the server says it, else at a page without rows."""
    values: dict[str, Any] = {"total": 2, "clock_offset_us": 0, "bad_rows": []} | given
    rows = {1: [listed(1)], 2: [listed(2)]}
    bench.source.answer = lambda n: Page(
        rows=rows.get(n, []), size=len(rows.get(n, [])), **values
    )
    await bench.poll()

    assert [number for number, _, _ in bench.source.asked] == asked
    assert sorted(await bench.exports()) == [1, 2]


async def test_a_list_that_moves_and_leads_nowhere_is_left(bench):
    """Rows of one instant cannot be told apart by date: three tries more."""
    totals = iter(range(10, 1000))
    bench.source.answer = lambda n: page(
        listed(n), total=next(totals), last_page=2, size=1
    )
    report = await bench.sweep()

    assert [number for number, _, _ in bench.source.asked] == [1, 2] * 4
    assert not report.complete
    assert (await bench.record()).first_sweep_us is None
    assert sorted(await bench.exports()) == [1, 2]


class Busy:
    """A list, newest first, that changes before each page but the first.

    Args:
        change: Changes the rows.
        to: Returns the upper bound that the server makes of the one asked for.
    """

    def __init__(
        self,
        bench: WalkBench,
        change: Callable[[Busy], None],
        *,
        to: Callable[[int], int] = lambda until_us: until_us // SECOND * SECOND,
    ) -> None:
        self.rows = [dated(number) for number in range(2, 102)]
        self.change = change
        self._source = bench.source
        self._to = to
        bench.source.answer = self.page

    def page(self, number: int) -> Page:
        if len(self._source.asked) > 1:
            self.change(self)
        until_us = self._to(self._source.asked[-1][2])
        found = [row for row in self.rows if (row.created_us or 0) <= until_us]
        shown = found[(number - 1) * 10 : number * 10]
        last_page = max(1, -(-len(found) // 10))
        return page(*shown, total=len(found), last_page=last_page)


def dated(number: int) -> Row:
    """Return a row so many times seven seconds old."""
    return listed(number, created_us=NOW - 7_300_000 * (number + 1))


def grows(busy: Busy) -> None:
    """Put a row on top."""
    busy.rows.insert(0, dated(-len(busy.rows)))


def shrinks(busy: Busy) -> None:
    """Take the newest row away."""
    del busy.rows[0]


def thins(busy: Busy) -> None:
    """Take a row away from the middle."""
    del busy.rows[len(busy.rows) // 2]


def swings(busy: Busy) -> None:
    """Put rows on top and take as many away again, by turns."""
    if len(busy.rows) > 100:
        del busy.rows[:3]
    else:
        busy.rows[:0] = [dated(number) for number in (-3, -2, -1)]


@pytest.mark.parametrize("change", [grows, shrinks, thins, swings])
async def test_a_list_that_never_rests_is_read_whole(bench, change):
    """All that stayed is met, with at most each page twice."""
    busy = Busy(bench, change)
    report = await bench.sweep()

    stayed = {row.export_id for row in busy.rows if row.export_id > 1}
    assert stayed <= set(await bench.exports())
    assert report.complete
    assert (await bench.record()).first_sweep_us is not None
    assert report.pages <= 22


DAY_ONLY = {"day_only": lambda us: us // DAY * DAY, "ignored": lambda us: us + DAY}


@pytest.mark.parametrize("to", DAY_ONLY.values(), ids=DAY_ONLY)
async def test_where_the_bound_is_not_understood_nothing_is_concluded(bench, to):
    """What lies between the last row met and the first below it is not known."""
    Busy(bench, grows, to=to)
    report = await bench.sweep()

    assert not report.complete
    assert report.pages <= 60


async def test_a_moving_list_in_no_order_is_not_whole(bench):
    """The last row met is then not the oldest."""
    busy = Busy(bench, grows)
    busy.rows[30], busy.rows[31] = busy.rows[31], busy.rows[30]
    report = await bench.sweep()

    assert not report.complete


async def test_a_row_is_gone_from_a_list_that_never_rests(bench):
    """A VMS where much is exported has losses all the same."""
    await met_and_past(bench)
    bench.source.asked.clear()
    Busy(bench, grows)
    await bench.sweep()
    assert await state_of(bench) == (State.READY, None)
    await bench.sweep()
    assert await state_of(bench) == (State.LOST, Reason.ROW_GONE)


async def test_a_list_that_comes_to_rest_is_complete(bench):
    """Walked again once, it stood still."""
    totals = iter([1, 2, 2, 2])
    bench.source.answer = lambda n: page(listed(n), total=next(totals), last_page=2)
    report = await bench.sweep()

    assert [number for number, _, _ in bench.source.asked] == [1, 2, 1, 2]
    assert report.complete
    assert (await bench.record()).first_sweep_us is not None


async def test_a_row_that_slides_to_the_next_page_is_one_export(bench):
    """A row met twice in one walk is no second one."""
    bench.source.pages(
        page(listed(1), listed(2), total=4), page(listed(2), listed(3), total=4)
    )
    report = await bench.poll()

    assert sorted(await bench.exports()) == [1, 2, 3]
    assert report.new == 3


async def test_the_same_page_for_ever_ends(bench):
    """A server that ignores the page number is read no more than a few times."""
    bench.source.shows(listed(1), listed(2), total=1_000_000, last_page=1_000_000)
    report = await bench.sweep()

    assert len(bench.source.asked) <= 5
    assert not report.complete


@pytest.mark.parametrize("total", [10, None])
async def test_endless_pages_end(bench, monkeypatch, total):
    """New rows on each page of a list that is said to be short, or to have no end."""
    monkeypatch.setattr(pages, "MAX_PAGES", 40)
    bench.source.answer = lambda n: Page(
        rows=[listed(n)],
        bad_rows=[],
        size=1,
        total=total,
        last_page=10**9,
        clock_offset_us=0,
    )
    report = await bench.sweep()

    assert len(bench.source.asked) <= 40
    assert not report.complete
    assert (await bench.record()).first_sweep_us is None


async def test_a_page_that_fails_keeps_those_before_it(bench):
    """Rows of the pages read count; nothing else is concluded."""

    def answer(number: int) -> Page:
        if number == 2:
            raise ListError("http", "500")
        return page(listed(1), total=2)

    bench.source.answer = answer
    with pytest.raises(ListError):
        await bench.sweep()

    assert sorted(await bench.exports()) == [1]
    record = await bench.record()
    assert (record.first_sweep_us, record.last_success_us) == (None, None)
    assert record.previous == ()


async def test_a_page_of_bad_rows_alone_does_not_end_the_walk(bench):
    """Its size is that of what the server sent."""
    bench.source.pages(
        page(total=6, bad_rows=[bad(1), bad(2)]),
        page(total=6, bad_rows=[bad(3), bad(4)]),
        page(listed(1), listed(2), total=6),
    )
    report = await bench.sweep()

    assert sorted(await bench.exports()) == [1, 2]
    assert (report.bad_rows, report.complete) == (4, True)
    assert [number for number, _, _ in bench.source.asked] == [1, 2, 3]


async def test_pages_of_bad_rows_alone_without_a_total_end_too(bench, monkeypatch):
    """Bounded all the same."""
    monkeypatch.setattr(pages, "MAX_PAGES", 30)
    bench.source.answer = lambda n: Page(
        rows=[],
        bad_rows=[bad(n)],
        size=1,
        total=None,
        last_page=None,
        clock_offset_us=None,
    )
    report = await bench.sweep()

    assert len(bench.source.asked) == 30
    assert not report.complete
