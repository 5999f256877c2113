"""What a walk concludes of an export that the list does not show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirror.errors import ListError
from mirror.model import Reason, State
from tests.builders import HOUR, NOW
from tests.scripted_list import DAY, WalkBench, listed, met_and_past, page, state_of

if TYPE_CHECKING:
    from mirror.ports import Page


async def test_a_row_is_gone_after_two_complete_sweeps(bench):
    """One proves nothing yet, the second does."""
    await met_and_past(bench)
    await bench.sweep()
    assert await state_of(bench) == (State.READY, None)
    await bench.sweep()
    assert await state_of(bench) == (State.LOST, Reason.ROW_GONE)


async def test_a_row_is_not_gone_before_its_deadline(bench):
    """However many sweeps do not show it, the file may still be there."""
    await met_and_past(bench)
    bench.now_us = NOW + HOUR
    for _ in range(4):
        await bench.sweep()
    assert await state_of(bench) == (State.READY, None)

    bench.now_us = NOW + 4 * HOUR
    await bench.sweep()
    assert await state_of(bench) == (State.LOST, Reason.ROW_GONE)


async def test_a_row_that_shows_up_between_two_sweeps_is_not_gone(bench):
    """Only sweeps in a row count."""
    await met_and_past(bench)
    await bench.sweep()
    bench.source.shows(listed(1))
    await bench.poll()
    bench.source.shows()
    await bench.sweep()

    assert await state_of(bench) == (State.READY, None)


async def test_a_row_that_is_shown_is_never_absent(bench):
    """However long past its deadline."""
    await met_and_past(bench)
    bench.source.shows(listed(1))
    for _ in range(4):
        await bench.sweep()

    assert await state_of(bench) == (State.READY, None)
    assert (await bench.exports())[1].absent_sweeps == 0


async def test_polls_prove_no_absence(bench):
    """Their window is not the history."""
    await met_and_past(bench)
    for _ in range(5):
        await bench.poll()

    assert await state_of(bench) == (State.READY, None)


def moving(bench: WalkBench) -> None:
    """Let the total change between pages, always."""
    totals = iter(range(5, 10_000))
    bench.source.answer = lambda n: page(
        listed(90 + n), total=next(totals), last_page=2
    )


def endless(bench: WalkBench) -> None:
    """Let the list never end."""
    bench.source.shows(listed(90), total=10**6, last_page=10**6)


def empty_too_soon(bench: WalkBench) -> None:
    """Let a page come without rows though the total says there are more."""
    bench.source.pages(page(listed(90), total=100), page(total=100))


def last_page_too_soon(bench: WalkBench) -> None:
    """Let the last page end far before the total is reached."""
    bench.source.shows(listed(90), total=100, last_page=1)


def all_empty(bench: WalkBench) -> None:
    """Let the first page be empty though the total is not."""
    bench.source.shows(total=100)


@pytest.mark.parametrize(
    "make", [moving, endless, empty_too_soon, last_page_too_soon, all_empty]
)
async def test_an_incomplete_sweep_proves_nothing(bench, make):
    """A sweep that was not shown all the total says does not count as one."""
    await met_and_past(bench)
    make(bench)
    for _ in range(4):
        report = await bench.sweep()
        assert not report.complete

    assert await state_of(bench) == (State.READY, None)


async def test_a_failed_sweep_proves_nothing(bench):
    """Though its first page did not show the row."""
    await met_and_past(bench)

    def answer(number: int) -> Page:
        if number == 2:
            raise ListError("http", "500")
        return page(listed(90), total=2)

    bench.source.answer = answer
    for _ in range(3):
        with pytest.raises(ListError):
            await bench.sweep()

    assert await state_of(bench) == (State.READY, None)


@pytest.mark.parametrize("created_us", [NOW - 40 * DAY, None])
async def test_a_row_outside_the_window_is_not_absent(bench, created_us):
    """A sweep says nothing of rows it did not ask for, nor of undated ones."""
    await met_and_past(bench, created_us=created_us)
    for _ in range(3):
        await bench.sweep()

    assert await state_of(bench) == (State.READY, None)


@pytest.mark.parametrize("created_us", [NOW - 40 * DAY, None])
async def test_a_row_that_left_the_window_without_its_file_ends(bench, created_us):
    """No sweep to come would meet it; it does not wait for ever."""
    await met_and_past(bench, created_us=created_us)
    bench.source.shows(listed(1, created_us=created_us, has_file=False))
    await bench.poll()
    bench.source.shows()
    await bench.sweep()
    assert await state_of(bench) == (State.WAITING, Reason.FILE_GONE)
    await bench.sweep()
    assert await state_of(bench) == (State.LOST, Reason.ROW_GONE)


async def test_a_row_from_beyond_the_windows_end_is_not_absent(bench):
    """A VMS whose clock was put back does not list its later rows in our window."""
    await met_and_past(bench)
    bench.source.shows(clock_offset_us=-3 * DAY)
    await bench.poll()
    for _ in range(3):
        await bench.sweep()

    assert (await bench.exports())[1].created_us > bench.source.asked[-1][2]
    assert await state_of(bench) == (State.READY, None)


async def test_a_fetch_under_way_is_not_ended_by_absence(bench):
    """What is being fetched goes on."""
    await met_and_past(bench)
    await bench.ledger(
        lambda ledger: ledger.fetches.claim(
            ["hq"], now_us=bench.now_us, horizon_us=HOUR
        )
    )
    for _ in range(3):
        await bench.sweep()

    assert await state_of(bench) == (State.FETCHING, None)


async def test_a_row_that_never_had_a_file_and_is_absent_is_given_up(bench):
    """Older than the waiting limit and not met: it ends, and is no loss."""
    bench.source.shows(listed(1, has_file=False))
    await bench.poll()
    bench.source.shows()
    bench.now_us = NOW + 23 * HOUR
    await bench.poll()
    assert await state_of(bench) == (State.WAITING, Reason.NO_FILE_YET)
    bench.now_us = NOW + 25 * HOUR
    await bench.poll()

    assert await state_of(bench) == (State.UNAVAILABLE, Reason.NEVER_HAD_A_FILE)
