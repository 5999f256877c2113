"""Room on the disk for what SQLite maps into memory, so that touching it is safe."""

from __future__ import annotations

import ctypes
import errno
import os
import tempfile
from pathlib import Path
from typing import Final

_SHARED_BYTES: Final = 8 * 32768
"""Kept allocated of the -shm file: the index of a log of 128 MiB."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def has_shared(path: Path) -> bool:
    """Tell whether the file that SQLite maps for a ledger is there."""
    return _shared(path).exists()


def _shared(path: Path) -> Path:
    return path.with_name(f"{path.name}-shm")


def look_for_room(path: Path) -> None:
    """Make sure that SQLite will find room for the file that it maps into memory.

    Raises:
        OSError: There is none: touching the map would end the process by SIGBUS.
    """
    try:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            _allocate(file.fileno(), _SHARED_BYTES)
    except OSError as exc:
        if exc.errno in _FULL:
            raise


def allocate_shared(path: Path) -> None:
    """Have the disk keep room for all of the file that SQLite maps.

    SQLite writes one byte to each 4 KiB of it; where blocks are smaller the rest are
    holes, and a full disk that cannot fill one ends the process by SIGBUS. Done by
    SQLite's own descriptor, as closing another one would drop SQLite's locks.

    Raises:
        OSError: There is no room.
    """
    try:
        shared = _shared(path).stat()
        descriptors = [int(each.name) for each in Path("/proc/self/fd").iterdir()]
    except FileNotFoundError:
        return
    for fd in descriptors:
        try:
            if os.path.samestat(shared, os.fstat(fd)):
                _allocate(fd, _SHARED_BYTES)
        except OSError as exc:
            if exc.errno in _FULL:
                raise


def _allocate(fd: int, size: int) -> None:
    """Allocate the first bytes of a file without a change to them (Linux).

    The C library's posix_fallocate writes to them where the file system cannot.

    Raises:
        OSError: It cannot be done.
    """
    call = ctypes.CDLL(None, use_errno=True).fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    if call(fd, 0, 0, size):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
