"""A spool whose disk gives no answer, and the lanes that go round it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from mirror.disk import lanes
from mirror.errors import SpoolError
from mirror.pipeline.spool.part import Part
from mirror.pipeline.spool.spool import Place, Spool
from tests import builders
from tests.spool_bench import BYTES, digest, open_files, spool_in

if TYPE_CHECKING:
    from pathlib import Path


class Disk:
    """A disk whose calls may hang until it wakes up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lanes, "PATIENCE_S", 0.6)
        self.awake = threading.Event()
        self.calls = 0

    def hang(self, *_: object) -> None:
        """Take a call that ends when the disk wakes up."""
        self.calls += 1
        assert self.awake.wait(30)

    async def wake(self, spool: Spool, place: Path) -> None:
        """Wake up, and wait until what hung has ended."""
        self.awake.set()
        async with asyncio.timeout(30):
            while spool._lanes.of(place).hangs or open_files(place):
                await asyncio.sleep(0.01)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def test_a_call_that_hangs_is_left_and_its_place_gone_round(tmp_path, disk):
    """The file is closed when the disk wakes up, and then its place is used again."""
    bad, good = tmp_path / "bad", tmp_path / "good"
    spool = spool_in(Place(path=bad), Place(path=good))
    part = await spool.open(builders.export())
    await spool.use(part, Part.append, [b"12345"])
    size, sha256 = await spool.use(part, Part.flush)
    with pytest.raises(SpoolError, match="gives no answer; check its disk"):
        await spool.use(part, disk.hang)
    for call in (Part.flush, Part.discard, disk.hang):
        with pytest.raises(SpoolError, match="gives no answer"):
            await spool.use(part, call)
    await spool.put_away(part)
    assert disk.calls == 1
    assert len(open_files(bad)) == 2

    export = builders.export(
        spool_dir=str(bad), part_bytes=size, part_sha256=sha256, key=1
    )
    other = await spool.open(export)
    assert (other.path.parent, other.size) == (good, 0)
    await spool.put_away(other)
    with pytest.raises(SpoolError, match="gives no answer"):
        await spool.remove([export])

    await disk.wake(spool, bad)
    again = await spool.open(export)
    assert (again.path.parent, again.size) == (bad, 5)
    await spool.put_away(again)
    spool.close()
    assert open_files(tmp_path) == []


async def test_an_opening_that_hangs_is_left(tmp_path, disk):
    """Though the place answered when it was asked; it leaves nothing open."""
    bad, good = tmp_path / "bad", tmp_path / "good"
    bad.mkdir()
    asked = []

    def guard() -> None:
        asked.append(True)
        if len(asked) > 1:
            disk.hang()

    spool = spool_in(Place(path=bad, guard=guard), Place(path=good))
    part = await spool.open(builders.export())
    assert part.path.parent == good
    await spool.put_away(part)
    await disk.wake(spool, bad)
    spool.close()
    assert open_files(tmp_path) == []


async def test_with_no_other_place_a_hung_one_is_named(tmp_path, disk):
    """The error says which disk to look at."""
    spool = spool_in(Place(path=tmp_path))
    part = await spool.open(builders.export())
    with pytest.raises(SpoolError):
        await spool.use(part, disk.hang)
    await spool.put_away(part)
    with pytest.raises(SpoolError, match=f"the spool in {tmp_path} gives no answer"):
        await spool.open(builders.export())
    await disk.wake(spool, tmp_path)
    spool.close()


async def test_what_hangs_in_one_place_holds_up_no_other(tmp_path, disk, monkeypatch):
    """However many threads hang, before any of them is left."""
    monkeypatch.setattr(lanes, "PATIENCE_S", 60.0)
    bad, good = tmp_path / "bad", tmp_path / "good"
    places = [Place(path=bad)]
    spool = Spool(node_id="n", places=lambda: places, threads=2)
    parts = [await spool.open(builders.export(export_id=n)) for n in range(5)]
    stuck = [asyncio.create_task(spool.use(part, disk.hang)) for part in parts]
    places.insert(0, Place(path=good))
    async with asyncio.timeout(60):
        part = await spool.open(builders.export(export_id=9))
        await spool.use(part, Part.append, [BYTES])
        await spool.put_away(part)
    assert not any(task.done() for task in stuck)
    disk.awake.set()
    await asyncio.gather(*stuck)
    for part in parts:
        await spool.put_away(part)
    spool.close()


async def test_what_never_began_on_a_hung_disk_never_will(tmp_path, disk):
    """Whoever waits in line behind it is left too."""
    spool = Spool(node_id="n", places=lambda: [Place(path=tmp_path)], threads=1)
    parts = [await spool.open(builders.export(export_id=n)) for n in range(3)]
    ends = await asyncio.gather(
        *(spool.use(part, disk.hang) for part in parts), return_exceptions=True
    )
    assert [type(end) for end in ends] == [SpoolError] * 3
    for part in parts:
        await spool.put_away(part)
    await disk.wake(spool, tmp_path)
    assert disk.calls == 1
    spool.close()


async def test_a_cancelled_call_that_hangs_is_left_too(tmp_path, disk):
    """A stop does not wait for the disk, and no second thread gets at the file."""
    spool = spool_in(Place(path=tmp_path))
    part = await spool.open(builders.export())
    running = asyncio.create_task(spool.use(part, disk.hang))
    while not disk.calls:
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(SpoolError, match="gives no answer"):
        await spool.use(part, Part.flush)
    await spool.put_away(part)
    assert len(open_files(tmp_path)) == 2
    await disk.wake(spool, tmp_path)
    spool.close()


async def test_a_slow_disk_is_waited_for_once_it_is_known(tmp_path, disk):
    """Else what it makes durable would never be taken note of."""

    def slow(_: Part) -> str:
        time.sleep(0.9)
        return "done"

    spool = spool_in(Place(path=tmp_path))
    part = await spool.open(builders.export())
    with pytest.raises(SpoolError):
        await spool.use(part, slow)
    await spool.put_away(part)
    await disk.wake(spool, tmp_path)
    part = await spool.open(builders.export())
    assert await spool.use(part, slow) == "done"
    await spool.put_away(part)
    spool.close()


@pytest.mark.parametrize(
    ("slowest_s", "patience_s"), [(0.0, 30.0), (20.0, 60.0), (1000.0, 300.0)]
)
def test_how_long_a_disk_is_waited_for(slowest_s, patience_s):
    """Longer than it ever took, and never for ever."""
    lane = lanes.Lane(1, name="spool")
    lane.slowest_s = slowest_s
    assert lane.patience_s == patience_s


@pytest.mark.parametrize("late", [False, True])
async def test_the_slowest_step_is_remembered(tmp_path, disk, late):
    """One that came to its end in time, and one that came late."""
    spool = spool_in(Place(path=tmp_path))
    part = await spool.open(builders.export())
    took_s = 0.9 if late else 0.1
    with contextlib.suppress(SpoolError):
        await spool.use(part, lambda _: time.sleep(took_s))
    await spool.put_away(part)
    await disk.wake(spool, tmp_path)
    lane = spool._lanes.of(tmp_path)
    assert took_s <= lane.slowest_s < took_s + 60
    spool.close()


async def test_the_late_end_of_a_hung_call_makes_no_noise(tmp_path, disk, caplog):
    """Be it an error, and the spool long closed."""
    told: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))

    def fail(_: Part) -> None:
        disk.hang()
        raise OSError(errno.EIO, "late")

    spool = spool_in(Place(path=tmp_path))
    part = await spool.open(builders.export())
    with pytest.raises(SpoolError):
        await spool.use(part, fail)
    await spool.put_away(part)
    spool.close()
    disk.awake.set()
    while spool._lanes.of(tmp_path).hangs:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    part.close()
    del part
    gc.collect()

    assert told == []
    assert caplog.records == []


async def test_a_close_that_hangs_or_fails_is_nobodys_trouble(
    tmp_path, disk, monkeypatch
):
    """There is nothing more to be had of that part."""
    spool = spool_in(Place(path=tmp_path))
    close = Part.close

    def fail(part: Part) -> None:
        close(part)
        raise OSError(errno.EIO, "for once")

    monkeypatch.setattr(Part, "close", fail)
    await spool.put_away(await spool.open(builders.export()))
    monkeypatch.setattr(Part, "close", lambda part: (disk.hang(), close(part)))
    await spool.put_away(await spool.open(builders.export()))
    await disk.wake(spool, tmp_path)
    spool.close()
    assert open_files(tmp_path) == []


async def test_an_opening_cancelled_while_it_forgets_the_old_place(
    tmp_path, disk, monkeypatch
):
    """The new part is closed."""
    old, new = tmp_path / "old", tmp_path / "new"
    monkeypatch.setattr(lanes, "PATIENCE_S", 60.0)
    export = builders.export(spool_dir=str(old), part_bytes=5, part_sha256="x")
    spool = spool_in(Place(path=new), Place(path=old))
    monkeypatch.setattr(spool, "_unlink", disk.hang)
    opening = asyncio.create_task(spool.open(export))
    while not disk.calls:
        await asyncio.sleep(0.01)
    opening.cancel()
    await asyncio.sleep(0.05)
    await disk.wake(spool, old)
    with pytest.raises(asyncio.CancelledError):
        await opening
    spool.close()
    assert open_files(tmp_path) == []


async def test_a_long_digest_does_not_hang(tmp_path, disk, monkeypatch):
    """It gets on, block by block."""
    read = os.pread

    def slow(fd: int, size: int, offset: int) -> bytes:
        time.sleep(0.1)
        return read(fd, min(size, 256), offset)

    spool = spool_in(Place(path=tmp_path))
    export = builders.export(
        spool_dir=str(tmp_path), part_bytes=len(BYTES), part_sha256=digest(BYTES)
    )
    (tmp_path / spool.file_name(export)).write_bytes(BYTES)
    monkeypatch.setattr(os, "pread", slow)
    part = await spool.open(export)
    assert part.size == len(BYTES)
    await spool.put_away(part)
    spool.close()


async def test_a_call_that_nobody_waits_for_counts_only_while_it_runs():
    """A transfer looks at its write when the next bytes are there, be it much later."""
    lane = lanes.Lane(1, name="spool")
    job = lane.start(lambda: None)
    async with asyncio.timeout(30):
        while not job.done:
            await asyncio.sleep(0.01)
    took_s = lane.slowest_s
    await asyncio.sleep(0.2)
    await lane.end(job)
    lane.close()

    assert lane.slowest_s == took_s
