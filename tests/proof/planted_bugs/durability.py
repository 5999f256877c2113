"""Bugs to plant in a process, so that a proof can be seen to fail."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from typing import TYPE_CHECKING, Any

from mirror.app.spool_places import SpoolPlaces
from mirror.disk import durable
from mirror.errors import ListError
from mirror.ledger import Ledger, preallocation, writer
from mirror.pipeline.publish.publisher import Publisher
from mirror.pipeline.spool.part import Part
from mirror.ports import Kept
from mirror.targets.directory.place import Placing
from mirror.targets.directory.root import Root
from mirror.vms import client, schema

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_fsync = os.fsync


def no_fsync() -> None:
    """Flush no file and no folder to the disk."""
    os.fsync = lambda _: None  # type: ignore[assignment]
    os.fdatasync = lambda _: None  # type: ignore[assignment]


def no_folder_fsync() -> None:
    """Flush files, but no folder that names them."""

    def fsync(fd: Any) -> None:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            _fsync(fd)

    os.fsync = fsync


def saved_first() -> None:
    """Call a copy saved before it is published."""
    place, saved = Publisher._place, Publisher._saved

    async def placed(self: Any, duty: Any, spooled: Any, *, linkable: bool) -> Kept:
        await saved(self, duty, Kept(path="", verified=False))
        return await place(self, duty, spooled, linkable=linkable)

    async def free(self: Any, key: int) -> None:
        """Leave the spooled file, which is yet to be published."""

    Publisher.free = free  # type: ignore[method-assign]
    Publisher._place = placed  # type: ignore[method-assign]


def in_place() -> None:
    """Write a kept file under its final name from the first byte on, slowly."""

    def written(self: Any, spool: int) -> bool:
        flags = os.O_WRONLY | os.O_CREAT
        fd = os.open(self._name, flags, 0o600, dir_fd=self.folder)
        offset = 0
        while chunk := os.pread(spool, 65536, offset):
            os.write(fd, chunk)
            time.sleep(0.02)
            offset += len(chunk)
        os.fsync(fd)
        os.close(fd)
        return True

    Placing._place_file = written  # type: ignore[method-assign]


def lax_ledger() -> None:
    """Let commits of the ledger wait for the disk's good will."""
    made = Ledger.__init__

    def opened(self: Any, *given: Any, **more: Any) -> None:
        made(self, *given, **more)
        self._db.connection.execute("PRAGMA synchronous = OFF")

    Ledger.__init__ = opened  # type: ignore[method-assign]


def deaf_fsync() -> None:
    """Take a flush that failed for one that did its work."""

    def deaf(flush: Callable[[Any], None]) -> Callable[[Any], None]:
        def flushed(fd: Any) -> None:
            with contextlib.suppress(OSError):
                flush(fd)

        return flushed

    os.fsync = deaf(os.fsync)  # type: ignore[assignment]
    os.fdatasync = deaf(os.fdatasync)  # type: ignore[assignment]


def deaf_write() -> None:
    """Take what the spool failed to write for written."""
    write = Part._write

    def written(self: Any, chunks: Any) -> None:
        with contextlib.suppress(OSError):
            write(self, chunks)

    Part._write = written  # type: ignore[method-assign]


def short_write() -> None:
    """Take what the spool wrote in part for written in whole."""

    def written(self: Any, chunks: Any) -> None:
        os.pwritev(self._fd, chunks, self.size)

    Part._write = written  # type: ignore[method-assign]


def loose_numbers() -> None:
    """Take what a list says for a number without looking."""
    schema._number = lambda value: None if value is None else int(value)  # type: ignore[call-overload]


def strict_pages() -> None:
    """Refuse a page for one bad row."""
    decode = schema.decode_page

    def decoded(body: Any, **more: Any) -> Any:
        page = decode(body, **more)
        if page.bad_rows:
            raise ListError("not_a_list", "it holds a bad row")
        return page

    schema.decode_page = decoded


def boundless_pages() -> None:
    """Hold a page in memory however long it is."""
    client.MAX_PAGE_BYTES = client._HELD_BYTES = 1 << 40


def hasty() -> None:
    """Repeat what the ledger could not do at once, again and again."""
    writer._REPEAT_S = 0.0


def careless_map() -> None:
    """Let SQLite map a file that its disk may have no room for."""
    preallocation.look_for_room = lambda _: None  # type: ignore[assignment]
    preallocation.allocate_shared = lambda _: None  # type: ignore[assignment]


def any_disk() -> None:
    """Take whatever lies at a target's path for the target."""

    def opened(self: Any) -> Any:
        return durable.closing(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY))

    def guard(self: Any, name: str, root: Path) -> None:
        (root / ".archive-mirror/spool").mkdir(parents=True, exist_ok=True)

    Root.expect = lambda *_: None  # type: ignore[method-assign]
    Root.opened = opened  # type: ignore[method-assign]
    SpoolPlaces._guard = guard  # type: ignore[method-assign]


PLANTS: dict[str, Callable[[], None]] = {
    "no_fsync": no_fsync,
    "no_folder_fsync": no_folder_fsync,
    "saved_first": saved_first,
    "in_place": in_place,
    "lax_ledger": lax_ledger,
    "loose_numbers": loose_numbers,
    "strict_pages": strict_pages,
    "boundless_pages": boundless_pages,
    "deaf_fsync": deaf_fsync,
    "deaf_write": deaf_write,
    "short_write": short_write,
    "hasty": hasty,
    "careless_map": careless_map,
    "any_disk": any_disk,
}
