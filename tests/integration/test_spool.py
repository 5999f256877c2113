"""The spool: only proven bytes are continued, and what fails is never believed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import fcntl
import gc
import hashlib
import os
import stat
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mirror.disk import lanes
from mirror.errors import FetchError, SpoolError
from mirror.pipeline.spool import spool as spool_module
from mirror.pipeline.spool.part import Part, PartName
from mirror.pipeline.spool.spool import Place, Spool
from tests import builders, mp4_boxes

BYTES = bytes(range(256)) * 8
FDS = Path("/proc/self/fd")


def digest(content: bytes) -> str:
    """Return the SHA-256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


def opened(path: Path, size: int, sha256: str | None) -> tuple[int, bytes]:
    """Open a part, close it, and return its size and what then lies there."""
    part = Part.open(path, size=size, sha256=sha256)
    part.close()
    return part.size, path.read_bytes()


def open_files(folder: Path) -> list[str]:
    """Return what this process holds open below a folder."""
    found = []
    for fd in FDS.iterdir():
        try:
            target = str(fd.readlink())
        except OSError:
            continue
        if target.startswith(str(folder)):
            found.append(target)
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.part"


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


def spool_in(*places: Place) -> Spool:
    """Return a spool that may lie in these places."""
    return Spool(node_id="n", places=lambda: list(places), threads=2)


@pytest.mark.parametrize(
    ("lies", "size", "sha256", "kept"),
    [
        (BYTES, 2048, digest(BYTES), 2048),
        (BYTES, 1000, digest(BYTES[:1000]), 1000),
        (BYTES, 1000, digest(BYTES), 0),
        (BYTES, 2048, "0" * 64, 0),
        (BYTES, 2048, None, 0),
        (BYTES[:500], 1000, digest(BYTES[:1000]), 0),
        (b"", 1000, digest(BYTES[:1000]), 0),
        (BYTES, 0, None, 0),
        (None, 1000, digest(BYTES[:1000]), 0),
    ],
)
def test_only_the_proven_prefix_is_kept(path, lies, size, sha256, kept):
    """What the ledger's digest does not prove is cut off or thrown away."""
    if lies is not None:
        path.write_bytes(lies)

    assert opened(path, size, sha256) == (kept, BYTES[:kept])


def test_a_prefix_longer_than_one_read_is_proven(path):
    """Large parts are read in blocks, and each block counts."""
    content = os.urandom(3 * 1024 * 1024 + 17)
    path.write_bytes(content + b"unproven")
    assert opened(path, len(content), digest(content))[0] == len(content)

    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert opened(path, len(content), digest(content)) == (0, b"")


def test_what_is_appended_continues_the_digest(path):
    """The digest covers the kept prefix and the new bytes."""
    path.write_bytes(BYTES[:700] + b"unproven")
    part = Part.open(path, size=700, sha256=digest(BYTES[:700]))
    part.append([BYTES[700:1000], BYTES[1000:]])

    assert part.flush() == (len(BYTES), digest(BYTES))
    assert part.finish() == digest(BYTES)
    assert path.read_bytes() == BYTES
    part.close()


def test_a_symlink_is_refused(tmp_path, path):
    """Nobody makes us write into another file."""
    victim = tmp_path / "victim"
    victim.write_bytes(BYTES)
    path.symlink_to(victim)
    with pytest.raises(OSError, match=r"x\.part") as caught:
        Part.open(path, size=0, sha256=None)

    assert caught.value.errno == errno.ELOOP
    assert victim.read_bytes() == BYTES
    assert open_files(tmp_path) == []


def test_a_file_that_a_target_keeps_too_is_replaced(tmp_path, path):
    """Linked bytes never change again; the part begins as a new, empty file."""
    kept = tmp_path / "kept.mp4"
    kept.write_bytes(BYTES)
    path.hardlink_to(kept)
    part = Part.open(path, size=len(BYTES), sha256=digest(BYTES))
    assert part.size == 0
    part.append([b"new"])
    with pytest.raises(BlockingIOError):
        Part.open(path, size=0, sha256=None)
    part.close()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (kept.read_bytes(), path.read_bytes()) == (BYTES, b"new")
    assert kept.stat().st_nlink == path.stat().st_nlink == 1


def test_a_linked_file_that_cannot_be_replaced_is_told(tmp_path, path, monkeypatch):
    """The error is that of the failed step, and each descriptor is closed once."""
    kept = tmp_path / "kept.mp4"
    kept.write_bytes(BYTES)
    path.hardlink_to(kept)

    def refuses(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "unlink", refuses)
    with pytest.raises(OSError, match="Read-only"):
        Part.open(path, size=0, sha256=None)

    assert kept.read_bytes() == BYTES
    assert open_files(tmp_path) == []


def test_a_part_is_for_its_owner_alone(path):
    """Footage is not for everybody on the machine."""
    opened(path, 0, None)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("step", [1, 7, 300, 5000])
def test_short_writes_are_continued(path, monkeypatch, step):
    """A disk that takes few bytes at a time gets them all, in order."""
    real = os.pwritev

    def short(fd: int, buffers, offset: int) -> int:
        return real(fd, [b"".join(buffers)[:step]], offset)

    monkeypatch.setattr(os, "pwritev", short)
    chunks = [BYTES[:1], b"", BYTES[1:300], BYTES[300:301], BYTES[301:]]
    part = Part.open(path, size=0, sha256=None)
    part.append(chunks)
    part.append([b"tail"])

    assert part.flush() == (len(BYTES) + 4, digest(BYTES + b"tail"))
    assert path.read_bytes() == BYTES + b"tail"
    part.close()


def test_more_chunks_than_one_call_takes(path):
    """Thousands of tiny chunks are written in groups."""
    chunks = [bytes([index % 256]) for index in range(3000)]
    part = Part.open(path, size=0, sha256=None)
    part.append(chunks)
    part.close()

    assert path.read_bytes() == b"".join(chunks)


def test_a_failed_append_is_not_counted(path, monkeypatch):
    """Size and digest stay those of the bytes that are surely there."""
    part = Part.open(path, size=0, sha256=None)
    part.append([BYTES])
    real = os.pwritev

    def full(fd: int, buffers, offset: int) -> int:
        if offset > len(BYTES):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, [b"".join(buffers)[:10]], offset)

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(OSError, match="No space"):
        part.append([b"y" * 100])
    monkeypatch.setattr(os, "pwritev", real)
    with pytest.raises(OSError, match="earlier write"):
        part.append([b"behind a gap"])
    assert part.flush() == (len(BYTES), digest(BYTES))
    part.close()

    assert opened(path, len(BYTES), digest(BYTES)) == (len(BYTES), BYTES)


@pytest.mark.parametrize(("call", "how"), [("flush", "fdatasync"), ("finish", "fsync")])
@pytest.mark.parametrize("later", ["flush", "finish"])
def test_a_failed_fsync_is_never_repeated(path, monkeypatch, call, how, later):
    """The part is broken: the kernel may have dropped what it could not write."""
    asked = []

    def fails(fd: int) -> None:
        asked.append(fd)
        raise OSError(errno.EIO, "Input/output error")

    part = Part.open(path, size=0, sha256=None)
    part.append([BYTES])
    monkeypatch.setattr(os, how, fails)
    with pytest.raises(OSError, match="Input/output"):
        getattr(part, call)()
    assert part.broken
    monkeypatch.setattr(os, "fsync", asked.append)
    monkeypatch.setattr(os, "fdatasync", asked.append)
    with pytest.raises(OSError, match="earlier fsync"):
        getattr(part, later)()

    assert len(asked) == 1
    part.close()


def test_restart_throws_all_away(path):
    """Nothing of the earlier version of a file is left."""
    part = Part.open(path, size=0, sha256=None)
    part.append([BYTES])
    part.restart()
    assert (part.size, path.read_bytes()) == (0, b"")
    part.append([b"new"])

    assert part.flush() == (3, digest(b"new"))
    part.close()


def test_a_whole_file_is_flushed_before_its_name(path, monkeypatch):
    """Then the folder: a name that is durable has its bytes."""
    flushed, real = [], os.fsync

    def fsync(fd: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{fd}").readlink())
        real(fd)

    part = Part.open(path, size=0, sha256=None)
    monkeypatch.setattr(os, "fsync", fsync)
    part.finish()
    part.close()

    assert flushed == [path, path.parent]


def test_what_is_discarded_has_no_name(path):
    """Once and again."""
    part = Part.open(path, size=0, sha256=None)
    for _ in range(2):
        part.discard()
        assert not path.exists()
    part.close()


def test_a_box_without_a_size_needs_an_end_that_was_announced(path):
    """Else it would be whole wherever it was cut."""
    part = Part.open(path, size=0, sha256=None)
    part.append([mp4_boxes.open_ended(mp4_boxes.classic())])

    assert part.examine(True).doubt is None
    assert part.examine(False).doubt is not None
    part.close()


def test_a_disk_that_knows_no_locks_is_good_enough(path, monkeypatch):
    """Some network file systems have none."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)

    assert opened(path, 0, None) == (0, b"")


MB = 1024 * 1024


@pytest.mark.parametrize(
    ("disk", "free", "min_free", "room"),
    [
        (1000 * MB, 100 * MB, 0, 50 * MB),
        (1000 * MB, 100 * MB, 80 * MB, 20 * MB),
        (1000 * MB, 10 * MB, 0, -40 * MB),
        (100_000 * MB, 1000 * MB, 0, 744 * MB),
        (100_000 * MB, 1000 * MB, 900 * MB, 100 * MB),
        (100_000 * MB, 1000 * MB, 2000 * MB, -1000 * MB),
    ],
)
async def test_the_reserve_stays_free(
    tmp_path, monkeypatch, disk, free, min_free, room
):
    """min_free, at least a twentieth of a small disk or 256 MiB of a large one."""
    found = SimpleNamespace(
        f_blocks=disk // 4096,
        f_frsize=4096,
        f_bavail=free // 4096,
        f_bfree=free,
        f_bsize=1 << 20,
    )
    monkeypatch.setattr(os, "fstatvfs", lambda _: found)
    spool = spool_in(Place(path=tmp_path, min_free=min_free))
    part = await spool.open(builders.export())

    assert part.room_bytes() == room
    if room >= 0:
        await spool.make_room(part, room)
    with pytest.raises(SpoolError) as caught:
        await spool.make_room(part, room + 1)
    assert caught.value.reason == "spool_full"
    part.close()
    spool.close()


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
        await spool.remove(export)
    await spool.remove(builders.export(spool_dir=None))
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
        await spool.remove(export)
    assert len(asked) == 1
    answers.set()
    async with asyncio.timeout(30):
        while folder != here:
            part = await spool.open(export)
            folder = part.path.parent
            part.close()
            await asyncio.sleep(0.01)
    await spool.remove(export)
    spool.close()

    assert not (here / spool.file_name(export)).exists()


async def test_no_file_is_taken_for_removed_whose_disk_is_away(tmp_path):
    """Else it would lie there for ever once the disk is back."""

    def away() -> None:
        raise OSError(errno.ENODEV, "away")

    spool = spool_in(Place(path=tmp_path / "away", guard=away))
    with pytest.raises(SpoolError):
        await spool.remove(builders.export(spool_dir=str(tmp_path / "away")))
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


def test_the_name_of_a_part_says_whose_it_is():
    """What it is made of can be read from it; other names say nothing."""
    export = builders.export()
    names = [PartName.of(export, "n0de", number) for number in (1, 2, 12)]

    assert [PartName.read(name.text) for name in names] == names
    assert len({name.text for name in names}) == 3
    assert all(name.is_of(export) for name in names)
    assert not names[0].is_of(dataclasses.replace(export, version=2))
    assert PartName.read(f"{names[0].text}~") is None


# --- a disk that hangs --------------------------------------------------------


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
        await spool.remove(export)

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
