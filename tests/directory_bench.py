"""A directory target's root, a spool, and what shall be published."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from mirror.ports import Kept, Publication, SpooledFile
from mirror.targets.directory.target import DirectoryTarget

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mirror.ports import Target


BYTES = bytes(range(256)) * 100


PATH = "hq/camera-7/2026/11/23/6414-gate.mp4"


HIDDEN = ".archive-mirror"


@dataclass
class World:
    """A target's root, a spool, and what shall be published."""

    root: Path
    spool: Path
    options: dict[str, Any] = field(default_factory=dict)

    def target(self, **options: object) -> DirectoryTarget:
        settings: dict[str, Any] = {
            "name": "nas",
            "root": self.root,
            "node_id": "n0de",
            "mount": False,
            "min_free": 0,
            "file_mode": 0o640,
            "dir_mode": 0o750,
            "group": None,
            "threads": 2,
        }
        return DirectoryTarget(**{**settings, **self.options, **options})

    def publication(
        self, content: bytes = BYTES, *, may_link: bool = True, **changes: object
    ) -> Publication:
        if not self.spool.exists():
            self.spool.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        record = {"source": "hq", "id": 6414, "sha256": sha256, "attempts": 1}
        wanted = Publication(
            content=SpooledFile(path=self.spool, may_link=may_link),
            path=PATH,
            sidecar=json.dumps(record).encode(),
            size_bytes=len(content),
            sha256=sha256,
            token="n0de-1",
        )
        return replace(wanted, **cast("dict[str, Any]", changes))

    def visible(self) -> dict[str, bytes]:
        """Return all files outside the hidden folder."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in self.root.rglob("*")
            if not path.is_dir() and HIDDEN not in path.parts
        }

    def temporaries(self) -> list[str]:
        folder = self.root / HIDDEN / "tmp"
        return sorted(path.name for path in folder.iterdir())

    def whole(self, wanted: Publication) -> dict[str, bytes]:
        return {wanted.path: BYTES, f"{wanted.path}.json": wanted.sidecar}


async def publish_to(target: Target, wanted: Publication) -> Kept:
    """Publish one file, and raise why not."""
    (result,) = await target.publish([wanted])
    if isinstance(result, Exception):
        raise result
    return result


async def publish(world: World, wanted: Publication) -> Kept:
    """Open the target as after a restart, publish once, and close it."""
    target = world.target()
    try:
        await target.probe(None, write=True)
        return await publish_to(target, wanted)
    finally:
        await target.close()


def refuse_with(code: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse
