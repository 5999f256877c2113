"""What a walk enters in the ledger: windows, rules, deadlines, bad rows, clocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mirror.model import State
from mirror.pipeline.discover.rules import Rule
from tests.builders import HOUR, MINUTE, NOW
from tests.scripted_list import DAY, HISTORY, bad, listed, page

if TYPE_CHECKING:
    from mirror.ports import Page


async def test_rows_outside_the_window_are_taken(bench):
    """A server that ignores the window gives us more, and we take it."""
    bench.source.shows(
        listed(1, created_us=NOW - 900 * DAY), listed(2, created_us=NOW + 9 * DAY)
    )
    await bench.poll()

    assert [e.state for e in (await bench.exports()).values()] == [State.READY] * 2


@pytest.mark.parametrize("offset", [0, 2 * HOUR, -2 * HOUR])
async def test_the_window_of_a_poll_is_by_the_clock_of_the_vms(bench, offset):
    """Lookback back from the VMS's now, and a day ahead of it."""
    bench.source.shows(clock_offset_us=offset)
    await bench.poll()
    await bench.poll()

    _, since_us, until_us = bench.source.asked[-1]
    assert since_us == NOW + offset - 6 * HOUR
    assert until_us == NOW + offset + DAY


async def test_the_first_sweep_goes_back_to_the_start_of_history(bench):
    """Until one is complete; afterwards sweep_depth back."""
    totals = iter(range(8))
    bench.source.answer = lambda n: page(listed(n), total=next(totals), last_page=2)
    await bench.sweep()
    bench.source.shows(listed(1))
    await bench.sweep()
    await bench.sweep()

    sinces = [since for _, since, _ in bench.source.asked]
    assert sinces == [HISTORY] * 9 + [NOW - 30 * DAY]


async def test_a_sweep_never_goes_beyond_the_start_of_history(bench):
    """history_start bounds sweep_depth."""
    bench.walker = bench.walker_with(history_start_us=NOW - DAY)
    await bench.sweep()
    await bench.sweep()

    assert [since for _, since, _ in bench.source.asked] == [NOW - DAY] * 2


async def test_a_poll_does_not_end_the_first_sweep(bench):
    """Only a whole sweep makes losses ours."""
    bench.source.shows(listed(1))
    await bench.poll()
    assert (await bench.record()).first_sweep_us is None

    await bench.sweep()
    bench.source.shows(listed(1), listed(2))
    await bench.poll()
    ours = {
        number: export.counts_as_ours
        for number, export in (await bench.exports()).items()
    }
    assert ours == {1: False, 2: True}


@pytest.mark.parametrize("offset", [0, 5 * HOUR, -5 * HOUR])
async def test_the_age_for_rules_is_by_the_clock_of_the_vms(bench, offset):
    """A VMS clock that is off makes no row older or younger than it is."""
    old = Rule(name="old", min_age_us=HOUR, max_age_us=HOUR)
    bench.walker = bench.walker_with(exclude=(old,))
    created_us = NOW + offset - HOUR
    bench.source.shows(listed(1, created_us=created_us), clock_offset_us=offset)
    await bench.poll()

    assert (await bench.exports())[1].state is State.EXCLUDED


async def test_a_rule_excludes_and_lets_go_again(bench):
    """Checked at each walk."""
    bench.source.shows(listed(1))
    bench.walker = bench.walker_with(exclude=(Rule(name="lobby"),))
    await bench.poll()
    assert (await bench.exports())[1].state is State.EXCLUDED

    bench.walker = bench.walker_with()
    await bench.poll()
    assert (await bench.exports())[1].state is State.READY


async def test_a_file_was_born_after_the_last_walk_that_saw_none(bench):
    """The deadline counts from that walk's begin, not from created_at."""
    bench.source.shows(listed(1, has_file=False, created_us=NOW - 2 * HOUR))
    await bench.poll()
    bench.now_us = NOW + MINUTE
    await bench.poll()
    bench.now_us = NOW + 2 * MINUTE
    bench.source.shows(listed(1, created_us=NOW - 2 * HOUR))
    await bench.poll()

    assert (await bench.exports())[1].deadline_us == NOW + MINUTE + 3 * HOUR


async def test_a_poll_that_did_not_reach_back_to_a_row_does_not_date_it(bench):
    """The last walk whose window held the row counts, here the sweep."""
    old = NOW - DAY
    bench.source.shows(listed(1, has_file=False, created_us=old))
    await bench.sweep()
    bench.now_us = NOW + MINUTE
    bench.source.shows()
    await bench.poll()
    bench.now_us = NOW + 2 * MINUTE
    bench.source.shows(listed(1, created_us=old))
    await bench.sweep()

    assert (await bench.exports())[1].deadline_us == NOW + 3 * HOUR


async def test_the_offset_of_the_first_page_dates_its_rows(bench):
    """A VMS two hours ahead does not lengthen the deadline."""
    bench.source.shows(
        listed(1, created_us=NOW + 2 * HOUR - MINUTE), clock_offset_us=2 * HOUR
    )
    await bench.poll()

    assert (await bench.exports())[1].deadline_us == NOW - MINUTE + 3 * HOUR
    assert (await bench.record()).clock_offset_us == 2 * HOUR


async def test_an_answer_without_a_date_keeps_the_offset(bench):
    """What was known of the clock stands."""
    bench.source.shows(clock_offset_us=HOUR)
    await bench.poll()
    bench.source.shows(clock_offset_us=None)
    await bench.poll()

    assert (await bench.record()).clock_offset_us == HOUR


async def test_a_bad_row_does_not_end_the_walk(bench):
    """The good rows beside and after it are met."""
    bench.source.pages(
        page(listed(1), total=3, bad_rows=[bad(1)]), page(listed(2), total=3)
    )
    report = await bench.sweep()

    assert sorted(await bench.exports()) == [1, 2]
    assert (report.bad_rows, report.rows, report.complete) == (1, 3, True)


async def test_a_bad_row_is_counted_once(bench):
    """Met at each walk it stays one, with how often it came."""
    bench.source.shows(listed(1), bad_rows=[bad(1), bad(2)])
    for _ in range(3):
        await bench.poll()
    (status,) = await bench.ledger(lambda ledger: ledger.queries.sources())

    assert status.bad_rows == 2


async def test_a_walk_that_meets_nothing_new_writes_no_rows(bench):
    """A thousand known rows cost no write at each poll."""

    async def written_by_a_poll() -> int:
        before = await bench.ledger(lambda one: one._db.connection.total_changes)
        await bench.poll()
        after = await bench.ledger(lambda one: one._db.connection.total_changes)
        return int(after - before)

    idle = await written_by_a_poll()
    bench.source.shows(*(listed(number) for number in range(1000)))
    first = await written_by_a_poll()
    again = await written_by_a_poll()

    assert first >= 2000
    assert again <= idle


async def test_a_clock_put_back_takes_deadlines_with_it(bench):
    """What was reckoned while it was ahead is not later than what comes after."""
    bench.source.shows(listed(1, created_us=NOW - 2 * HOUR))
    await bench.poll()
    fresh = listed(2, created_us=NOW - 3 * HOUR + 5 * MINUTE)
    bench.now_us = NOW - 3 * HOUR + 10 * MINUTE
    bench.source.shows(listed(1, created_us=NOW - 2 * HOUR), fresh)
    await bench.poll()
    await bench.sweep()
    bench.now_us += MINUTE
    await bench.poll()
    first, second = (await bench.exports()).values()

    assert first.deadline_us == NOW - 2 * HOUR + 10 * MINUTE
    assert second.deadline_us == NOW + 5 * MINUTE


@pytest.mark.parametrize("polls", [False, True])
async def test_a_clock_put_back_in_the_middle_of_a_walk_is_met_once(bench, polls):
    """The walk does not count as begun in the future."""
    bench.source.shows(listed(1, created_us=NOW - HOUR))
    await bench.poll()
    before = (await bench.exports())[1].deadline_us

    async def put_back(*_: Any, **__: Any) -> Page:
        bench.now_us = NOW - 2 * HOUR
        bench.source.page = asked
        if polls:
            await bench.walker.walk(sweep=False)
        return shown

    shown = page(listed(1, created_us=NOW - HOUR), clock_offset_us=2 * HOUR)
    asked, bench.source.page = bench.source.page, put_back
    bench.source.pages(shown)
    bench.now_us += MINUTE
    await bench.sweep()
    for _ in range(3):
        bench.now_us += MINUTE
        await bench.poll()

    assert (await bench.exports())[1].deadline_us == before - 2 * HOUR
    assert all(
        began_us <= bench.now_us for began_us, _ in (await bench.record()).previous
    )
