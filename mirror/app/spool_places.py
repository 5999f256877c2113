"""Where the spool lies: on the only target if that can be, else beside the ledger."""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import TYPE_CHECKING

from mirror.disk import filesystem, mounts
from mirror.pipeline.spool.spool import Place

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mirror.config import Settings
    from mirror.pipeline.publish.publisher import Publisher
    from mirror.ports import SpoolFolder, Target


class SpoolPlaces:
    """Says where the spool may lie at the moment.

    Attributes:
        publishers: By target; they know whether a target is there.
    """

    publishers: Mapping[str, Publisher]

    def __init__(self, settings: Settings, targets: Mapping[str, Target]) -> None:
        self._settings = settings
        self._targets = targets
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
        folder = None if name is None else self._targets[name].spool_folder
        if name is None or folder is None or folder.network:
            return [self._fallback]
        here = Place(
            path=folder.path,
            guard=partial(self._guard, name, folder),
            min_free=folder.min_free,
            beside_ledger=self._beside_ledger(folder.path.parent),
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
        for name, target in self._targets.items():
            folder = target.traits.links_in
            if folder is not None and mounts.same_device(folder, spool):
                return name
        return None

    def _beside_ledger(self, path: Path) -> bool:
        return mounts.same_device(path, self._settings.state_dir)

    def _only_target(self) -> str | None:
        names = list(self._targets)
        return names[0] if len(names) == 1 else None

    def _guard(self, name: str, folder: SpoolFolder) -> None:
        """Make sure that the target's disk, and no other, lies at its path."""
        publisher = self.publishers[name]
        known = None if publisher.paused else publisher.monitor.marker_id
        if known is None:
            raise OSError(errno.ENODEV, f"the target {name} is away")
        folder.ready(known, publisher.monitor.warning is not None)
