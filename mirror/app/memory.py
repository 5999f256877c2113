"""Hold no more memory than is used, for weeks (glibc; nothing elsewhere)."""

from __future__ import annotations

import ctypes
from datetime import timedelta
from typing import Final

EVERY: Final = timedelta(minutes=1)
"""Often enough that one burst is not kept on top of the one before it."""

_M_ARENA_MAX: Final = -8
_libc = ctypes.CDLL(None)
_trim = getattr(_libc, "malloc_trim", None)
_option = getattr(_libc, "mallopt", None)


def share_one_heap() -> None:
    """Let all threads that are to come take from one heap.

    Each would have its own, with its own leftovers between what is still in use
    (mallopt(3)).
    """
    if _option is not None:
        _option(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Release all free pages; takes some milliseconds.

    glibc keeps what was freed between pieces still in use, so a process that lives for
    weeks would hold the peaks of all its threads (malloc_trim(3)).
    """
    if _trim is not None:
        _trim(0)
