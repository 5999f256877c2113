"""One file in the spool: what of it is proven, and what it survives."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from mirror.errors import SpoolError
from mirror.pipeline.spool.part import Part, PartName
from mirror.pipeline.spool.spool import Place
from tests import builders, mp4_boxes
from tests.spool_bench import BYTES, digest, open_files, opened, spool_in


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.part"


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


def test_the_name_of_a_part_says_whose_it_is():
    """What it is made of can be read from it; other names say nothing."""
    export = builders.export()
    names = [PartName.of(export, "n0de", number) for number in (1, 2, 12)]

    assert [PartName.read(name.text) for name in names] == names
    assert len({name.text for name in names}) == 3
    assert all(name.is_of(export) for name in names)
    assert not names[0].is_of(dataclasses.replace(export, version=2))
    assert PartName.read(f"{names[0].text}~") is None
