"""The spooled file as a target reads it; its faults are none of the target's."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Final

from mirror.disk import durable, filesystem
from mirror.errors import TargetError
from mirror.ports import SpoolFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.ports import Publication

_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


@contextlib.contextmanager
def opened(publication: Publication) -> Iterator[int]:
    """Hold the spooled file open for reading.

    Raises:
        SpoolFileError: It is gone, or of another length.
        TargetError: It cannot be reached just now.
    """
    path = publication.spooled
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as exc:
        if exc.errno in _GONE:
            raise SpoolFileError(f"{path} is gone") from exc
        raise _unreachable(publication, exc) from exc
    with durable.closing(fd):
        _hold(publication, fd)
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size != publication.size_bytes:
            raise SpoolFileError(
                f"{path} is {found.st_size} bytes long, not {publication.size_bytes}"
            )
        yield fd


def is_ours(fd: int, publication: Publication) -> bool:
    """Tell whether nobody else could have put the open file there, or written to it.

    Then its bytes are those that were received; else they must be read to know.
    """
    path, us = publication.spooled, frozenset({0, os.geteuid()})
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        with durable.closing(folder):
            named = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
            holder = os.fstat(folder)
    except OSError:
        return False
    return (
        os.path.samestat(named, os.fstat(fd))
        and filesystem.is_ours(named, owners=us)
        and filesystem.is_ours(holder, owners=us)
    )


def chunks(fd: int, publication: Publication) -> Iterator[bytes]:
    """Yield the spooled file's bytes.

    Raises:
        SpoolFileError: The disk cannot read them.
        TargetError: It cannot be reached just now.
    """
    read = durable.chunks_of(fd)
    while True:
        try:
            chunk = next(read, b"")
        except OSError as exc:
            if exc.errno == errno.EIO:
                raise SpoolFileError(f"{publication.spooled}: {exc.strerror}") from exc
            raise _unreachable(publication, exc) from exc
        if not chunk:
            return
        yield chunk


def _hold(publication: Publication, fd: int) -> None:
    """Keep the file from being fetched anew meanwhile; not all file systems can.

    Raises:
        TargetError: It is being fetched.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise _unreachable(publication, exc) from exc
    except OSError:
        return


def _unreachable(publication: Publication, exc: OSError) -> TargetError:
    return TargetError(
        "no_origin", f"the bytes to copy: {publication.spooled}: {exc.strerror}"
    )
