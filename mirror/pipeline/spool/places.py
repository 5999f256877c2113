"""Where the spool lies: on the only target if that can be, else beside the ledger."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from mirror.disk import filesystem, mounts
from mirror.disk.durable import closing, make_folder, open_folder
from mirror.pipeline.spool.spool import Place
from mirror.targets.directory.root import HIDDEN, read_marker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_SPOOL = "spool"


def folder_on(root: Path) -> Path:
    """Return the folder of the spool on a target."""
    return root / HIDDEN / _SPOOL


class SpoolPlaces:
    """Says where the spool may lie at the moment.

    Args:
        folders: The local ones, best first: the one that was chosen, if one was, and
            the one beside the ledger.
        state_dir: Where the ledger lies.
        roots: The folders of all targets, by name.
        min_free: Bytes that must stay free on the only target.
        marker_id: Gives the marker of the only target while it may be used, else None.
        is_open: Tells whether it is known that others may write to the only target.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        state_dir: Path,
        roots: Mapping[str, Path],
        min_free: int,
        marker_id: Callable[[], str | None],
        is_open: Callable[[], bool],
    ) -> None:
        self._chosen = folders[0] if len(folders) > 1 else None
        self._local = folders[0]
        self._fallback = Place(path=folders[-1], beside_ledger=True)
        self._state_dir = state_dir
        self._roots = roots
        self._only = next(iter(roots)) if len(roots) == 1 else None
        self._min_free = min_free
        self._marker_id = marker_id
        self._is_open = is_open

    def now(self) -> list[Place]:
        """Return the folders to try, best first. Called in a thread."""
        if self._chosen is not None:
            beside = self._beside_ledger(self._chosen)
            chosen = Place(path=self._chosen, private=True, beside_ledger=beside)
            return [chosen, self._fallback]
        root = None if self._only is None else self._roots[self._only]
        if root is None or mounts.is_network(root):
            return [self._fallback]
        here = Place(
            path=folder_on(root),
            guard=self._guard,
            min_free=self._min_free,
            beside_ledger=self._beside_ledger(root),
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
            return self._only
        for name, root in self._roots.items():
            if mounts.same_device(root, self._local):
                return name
        return None

    def _beside_ledger(self, path: Path) -> bool:
        return mounts.same_device(path, self._state_dir)

    def _guard(self) -> None:
        """Make sure that the only target's disk, and no other, lies at its path."""
        name = self._only or ""
        root, marker_id = self._roots[name], self._marker_id()
        if marker_id is None:
            raise OSError(errno.ENODEV, f"the target {name} is away")
        with contextlib.ExitStack() as stack:
            top = stack.enter_context(closing(os.open(root, os.O_RDONLY)))
            hidden = stack.enter_context(closing(open_folder(HIDDEN, within=top)))
            try:
                is_it = read_marker(hidden) == marker_id
            except ValueError:
                is_it = False
            if not is_it:
                raise OSError(errno.ENODEV, f"another disk lies at target {name}")
            make_folder(_SPOOL, within=hidden, mode=0o700)
            spool = stack.enter_context(closing(open_folder(_SPOOL, within=hidden)))
            us = filesystem.owners(os.fstat(top))
            ours = (
                filesystem.is_ours(os.fstat(each), owners=us)
                for each in (hidden, spool)
            )
            if not all(ours) and not self._is_open():
                raise OSError(errno.EPERM, f"others may write to {root / HIDDEN}")
