"""A target that takes nothing more: told once, tried gently, and back by itself."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from mirror.errors import TargetError
from mirror.ledger import Filter
from mirror.lifecycle.attempt import Pace
from mirror.model import CopyState
from mirror.ports import TargetHealth
from tests.publisher_bench import BYTES, Desk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mirror.ports import Kept, Publication

MANY = 40


class Disk:
    """Has so much room, and refuses what does not fit.

    Attributes:
        room: Bytes; a publish of more fails.
        reason: Of the failure.
        bad: Parts of paths that fail whatever the room.
    """

    def __init__(self, desk: Desk, room: float = 0) -> None:
        self.room = room
        self.reason = "no_space"
        self.bad: tuple[str, ...] = ()
        self.desk = desk
        publish = desk.nas.publish

        async def take(publication: Publication) -> Kept:
            bad = any(part in publication.path for part in self.bad)
            if publication.size_bytes > self.room or bad:
                desk.nas.asked.append((desk.clock.now_s, publication))
                raise TargetError(self.reason, "target nas: it takes nothing")
            return await publish(publication)

        desk.nas.publish = take  # type: ignore[method-assign]  # plays a target

    @property
    def asked(self) -> int:
        return len(self.desk.nas.asked)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    structlog.reset_defaults()
    async with Desk.open(tmp_path) as made:
        made.pace = Pace(initial=timedelta(seconds=1), maximum=timedelta(minutes=10))
        made.concurrency = 4
        yield made


def of(events: list[Any], name: str) -> list[Any]:
    """Return the events of one name."""
    return [each for each in events if each["event"] == name]


async def problem(desk: Desk) -> str | None:
    """Return what the ledger says is wrong with the target."""
    return (await desk.thread(lambda ledger: ledger.queries.targets()))[0].problem


async def copies(desk: Desk) -> list[Any]:
    """Return all copies."""
    found = await desk.thread(lambda ledger: ledger.queries.exports(Filter(limit=1000)))
    return [copy for _, held in found for copy in held]


@pytest.mark.parametrize("reason", ["no_space", "read_only", "away", "io_error"])
async def test_a_full_target_is_told_once_and_comes_back_by_itself(desk, reason):
    """One line, one back-off, no copy punished; each is kept when there is room."""
    for number in range(1, MANY + 1):
        await desk.add(number)
    disk = Disk(desk)
    disk.reason = reason
    with structlog.testing.capture_logs() as events:
        async with desk.running():
            await asyncio.sleep(300)
            told, asked, held = await problem(desk), disk.asked, await copies(desk)
            up = desk.count("target_up", target="nas")
            disk.room = 1e9
            await asyncio.sleep(200)

    lines = [each for each in events if each["log_level"] in {"warning", "error"}]
    assert [each["event"] for each in lines if each["event"] != "copy.postponed"] == [
        "target.lost"
    ]
    assert len(of(events, "copy.postponed")) <= (1 if reason == "io_error" else 0)
    assert told is not None
    assert up == 0
    assert asked <= 4 + 15
    assert max(one.attempts for one in held) <= 1
    assert len(desk.kept()) == MANY
    assert await problem(desk) is None
    assert len(of(events, "target.recovered")) == 1
    assert desk.count("target_up", target="nas") == 1


async def test_what_fits_is_kept_while_a_larger_file_does_not(desk):
    """The target is told as full all the while, and nothing flaps."""
    await desk.add(1, BYTES * 10)
    for number in range(2, 12):
        await desk.add(number)
    disk = Disk(desk, room=len(BYTES))
    with structlog.testing.capture_logs() as events:
        async with desk.running():
            await asyncio.sleep(120)
            kept, told = len(desk.kept()), await problem(desk)
            await desk.add(20)
            await asyncio.sleep(120)
            later = len(desk.kept())
            disk.room = 1e9
            await asyncio.sleep(130)

    assert (kept, later, len(desk.kept())) == (10, 11, 12)
    assert told is not None
    assert len(of(events, "target.lost")) == len(of(events, "target.recovered")) == 1


async def test_a_single_copy_on_a_full_target_is_told(desk):
    """No second one is needed to know that a disk is full."""
    await desk.add()
    Disk(desk)
    async with desk.running():
        await asyncio.sleep(5)

        assert await problem(desk) is not None
        assert (await desk.copy()).state is CopyState.PENDING


@pytest.mark.parametrize("reason", ["io_error", "no_permission", "os_error"])
async def test_one_bad_file_stops_no_other(desk, reason):
    """A block that cannot be read where one copy lies is not the target's fault."""
    for number in range(1, 11):
        await desk.add(number)
    disk = Disk(desk, room=1e9)
    disk.reason, disk.bad = reason, ("hq/3.mp4",)
    with structlog.testing.capture_logs() as events:
        async with desk.running():
            await asyncio.sleep(300)

            assert await problem(desk) is None
    assert len(desk.kept()) == 9
    assert of(events, "target.lost") == []
    assert (await desk.copy(3)).state is CopyState.FAILED


@pytest.mark.parametrize("reason", ["no_space", "io_error"])
async def test_bad_files_among_many_stop_no_other(desk, reason):
    """Be they the smallest; the target is told, and all else is kept."""
    for number in range(1, 31):
        await desk.add(number, BYTES[: 100 * number])
    disk = Disk(desk, room=1e9)
    disk.reason, disk.bad = reason, ("hq/1.mp4", "hq/2.mp4", "hq/3.mp4")
    with structlog.testing.capture_logs() as events:
        async with desk.running():
            await asyncio.sleep(400)

    assert len(desk.kept()) == 27
    assert len(of(events, "target.lost")) <= 2


@pytest.mark.parametrize("reason", ["name_too_long", "file_too_big", "path_taken"])
async def test_what_is_one_files_fault_is_never_the_targets(desk, reason):
    for number in range(1, 6):
        await desk.add(number)
    disk = Disk(desk)
    disk.reason = reason
    async with desk.running():
        await asyncio.sleep(60)

        assert await problem(desk) is None


async def test_what_is_owed_no_more_is_forgotten(desk):
    """An export may be erased, or lost from the spool, while the target is full."""
    await desk.add(1)
    Disk(desk)
    with structlog.testing.capture_logs() as events:
        async with desk.running():
            await asyncio.sleep(10)
            key = (await desk.export()).stored_key
            await desk.thread(lambda ledger: ledger.copies.spool_lost(key, "gone"))
            await asyncio.sleep(130)

            assert await problem(desk) is None
    assert len(of(events, "target.recovered")) == 1


async def test_a_target_that_a_look_finds_full_is_told(desk, monkeypatch):
    """Before any copy is owed, and it is not taken for one that is away."""
    full: list[str | None] = ["target nas: 0 are free"]
    real = desk.nas.open

    async def look(remembered: str | None) -> TargetHealth:
        health = await real(remembered)
        free = 0 if full[0] else 1
        return TargetHealth(marker_id=health.marker_id, free_bytes=free, full=full[0])

    monkeypatch.setattr(desk.nas, "open", look)
    async with desk.running() as publisher:
        await asyncio.sleep(1)
        told, there = await problem(desk), publisher.standing.marker_id
        await desk.add()
        await asyncio.sleep(100)
        asked, full[0] = len(desk.nas.asked), None
        await asyncio.sleep(61)

    assert told == "target nas: 0 are free"
    assert there is not None
    assert asked == 0
    assert len(desk.kept()) == 1
    assert await problem(desk) is None
