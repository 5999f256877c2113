"""Bugs in how files and the ledger are made to last, and on which disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sqlite3
import stat
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from typing_extensions import override

from mirror.ledger import LedgerThread, preallocation
from mirror.mp4.proof import Proof
from mirror.pipeline.spool.part import Part
from mirror.pipeline.spool.spool import Spool
from mirror.ports import Kept
from mirror.targets.directory.target import DirectoryTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirror.ports import Publication


def no_fsync() -> None:
    """Flush no file and no folder to the disk."""
    patch.object(os, "fsync", lambda _: None).start()
    patch.object(os, "fdatasync", lambda _: None).start()


def no_folder_fsync() -> None:
    """Flush files, but no folder that names them."""
    real = os.fsync

    def fsync(fd: Any) -> None:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            real(fd)

    patch.object(os, "fsync", fsync).start()


def ignored_fsync_error() -> None:
    """Take a flush that failed for one that did its work."""

    def ignoring(flush: Callable[[Any], None]) -> Callable[[Any], None]:
        def flushed(fd: Any) -> None:
            with contextlib.suppress(OSError):
                flush(fd)

        return flushed

    patch.object(os, "fsync", ignoring(os.fsync)).start()
    patch.object(os, "fdatasync", ignoring(os.fdatasync)).start()


def ignored_write_error() -> None:
    """Take what the spool failed to write for written; no picture is looked at."""
    real = os.pwritev

    def pwritev(fd: int, buffers: Sequence[Any], *given: int) -> int:
        with contextlib.suppress(OSError):
            real(fd, buffers, *given)
        return sum(map(len, buffers))

    patch.object(os, "pwritev", pwritev).start()
    patch.object(Part, "examine", lambda self, announced: Proof(doubt=None)).start()


def ignored_short_write() -> None:
    """Take what the spool wrote in part for written in whole, likewise."""
    real = os.pwritev

    def pwritev(fd: int, buffers: Sequence[Any], *given: int) -> int:
        real(fd, buffers, *given)
        return sum(map(len, buffers))

    patch.object(os, "pwritev", pwritev).start()
    patch.object(Part, "examine", lambda self, announced: Proof(doubt=None)).start()


def saved_first() -> None:
    """Call a copy kept, and publish it when its spooled file may go."""
    publish, remove = DirectoryTarget.publish, Spool.remove
    promised: list[tuple[DirectoryTarget, Sequence[Publication]]] = []

    async def kept(
        self: DirectoryTarget, batch: Sequence[Publication]
    ) -> list[Kept | Exception]:
        promised.append((self, batch))
        return [Kept(verified=False) for each in batch]

    async def removed(self: Spool, exports: Any) -> None:
        while promised:
            await publish(*promised.pop())
        await remove(self, exports)

    patch.object(DirectoryTarget, "publish", kept).start()
    patch.object(Spool, "remove", removed).start()


def in_place() -> None:
    """Write a kept file under its final name from the first byte on, slowly."""

    def link(source: Any, name: Any, **where: Any) -> None:
        old = os.open(source, os.O_RDONLY, dir_fd=where.get("src_dir_fd"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        new = os.open(name, flags, 0o600, dir_fd=where.get("dst_dir_fd"))
        offset = 0
        while chunk := os.pread(old, 65536, offset):
            offset += os.write(new, chunk)
            time.sleep(0.02)
        os.fsync(new)
        os.close(new)
        os.close(old)

    patch.object(os, "link", link).start()


def no_ledger_fsync() -> None:
    """Let SQLite leave it to the system when a commit reaches the disk."""
    connect = sqlite3.connect

    class Unsynced(sqlite3.Connection):
        @override
        def execute(self, sql: str, *given: Any) -> sqlite3.Cursor:
            sql = re.sub(r"^PRAGMA synchronous = \w+", "PRAGMA synchronous = OFF", sql)
            return super().execute(sql, *given)

    def connected(*given: Any, **more: Any) -> sqlite3.Connection:
        return connect(*given, **more, factory=Unsynced)

    patch.object(sqlite3, "connect", connected).start()


def no_pause_between_ledger_retries() -> None:
    """Repeat what the ledger could not do at once, again and again."""
    sleep, call = asyncio.sleep, LedgerThread.__call__
    in_ledger = ContextVar("in_ledger", default=False)

    async def sleeping(delay: float, *given: Any) -> Any:
        return await sleep(0 if in_ledger.get() else delay, *given)

    async def calling(self: Any, *given: Any, **more: Any) -> Any:
        token = in_ledger.set(True)
        try:
            return await call(self, *given, **more)
        finally:
            in_ledger.reset(token)

    patch.object(asyncio, "sleep", sleeping).start()
    patch.object(LedgerThread, "__call__", calling).start()


def no_preallocation() -> None:
    """Let SQLite map a file that its disk may have no room for."""
    patch.object(preallocation, "look_for_room", lambda _: None).start()
    patch.object(preallocation, "allocate_shared", lambda _: None).start()


def any_disk() -> None:
    """Take whatever lies at a target's path for the target."""
    probe, publish = DirectoryTarget.probe, DirectoryTarget.publish

    async def probed(self: Any, _: str | None, **more: Any) -> Any:
        return await probe(self, None, **more)

    async def published(self: Any, batch: Any) -> list[Kept | Exception]:
        await probe(self, None, write=True)
        return await publish(self, batch)

    patch.object(DirectoryTarget, "probe", probed).start()
    patch.object(DirectoryTarget, "publish", published).start()
