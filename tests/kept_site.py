"""A site that has saved files, whose ledger is then lost or damaged."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirror.app.rebuild import rebuild as rebuilding
from mirror.app.status import public_json
from mirror.ledger import LEDGER_NAME, Filter, Ledger
from tests import warm_command
from tests.site import Site

if TYPE_CHECKING:
    from mirror.app.rebuild.rebuild import OddCopy, RebuildReport
    from mirror.simulator import Export as Served
    from mirror.simulator import Vms

SIZE = 20_000
HIDDEN = ".archive-mirror"
FACTS = (
    *("source", "id", "state", "reason", "name", "camera_id", "stream_type"),
    *("footage_from", "footage_to", "created_at", "first_seen", "deadline"),
    *("size_bytes", "sha256", "attempts", "last_error"),
)


@dataclass(slots=True)
class Kept:
    """A site whose exports are kept on `nas` and, where asked for, on more targets."""

    site: Site
    vms: Vms
    served: list[Served]
    odd: list[OddCopy] = field(default_factory=list)

    @property
    def ledger(self) -> Path:
        """Where the ledger lies."""
        return self.site.settings().state_dir / LEDGER_NAME

    def root(self, target: str = "nas") -> Path:
        """Return where a target lies."""
        return Path(self.site.tables["targets"][target]["path"])

    def path(self, number: int, target: str = "nas") -> Path:
        """Return where the layout puts the copy of an export."""
        return self.root(target) / f"hq/{self.served[number].export_id}.mp4"

    def sidecar(self, number: int, target: str = "nas") -> Path:
        """Return where its sidecar lies."""
        return Path(f"{self.path(number, target)}.json")

    def rows(self) -> dict[tuple[str, int, str], dict[str, Any]]:
        """Return what `list --json` shows, by identity."""
        ledger = Ledger.read(self.site.settings().state_dir, check=True)
        with contextlib.closing(ledger):
            shown = [
                public_json.export(*one) for one in ledger.queries.exports(Filter())
            ]
        return {(one["source"], one["id"], one["created_at"]): one for one in shown}

    def state(self, number: int) -> str:
        """Return the state of an export."""
        return str(self.site.export(self.served[number]).state)

    def copies(self, number: int) -> dict[str, tuple[str, str | None]]:
        """Return state and path of each copy of an export, by target."""
        copies = self.site.dossier(self.served[number]).copies
        return {one.target: (str(one.state), one.path) for one in copies}

    async def rebuild(self, *targets: str, force: bool = False) -> RebuildReport:
        """Rebuild within this process, so that faults can be played."""
        settings = self.site.settings()
        self.odd = []
        return await rebuilding.run(
            settings,
            targets=targets or sorted(settings.targets),
            force=force,
            told=self.odd.append,
            watch=lambda _: None,
        )

    def oddities(self) -> list[tuple[str, str]]:
        """Return what the last rebuild named, as (oddity, path)."""
        return sorted((str(one.oddity), one.path) for one in self.odd)

    def lose(self) -> None:
        """Remove the ledger and what lies beside it."""
        for path in self.ledger.parent.glob("ledger*"):
            path.unlink()

    async def command(self, *options: str) -> tuple[int, str, str]:
        """Run the real command; return its exit code, stdout and stderr."""
        self.site.settings()
        path = self.site.folder / "archive-mirror.toml"
        ran = await asyncio.to_thread(warm_command.run, ["-c", str(path), *options])
        return ran.code, ran.out.decode(), ran.err.decode()


async def keep(
    folder: Path, vms: Vms, number: int, *targets: str, **source: Any
) -> Kept:
    """Let the real pipeline keep so many exports."""
    site = Site.make(folder, vms, **source)
    site.tables["targets"]["nas"]["layout"] = "{source}/{id}"
    for target in targets:
        site.tables["targets"][target] = {
            "type": "directory",
            "path": str(folder / target),
            "layout": "{source}/{id}",
        }
    served = [vms.add(size=SIZE, name=f"{n}.mp4", camera_id=n) for n in range(number)]
    report = await site.once()
    assert (report.saved, report.owed) == (number, 0)
    return Kept(site, vms, served)


def alter(sidecar: Path, **given: Any) -> None:
    """Change fields of a sidecar."""
    sidecar.write_text(json.dumps(json.loads(sidecar.read_bytes()) | given))


def alter_ledger(kept: Kept, statement: str) -> None:
    """Change a row past the program: its checksum no longer fits."""
    with contextlib.closing(sqlite3.connect(kept.ledger)) as connection:
        connection.execute(statement)
        connection.commit()


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return all that lies on a target."""
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
