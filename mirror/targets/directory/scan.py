"""Find what a directory target keeps, by its sidecars: blocking, changes nothing."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from mirror.disk import durable
from mirror.layout import SUFFIX
from mirror.ports import StoredFile
from mirror.targets.directory.read import folder_of, record_in
from mirror.targets.directory.root import HIDDEN

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIDECAR: Final = f"{SUFFIX}.json"
_MAX_DEPTH: Final = 64
_HERE_ONLY: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT, errno.ELOOP, errno.ENOTDIR}
)
"""An error that says nothing of the rest of the target."""


def scan(root: int) -> Iterator[StoredFile]:
    """Yield each sidecar below an open root, in no order, and what lies beside it.

    Links are not followed. What cannot be read is yielded with the reason.

    Raises:
        OSError: The target is away.
    """
    return _below(root, "", 0)


def find(root: int, path: str) -> StoredFile | None:
    """Return one file's sidecar and what lies beside it; None if neither is there.

    Raises:
        OSError: It cannot be read just now.
    """
    try:
        with folder_of(root, path) as (folder, name):
            stored = _stored(f"{name}.json", folder, path)
    except FileNotFoundError:
        return None
    return None if stored.sidecar is None and stored.size_bytes is None else stored


def _below(folder: int, path: str, depth: int) -> Iterator[StoredFile]:
    with os.scandir(folder) as entries:
        for entry in entries:
            here = f"{path}{entry.name}"
            try:
                if entry.name.endswith(_SIDECAR):
                    media = here.removesuffix(".json")
                    yield _stored(entry.name, folder, media)
                elif entry.name != HIDDEN and entry.is_dir(follow_symlinks=False):
                    if depth == _MAX_DEPTH:
                        yield _unread(here, "it lies too deep")
                        continue
                    opened = durable.open_folder(entry.name, within=folder)
                    with durable.closing(opened) as fd:
                        yield from _below(fd, f"{here}/", depth + 1)
            except OSError as exc:
                if exc.errno not in _HERE_ONLY:
                    raise
                yield _unread(here, exc.strerror or str(exc))


def _stored(name: str, folder: int, path: str) -> StoredFile:
    """Read one sidecar, and look at the file it tells of."""
    try:
        with durable.closing(durable.open_file(name, within=folder)) as fd:
            sidecar = record_in(fd)
    except FileNotFoundError:
        sidecar = None
    present, size_bytes = True, None
    try:
        about = os.stat(
            name.removesuffix(".json"), dir_fd=folder, follow_symlinks=False
        )
        size_bytes = about.st_size if stat.S_ISREG(about.st_mode) else None
    except FileNotFoundError:
        present = False
    return StoredFile(
        path=path, present=present, size_bytes=size_bytes, sidecar=sidecar
    )


def _unread(path: str, problem: str) -> StoredFile:
    return StoredFile(path=path, sidecar=None, size_bytes=None, problem=problem)
