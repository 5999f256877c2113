"""Which place the spool takes, and what it leaves there."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import stat
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from mirror.errors import FetchError, SpoolError
from mirror.pipeline.spool import spool as spool_module
from mirror.pipeline.spool.part import Part, PartName
from mirror.pipeline.spool.spool import Place, Spool
from tests import builders
from tests.spool_bench import BYTES, digest, open_files, spool_in

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def slow_open(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Let each opening of a part take its time; give those under way."""
    real = Part.open.__func__  # type: ignore[attr-defined]
    opening: list[Path] = []

    def slow(cls: type[Part], /, path: Path, **given: Any) -> Part:
        opening.append(path)
        time.sleep(0.05)
        part: Part = real(cls, path, **given)
        time.sleep(0.05)
        opening.remove(path)
        return part

    monkeypatch.setattr(Part, "open", classmethod(slow))
    return opening


async def test_the_best_place_that_works_is_taken(tmp_path):
    """A guard that raises passes on to the next place, in order."""
    away = tmp_path / "away"
    away.mkdir()

    def gone() -> None:
        raise OSError(errno.ENOTCONN, "not mounted")

    spool = spool_in(
        Place(path=away, guard=gone),
        Place(path=tmp_path / "second", min_free=7),
        Place(path=tmp_path / "third"),
    )
    part = await spool.open(builders.export())
    folder = part.path.parent
    part.close()
    spool.close()

    assert folder == tmp_path / "second"
    assert part.min_free == 7
    assert list(away.iterdir()) == []
    assert not (tmp_path / "third").exists()


async def test_no_place_tells_the_first_cause(tmp_path):
    """The best place's problem is the one to be solved."""

    def cause(text: str):
        def guard() -> None:
            raise OSError(errno.ENOTCONN, text)

        return guard

    spool = spool_in(
        Place(path=tmp_path / "a", guard=cause("disk one is away")),
        Place(path=tmp_path / "b", guard=cause("disk two is away")),
    )
    with pytest.raises(SpoolError, match="disk one is away"):
        await spool.open(builders.export())
    spool.close()

    assert list(tmp_path.iterdir()) == []


async def test_a_guarded_place_is_never_made(tmp_path):
    """Below a mount point that is away nothing is created."""
    spool = spool_in(Place(path=tmp_path / "mnt" / "x", guard=lambda: None))
    with pytest.raises(SpoolError):
        await spool.open(builders.export())
    spool.close()

    assert list(tmp_path.iterdir()) == []


async def test_bytes_of_another_place_are_not_continued(tmp_path):
    """Where the partial lies elsewhere, the file is begun anew."""
    spool = spool_in(Place(path=tmp_path / "new"))
    export = builders.export(
        spool_dir=str(tmp_path / "old"), part_bytes=5, part_sha256=digest(b"12345")
    )
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / spool.file_name(export)).write_bytes(b"12345")
    part = await spool.open(export)
    assert part.size == 0
    part.close()
    spool.close()

    assert list((tmp_path / "old").iterdir()) == []


async def test_an_old_place_that_is_away_holds_nothing_up(tmp_path):
    """What lies there is removed some other day."""

    def away() -> None:
        raise OSError(errno.ENODEV, "away")

    new, old = tmp_path / "far" / "new", tmp_path / "old"
    spool = spool_in(Place(path=old, guard=away), Place(path=new))
    for _ in range(2):
        part = await spool.open(builders.export(spool_dir=str(old)))
        folder = part.path.parent
        part.close()
        assert folder == new
    spool.close()

    assert stat.S_IMODE(new.stat().st_mode) == 0o700


async def test_bytes_of_the_same_place_are_continued(tmp_path):
    """The ledger's proof is what the part is opened with."""
    spool = spool_in(Place(path=tmp_path))
    export = builders.export(
        spool_dir=str(tmp_path), part_bytes=5, part_sha256=digest(b"12345")
    )
    (tmp_path / spool.file_name(export)).write_bytes(b"12345678")
    part = await spool.open(export)
    assert part.size == 5
    part.close()
    spool.close()


async def test_each_export_has_its_own_file(tmp_path):
    """Source, id, creation and node tell names apart."""
    one, other = spool_in(), Spool(node_id="m", places=list, threads=1)
    names = {
        one.file_name(builders.export()),
        one.file_name(builders.export(source="hq2")),
        one.file_name(builders.export(export_id=8)),
        one.file_name(builders.export(created_key="k2")),
        one.file_name(builders.export(created_key="../\ud800/x")),
        other.file_name(builders.export()),
    }
    one.close()
    other.close()

    assert len(names) == 6
    assert not any("/" in name for name in names)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "spool_full"),
        (errno.EDQUOT, "spool_full"),
        (errno.EIO, "spool_failed"),
    ],
)
async def test_a_failure_of_the_disk_is_the_spools(tmp_path, number, reason):
    """It is told as such, and full apart from failed."""

    def fails(_: Part) -> None:
        raise OSError(number, os.strerror(number))

    spool = spool_in(Place(path=tmp_path))
    part = await spool.open(builders.export())
    with pytest.raises(SpoolError) as caught:
        await spool.use(part, fails)
    await spool.put_away(part)
    spool.close()

    assert caught.value.reason == reason
    assert ("free some space" in str(caught.value)) == (reason == "spool_full")


async def test_the_end_of_the_spool_waits_for_nothing(tmp_path):
    """A thread that hangs on a disk must not hang the service."""
    begun, go_on = threading.Event(), threading.Event()

    def wait(_: Part) -> None:
        begun.set()
        go_on.wait(30)

    spool = spool_in(Place(path=tmp_path))
    part = await spool.open(builders.export())
    work = asyncio.create_task(spool.use(part, wait))
    assert await asyncio.to_thread(begun.wait, 30)
    spool.close()
    assert not work.done()
    go_on.set()
    await work
    with pytest.raises(RuntimeError, match="after shutdown"):
        await spool.use(part, wait)
    part.close()


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.06, 0.09])
@pytest.mark.parametrize("times", [1, 2])
async def test_a_cancelled_opening_leaves_nothing_open(
    tmp_path, slow_open, after_s, times
):
    """However often and whenever cancelled, each descriptor is closed."""
    spool = spool_in(Place(path=tmp_path))
    opening = asyncio.create_task(spool.open(builders.export()))
    await asyncio.sleep(after_s)
    for _ in range(times):
        opening.cancel()
        await asyncio.sleep(0.002)
    with pytest.raises(asyncio.CancelledError):
        await opening
    async with asyncio.timeout(60):
        while slow_open or open_files(tmp_path):
            await asyncio.sleep(0.01)
    spool.close()


async def test_a_cancelled_call_has_ended_before_its_caller_goes_on(tmp_path):
    """Whoever closes a file after a stop closes it under no running thread."""
    ended = []

    begun = threading.Event()

    def work(_: Part) -> None:
        begun.set()
        time.sleep(0.05)
        ended.append(True)

    spool = spool_in(Place(path=tmp_path))
    part = await spool.open(builders.export())
    running = asyncio.create_task(spool.use(part, work))
    assert await asyncio.to_thread(begun.wait, 60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await spool.put_away(part)
    spool.close()

    assert ended
    assert open_files(tmp_path) == []


async def test_a_failed_opening_leaves_nothing_open(tmp_path, monkeypatch):
    """Errors close what they opened."""

    def fails(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    spool = spool_in(Place(path=tmp_path))
    export = builders.export(spool_dir=str(tmp_path), part_bytes=5, part_sha256="x")
    monkeypatch.setattr(os, "pread", fails)
    with pytest.raises(SpoolError):
        await spool.open(export)
    spool.close()

    assert open_files(tmp_path) == []


async def test_a_file_is_lost_only_from_a_spool_that_is_there(tmp_path):
    """A disk that is away has lost nothing yet."""
    here, away = tmp_path / "here", tmp_path / "away"
    here.mkdir()

    def gone() -> None:
        raise OSError(errno.ENOTCONN, "not mounted")

    spool = spool_in(Place(path=here), Place(path=away, guard=gone))
    await spool.check_there(builders.export(spool_dir=str(here)))
    with pytest.raises(SpoolError):
        await spool.check_there(builders.export(spool_dir=str(away)))
    # The configuration may have another spool by now.
    await spool.check_there(builders.export(spool_dir=str(tmp_path)))
    with pytest.raises(SpoolError):
        await spool.check_there(builders.export(spool_dir=str(tmp_path / "former")))
    spool.close()


async def test_a_file_is_removed_once_and_again(tmp_path):
    """Removing what is gone is no error, and nothing else goes."""
    spool = spool_in(Place(path=tmp_path))
    export = builders.export(spool_dir=str(tmp_path))
    (tmp_path / spool.file_name(export)).write_bytes(b"x")
    (tmp_path / "other").write_bytes(b"x")
    for _ in range(2):
        await spool.remove([export])
    await spool.remove([builders.export(spool_dir=None)])
    spool.close()

    assert [one.name for one in tmp_path.iterdir()] == ["other"]


async def test_a_place_that_hangs_is_gone_round(tmp_path, monkeypatch):
    """It is asked once, by one thread, until it answers; its file is left alone."""
    monkeypatch.setattr(spool_module, "_ANSWERS_S", 0.5)
    answers, asked = threading.Event(), []

    def hang() -> None:
        asked.append(threading.get_ident())
        answers.wait(30)

    here, there = tmp_path / "hangs", tmp_path / "other"
    here.mkdir()
    spool = spool_in(Place(path=here, guard=hang), Place(path=there))
    export = builders.export(spool_dir=str(here))
    (here / spool.file_name(export)).write_bytes(b"held")
    folder = here
    for number in range(8):
        part = await spool.open(dataclasses.replace(export, export_id=number))
        folder = part.path.parent
        part.close()
        assert folder == there
    with pytest.raises(SpoolError, match="gives no answer"):
        await spool.remove([export])
    assert len(asked) == 1
    answers.set()
    async with asyncio.timeout(30):
        while folder != here:
            part = await spool.open(export)
            folder = part.path.parent
            part.close()
            await asyncio.sleep(0.01)
    await spool.remove([export])
    spool.close()

    assert not (here / spool.file_name(export)).exists()


async def test_no_file_is_taken_for_removed_whose_disk_is_away(tmp_path):
    """Else it would lie there for ever once the disk is back."""

    def away() -> None:
        raise OSError(errno.ENODEV, "away")

    spool = spool_in(Place(path=tmp_path / "away", guard=away))
    with pytest.raises(SpoolError):
        await spool.remove([builders.export(spool_dir=str(tmp_path / "away"))])
    spool.close()


async def test_strays_are_the_older_files_of_this_node(tmp_path):
    """In every place that is there, and nothing that merely looks alike."""

    def away() -> None:
        raise OSError(errno.ENODEV, "away")

    gone, here = tmp_path / "gone", tmp_path / "here"
    spool = spool_in(Place(path=gone, guard=away), Place(path=here))
    mine = spool.file_name(builders.export(source="h-q", export_id=7))
    young = spool.file_name(builders.export(export_id=8))
    others = (mine.replace(".n.", ".other."), "x.n.part", f"{mine}.old", "a-b-c.n.part")
    for folder in (gone, here):
        folder.mkdir()
        for name in (mine, young, *others):
            (folder / name).write_bytes(b"x")
            old = time.time() - 100_000 * (name != young)
            os.utime(folder / name, (old, old))
    strays = await spool.strays()
    for path, _ in strays:
        await spool.sweep(path)
    spool.close()

    assert strays == [(here / mine, PartName.read(mine))]
    assert {path.name for path in here.iterdir()} == {young, *others}
    assert len(list(gone.iterdir())) == 6


async def test_a_part_that_is_open_elsewhere_is_left_alone(tmp_path):
    """Neither opened twice, nor sought in the next place: it has bytes of worth."""
    first, second = Place(path=tmp_path / "one"), Place(path=tmp_path / "two")
    spool, export = spool_in(first, second), builders.export(spool_dir=str(first.path))
    part = await spool.open(export)
    part.append([BYTES])
    with pytest.raises(FetchError, match="state directory is a copy") as caught:
        await spool_in(first, second).open(export)
    assert caught.value.reason == "part_in_use"

    assert (first.path / spool.file_name(export)).read_bytes() == BYTES
    assert not second.path.exists()
    part.close()
    again = await spool.open(export)
    again.close()
    spool.close()
