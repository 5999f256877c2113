"""Give unused memory back to the system (glibc; does nothing elsewhere)."""

from __future__ import annotations

import ctypes
from datetime import timedelta
from typing import Final

EVERY: Final = timedelta(minutes=1)
"""Often enough that the memory of two bursts is not kept at once."""

_M_ARENA_MAX: Final = -8
_libc = ctypes.CDLL(None)
_trim = getattr(_libc, "malloc_trim", None)
_option = getattr(_libc, "mallopt", None)


def share_one_heap() -> None:
    """Have all later threads use one heap.

    Else each has its own, with its own unused pages between used ones (mallopt(3)).
    """
    if _option is not None:
        _option(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Release all free pages; takes some milliseconds.

    glibc keeps freed pages between used ones, so a process that runs for weeks would
    keep the peaks of all its threads (malloc_trim(3)).
    """
    if _trim is not None:
        _trim(0)
