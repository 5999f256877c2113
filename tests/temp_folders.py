"""Where tests keep their files: in memory, unless a disk is what they are about."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 2 * 1024**3


def memory() -> Path | None:
    """Return a folder that no disk holds up, if there is one with room enough."""
    if not os.access(_SHARED_MEMORY, os.W_OK):
        return None
    room = shutil.disk_usage(_SHARED_MEMORY).free
    return _SHARED_MEMORY if room >= _ENOUGH_BYTES else None
