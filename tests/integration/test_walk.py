"""A walk over a scripted list: what is met, what is concluded, and what is not."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from mirror.errors import ListError
from mirror.ledger import Filter, Ledger, LedgerThread
from mirror.model import Reason, State, from_us
from mirror.pipeline.discover import walker as walking
from mirror.pipeline.discover.walker import Walker, WalkRules
from mirror.ports import BadRow, Page
from tests import builders
from tests.builders import HOUR, MINUTE, NOW

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime
    from pathlib import Path

    from mirror.model import Export, Row
    from mirror.pipeline.discover.walker import WalkReport

DAY = 24 * HOUR
SECOND = 1_000_000
HISTORY = NOW - 300 * DAY


def listed(number: int, **given: Any) -> Row:
    """Return the row of one export."""
    return builders.row(export_id=number, created_key=f"k{number}", **given)


def page(*rows: Row, total: int | None = None, **given: Any) -> Page:
    """Return a page; its total is that of its rows if not given."""
    bad = given.pop("bad_rows", [])
    values: dict[str, Any] = {
        "size": len(rows) + len(bad),
        "total": len(rows) + len(bad) if total is None else total,
        "last_page": None,
        "clock_offset_us": 0,
    }
    return Page(rows=list(rows), bad_rows=bad, **(values | given))


def bad(number: int) -> BadRow:
    """Return a row that cannot be used."""
    return BadRow(raw=f'{{"n": {number}}}', error="no id")


class Scripted:
    """A source whose list is a function of the page number.

    Attributes:
        asked: Each request as (number, since, until).
    """

    name = "hq"
    origin = "https://vms.example"
    oldest_us = None
    lifetime_us = 3 * HOUR
    second_look = True

    def __init__(self, answer: Callable[[int], Page]) -> None:
        self.answer = answer
        self.asked: list[tuple[int, int, int]] = []

    async def page(self, number: int, *, since_us: int, until_us: int) -> Page:
        self.asked.append((number, since_us, until_us))
        return self.answer(number)

    def open_file(self, *_: object, **__: object) -> Any:
        raise NotImplementedError

    async def look(self, *_: object) -> Any:
        raise NotImplementedError

    def shows(self, *rows: Row, **given: Any) -> None:
        """Answer each request with this one page."""
        self.answer = lambda _: page(*rows, **given)

    def pages(self, *each: Page) -> None:
        """Answer with these pages, then with empty ones of the last total."""
        after = page(total=each[-1].total)
        self.answer = lambda number: each[number - 1] if number <= len(each) else after


class World:
    """A walker with its clock, its list and its ledger."""

    def __init__(self, folder: Path) -> None:
        self.now_us = NOW
        self.source = Scripted(lambda _: page())
        self.ledger = LedgerThread(Ledger.open(folder))
        self.walker = self.walker_with()

    def walker_with(self, **given: Any) -> Walker:
        """Return a walker with these rules."""
        values: dict[str, Any] = {
            "lookback": timedelta(hours=6),
            "sweep_depth": timedelta(days=30),
            "history_start_us": HISTORY,
            "file_lifetime": timedelta(hours=3),
            "waiting_limit": timedelta(hours=24),
            "try_folders": True,
            "retry_max": timedelta(minutes=10),
            "rule_for": lambda _, __: None,
        }
        rules = WalkRules(**(values | given))
        return Walker(self.source, ledger=self.ledger, rules=rules, now=self._now)

    def _now(self) -> datetime:
        return from_us(self.now_us)

    async def poll(self) -> WalkReport:
        """Walk the recent window."""
        return await self.walker.walk(sweep=False)

    async def sweep(self) -> WalkReport:
        """Walk the history."""
        return await self.walker.walk(sweep=True)

    async def exports(self) -> dict[int, Export]:
        """Return what the ledger has, by id."""
        found = await self.ledger(lambda ledger: list(ledger.queries.exports(Filter())))
        return {export.export_id: export for export, _ in found}

    async def record(self):
        """Return what the ledger remembers of the source."""
        return await self.ledger(lambda ledger: ledger.walks.source("hq"))


@pytest.fixture
async def world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    monkeypatch.setattr(walking, "_PACE_S", 0.0)
    made = World(tmp_path)
    yield made
    await made.ledger.close()


async def test_all_pages_are_read_by_number(world):
    """Rows of every page end up in the ledger, whatever links there are."""
    world.source.pages(
        *(page(listed(2 * n), listed(2 * n + 1), total=6) for n in range(3))
    )
    report = await world.sweep()

    assert sorted(await world.exports()) == [0, 1, 2, 3, 4, 5]
    assert (report.pages, report.rows, report.new) == (3, 6, 6)
    assert report.complete


@pytest.mark.parametrize(
    ("given", "asked"),
    [({"last_page": 2}, [1, 2]), ({"last_page": None, "total": None}, [1, 2, 3])],
)
async def test_where_the_list_ends(world, given, asked):
    """At the last page if the server says it, else at a page without rows."""
    values: dict[str, Any] = {"total": 2, "clock_offset_us": 0, "bad_rows": []} | given
    rows = {1: [listed(1)], 2: [listed(2)]}
    world.source.answer = lambda n: Page(
        rows=rows.get(n, []), size=len(rows.get(n, [])), **values
    )
    await world.poll()

    assert [number for number, _, _ in world.source.asked] == asked
    assert sorted(await world.exports()) == [1, 2]


async def test_a_list_that_moves_and_leads_nowhere_is_left(world):
    """Rows of one instant cannot be told apart by date: three tries more."""
    totals = iter(range(10, 1000))
    world.source.answer = lambda n: page(
        listed(n), total=next(totals), last_page=2, size=1
    )
    report = await world.sweep()

    assert [number for number, _, _ in world.source.asked] == [1, 2] * 4
    assert not report.complete
    assert (await world.record()).first_sweep_us is None
    assert sorted(await world.exports()) == [1, 2]


class Busy:
    """A list, newest first, that changes before each page but the first.

    Args:
        change: Changes the rows.
        to: Returns the upper bound that the server makes of the one asked for.
    """

    def __init__(
        self,
        world: World,
        change: Callable[[Busy], None],
        *,
        to: Callable[[int], int] = lambda until_us: until_us // SECOND * SECOND,
    ) -> None:
        self.rows = [dated(number) for number in range(2, 102)]
        self.change = change
        self._source = world.source
        self._to = to
        world.source.answer = self.page

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
async def test_a_list_that_never_rests_is_read_whole(world, change):
    """All that stayed is met, with at most each page twice."""
    busy = Busy(world, change)
    report = await world.sweep()

    stayed = {row.export_id for row in busy.rows if row.export_id > 1}
    assert stayed <= set(await world.exports())
    assert report.complete
    assert (await world.record()).first_sweep_us is not None
    assert report.pages <= 22


DAY_ONLY = {"day_only": lambda us: us // DAY * DAY, "ignored": lambda us: us + DAY}


@pytest.mark.parametrize("to", DAY_ONLY.values(), ids=DAY_ONLY)
async def test_where_the_bound_is_not_understood_nothing_is_concluded(world, to):
    """What lies between the last row met and the first below it is not known."""
    Busy(world, grows, to=to)
    report = await world.sweep()

    assert not report.complete
    assert report.pages <= 60


async def test_a_moving_list_in_no_order_is_not_whole(world):
    """The last row met is then not the oldest."""
    busy = Busy(world, grows)
    busy.rows[30], busy.rows[31] = busy.rows[31], busy.rows[30]
    report = await world.sweep()

    assert not report.complete


async def test_a_row_is_gone_from_a_list_that_never_rests(world):
    """A VMS where much is exported has losses all the same."""
    await met_and_past(world)
    world.source.asked.clear()
    Busy(world, grows)
    await world.sweep()
    assert await state_of(world) == (State.READY, None)
    await world.sweep()
    assert await state_of(world) == (State.LOST, Reason.ROW_GONE)


async def test_a_list_that_comes_to_rest_is_complete(world):
    """Walked again once, it stood still."""
    totals = iter([1, 2, 2, 2])
    world.source.answer = lambda n: page(listed(n), total=next(totals), last_page=2)
    report = await world.sweep()

    assert [number for number, _, _ in world.source.asked] == [1, 2, 1, 2]
    assert report.complete
    assert (await world.record()).first_sweep_us is not None


async def test_a_row_that_slides_to_the_next_page_is_one_export(world):
    """A row met twice in one walk is no second one."""
    world.source.pages(
        page(listed(1), listed(2), total=4), page(listed(2), listed(3), total=4)
    )
    report = await world.poll()

    assert sorted(await world.exports()) == [1, 2, 3]
    assert report.new == 3


async def test_the_same_page_for_ever_ends(world):
    """A server that ignores the page number is read no more than a few times."""
    world.source.shows(listed(1), listed(2), total=1_000_000, last_page=1_000_000)
    report = await world.sweep()

    assert len(world.source.asked) <= 5
    assert not report.complete


@pytest.mark.parametrize("total", [10, None])
async def test_endless_pages_end(world, monkeypatch, total):
    """New rows on each page of a list that is said to be short, or to have no end."""
    monkeypatch.setattr(walking, "MAX_PAGES", 40)
    world.source.answer = lambda n: Page(
        rows=[listed(n)],
        bad_rows=[],
        size=1,
        total=total,
        last_page=10**9,
        clock_offset_us=0,
    )
    report = await world.sweep()

    assert len(world.source.asked) <= 40
    assert not report.complete
    assert (await world.record()).first_sweep_us is None


async def test_rows_outside_the_window_are_taken(world):
    """A server that ignores the window gives us more, and we take it."""
    world.source.shows(
        listed(1, created_us=NOW - 900 * DAY), listed(2, created_us=NOW + 9 * DAY)
    )
    await world.poll()

    assert [e.state for e in (await world.exports()).values()] == [State.READY] * 2


async def test_a_page_that_fails_keeps_those_before_it(world):
    """Rows of the pages read count; nothing else is concluded."""

    def answer(number: int) -> Page:
        if number == 2:
            raise ListError("http", "500")
        return page(listed(1), total=2)

    world.source.answer = answer
    with pytest.raises(ListError):
        await world.sweep()

    assert sorted(await world.exports()) == [1]
    record = await world.record()
    assert (record.first_sweep_us, record.last_success_us) == (None, None)
    assert record.previous == ()


# --- windows ------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 2 * HOUR, -2 * HOUR])
async def test_the_window_of_a_poll_is_by_the_clock_of_the_vms(world, offset):
    """Lookback back from the VMS's now, and a day ahead of it."""
    world.source.shows(clock_offset_us=offset)
    await world.poll()
    await world.poll()

    _, since_us, until_us = world.source.asked[-1]
    assert since_us == NOW + offset - 6 * HOUR
    assert until_us == NOW + offset + DAY


async def test_the_first_sweep_goes_back_to_the_start_of_history(world):
    """Until one is complete; afterwards sweep_depth back."""
    totals = iter(range(8))
    world.source.answer = lambda n: page(listed(n), total=next(totals), last_page=2)
    await world.sweep()
    world.source.shows(listed(1))
    await world.sweep()
    await world.sweep()

    sinces = [since for _, since, _ in world.source.asked]
    assert sinces == [HISTORY] * 9 + [NOW - 30 * DAY]


async def test_a_sweep_never_goes_beyond_the_start_of_history(world):
    """history_start bounds sweep_depth."""
    world.walker = world.walker_with(history_start_us=NOW - DAY)
    await world.sweep()
    await world.sweep()

    assert [since for _, since, _ in world.source.asked] == [NOW - DAY] * 2


async def test_a_poll_does_not_end_the_first_sweep(world):
    """Only a whole sweep makes losses ours."""
    world.source.shows(listed(1))
    await world.poll()
    assert (await world.record()).first_sweep_us is None

    await world.sweep()
    world.source.shows(listed(1), listed(2))
    await world.poll()
    ours = {
        number: export.counts_as_ours
        for number, export in (await world.exports()).items()
    }
    assert ours == {1: False, 2: True}


@pytest.mark.parametrize("offset", [0, 5 * HOUR, -5 * HOUR])
async def test_the_age_for_rules_is_by_the_clock_of_the_vms(world, offset):
    """A VMS clock that is off makes no row older or younger than it is."""
    seen = []

    def rule_for(_: Row, at_us: int) -> str | None:
        seen.append(at_us)
        return None

    world.walker = world.walker_with(rule_for=rule_for)
    world.source.shows(listed(1), clock_offset_us=offset)
    await world.poll()

    assert seen == [NOW + offset]


async def test_a_rule_excludes_and_lets_go_again(world):
    """Checked at each walk."""
    world.source.shows(listed(1))
    world.walker = world.walker_with(rule_for=lambda _, __: "lobby")
    await world.poll()
    assert (await world.exports())[1].state is State.EXCLUDED

    world.walker = world.walker_with()
    await world.poll()
    assert (await world.exports())[1].state is State.READY


# --- deadlines ----------------------------------------------------------------


async def test_a_file_was_born_after_the_last_walk_that_saw_none(world):
    """The deadline counts from that walk's begin, not from created_at."""
    world.source.shows(listed(1, has_file=False, created_us=NOW - 2 * HOUR))
    await world.poll()
    world.now_us = NOW + MINUTE
    await world.poll()
    world.now_us = NOW + 2 * MINUTE
    world.source.shows(listed(1, created_us=NOW - 2 * HOUR))
    await world.poll()

    assert (await world.exports())[1].deadline_us == NOW + MINUTE + 3 * HOUR


async def test_a_poll_that_did_not_reach_back_to_a_row_does_not_date_it(world):
    """The last walk whose window held the row counts, here the sweep."""
    old = NOW - DAY
    world.source.shows(listed(1, has_file=False, created_us=old))
    await world.sweep()
    world.now_us = NOW + MINUTE
    world.source.shows()
    await world.poll()
    world.now_us = NOW + 2 * MINUTE
    world.source.shows(listed(1, created_us=old))
    await world.sweep()

    assert (await world.exports())[1].deadline_us == NOW + 3 * HOUR


async def test_the_offset_of_the_first_page_dates_its_rows(world):
    """A VMS two hours ahead does not lengthen the deadline."""
    world.source.shows(
        listed(1, created_us=NOW + 2 * HOUR - MINUTE), clock_offset_us=2 * HOUR
    )
    await world.poll()

    assert (await world.exports())[1].deadline_us == NOW - MINUTE + 3 * HOUR
    assert (await world.record()).clock_offset_us == 2 * HOUR


async def test_an_answer_without_a_date_keeps_the_offset(world):
    """What was known of the clock stands."""
    world.source.shows(clock_offset_us=HOUR)
    await world.poll()
    world.source.shows(clock_offset_us=None)
    await world.poll()

    assert (await world.record()).clock_offset_us == HOUR


# --- absence ------------------------------------------------------------------


async def met_and_past(world: World, **given: Any) -> None:
    """Let an export be met, and its deadline pass."""
    world.source.shows(listed(1, **given))
    await world.sweep()
    world.now_us = NOW + 4 * HOUR
    world.source.shows()


async def state_of(world: World) -> tuple[State, str | None]:
    """Return the state and reason of that export."""
    export = (await world.exports())[1]
    return export.state, export.reason


async def test_a_row_is_gone_after_two_complete_sweeps(world):
    """One proves nothing yet, the second does."""
    await met_and_past(world)
    await world.sweep()
    assert await state_of(world) == (State.READY, None)
    await world.sweep()
    assert await state_of(world) == (State.LOST, Reason.ROW_GONE)


async def test_a_row_is_not_gone_before_its_deadline(world):
    """However many sweeps do not show it, the file may still be there."""
    await met_and_past(world)
    world.now_us = NOW + HOUR
    for _ in range(4):
        await world.sweep()
    assert await state_of(world) == (State.READY, None)

    world.now_us = NOW + 4 * HOUR
    await world.sweep()
    assert await state_of(world) == (State.LOST, Reason.ROW_GONE)


async def test_a_row_that_shows_up_between_two_sweeps_is_not_gone(world):
    """Only sweeps in a row count."""
    await met_and_past(world)
    await world.sweep()
    world.source.shows(listed(1))
    await world.poll()
    world.source.shows()
    await world.sweep()

    assert await state_of(world) == (State.READY, None)


async def test_a_row_that_is_shown_is_never_absent(world):
    """However long past its deadline."""
    await met_and_past(world)
    world.source.shows(listed(1))
    for _ in range(4):
        await world.sweep()

    assert await state_of(world) == (State.READY, None)
    assert (await world.exports())[1].absent_sweeps == 0


async def test_polls_prove_no_absence(world):
    """Their window is not the history."""
    await met_and_past(world)
    for _ in range(5):
        await world.poll()

    assert await state_of(world) == (State.READY, None)


def moving(world: World) -> None:
    """Let the total change between pages, always."""
    totals = iter(range(5, 10_000))
    world.source.answer = lambda n: page(
        listed(90 + n), total=next(totals), last_page=2
    )


def endless(world: World) -> None:
    """Let the list never end."""
    world.source.shows(listed(90), total=10**6, last_page=10**6)


def empty_too_soon(world: World) -> None:
    """Let a page come without rows though the total says there are more."""
    world.source.pages(page(listed(90), total=100), page(total=100))


def last_page_too_soon(world: World) -> None:
    """Let the last page end far before the total is reached."""
    world.source.shows(listed(90), total=100, last_page=1)


def all_empty(world: World) -> None:
    """Let the first page be empty though the total is not."""
    world.source.shows(total=100)


@pytest.mark.parametrize(
    "make", [moving, endless, empty_too_soon, last_page_too_soon, all_empty]
)
async def test_an_incomplete_sweep_proves_nothing(world, make):
    """A sweep that was not shown all the total says does not count as one."""
    await met_and_past(world)
    make(world)
    for _ in range(4):
        report = await world.sweep()
        assert not report.complete

    assert await state_of(world) == (State.READY, None)


async def test_a_failed_sweep_proves_nothing(world):
    """Though its first page did not show the row."""
    await met_and_past(world)

    def answer(number: int) -> Page:
        if number == 2:
            raise ListError("http", "500")
        return page(listed(90), total=2)

    world.source.answer = answer
    for _ in range(3):
        with pytest.raises(ListError):
            await world.sweep()

    assert await state_of(world) == (State.READY, None)


@pytest.mark.parametrize("created_us", [NOW - 40 * DAY, None])
async def test_a_row_outside_the_window_is_not_absent(world, created_us):
    """A sweep says nothing of rows it did not ask for, nor of undated ones."""
    await met_and_past(world, created_us=created_us)
    for _ in range(3):
        await world.sweep()

    assert await state_of(world) == (State.READY, None)


@pytest.mark.parametrize("created_us", [NOW - 40 * DAY, None])
async def test_a_row_that_left_the_window_without_its_file_ends(world, created_us):
    """No sweep to come would meet it; it does not wait for ever."""
    await met_and_past(world, created_us=created_us)
    world.source.shows(listed(1, created_us=created_us, has_file=False))
    await world.poll()
    world.source.shows()
    await world.sweep()
    assert await state_of(world) == (State.WAITING, Reason.FILE_GONE)
    await world.sweep()
    assert await state_of(world) == (State.LOST, Reason.ROW_GONE)


async def test_a_row_from_beyond_the_windows_end_is_not_absent(world):
    """A VMS whose clock was put back does not list its later rows in our window."""
    await met_and_past(world)
    world.source.shows(clock_offset_us=-3 * DAY)
    await world.poll()
    for _ in range(3):
        await world.sweep()

    assert (await world.exports())[1].created_us > world.source.asked[-1][2]
    assert await state_of(world) == (State.READY, None)


async def test_a_fetch_under_way_is_not_ended_by_absence(world):
    """What is being fetched goes on."""
    await met_and_past(world)
    await world.ledger(
        lambda ledger: ledger.fetches.claim(
            ["hq"], now_us=world.now_us, horizon_us=HOUR
        )
    )
    for _ in range(3):
        await world.sweep()

    assert await state_of(world) == (State.FETCHING, None)


async def test_a_row_that_never_had_a_file_and_is_absent_is_given_up(world):
    """Older than the waiting limit and not met: it ends, and is no loss."""
    world.source.shows(listed(1, has_file=False))
    await world.poll()
    world.source.shows()
    world.now_us = NOW + 23 * HOUR
    await world.poll()
    assert await state_of(world) == (State.WAITING, Reason.NO_FILE_YET)
    world.now_us = NOW + 25 * HOUR
    await world.poll()

    assert await state_of(world) == (State.UNAVAILABLE, Reason.NEVER_HAD_A_FILE)


# --- bad rows -----------------------------------------------------------------


async def test_a_bad_row_does_not_end_the_walk(world):
    """The good rows beside and after it are met."""
    world.source.pages(
        page(listed(1), total=3, bad_rows=[bad(1)]), page(listed(2), total=3)
    )
    report = await world.sweep()

    assert sorted(await world.exports()) == [1, 2]
    assert (report.bad_rows, report.rows, report.complete) == (1, 3, True)


async def test_a_page_of_bad_rows_alone_does_not_end_the_walk(world):
    """Its size is that of what the server sent."""
    world.source.pages(
        page(total=6, bad_rows=[bad(1), bad(2)]),
        page(total=6, bad_rows=[bad(3), bad(4)]),
        page(listed(1), listed(2), total=6),
    )
    report = await world.sweep()

    assert sorted(await world.exports()) == [1, 2]
    assert (report.bad_rows, report.complete) == (4, True)
    assert [number for number, _, _ in world.source.asked] == [1, 2, 3]


async def test_pages_of_bad_rows_alone_without_a_total_end_too(world, monkeypatch):
    """Bounded all the same."""
    monkeypatch.setattr(walking, "MAX_PAGES", 30)
    world.source.answer = lambda n: Page(
        rows=[],
        bad_rows=[bad(n)],
        size=1,
        total=None,
        last_page=None,
        clock_offset_us=None,
    )
    report = await world.sweep()

    assert len(world.source.asked) == 30
    assert not report.complete


async def test_a_bad_row_is_counted_once(world):
    """Met at each walk it stays one, with how often it came."""
    world.source.shows(listed(1), bad_rows=[bad(1), bad(2)])
    for _ in range(3):
        await world.poll()
    (status,) = await world.ledger(lambda ledger: ledger.queries.sources())

    assert status.bad_rows == 2


async def test_a_walk_that_meets_nothing_new_writes_no_rows(world):
    """A thousand known rows cost no write at each poll."""

    async def written_by_a_poll() -> int:
        before = await world.ledger(lambda one: one._db.connection.total_changes)
        await world.poll()
        after = await world.ledger(lambda one: one._db.connection.total_changes)
        return int(after - before)

    idle = await written_by_a_poll()
    world.source.shows(*(listed(number) for number in range(1000)))
    first = await written_by_a_poll()
    again = await written_by_a_poll()

    assert first >= 2000
    assert again <= idle


async def test_a_clock_put_back_takes_deadlines_with_it(world):
    """What was reckoned while it was ahead is not later than what comes after."""
    world.source.shows(listed(1, created_us=NOW - 2 * HOUR))
    await world.poll()
    fresh = listed(2, created_us=NOW - 3 * HOUR + 5 * MINUTE)
    world.now_us = NOW - 3 * HOUR + 10 * MINUTE
    world.source.shows(listed(1, created_us=NOW - 2 * HOUR), fresh)
    await world.poll()
    await world.sweep()
    world.now_us += MINUTE
    await world.poll()
    first, second = (await world.exports()).values()

    assert first.deadline_us == NOW - 2 * HOUR + 10 * MINUTE
    assert second.deadline_us == NOW + 5 * MINUTE


@pytest.mark.parametrize("polls", [False, True])
async def test_a_clock_put_back_in_the_middle_of_a_walk_is_met_once(world, polls):
    """The walk does not count as begun in the future."""
    world.source.shows(listed(1, created_us=NOW - HOUR))
    await world.poll()
    before = (await world.exports())[1].deadline_us

    async def put_back(*_: Any, **__: Any) -> Page:
        world.now_us = NOW - 2 * HOUR
        world.source.page = asked
        if polls:
            await world.walker.walk(sweep=False)
        return shown

    shown = page(listed(1, created_us=NOW - HOUR), clock_offset_us=2 * HOUR)
    asked, world.source.page = world.source.page, put_back
    world.source.pages(shown)
    world.now_us += MINUTE
    await world.sweep()
    for _ in range(3):
        world.now_us += MINUTE
        await world.poll()

    assert (await world.exports())[1].deadline_us == before - 2 * HOUR
    assert all(
        began_us <= world.now_us for began_us, _ in (await world.record()).previous
    )
