"""Disks that fill up, to each 64 KiB: nothing is lost, and all goes on by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mirror.simulator import Behaviour, Vms
from tests.proof.disk_images import Volume
from tests.proof.processes import Nursery, Stage

if TYPE_CHECKING:
    from mirror.simulator import Export
    from tests.proof.figures import Effort
    from tests.proof.processes import Child

_KIB = 1024
_SIZE = 200 * _KIB
_STEP_KIB = 64
_LAST_KIB = 4096
_ROLES = ("target", "spool", "both", "state", "all")
_DISKS: dict[str, dict[str, Any]] = {
    "ext4": {"block": 1024},
    "ext4_large_blocks": {"block": 4096},
    "tmpfs": {"tmpfs": True},
}
_PATIENCE_S = 25.0
"""Far more than a retry, and less than any timer that is not one."""
_LEDGER_FAILED = 74
_STARTS_KIB = 320
_FULL_S = 4.0
_FILES = 4
_BUSY = 0.25
_TROUBLE = {
    "spool.lost",
    "target.lost",
    "ledger.lost",
    "copy.postponed",
    "export.postponed",
}


def _stage(folder: Path, disk: Path, role: str, vms: Vms, nursery: Nursery) -> Stage:
    """Return a stage that has what `role` says on the small disk.

    `both` is a target with the spool on it, `all` has the ledger there as well.
    """
    stage = Stage.make(folder, vms, nursery)
    tables = stage.site.tables
    tables["targets"].clear()
    stage.checker.roots.clear()
    stage.add_target("nas")
    if role in {"target", "both", "all"}:
        root = tables["targets"]["nas"]["path"] = str(disk / "nas")
        stage.checker.roots["nas"] = Path(root)
    if role == "spool":
        tables["spool_dir"] = str(disk / "spool")
    elif role in {"target", "state"}:
        tables["spool_dir"] = str(stage.site.folder / "spool")
    if role in {"state", "all"}:
        tables["state_dir"] = str(disk / "state")
    tables["transfer"]["shutdown_grace"] = "1s"
    return stage


class _Life:
    """A service beside a disk that fills up."""

    def __init__(self, stage: Stage, volume: Volume, role: str, child: Child) -> None:
        self.stage = stage
        self.volume = volume
        self.role = role
        self.child = child
        self.met = 0

    async def started(self) -> None:
        """Wait until the service has its ledger open."""
        async with asyncio.timeout(_PATIENCE_S):
            while not any(e["event"] == "service.started" for e in self.child.events()):
                await asyncio.sleep(0.02)

    async def step(self, leave_kib: int | None, *, during: bool = False) -> bool:
        """Fill the disk, offer a file, free the disk; tell whether that was felt.

        Args:
            leave_kib: So much is left; None takes all inodes instead.
            during: Fill it while the file is under way.
        """
        vms, volume = self.stage.vms, self.volume
        at = f"{self.role}, {leave_kib} KiB left, during={during}"
        self._fold_log()
        mark = len(self.child.events())
        export = self.stage.offer(vms.add(size=_SIZE))
        label = f"hq/{export.export_id}"
        if during:
            await vms.until(
                lambda: any(r.sent_bytes for r in vms.file_requests(export))
            )
        if leave_kib is None:
            volume.fill_inodes()
        else:
            volume.fill(leave_kib)
        await self._until(mark, label, _TROUBLE, at)
        felt = not self._told(mark, label, set())
        if felt and (self.role in {"state", "all"} or not leave_kib):
            await self._see_status(at)
        self.stage.checker.look()
        volume.free()
        await self.saved(export, at)
        assert self.stage.checker.breaks == [], at
        self.met += felt
        return felt

    async def saved(self, export: Export, at: str) -> None:
        """Wait until an export is saved."""
        await self._until(0, f"hq/{export.export_id}", set(), at)
        self.stage.hear(self.child)

    async def steps(self, *, during: bool) -> None:
        """Leave 64 KiB more each time until there is room enough, twice."""
        enough = 0
        for leave_kib in range(0, _LAST_KIB, _STEP_KIB):
            enough = 0 if await self.step(leave_kib, during=during) else enough + 1
            if enough > 1:
                return
        raise AssertionError(f"{self.role}: there was never room enough")

    async def _see_status(self, at: str) -> None:
        status = await self.stage.run("status")
        assert status.code.result() == 0, f"{at}: {status.err.read_text()}"

    def _told(self, mark: int, label: str, kinds: set[str]) -> bool:
        return any(
            each["event"] in kinds
            or (
                each["event"] == "export.saved"
                and each["export"].split("@")[0] == label
            )
            for each in self.child.events()[mark:]
        )

    async def _until(self, mark: int, label: str, kinds: set[str], at: str) -> None:
        """Wait until the file is saved, or something of these kinds was told."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not self._told(mark, label, kinds):
                    assert not self.child.code.done(), (
                        f"{at}: ended with {self.child.code.result()}: "
                        f"{self.child.err.read_text()[-600:]}"
                    )
                    await asyncio.sleep(0.02)
        except TimeoutError:
            said = self.child.err.read_text()[-600:]
            raise AssertionError(f"{at}: it does not go on by itself: {said}") from None

    def _fold_log(self) -> None:
        """Take the room from the ledger's log, so that each write asks for some."""
        ledger = Path(self.stage.site.tables["state_dir"], "ledger.sqlite3")
        with contextlib.closing(sqlite3.connect(ledger)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def _live(folder: Path, role: str, nursery: Nursery, disk: str) -> int:
    """Lead one service through all steps; return how many were felt."""
    folder.mkdir()
    shape = _DISKS[disk]
    async with (
        Volume.make(folder, size_kib=24 * _KIB, **shape) as volume,
        Vms(other_origin=False) as vms,
    ):
        stage = _stage(folder, volume.path, role, vms, nursery)
        stage.offer(vms.add(size=_SIZE))
        await stage.settle()
        child = await stage.start("run")
        life = _Life(stage, volume, role, child)
        await life.started()
        await life.steps(during=False)
        await life.step(None)
        vms.behaviour = Behaviour(rate=1000 * _KIB)
        await life.steps(during=True)
        assert await child.stop() == 0
        await stage.settle()
    assert stage.checker.breaks == []
    return life.met


@pytest.mark.timeout(600)
async def test_disks_fill_up_to_each_step(tmp_path, effort: Effort):
    async with Nursery.open() as nursery:
        for disk in _DISKS if effort.long else ["ext4"]:
            async with asyncio.TaskGroup() as group:
                lives = [
                    group.create_task(
                        _live(tmp_path / f"{disk}-{role}", role, nursery, disk),
                        name=role,
                    )
                    for role in _ROLES
                ]
            felt = {life.get_name(): life.result() for life in lives}
            assert min(felt.values()) > 3, felt
            effort.record(12, disk=disk, **felt, breaks=0)


@pytest.mark.timeout(300)
async def test_starting_on_a_full_state_disk(tmp_path, effort: Effort):
    """Clear words, never a signal: SQLite maps a file that the disk has no room for."""
    refused = 0
    async with (
        Nursery.open() as nursery,
        Volume.make(tmp_path, size_kib=8 * _KIB, block=1024) as volume,
        Vms(other_origin=False) as vms,
    ):
        stage = _stage(tmp_path, volume.path, "state", vms, nursery)
        stage.offer(vms.add(size=_SIZE))
        await stage.settle()
        for leave_kib in range(0, _STARTS_KIB, 4):
            volume.fill(leave_kib)
            status = await stage.run("status")
            refused += _refused(status, leave_kib)
            if leave_kib % _STEP_KIB == 0:
                await _start_when_full(stage, volume, leave_kib)
        await stage.settle()
    assert stage.checker.breaks == []
    assert refused
    effort.record(12, starts=_STARTS_KIB // 4, refused=refused, signals=0)


async def _start_when_full(stage: Stage, volume: Volume, leave_kib: int) -> None:
    """Start the service on a full disk, then free that; it goes on or starts again."""
    export = stage.offer(stage.vms.add(size=_SIZE))
    child = await stage.start("run")
    life = _Life(stage, volume, "state", child)
    felt = {"ledger.lost", "service.started"}
    async with asyncio.timeout(_PATIENCE_S):
        while not (child.code.done() or felt & {e["event"] for e in child.events()}):
            await asyncio.sleep(0.02)
    volume.free()
    if child.code.done():
        assert _refused(child, leave_kib)
        life.child = child = await stage.start("run")
    await life.saved(export, f"started with {leave_kib} KiB left")
    assert await child.stop() == 0


def _refused(child: Child, leave_kib: int) -> bool:
    """Tell whether a command that has ended did no work, in clear words."""
    code, said = child.code.result(), child.err.read_text()[-600:]
    assert code in {0, _LEDGER_FAILED}, f"{leave_kib} KiB left: {code}: {said}"
    assert code == 0 or "free space" in said, f"{leave_kib} KiB left: {said}"
    return code != 0


async def test_a_full_disk_is_no_reason_to_hurry(tmp_path, effort: Effort):
    """Neither the processor nor the VMS is kept busy while nothing can be kept."""
    async with Nursery.open() as nursery, asyncio.TaskGroup() as group:
        idle = {
            role: group.create_task(_idle_share(tmp_path / role, role, nursery))
            for role in _ROLES
        }
    shares = {role: task.result() for role, task in idle.items()}
    assert max(shares.values()) < _BUSY, shares
    effort.record(12, **{f"cpu_{role}": f"{s:.0%}" for role, s in shares.items()})


def _files_asked(vms: Vms) -> int:
    return sum(each.kind == "file" for each in vms.requests)


async def _idle_share(
    folder: Path, role: str, nursery: Nursery, *, plant: str | None = None
) -> float:
    """Return how much of a processor a service takes while its disk is full."""
    folder.mkdir()
    async with (
        Volume.make(folder, size_kib=24 * _KIB) as volume,
        Vms(other_origin=False) as vms,
    ):
        stage = _stage(folder, volume.path, role, vms, nursery)
        stage.site.tables["sources"]["hq"]["poll_interval"] = "1s"
        stage.site.tables["transfer"] |= {"retry_initial": "1s", "retry_max": "2s"}
        child = await stage.start("run", plant=plant)
        life = _Life(stage, volume, role, child)
        await life.started()
        for _ in range(_FILES):
            stage.offer(vms.add(size=_SIZE))
        volume.fill(0)
        asked, since = _files_asked(vms), time.monotonic()
        await asyncio.sleep(1)
        before_s = _processor_s(child.pid)
        await asyncio.sleep(_FULL_S)
        share = (_processor_s(child.pid) - before_s) / _FULL_S
        # Full jitter: half of `retry_initial` on average, two a second and file.
        most = 2 * 2 * _FILES * (time.monotonic() - since)
        assert _files_asked(vms) - asked < most, role
        volume.free()
        while len([e for e in child.events() if e["event"] == "export.saved"]) < _FILES:
            assert not child.code.done(), child.err.read_text()[-600:]
            await asyncio.sleep(0.05)
        assert await child.stop() == 0
        await stage.settle()
    assert stage.checker.breaks == []
    return share


def _processor_s(pid: int) -> float:
    """Return the processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_a_planted_bug_takes_the_processor(tmp_path):
    async with Nursery.open() as nursery:
        share = await _idle_share(tmp_path / "one", "state", nursery, plant="hasty")
    assert share > _BUSY


async def test_a_planted_bug_ends_by_a_signal(tmp_path):
    async with (
        Nursery.open() as nursery,
        Volume.make(tmp_path, size_kib=8 * _KIB, block=1024) as volume,
        Vms(other_origin=False) as vms,
    ):
        stage = _stage(tmp_path, volume.path, "state", vms, nursery)
        await stage.settle()
        with pytest.raises(AssertionError, match=f": {-signal.SIGBUS}:"):
            for leave_kib in range(0, _STARTS_KIB, 4):
                volume.fill(leave_kib)
                status = await stage.run("status", plant="careless_map")
                _refused(status, leave_kib)
