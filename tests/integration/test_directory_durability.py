"""A directory target with every step made to fail, and the order of its flushes."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
from collections import Counter
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import pytest

from mirror.disk import durable
from mirror.errors import TargetError
from mirror.ports import ContentError
from tests.directory_bench import BYTES, HIDDEN, PATH, World, publish, publish_to

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("dead_descriptors_closed")


P = ParamSpec("P")


R = TypeVar("R")


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "root").mkdir()
    return World(root=tmp_path / "root", spool=tmp_path / "spooled")


@pytest.fixture
def swift(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Return a world that reads in small steps."""
    monkeypatch.setattr(durable, "READ_BYTES", len(BYTES) // 2 + 1)
    return world


CALLS = [
    "open", "close", "dup", "stat", "fstat", "mkdir", "link", "unlink", "rename",
    "write", "pread", "read", "fsync", "fchmod", "fchown", "fstatvfs",
]  # fmt: skip


class CrashError(Exception):
    """The process was killed: nothing that follows happens any more."""


class Saboteur:
    """Counts the calls of a target's threads and spoils the one asked for.

    Args:
        number: 1-based; of the calls made by the target.
        code: The error it gives; None kills the process there.
        late: The call is done, only its answer gets lost.
    """

    def __init__(self, number: int, code: int | None, *, late: bool) -> None:
        self.number = number
        self.code = code
        self.late = late
        self.count = 0
        self.spoiled: str | None = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, real: Callable[P, R]) -> Callable[P, R]:
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if not threading.current_thread().name.startswith("target-"):
                return real(*args, **kwargs)
            self.count += 1
            dead = self.code is None and self.spoiled is not None
            if self.count != self.number and not dead:
                return real(*args, **kwargs)
            self.spoiled = self.spoiled or name
            if name == "close" or (self.late and not dead):
                real(*args, **kwargs)
            if self.code is None:
                raise CrashError
            raise OSError(self.code, os.strerror(self.code))

        return call


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "code",
    [errno.EIO, errno.ENOSPC, errno.ESTALE, errno.EROFS, errno.EPERM, None],
    ids=["EIO", "ENOSPC", "ESTALE", "EROFS", "EPERM", "killed"],
)
@pytest.mark.parametrize("may_link", [True, False], ids=["link", "copy"])
async def test_every_step_may_fail(
    swift: World,
    monkeypatch: pytest.MonkeyPatch,
    may_link: bool,
    code: int | None,
    late: bool,
) -> None:
    """Fail each call in turn: nothing partial shows, and a repeat ends right."""
    world = swift
    spoiled: Counter[str] = Counter()
    for number in range(1, 1000):
        shutil.rmtree(world.root)
        world.root.mkdir()
        world.spool.unlink(missing_ok=True)
        wanted = world.publication(may_link=may_link)
        saboteur = Saboteur(number, code, late=late)
        with monkeypatch.context() as patched:
            saboteur.install(patched)
            try:
                await publish(world, wanted)
                failed = False
            except (TargetError, ContentError, CrashError):
                failed = True

        seen = world.visible()
        assert seen.items() <= world.whole(wanted).items(), (number, saboteur.spoiled)
        assert failed or seen == world.whole(wanted)
        await publish(world, wanted)
        assert world.visible() == world.whole(wanted)
        assert world.temporaries() == []
        assert list((world.root / HIDDEN).glob("*.part")) == []
        if saboteur.spoiled is None:
            break
        spoiled[saboteur.spoiled] += 1

    assert {"open", "mkdir", "link", "write", "fsync", "fchmod"} <= spoiled.keys()
    assert spoiled.total() > 60


class Journal:
    """Writes down what is made and flushed, by inode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.flushed: list[int] = []
        self.named: dict[tuple[int, str], int] = {}
        self.unflushed: set[int] = set()
        self.early: list[str] = []
        notes: dict[str, Callable[..., None]] = {
            "fsync": self._fsync,
            "write": self._write,
            "fchmod": self._write,
            "link": self._link,
            "mkdir": self._mkdir,
        }
        for name, note in notes.items():
            monkeypatch.setattr(os, name, self._noted(getattr(os, name), note))
        self.folders: set[int] = set()

    def _noted(self, real: Callable[P, R], note: Callable[..., None]) -> Callable[P, R]:
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            result = real(*args, **kwargs)
            if threading.current_thread().name.startswith("target-"):
                note(*args, **kwargs)
            return result

        return call

    def _write(self, fd: int, *_: object) -> None:
        self.unflushed.add(os.fstat(fd).st_ino)

    def _fsync(self, fd: int) -> None:
        self.unflushed.discard(os.fstat(fd).st_ino)
        self.folders.discard(os.fstat(fd).st_ino)

    def _link(self, _: str, name: str, *, dst_dir_fd: int, **__: object) -> None:
        made = os.stat(name, dir_fd=dst_dir_fd)
        if made.st_ino in self.unflushed:
            self.early.append(name)
        self.folders.add(os.fstat(dst_dir_fd).st_ino)

    def _mkdir(self, name: str, *_: object, dir_fd: int) -> None:
        self.folders.add(os.fstat(dir_fd).st_ino)


@pytest.mark.parametrize("may_link", [True, False], ids=["link", "copy"])
async def test_order_of_durability(
    world: World, monkeypatch: pytest.MonkeyPatch, may_link: bool
) -> None:
    """Flushed before it gets its name; the names flushed before it is called kept."""
    world.spool.write_bytes(BYTES)
    world.spool.chmod(0o600)
    journal = Journal(monkeypatch)

    await publish(world, world.publication(may_link=may_link))

    assert journal.early == []
    assert journal.unflushed == set()
    assert journal.folders == set()


async def test_folders_of_a_killed_run_are_flushed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that was there already is not taken for durable."""
    (world.root / PATH).parent.mkdir(parents=True)
    flushed: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        flushed.append(os.fstat(fd).st_ino)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)

    await publish(world, world.publication())

    parents = [world.root, *(world.root / part for part in ["hq", "hq/camera-7/2026"])]
    assert {path.stat().st_ino for path in parents} <= set(flushed)


async def test_failed_flush_throws_the_file_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose flush failed is never flushed again nor kept."""
    real, inodes = os.fsync, []
    target = world.target()
    await target.probe(None, write=True)

    def fsync(fd: int) -> None:
        if os.fstat(fd).st_size == len(BYTES):
            inodes.append(os.fstat(fd).st_ino)
            if len(inodes) == 1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(TargetError) as failed:
        await publish_to(target, world.publication(may_link=False))

    assert failed.value.reason == "io_error"
    assert len(inodes) == 1
    assert world.temporaries() == []
    assert world.visible() == {}
    await target.close()


async def test_failed_close_throws_the_file_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that is told lost only at closing (NFS, SMB) is a failure."""
    real, failed_once = os.close, threading.Event()
    target = world.target()
    await target.probe(None, write=True)

    def close(fd: int) -> None:
        written = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
        real(fd)
        if written and not failed_once.is_set():
            failed_once.set()
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "close", close)
    with pytest.raises(TargetError) as failed:
        await publish_to(target, world.publication(may_link=False))

    assert failed.value.reason == "no_space"
    assert world.visible() == {}
    await target.close()
