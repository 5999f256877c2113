"""A target that takes nothing more: told once, tried gently, and back by itself."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from mirror.backoff import Pace
from mirror.errors import TargetError
from mirror.ledger import Filter
from mirror.model import CopyState
from mirror.ports import TargetHealth
from tests.publisher_bench import BYTES, PublisherBench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
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

    def __init__(self, bench: PublisherBench, room: float = 0) -> None:
        self.room = room
        self.reason = "no_space"
        self.bad: tuple[str, ...] = ()
        self.bench = bench
        publish = bench.nas.publish

        async def take(batch: Sequence[Publication]) -> list[Kept | Exception]:
            (publication,) = batch
            bad = any(part in publication.path for part in self.bad)
            if publication.size_bytes > self.room or bad:
                bench.nas.asked.append((bench.clock.now_s, publication))
                return [TargetError(self.reason, "target nas: it takes nothing")]
            return await publish(batch)

        bench.nas.publish = take  # type: ignore[method-assign]  # plays a target

    @property
    def asked(self) -> int:
        return len(self.bench.nas.asked)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[PublisherBench]:
    structlog.reset_defaults()
    async with PublisherBench.open(tmp_path) as made:
        made.pace = Pace(initial=timedelta(seconds=1), maximum=timedelta(minutes=10))
        made.concurrency = 4
        yield made


def of(events: list[Any], name: str) -> list[Any]:
    """Return the events of one name."""
    return [each for each in events if each["event"] == name]


async def problem(bench: PublisherBench) -> str | None:
    """Return what the ledger says is wrong with the target."""
    return (await bench.thread(lambda ledger: ledger.queries.targets()))[0].problem


async def copies(bench: PublisherBench) -> list[Any]:
    """Return all copies."""
    found = await bench.thread(
        lambda ledger: ledger.queries.exports(Filter(limit=1000))
    )
    return [copy for _, held in found for copy in held]


@pytest.mark.parametrize("reason", ["no_space", "read_only", "away", "io_error"])
async def test_a_full_target_is_told_once_and_comes_back_by_itself(bench, reason):
    """One line, one back-off, no copy punished; each is kept when there is room."""
    for number in range(1, MANY + 1):
        await bench.add(number)
    disk = Disk(bench)
    disk.reason = reason
    with structlog.testing.capture_logs() as events:
        async with bench.running():
            await asyncio.sleep(300)
            told, asked, held = await problem(bench), disk.asked, await copies(bench)
            up = bench.count("target_up", target="nas")
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
    assert len(bench.kept()) == MANY
    assert await problem(bench) is None
    assert len(of(events, "target.recovered")) == 1
    assert bench.count("target_up", target="nas") == 1


async def test_what_fits_is_kept_while_a_larger_file_does_not(bench):
    """The target is told as full all the while, and nothing flaps."""
    await bench.add(1, BYTES * 10)
    for number in range(2, 12):
        await bench.add(number)
    disk = Disk(bench, room=len(BYTES))
    with structlog.testing.capture_logs() as events:
        async with bench.running():
            await asyncio.sleep(120)
            kept, told = len(bench.kept()), await problem(bench)
            await bench.add(20)
            await asyncio.sleep(120)
            later = len(bench.kept())
            disk.room = 1e9
            await asyncio.sleep(130)

    assert (kept, later, len(bench.kept())) == (10, 11, 12)
    assert told is not None
    assert len(of(events, "target.lost")) == len(of(events, "target.recovered")) == 1


async def test_a_single_copy_on_a_full_target_is_told(bench):
    """No second one is needed to know that a disk is full."""
    await bench.add()
    Disk(bench)
    async with bench.running():
        await asyncio.sleep(5)

        assert await problem(bench) is not None
        assert (await bench.copy()).state is CopyState.PENDING


@pytest.mark.parametrize("reason", ["io_error", "no_permission", "os_error"])
async def test_one_bad_file_stops_no_other(bench, reason):
    """A block that cannot be read where one copy lies is not the target's fault."""
    for number in range(1, 11):
        await bench.add(number)
    disk = Disk(bench, room=1e9)
    disk.reason, disk.bad = reason, ("hq/3.mp4",)
    with structlog.testing.capture_logs() as events:
        async with bench.running():
            await asyncio.sleep(300)

            assert await problem(bench) is None
    assert len(bench.kept()) == 9
    assert of(events, "target.lost") == []
    assert (await bench.copy(3)).state is CopyState.FAILED


@pytest.mark.parametrize("reason", ["no_space", "io_error"])
async def test_bad_files_among_many_stop_no_other(bench, reason):
    """Be they the smallest; the target is told, and all else is kept."""
    for number in range(1, 31):
        await bench.add(number, BYTES[: 100 * number])
    disk = Disk(bench, room=1e9)
    disk.reason, disk.bad = reason, ("hq/1.mp4", "hq/2.mp4", "hq/3.mp4")
    with structlog.testing.capture_logs() as events:
        async with bench.running():
            await asyncio.sleep(400)

    assert len(bench.kept()) == 27
    assert len(of(events, "target.lost")) <= 2


@pytest.mark.parametrize("reason", ["name_too_long", "file_too_big", "path_taken"])
async def test_what_is_one_files_fault_is_never_the_targets(bench, reason):
    for number in range(1, 6):
        await bench.add(number)
    disk = Disk(bench)
    disk.reason = reason
    async with bench.running():
        await asyncio.sleep(60)

        assert await problem(bench) is None


async def test_what_is_owed_no_more_is_forgotten(bench):
    """An export may be erased, or lost from the spool, while the target is full."""
    await bench.add(1)
    Disk(bench)
    with structlog.testing.capture_logs() as events:
        async with bench.running():
            await asyncio.sleep(10)
            key = (await bench.export()).stored_key
            await bench.thread(lambda ledger: ledger.copies.spool_lost(key, "gone"))
            await asyncio.sleep(130)

            assert await problem(bench) is None
    assert len(of(events, "target.recovered")) == 1


async def test_a_target_that_a_look_finds_full_is_told(bench, monkeypatch):
    """Before any copy is owed, and it is not taken for one that is away."""
    full: list[str | None] = ["target nas: 0 are free"]
    real = bench.nas.probe

    async def probe(known: str | None, *, write: bool) -> TargetHealth:
        health = await real(known, write=write)
        free = 0 if full[0] else 1
        return TargetHealth(marker_id=health.marker_id, free_bytes=free, full=full[0])

    monkeypatch.setattr(bench.nas, "probe", probe)
    async with bench.running() as publisher:
        await asyncio.sleep(1)
        told, there = await problem(bench), publisher.monitor.marker_id
        await bench.add()
        await asyncio.sleep(100)
        asked, full[0] = len(bench.nas.asked), None
        await asyncio.sleep(61)

    assert told == "target nas: 0 are free"
    assert there is not None
    assert asked == 0
    assert len(bench.kept()) == 1
    assert await problem(bench) is None
