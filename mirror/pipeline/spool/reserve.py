"""How much of a disk the spool leaves free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.disk import filesystem

if TYPE_CHECKING:
    import os

_RESERVE_BYTES = 256 * 1024 * 1024
_RESERVE_SHARE = 20
_LEDGER_BYTES = 64 * 1024 * 1024


def room_of(about: os.statvfs_result, *, min_free: int, beside_ledger: bool) -> int:
    """Return how much may be written to a file system before the reserve is touched.

    The reserve is `min_free`, and never less than a twentieth of a small file system
    or 256 MiB of a large one; the ledger has half as much again, up to 64 MiB.
    """
    free = filesystem.free_bytes(about)
    if free is None:
        return filesystem.UNKNOWN_BYTES
    share = about.f_blocks * about.f_frsize // _RESERVE_SHARE
    reserve = max(min_free, min(_RESERVE_BYTES, share))
    if beside_ledger:
        reserve += min(_LEDGER_BYTES, share // 2)
    return free - reserve
