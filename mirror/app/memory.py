"""Give memory that nobody uses back to the system."""

from __future__ import annotations

import ctypes
from datetime import timedelta
from typing import Final

EVERY: Final = timedelta(minutes=1)
"""Often enough that one burst is not kept on top of the one before it."""

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Release all free pages; takes some milliseconds.

    glibc keeps what was freed between pieces still in use, so a process that lives for
    weeks would hold the peaks of all its threads (malloc_trim(3)). Does nothing with
    another C library.
    """
    if _trim is not None:
        _trim(0)
