"""Read what a directory target keeps, changing nothing there: blocking."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from mirror.disk import durable
from mirror.ports import MAX_SIDECAR_BYTES, ContentError, StoredFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def examine(
    root: int,
    path: str,
    *,
    size_bytes: int,
    came: Callable[[int], None],
) -> StoredFile:
    """Return what lies at a path below an open root, and beside it; see `ports.Target`.

    Raises:
        OSError: It cannot be read just now.
    """
    try:
        with folder_of(root, path) as (folder, name):
            sidecar = _sidecar(f"{name}.json", folder)
            with _file(name, folder) as (present, fd):
                found_bytes = None if fd is None else os.fstat(fd).st_size
                sha256 = None
                if fd is not None and found_bytes == size_bytes:
                    sha256 = durable.digest_on_disk(fd, came)
                    # An archive that is read through must not push all else out of
                    # the memory.
                    durable.forget_cached(fd)
                return StoredFile(
                    path=path,
                    present=present,
                    size_bytes=found_bytes,
                    sidecar=sidecar,
                    sha256=sha256,
                )
    except FileNotFoundError:
        return StoredFile(path=path, present=False, size_bytes=None, sidecar=None)


def chunks(root: int, path: str, label: str) -> Iterator[bytes]:
    """Yield the bytes of the file at a path below an open root.

    Raises:
        ContentError: No file lies there; it is called by its label.
        OSError: It cannot be read just now.
    """
    try:
        with folder_of(root, path) as (folder, name), _file(name, folder) as (_, fd):
            if fd is None:
                raise ContentError(f"{label} is gone")
            durable.forget_cached(fd)
            yield from durable.chunks_of(fd)
    except FileNotFoundError as exc:
        raise ContentError(f"{label} is gone") from exc


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
    present, fd = True, None
    with contextlib.ExitStack() as stack:
        try:
            about = os.stat(name, dir_fd=within, follow_symlinks=False)
            if stat.S_ISREG(about.st_mode):
                opened = durable.open_file(name, within=within)
                fd = stack.enter_context(durable.closing(opened))
        except FileNotFoundError:
            present = False
        yield present, fd


def _sidecar(name: str, within: int) -> bytes | None:
    with _file(name, within) as (present, fd):
        if fd is None:
            return b"" if present else None
        durable.forget_cached(fd)
        return record_in(fd)


@contextlib.contextmanager
def folder_of(root: int, path: str) -> Iterator[tuple[int, str]]:
    """Give the open folder of a path, and the name in it; no link is followed.

    Raises:
        FileNotFoundError: A folder is missing.
    """
    *folders, name = path.split("/")
    with contextlib.ExitStack() as stack:
        folder = root
        for segment in folders:
            opened = durable.open_folder(segment, within=folder)
            folder = stack.enter_context(durable.closing(opened))
        yield folder, name
