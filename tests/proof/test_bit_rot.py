"""Row 16: whatever rots on a target, `verify` finds it and changes nothing there."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mirror.app import verify
from mirror.pipeline.verify import judge
from mirror.pipeline.verify.scrub import Sample
from mirror.simulator import Vms
from mirror.targets.directory.target import DirectoryTarget
from tests.proof.planted_bugs.plant import replace_function
from tests.site import Site

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from mirror.model import Export
    from mirror.pipeline.verify.judge import CopyFinding, Fault
    from mirror.ports import StoredFile
    from tests.proof.figures import Figures

Patch = pytest.MonkeyPatch
SIZE = 16_384
FLIPPED = 1000
REMOVED = 20
BARE = 20
GOOD = 20
ROUNDS = 10


async def kept(folder: Path, number: int) -> Site:
    """Let the whole pipeline keep so many files."""
    async with Vms() as vms:
        site = Site.make(folder, vms, concurrency=16, per_page=500)
        site.tables["targets"]["nas"]["layout"] = "{source}/{id}"
        for _ in range(number):
            vms.add(name="Gate.mp4", size=SIZE)
        report = await site.once()
    assert (report.saved, report.owed) == (number, 0)
    return site


@dataclass(slots=True)
class Rot:
    """What was done to the files of a target, and how it is undone.

    Attributes:
        truth: The problem that must be found, by the export's id; None is none.
    """

    site: Site
    truth: dict[int, str | None] = field(default_factory=dict)
    undo: list[Callable[[], object]] = field(default_factory=list)

    def spread(self, rng: random.Random, *, flipped: int, removed: int, bare: int):
        """Damage files chosen by chance, each in one way; the rest stays good."""
        files = sorted(self.site.archive.glob("hq/*.mp4"))
        rng.shuffle(files)
        for number, path in enumerate(files):
            export_id = int(path.stem)
            if number < flipped:
                offset = (0, SIZE - 1, rng.randrange(SIZE))[min(number, 2)]
                self._flip(path, offset, 1 << rng.randrange(8))
                self.truth[export_id] = "wrong_bytes"
            elif number < flipped + removed:
                self._remove(path)
                self.truth[export_id] = "missing"
            elif number < flipped + removed + bare:
                self._remove(path.with_name(f"{path.name}.json"))
                self.truth[export_id] = "sidecar_missing"
            else:
                self.truth[export_id] = None

    def _flip(self, path: Path, offset: int, bit: int) -> None:
        """Flip one bit; nothing else of the file tells of it."""

        def turn() -> None:
            about = path.stat()
            with path.open("r+b") as file:
                file.seek(offset)
                (old,) = file.read(1)
                file.seek(offset)
                file.write(bytes([old ^ bit]))
            os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))

        turn()
        self.undo.append(turn)

    def _remove(self, path: Path) -> None:
        away = self.site.folder / path.name
        path.rename(away)
        self.undo.append(lambda: away.replace(path))


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """Return all that a target holds, the hidden folder included."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, names, files in os.walk(root):
        for name in (".", *names, *files):
            path = Path(folder, name)
            about = path.lstat()
            content = None
            if name in files:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path)] = (
                about.st_ino,
                about.st_mode,
                about.st_nlink,
                about.st_size,
                about.st_mtime_ns,
                about.st_ctime_ns,
                content,
            )
    return found


def differences(
    rot: Rot, told: dict[int, list[str]], before: object, after: object
) -> list[str]:
    """Return how what was told differs from what was done."""
    breaks = [] if before == after else ["the target was changed"]
    for export_id, problem in rot.truth.items():
        wanted = [] if problem is None else [problem]
        found = told.get(export_id, [])
        if found != wanted:
            breaks.append(f"hq/{export_id}: found {found}, done {wanted}")
    breaks += [f"hq/{one}: no such export" for one in set(told) - set(rot.truth)]
    return breaks


async def by_command(site: Site, *options: str) -> tuple[int, dict[str, Any]]:
    """Run the real command; return its exit code and what it prints."""
    path = str(site.folder / "archive-mirror.toml")
    arguments = [sys.executable, "-m", "mirror", "-c", path, *options]
    running = await asyncio.create_subprocess_exec(
        *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await running.communicate()
    return running.returncode or 0, json.loads(out)


def problems(shown: list[dict[str, Any]]) -> dict[int, list[str]]:
    """Return the problems told, by the export's id."""
    told: dict[int, list[str]] = {}
    for one in shown:
        told.setdefault(one["id"], []).append(one["problem"])
    return told


@pytest.mark.timeout(900)
async def test_all_that_rots_is_found_and_nothing_is_changed(
    tmp_path: Path, figures: Figures
):
    """A bit in each of 1,000 files, files gone, sidecars gone: each is told, once.

    Put right by hand, every copy is proven good again.
    """
    site = await kept(tmp_path, FLIPPED + REMOVED + BARE + GOOD)
    rounds = flipped = 0
    for number, rng in figures.rounds(short=1, long=ROUNDS, share=0.03):
        rot = Rot(site)
        rot.spread(rng, flipped=FLIPPED, removed=REMOVED, bare=BARE)
        before = tree(site.archive)
        code, shown = await by_command(site, "verify", "--json")
        told = problems(shown["findings"])

        where = f"seed {figures.seed}, round {number}"
        assert differences(rot, told, before, tree(site.archive)) == [], where
        assert (code, shown["damaged"]) == (4, FLIPPED + REMOVED + BARE), where
        assert (shown["good"], shown["not_checked"]) == (GOOD, 0), where
        states = {e.export_id: str(e.state) for e in site.exports().values()}
        for export_id, problem in rot.truth.items():
            broken = problem in {"wrong_bytes", "missing"}
            assert states[export_id] == ("damaged" if broken else "saved"), where
        for undo in rot.undo:
            undo()
        code, shown = await by_command(site, "verify", "--json")
        assert (code, shown["good"], shown["findings"]) == (0, len(rot.truth), [])
        assert {str(e.state) for e in site.exports().values()} == {"saved"}, where
        rounds, flipped = rounds + 1, flipped + FLIPPED
    figures.record(
        16,
        rounds=rounds,
        bits_flipped=flipped,
        files_removed=rounds * REMOVED,
        sidecars_removed=rounds * BARE,
        missed=0,
        false_alarms=0,
        changed_on_target=0,
    )


def _trust_the_length(found: StoredFile) -> StoredFile:
    """Take the sidecar's word for the bytes of a file of the right length."""
    if found.sha256 is None or not found.sidecar:
        return found
    return replace(found, sha256=json.loads(found.sidecar)["sha256"])


def _overlook_what_is_gone(found: StoredFile) -> StoredFile:
    """Compare only what lies there."""
    if found.present or not found.sidecar:
        return found
    record = json.loads(found.sidecar)
    return replace(
        found,
        present=True,
        size_bytes=record["size_bytes"],
        sha256=record["sha256"],
    )


def _see_rot_everywhere(found: StoredFile) -> StoredFile:
    """Compare with the digest of nothing."""
    nothing = hashlib.sha256().hexdigest()
    return replace(found, sha256=found.sha256 and nothing)


def _misread(change: Callable[[StoredFile], StoredFile]) -> Callable[[Patch], None]:
    """Return the bug that changes what was read of a copy."""

    def plant(monkeypatch: Patch) -> None:
        real = DirectoryTarget.examine

        async def examine(self: DirectoryTarget, path: str, **more: Any) -> StoredFile:
            return change(await real(self, path, **more))

        monkeypatch.setattr(DirectoryTarget, "examine", examine)

    return plant


def _overlook_sidecars(monkeypatch: Patch) -> None:
    """Compare only files."""
    real = judge.judge

    def judged(export: Export, found: StoredFile) -> tuple[Fault, ...]:
        faults = real(export, found)
        return tuple(fault for fault in faults if fault.problem in judge.OF_THE_FILE)

    replace_function(monkeypatch, real, judged)


def _write_to_the_target(monkeypatch: Patch) -> None:
    """Open the target as for a publish, which proves that it is writable."""
    real = DirectoryTarget.examine

    async def examine(self: DirectoryTarget, path: str, **more: Any) -> StoredFile:
        await self.probe(more["marker_id"], write=True)
        return await real(self, path, **more)

    monkeypatch.setattr(DirectoryTarget, "examine", examine)


BUGS = {
    "trusts the length": (_misread(_trust_the_length), 6),
    "overlooks what is gone": (_misread(_overlook_what_is_gone), 3),
    "sees rot everywhere": (_misread(_see_rot_everywhere), 6),
    "overlooks sidecars": (_overlook_sidecars, 2),
    "writes to the target": (_write_to_the_target, 1),
}
"""Each with how many breaks it must come to."""


@pytest.mark.parametrize(("plant", "breaks"), BUGS.values(), ids=BUGS)
async def test_a_planted_bug_is_told(
    tmp_path: Path,
    figures: Figures,
    monkeypatch: Patch,
    plant: Callable[[Patch], None],
    breaks: int,
):
    """The judgement above turns red; without the bug it does not."""
    site = await kept(tmp_path, 15)
    rot = Rot(site)
    rot.spread(figures.round(0), flipped=6, removed=3, bare=2)
    before = tree(site.archive)
    assert differences(rot, await within(site), before, tree(site.archive)) == []
    plant(monkeypatch)
    found = differences(rot, await within(site), before, tree(site.archive))

    assert len(found) == breaks, found


async def within(site: Site) -> dict[int, list[str]]:
    """Verify within this process; return the problems told, by the export's id."""
    found: list[CopyFinding] = []
    await verify.run(
        site.settings(),
        targets=["nas"],
        sample=Sample(),
        repair=False,
        told=found.append,
        watch=lambda _: None,
    )
    return problems([{"id": one.export_id, "problem": one.problem} for one in found])
