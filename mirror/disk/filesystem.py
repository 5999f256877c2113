"""What a file system says of its room and of whose a file is."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from typing import TYPE_CHECKING, Final

from mirror.disk.durable import closing

if TYPE_CHECKING:
    from pathlib import Path

UNKNOWN_BYTES: Final = 2**62
"""Stands for the room of a file system that does not say how large it is."""
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def free_bytes(about: os.statvfs_result) -> int | None:
    """Return what is free; None where the file system reports no blocks at all.

    Some network file systems (rclone, WebDAV) do not know how large they are.
    """
    return about.f_bavail * about.f_frsize if about.f_blocks else None


def size_bytes(about: os.statvfs_result) -> int | None:
    """Return how large it is; None where the file system does not say."""
    return about.f_blocks * about.f_frsize or None


def is_ours(about: os.stat_result, *, owners: frozenset[int]) -> bool:
    """Tell whether something belongs to one of us and nobody else may write to it."""
    return about.st_uid in owners and not about.st_mode & _OTHERS_WRITE


def owners(root: os.stat_result) -> frozenset[int]:
    """Return the users that a folder of ours may belong to.

    This one, or root. Root itself also uses what the owner of the place has made.
    """
    me = os.geteuid()
    return frozenset({0, me} if me else {0, root.st_uid})


def is_open(path: Path) -> bool:
    """Tell whether others may write to a folder that could be closed to them.

    Raises:
        OSError: It cannot be looked at.
    """
    with closing(os.open(path, os.O_RDONLY | os.O_DIRECTORY)) as folder:
        about = os.fstat(folder)
        return not is_ours(about, owners=owners(about)) and keeps_modes(folder)


def keeps_modes(folder: int) -> bool:
    """Tell whether what is made in an open folder is ours and closed to others.

    On FAT, SMB, or where the server maps users, it may not be. A folder is made and
    removed; one that cannot be made shows nothing.
    """
    name = f".archive-mirror-{secrets.token_hex(8)}"
    try:
        os.mkdir(name, 0o700, dir_fd=folder)
    except OSError:
        return True
    try:
        about = os.stat(name, dir_fd=folder, follow_symlinks=False)
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=folder)
    return is_ours(about, owners=frozenset({os.geteuid()}))
