"""Files in the spool that a rebuilt ledger does not know: perhaps all that is left."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.app.build import target_for
from mirror.app.instance import spool_folders
from mirror.pipeline.spool.part import PartName

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirror.config import Settings
    from mirror.ledger import Ledger
    from mirror.model import Export

_KEPT = ".unclaimed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unclaimed:
    """One such file, as it lies now."""

    path: Path
    export: str
    size_bytes: int


def node_of_spool(settings: Settings, ledger: Ledger) -> str | None:
    """Return the node id that the spooled files of a ledger's exports bear."""
    found: Counter[str] = Counter()
    for path, name, _ in _parts(settings):
        if any(one.spool_dir == str(path.parent) for one in _exports(ledger, name)):
            found[name.node_id] += 1
    return found.most_common(1)[0][0] if found else None


def keep(settings: Settings, ledger: Ledger, node_id: str | None) -> list[Unclaimed]:
    """Return what is spooled of exports that are not known; nothing of it is removed.

    Args:
        settings: The configuration.
        ledger: The new one.
        node_id: As it was before. Files that bear it are renamed: a fetch of the export
            would begin by emptying them. None if it is not known: whatever lies in the
            spool of a target that machines share may then be ours.

    Raises:
        OSError: One cannot be renamed.
    """
    found = []
    for path, name, shared in sorted(_parts(settings)):
        kept = path.name.endswith(_KEPT)
        others = shared and node_id not in {None, name.node_id}
        if others or (not kept and _exports(ledger, name)):
            continue
        lies = path
        if name.node_id == node_id and not kept:
            lies = path.rename(path.with_name(f"{path.name}{_KEPT}"))
        export, size = f"{name.source}/{name.export_id}", lies.stat().st_size
        found.append(Unclaimed(path=lies, export=export, size_bytes=size))
    return found


def _parts(settings: Settings) -> Iterator[tuple[Path, PartName, bool]]:
    """Yield each file in a spool, and whether machines may share that spool."""
    folders = dict.fromkeys(spool_folders(settings), False)
    for target in settings.targets.values():
        offered = target_for(target, node_id="").spool_folder
        if offered is not None:
            folders[offered.path] = True
    for folder, shared in folders.items():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for path in folder.iterdir():
                name = PartName.read(path.name.removesuffix(_KEPT))
                if name is not None:
                    yield path, name, shared


def _exports(ledger: Ledger, name: PartName) -> list[Export]:
    found = ledger.queries.find(name.export_id, source=name.source)
    return [one for one in found if name.is_of(one)]
