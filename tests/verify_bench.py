"""A site whose exports are kept, and ways to damage what is kept."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from mirror.app import verify as verifying
from mirror.ledger import Ledger
from mirror.model import iso
from mirror.pipeline.verify.scrub import Sample
from tests import kept_site
from tests.kept_site import SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.pipeline.verify.judge import CopyFinding, VerifyTally
    from mirror.simulator import Vms


class Kept(kept_site.Kept):
    """A site whose exports are kept on `nas` and, where asked for, on `usb`."""

    @override
    def path(self, number: int, target: str = "nas") -> Path:
        """Return where the copy of one export lies, by the ledger."""
        copies = self.site.dossier(self.served[number]).copies
        (path,) = [one.path for one in copies if one.target == target]
        return self.root(target) / str(path)

    def copy(self, number: int, target: str = "nas"):
        """Return the ledger's record of one copy."""
        copies = self.site.dossier(self.served[number]).copies
        return next(one for one in copies if one.target == target)

    def truth(self, number: int) -> str:
        """Return the digest of the VMS's own file."""
        return str(self.vms.truth(self.served[number]).sha256)

    async def verify(
        self,
        *targets: str,
        sample: Sample | None = None,
        repair: bool = False,
        watch: Callable[[Any], None] = lambda _: None,
    ) -> tuple[VerifyTally, list[CopyFinding]]:
        """Verify within this process, so that faults can be played."""
        found: list[CopyFinding] = []
        settings = self.site.settings()
        tally = await verifying.run(
            settings,
            targets=targets or sorted(settings.targets),
            sample=sample or Sample(),
            repair=repair,
            told=found.append,
            watch=watch,
        )
        return tally, found


async def keep(
    folder: Path, vms: Vms, number: int, *targets: str, **source: Any
) -> Kept:
    """Let the real pipeline keep so many exports."""
    kept = await kept_site.keep(folder, vms, number, *targets, **source)
    return Kept(kept.site, kept.vms, kept.served)


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    """Return all that can be seen of a tree, the hidden folder included."""
    seen: dict[str, tuple[object, ...]] = {}
    for path in (root, *sorted(root.rglob("*"))):
        about = path.lstat()
        held = hashlib.sha256(path.read_bytes()).hexdigest() if _plain(path) else None
        seen[str(path.relative_to(root))] = (
            about.st_ino,
            about.st_mode,
            about.st_nlink,
            about.st_size,
            about.st_mtime_ns,
            about.st_ctime_ns,
            held,
        )
    return seen


def _plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def flip(path: Path, offset: int = SIZE // 2) -> None:
    """Flip one bit, and leave length and time of change as they were."""
    about = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        (old,) = file.read(1)
        file.seek(offset)
        file.write(bytes([old ^ 0x10]))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def problems(found: list[CopyFinding]) -> list[tuple[int | None, str, str]]:
    """Return which problems were told, in order of the export."""
    return sorted((one.export_id or 0, one.target, str(one.problem)) for one in found)


def _truncate(path: Path) -> None:
    os.truncate(path, SIZE - 1)


def _lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def _link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved").name)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES = {
    "a bit": (flip, "wrong_bytes"),
    "its first byte": (lambda path: flip(path, 0), "wrong_bytes"),
    "its last byte": (lambda path: flip(path, SIZE - 1), "wrong_bytes"),
    "cut": (_truncate, "wrong_length"),
    "longer": (_lengthen, "wrong_length"),
    "empty": (lambda path: os.truncate(path, 0), "wrong_length"),
    "gone": (Path.unlink, "missing"),
    "a link to the right bytes": (_link, "not_a_file"),
    "a folder": (_folder, "not_a_file"),
    "a pipe": (_pipe, "not_a_file"),
}


def _sidecar_of_another(path: Path) -> None:
    raw = json.loads(path.read_bytes())
    path.write_text(json.dumps(raw | {"size_bytes": raw["size_bytes"] + 1}))


SIDECARS = {
    "gone": (Path.unlink, "sidecar_missing"),
    "empty": (lambda path: os.truncate(path, 0), "sidecar_wrong"),
    "cut": (lambda path: os.truncate(path, 99), "sidecar_wrong"),
    "of another file": (_sidecar_of_another, "sidecar_wrong"),
    "a link": (_link, "sidecar_wrong"),
    "a folder": (_folder, "sidecar_wrong"),
}


def sql(kept: Kept, statement: str, *values: object) -> list[Any]:
    ledger = Ledger.read(kept.site.settings().state_dir)
    try:
        return ledger._db.connection.execute(statement, values).fetchall()
    finally:
        ledger.close()


def deadline_of(kept: Kept) -> str:
    """Return the deadline of the first export, in words."""
    return str(iso(kept.site.export(kept.served[0]).deadline_us))
