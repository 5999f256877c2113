"""The schedule only triggers, and is not fooled by a clock that is set."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from mirror.schedule import Schedule


async def test_it_calls_at_the_start_and_at_each_interval():
    """Immediately, then again and again."""
    called = asyncio.Semaphore(0)
    schedule = Schedule()
    schedule.every(
        "a",
        timedelta(milliseconds=30),
        called.release,
        jitter=timedelta(0),
        immediately=True,
    )
    schedule.start()
    async with asyncio.timeout(60):
        for _ in range(3):
            await called.acquire()
    schedule.stop()


async def test_a_job_of_the_same_name_takes_its_place():
    """The old one is called no more."""
    old, new = asyncio.Event(), asyncio.Event()
    schedule = Schedule()
    schedule.every("a", timedelta(hours=1), old.set)
    schedule.start()
    schedule.every("a", timedelta(milliseconds=20), new.set)
    async with asyncio.timeout(60):
        await new.wait()

    assert not old.is_set()
    schedule.stop()


@pytest.mark.parametrize("step_s", [-4.0, 4.0])
async def test_a_clock_that_is_nudged_changes_nothing(step_s):
    """NTP corrects by seconds; that is no reason to ask the VMS."""
    wall = [1000.0]
    schedule = Schedule(wall=lambda: wall[0], monotonic=lambda: 50.0)
    wall[0] += step_s

    assert schedule.check_clock() is None


async def test_many_nudges_add_up_to_a_step():
    """A clock that is slewed by minutes is noticed in the end."""
    wall = [1000.0]
    schedule = Schedule(wall=lambda: wall[0], monotonic=lambda: 50.0)
    found = []
    for _ in range(4):
        wall[0] -= 2.0
        found.append(schedule.check_clock())

    assert found == [None, None, -6.0, None]


async def test_a_clock_put_back_makes_all_jobs_due():
    """Else they would sleep for as long as the clock was put back."""
    wall, monotonic = [1000.0], [50.0]
    schedule = Schedule(wall=lambda: wall[0], monotonic=lambda: monotonic[0])
    called = asyncio.Event()
    schedule.every(
        "a", timedelta(hours=5), called.set, jitter=timedelta(0), immediately=False
    )
    schedule.start()
    wall[0], monotonic[0] = 1010.0, 60.0
    assert schedule.check_clock() is None
    await asyncio.sleep(0.05)
    assert not called.is_set()

    wall[0], monotonic[0] = 1011.0 - 3 * 3600, 61.0
    assert schedule.check_clock() == -3 * 3600
    async with asyncio.timeout(60):
        await called.wait()
    assert schedule.check_clock() is None
    schedule.stop()
