"""An independent judge of what a mirror kept. It shares no code with the mirror.

It reads the files on the targets, the sidecars beside them, the lines of
`list --json`, and the truth of whoever offered the files; nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ENDED = {"unavailable", "lost", "erased", "excluded"}
_HIDDEN = ".archive-mirror"


@dataclass(frozen=True, slots=True)
class Offered:
    """One export as the server knows it.

    Attributes:
        created_at: As listed.
        hashes: SHA-256 of every file it ever had, lower-case hex.
        must: It was offered long enough: it has to be saved in the end.
    """

    source: str
    export_id: int
    created_at: str
    hashes: frozenset[str]
    must: bool = True


@dataclass(slots=True)
class _Seen:
    stamp: tuple[int, int, int]
    sha256: str


@dataclass(slots=True)
class Checker:
    """Judges, and remembers what it has seen.

    Attributes:
        roots: The root folder of each target, by its name.
        breaks: What was found wrong, in words; empty is good.
    """

    roots: dict[str, Path]
    breaks: list[str] = field(default_factory=list)
    _offered: dict[tuple[str, int], list[Offered]] = field(default_factory=dict)
    _seen: dict[Path, _Seen] = field(default_factory=dict)
    _acked: set[tuple[str, int]] = field(default_factory=set)

    def offer(self, offered: Offered) -> None:
        """Learn of an export, or of the newest state of one."""
        offers = self._offered.setdefault((offered.source, offered.export_id), [])
        offers[:] = [
            offer for offer in offers if offer.created_at != offered.created_at
        ]
        offers.append(offered)

    def acked(self, source: str, export_id: int) -> None:
        """Remember that the mirror said of an export that it is saved."""
        self._acked.add((source, export_id))

    def look(self, listed: list[dict[str, Any]] | None = None) -> None:
        """Judge the targets as they are at this moment, in mid-crash or not.

        A final name holds whole right bytes; what was seen before is there unchanged;
        what was called saved is there, and still called so.

        Args:
            listed: The lines of `list --json`, each parsed, if they are to be judged.
        """
        present: set[tuple[str, int]] = set()
        right = {sha for each in self._all() for sha in each.hashes}
        for target, root in self.roots.items():
            for path in _visible(root):
                seen = self._look_at(path)
                if seen is None:
                    continue
                if path.suffix == ".json":
                    present |= self._judge_sidecar(path)
                elif seen.sha256 not in right:
                    self._wrong(f"{target}: {path.name} holds wrong or partial bytes")
        for path in [path for path in self._seen if not path.exists()]:
            self._wrong(f"{path} was there and is gone")
            del self._seen[path]
        for source, export_id in sorted(self._acked - present):
            self._wrong(f"{source}/{export_id} was called saved and is not there")
        if listed is not None:
            self._judge_claims(listed)

    def _judge_claims(self, listed: list[dict[str, Any]]) -> None:
        saved = {(r["source"], r["id"]) for r in listed if r["state"] == "saved"}
        for source, export_id in sorted(self._acked - saved):
            self._wrong(f"{source}/{export_id} is not called saved any more")

    def settle(self, listed: list[dict[str, Any]]) -> None:
        """Judge the end, when all work is done.

        Args:
            listed: The lines of `list --json`, each parsed.
        """
        self.look(listed)
        rows = {(r["source"], r["id"], r["created_at"]): r for r in listed}
        claimed: dict[Path, str] = {}
        for each in self._all():
            row = rows.get((each.source, each.export_id, each.created_at))
            label = f"{each.source}/{each.export_id}"
            if row is None:
                self._wrong(f"{label} was offered and is not in the list")
                continue
            if row["state"] == "saved":
                self._judge_saved(label, each, row, claimed)
            elif each.must:
                self._wrong(
                    f"{label} was offered long enough and is {row['state']} "
                    f"({row['reason']}; {row['last_error']})"
                )
            elif row["state"] not in _ENDED | {"waiting"}:
                self._wrong(f"{label} is still {row['state']} ({row['last_error']})")
        for root in self.roots.values():
            for path in _visible(root):
                if path.suffix != ".json" and path not in claimed:
                    self._wrong(f"{path} lies there, and no saved export names it")

    def _judge_saved(
        self,
        label: str,
        offered: Offered,
        row: dict[str, Any],
        claimed: dict[Path, str],
    ) -> None:
        if row["sha256"] not in offered.hashes:
            self._wrong(f"{label} is called saved with a SHA-256 never offered")
        for copy in row["copies"]:
            root = self.roots.get(copy["target"])
            if root is None or copy["state"] != "saved" or not copy["path"]:
                self._wrong(f"{label}: its copy on {copy['target']} is {copy['state']}")
                continue
            path = root / copy["path"]
            if path in claimed:
                self._wrong(f"{label} and {claimed[path]} name the same file {path}")
            claimed[path] = label
            seen = self._look_at(path)
            if seen is None or seen.sha256 != row["sha256"]:
                self._wrong(f"{label} is called saved; {path} does not hold its bytes")
            sidecar = Path(f"{path}.json")
            found = _json(sidecar)
            if (found.get("source"), found.get("id"), found.get("sha256")) != (
                row["source"],
                row["id"],
                row["sha256"],
            ):
                self._wrong(f"{label}: {sidecar} is missing or tells of another file")
        if not row["copies"]:
            self._wrong(f"{label} is called saved and has no copy")

    def _judge_sidecar(self, path: Path) -> set[tuple[str, int]]:
        """Return the export of a sidecar that has its file beside it."""
        found = _json(path)
        media = path.with_suffix("")
        if not found:
            self._wrong(f"{path} is no whole JSON object")
            return set()
        seen = self._look_at(media)
        if seen is None:
            return set()
        if seen.sha256 != found.get("sha256"):
            self._wrong(f"{media} does not hold the bytes that its sidecar tells of")
        return {(str(found.get("source")), int(found.get("id", -1)))}

    def _look_at(self, path: Path) -> _Seen | None:
        """Return what a file holds; read anew only if its inode changed."""
        try:
            about = path.stat()
        except FileNotFoundError:
            return None
        stamp = (about.st_ino, about.st_size, about.st_mtime_ns)
        before = self._seen.get(path)
        if before is not None and before.stamp == stamp:
            return before
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        now = _Seen(stamp, sha256)
        if before is not None and before.sha256 != sha256:
            self._wrong(f"{path} was kept and has other bytes now")
        self._seen[path] = now
        return now

    def _all(self) -> list[Offered]:
        return [one for each in self._offered.values() for one in each]

    def _wrong(self, text: str) -> None:
        if text not in self.breaks:
            self.breaks.append(text)


def _visible(root: Path) -> list[Path]:
    """Return every file on a target that a reader of the archive sees."""
    found = []
    for folder, names, files in os.walk(root):
        if Path(folder) == root and _HIDDEN in names:
            names.remove(_HIDDEN)
        found += [Path(folder, file) for file in files]
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
