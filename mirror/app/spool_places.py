"""Where the spool lies: on the only target if that can be, else beside the ledger."""

from __future__ import annotations

import contextlib
import errno
import os
from functools import partial
from typing import TYPE_CHECKING

from mirror.disk import filesystem, mounts
from mirror.disk.durable import closing, make_folder, open_folder
from mirror.pipeline.spool.spool import Place
from mirror.targets.directory.root import HIDDEN, read_marker

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mirror.config import Settings
    from mirror.pipeline.publish.publisher import Publisher

_SPOOL = "spool"


class SpoolPlaces:
    """Says where the spool may lie at the moment.

    Attributes:
        publishers: By target; they know whether a target is there.
    """

    publishers: Mapping[str, Publisher]

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._fallback = Place(path=settings.state_dir / "spool", beside_ledger=True)
        self.publishers = {}

    def now(self) -> list[Place]:
        """Return the folders to try, best first. Called in a thread."""
        if self._settings.spool_dir is not None:
            path = self._settings.spool_dir
            chosen = Place(
                path=path, private=True, beside_ledger=self._beside_ledger(path)
            )
            return [chosen, self._fallback]
        name = self._only_target()
        if name is None or mounts.is_network(self._settings.targets[name].path):
            return [self._fallback]
        root = self._settings.targets[name].path
        guard = partial(self._guard, name, root)
        here = Place(
            path=root / HIDDEN / _SPOOL,
            guard=guard,
            min_free=self._settings.targets[name].min_free,
            beside_ledger=self._beside_ledger(root),
        )
        return [here, self._fallback]

    def free_bytes(self) -> int | None:
        """Return the space left where the spool lies now. Called in a thread."""
        for place in self.now():
            try:
                if place.guard is not None:
                    place.guard()
                found = os.statvfs(place.path)
            except OSError:
                continue
            return filesystem.free_bytes(found)
        return None

    def linker(self) -> str | None:
        """Return the one target whose kept files may be the spooled ones.

        Two targets that link the same file would lose both copies to one bad block.
        """
        if self._only_target() is not None:
            return self._only_target()
        spool = self._settings.spool_dir or self._fallback.path
        for name, target in self._settings.targets.items():
            if mounts.same_device(target.path, spool):
                return name
        return None

    def _beside_ledger(self, path: Path) -> bool:
        return mounts.same_device(path, self._settings.state_dir)

    def _only_target(self) -> str | None:
        names = list(self._settings.targets)
        return names[0] if len(names) == 1 else None

    def _guard(self, name: str, root: Path) -> None:
        """Make sure that the target's disk, and no other, lies at its path."""
        publisher = self.publishers[name]
        expected = None if publisher.paused else publisher.standing.marker_id
        if expected is None:
            raise OSError(errno.ENODEV, f"the target {name} is away")
        with contextlib.ExitStack() as held:
            top = held.enter_context(closing(os.open(root, os.O_RDONLY)))
            hidden = held.enter_context(closing(open_folder(HIDDEN, within=top)))
            try:
                known = read_marker(hidden) == expected
            except ValueError:
                known = False
            if not known:
                raise OSError(errno.ENODEV, f"another disk lies at target {name}")
            make_folder(_SPOOL, within=hidden, mode=0o700)
            spool = held.enter_context(closing(open_folder(_SPOOL, within=hidden)))
            us = filesystem.owners(os.fstat(top))
            ours = (
                filesystem.is_ours(os.fstat(each), owners=us)
                for each in (hidden, spool)
            )
            if not all(ours) and publisher.standing.warning is None:
                raise OSError(errno.EPERM, f"others may write to {root / HIDDEN}")
