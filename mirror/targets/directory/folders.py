"""The folders below a target's root."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from mirror.disk import durable
from mirror.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.disk.durable import FileModes

_NO_FOLDER: Final = frozenset({errno.ENOTDIR, errno.ELOOP})


class Folders:
    """Opens folders, makes those that are missing, and sees that they last."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._durable: set[str] = set()

    def forget(self) -> None:
        """Take no folder for durable any more; another disk may lie there."""
        self._durable.clear()

    def open(self, root: int, segments: Sequence[str], modes: FileModes) -> int:
        """Return an open folder below `root`, itself and its parents durable.

        A folder that is there is not known to last: another thread, or a run that
        was killed, may have made it just now. So its parent is flushed once.

        Raises:
            TargetError: A symbolic link or a file is in the way.
        """
        current = os.dup(root)
        try:
            for number, segment in enumerate(segments, start=1):
                path = "/".join(segments[:number])
                below = self._step(current, segment, path, modes)
                os.close(current)
                current = below
        except BaseException:
            os.close(current)
            raise
        return current

    def _step(self, parent: int, segment: str, path: str, modes: FileModes) -> int:
        try:
            made = False
            try:
                fd = durable.open_folder(segment, within=parent)
            except FileNotFoundError:
                made = durable.make_folder(
                    segment, within=parent, mode=modes.dir_mode, gid=modes.gid
                )
                fd = durable.open_folder(segment, within=parent)
        except OSError as exc:
            if exc.errno not in _NO_FOLDER:
                raise
            raise TargetError(
                "in_the_way",
                f"target {self._target}: {path} is a symbolic link or a file where a "
                "folder belongs, and links are not followed; move it away",
            ) from exc
        try:
            if made or path not in self._durable:
                os.fsync(parent)
                self._durable.add(path)
        except BaseException:
            os.close(fd)
            raise
        return fd
