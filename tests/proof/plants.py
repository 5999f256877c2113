"""Bugs to plant in a process, so that a proof can be seen to fail."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING, Any

from mirror.mirroring.publish import Publisher
from mirror.ports import Kept
from mirror.state import Ledger
from mirror.targets.placing import Placing

if TYPE_CHECKING:
    from collections.abc import Callable

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


PLANTS: dict[str, Callable[[], None]] = {
    "no_fsync": no_fsync,
    "no_folder_fsync": no_folder_fsync,
    "saved_first": saved_first,
    "in_place": in_place,
    "lax_ledger": lax_ledger,
}
