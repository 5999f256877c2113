"""Read what a directory target keeps, changing nothing there: blocking."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from typing import TYPE_CHECKING, Final

from mirror.disk import durable
from mirror.ports import MAX_SIDECAR_BYTES, Examined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_NOTHING: Final = Examined(present=False, size_bytes=None, sha256=None, sidecar=None)


def examine(
    root: int,
    segments: Sequence[str],
    *,
    size_bytes: int,
    read: Callable[[int], None],
) -> Examined:
    """Return what lies at a path below an open root, and beside it.

    Args:
        root: Descriptor.
        segments: Of the path.
        size_bytes: Only a file of this length is read.
        read: Told how many bytes came.

    Raises:
        OSError: It cannot be read just now.
    """
    *folders, name = segments
    with contextlib.ExitStack() as held:
        within = root
        for folder in folders:
            try:
                opened = durable.open_folder(folder, within=within)
            except FileNotFoundError:
                return _NOTHING
            within = held.enter_context(durable.closing(opened))
        sidecar = _sidecar(f"{name}.json", within)
        with _file(name, within) as (present, fd):
            if fd is None:
                return Examined(
                    present=present, size_bytes=None, sha256=None, sidecar=sidecar
                )
            found_bytes = os.fstat(fd).st_size
            return Examined(
                present=True,
                size_bytes=found_bytes,
                sha256=_digest(fd, read) if found_bytes == size_bytes else None,
                sidecar=sidecar,
            )


def record_in(fd: int) -> bytes:
    """Return what an open sidecar holds; nothing if it can be no record of ours.

    Its length is looked at before, and as much is read at most, for others may write
    there too.
    """
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_SIDECAR_BYTES:
        return b""
    content = b""
    for chunk in durable.chunks_of(fd):
        content += chunk
        if len(content) > MAX_SIDECAR_BYTES:
            return b""
    return content


@contextlib.contextmanager
def _file(name: str, within: int) -> Iterator[tuple[bool, int | None]]:
    """Give whether anything has the name, and a regular file open for reading."""
    try:
        found = os.stat(name, dir_fd=within, follow_symlinks=False)
        regular = stat.S_ISREG(found.st_mode)
        fd = durable.open_file(name, within=within) if regular else None
    except FileNotFoundError:
        yield False, None
        return
    if fd is None:
        yield True, None
        return
    with durable.closing(fd):
        yield True, fd


def _sidecar(name: str, within: int) -> bytes | None:
    with _file(name, within) as (present, fd):
        if fd is None:
            return b"" if present else None
        durable.forget_cached(fd)
        return record_in(fd)


def _digest(fd: int, read: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    durable.forget_cached(fd)
    for chunk in durable.chunks_of(fd):
        digest.update(chunk)
        read(len(chunk))
    # An archive that is read through must not push all else out of the memory.
    durable.forget_cached(fd)
    return digest.hexdigest()
