"""Put files in place so that they are there whole or not at all. Blocking.

All paths are relative to an open directory, so that what is written lands on the
disk that was looked at, whatever is mounted over its path meanwhile.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

READ_BYTES = 1024 * 1024
NO_LINKS = frozenset(
    {
        errno.EPERM,
        errno.EOPNOTSUPP,
        errno.ENOTSUP,
        errno.ENOSYS,
        errno.EMLINK,
        errno.EXDEV,
        errno.EINVAL,
    }
)
_RENAME_NOREPLACE = 1
_NO_RENAMEAT2 = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


def open_folder(parent: int, name: str) -> int:
    """Open a directory below another, never through a symbolic link."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=parent)


def make_folders(
    root: int, segments: list[str], *, mode: int, prepare: Callable[[int], None]
) -> int:
    """Open the directory at the end of `segments`, making what is missing.

    Each directory made is durable in its parent before it is used.

    Args:
        root: Open directory; stays open.
        segments: Names, outermost first.
        mode: Of the directories made.
        prepare: Given each directory made, open; sets its mode and group.
    """
    current = os.dup(root)
    try:
        for segment in segments:
            made = False
            try:
                below = open_folder(current, segment)
            except FileNotFoundError:
                try:
                    os.mkdir(segment, mode, dir_fd=current)
                    made = True
                except FileExistsError:
                    made = False
                below = open_folder(current, segment)
            parent, current = current, below
            try:
                if made:
                    prepare(below)
                    os.fsync(parent)
            finally:
                os.close(parent)
    except BaseException:
        os.close(current)
        raise
    return current


def write_new(folder: int, name: str, content: bytes, *, mode: int) -> None:
    """Write a small new file whole and durable; it must not be there yet."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, mode, dir_fd=folder)
    try:
        write_all(fd, content)
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, content: bytes | memoryview) -> None:
    """Write all bytes, however short the single writes are."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def digest_of(fd: int) -> str:
    """Return the SHA-256 of a whole file."""
    digest = hashlib.sha256()
    offset = 0
    while block := os.pread(fd, READ_BYTES, offset):
        digest.update(block)
        offset += len(block)
    return digest.hexdigest()


def is_file(folder: int, name: str) -> bool:
    """Tell whether a regular file of that name is there."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode)


def remove(folder: int, name: str) -> None:
    """Remove a file of our own, if it is there."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return


def move_new(source: int, old: str, folder: int, new: str) -> None:
    """Give a file of our own its final name, never over another file.

    By link and unlink; where links cannot be had, by a rename that refuses to
    replace; where that cannot be had either, by a rename after a look.

    Raises:
        FileExistsError: Something lies there.
    """
    try:
        os.link(old, new, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError as exc:
        if exc.errno not in NO_LINKS:
            raise
        rename_new(source, old, folder, new)
        return
    remove(source, old)


def rename_new(source: int, old: str, folder: int, new: str) -> None:
    """Rename without replacing; see `move_new`."""
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.renameat2(
        source, os.fsencode(old), folder, os.fsencode(new), _RENAME_NOREPLACE
    )
    if not failed:
        return
    code = ctypes.get_errno()
    if code not in _NO_RENAMEAT2:
        raise OSError(code, os.strerror(code), new)
    try:
        os.stat(new, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(old, new, src_dir_fd=source, dst_dir_fd=folder)
        return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
