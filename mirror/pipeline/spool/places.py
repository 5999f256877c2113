"""Where the spool lies: on the only target if that can be, else beside the ledger."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from functools import partial
from typing import TYPE_CHECKING

from mirror.disk import filesystem, mounts
from mirror.pipeline.spool.spool import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from mirror.ports import SpoolFolder, Target

READY_S = 1.0
"""So long no other disk comes to lie at a path and has the folder's very number."""


class SpoolPlaces:
    """Says where the spool may lie at the moment.

    Args:
        folders: The local ones, best first: the one that was chosen, if one was, and
            the one beside the ledger.
        state_dir: Where the ledger lies.
        targets: All targets, by name.
        marker_id: Gives the marker of the only target while it may be used, else None.
        is_open: Tells whether it is known that others may write to the only target.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        state_dir: Path,
        targets: Mapping[str, Target],
        marker_id: Callable[[], str | None],
        is_open: Callable[[], bool],
    ) -> None:
        self._chosen = folders[0] if len(folders) > 1 else None
        self._local = folders[0]
        self._fallback = Place(path=folders[-1], beside_ledger=True)
        self._state_dir = state_dir
        self._targets = targets
        self._only = next(iter(targets.values())) if len(targets) == 1 else None
        self._marker_id = marker_id
        self._is_open = is_open
        self._ready: tuple[str, list[tuple[int, ...]]] | None = None
        self._ready_at = 0.0

    def now(self) -> list[Place]:
        """Return the folders to try, best first. Called in a thread."""
        if self._chosen is not None:
            beside = self._beside_ledger(self._chosen)
            chosen = Place(path=self._chosen, private=True, beside_ledger=beside)
            return [chosen, self._fallback]
        folder = None if self._only is None else self._only.spool_folder
        if folder is None or folder.network:
            return [self._fallback]
        here = Place(
            path=folder.path,
            guard=partial(self._guard, folder),
            min_free=folder.min_free,
            give_mode=folder.give_mode,
            beside_ledger=self._beside_ledger(folder.path.parent),
        )
        return [here, self._fallback]

    def free_bytes(self) -> int | None:
        """Return the space left where the spool lies now. Called in a thread."""
        for place in self.now():
            try:
                if place.guard is not None:
                    place.guard()
                file_system = os.statvfs(place.path)
            except OSError:
                continue
            return filesystem.free_bytes(file_system)
        return None

    def linker(self) -> str | None:
        """Return the one target whose kept files may be the spooled ones.

        Two targets that link the same file would lose both copies to one bad block.
        """
        if self._only is not None:
            return self._only.name
        for name, target in self._targets.items():
            folder = target.traits.links_in
            if folder is not None and mounts.same_device(folder, self._local):
                return name
        return None

    def _beside_ledger(self, path: Path) -> bool:
        return mounts.same_device(path, self._state_dir)

    def _guard(self, folder: SpoolFolder) -> None:
        """Make sure that the only target's disk, and no other, lies at its path.

        The marker is read once in a while; between, the folder must be the same one.
        """
        marker_id = self._marker_id()
        if marker_id is None:
            name = "" if self._only is None else self._only.name
            raise OSError(errno.ENODEV, f"the target {name} is away")
        now, found = time.monotonic(), (marker_id, _facts(folder.path))
        if found != self._ready or now - self._ready_at > READY_S:
            folder.ready(marker_id, self._is_open())
            self._ready, self._ready_at = (marker_id, _facts(folder.path)), now


def _facts(folder: Path) -> list[tuple[int, ...]]:
    """Return what tells a folder and the one above from others, and whose they are."""
    with contextlib.suppress(OSError):
        return [
            (each.st_dev, each.st_ino, each.st_mode, each.st_uid, each.st_gid)
            for each in (folder.parent.lstat(), folder.lstat())
        ]
    return []
