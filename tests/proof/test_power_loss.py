"""The power goes: the disk of ledger, spool and target keeps only what was flushed."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from mirror.simulator import Behaviour, Vms
from tests.proof.processes import Nursery, Stage

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.proof.figures import Effort

_KIB = 1024
_EXT4_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = struct.pack("I", 2)
_CAMPAIGN = 25


async def _do(*command: str | Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    answer, said = await process.communicate()
    if process.returncode:
        raise OSError(f"{command[0]}: {said.decode()}")
    return answer.decode()


class Disk:
    """An ext4 file system of its own whose power can be cut."""

    def __init__(self, device: str, mounted: Path) -> None:
        self._device = device
        self.path = mounted

    @classmethod
    @contextlib.asynccontextmanager
    async def make(cls, folder: Path) -> AsyncIterator[Disk]:
        """Make and mount it; skips where that cannot be."""
        if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
            pytest.skip("needs root and mkfs.ext4, for a disk whose power can be cut")
        image, mounted = folder / "image", folder / "disk"
        mounted.mkdir()
        with image.open("wb") as file:
            file.truncate(192 * _KIB * _KIB)
        await _do("mkfs.ext4", "-qF", image)
        try:
            # One for all its life: an own loop for each mount may go as it comes.
            device = (await _do("losetup", "--find", "--show", image)).strip()
        except OSError as exc:
            pytest.skip(f"needs loop mounts, for a disk whose power can be cut: {exc}")
        disk = cls(device, mounted)
        try:
            await disk.mount()
            yield disk
        finally:
            await _do("umount", "-l", disk.path)
            await _do("losetup", "--detach", device)

    async def mount(self) -> None:
        """Mount it, as after a start."""
        await _do("mount", self._device, self.path)

    def cut(self) -> None:
        """Drop, at once, all that was not flushed, and answer nothing any more."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, _NO_LOG_FLUSH)
        finally:
            os.close(fd)

    async def restart(self) -> None:
        """Bring back what was kept; its users must have ended."""
        await _do("umount", self.path)
        await self.mount()


async def _campaign(
    folder: Path,
    rng: random.Random,
    nursery: Nursery,
    cuts: int,
    *,
    plant: str | None = None,
) -> int:
    """Cut the power again and again, then settle; return how many hit a transfer.

    What was called saved before the power went must be there after it.
    """
    folder.mkdir()
    hits, rates = 0, Behaviour(rate=800 * _KIB)
    async with (
        Disk.make(folder) as disk,
        Vms(behaviour=rates, other_origin=False) as vms,
    ):
        stage = Stage.make(folder, vms, nursery, kept_in=disk.path)
        stage.add_target("vault")
        await _do("sync", "-f", disk.path)
        for _ in range(cuts):
            for _ in range(3):
                stage.offer(vms.add(size=rng.choice([30, 300, 1000]) * _KIB))
            child = await stage.start("run", plant=plant)
            hits += await stage.reach_a_moment(rng, 0.8)
            stage.hear(child)
            disk.cut()
            await child.kill()
            await disk.restart()
            stage.checker.look(await stage.listed())
            assert stage.checker.breaks == []
        await stage.settle()
    assert stage.checker.breaks == []
    return hits


@pytest.mark.timeout(600)
async def test_the_power_goes(tmp_path, effort: Effort):
    async with Nursery.open() as nursery:

        async def campaign(number: int, rng: random.Random) -> int:
            folder = tmp_path / str(number)
            hits = await _campaign(folder, rng, nursery, _CAMPAIGN)
            shutil.rmtree(folder)
            return hits

        hits = await effort.side_by_side(campaign, 2, 5000 // _CAMPAIGN, share=0.3)
    cuts = _CAMPAIGN * len(hits)
    effort.record(3, cuts=cuts, hit_a_transfer=sum(hits), breaks=0)


@pytest.mark.parametrize("plant", ["no_fsync", "lax_ledger"])
async def test_a_planted_bug_shows_when_the_power_goes(tmp_path, effort, plant):
    async with Nursery.open() as nursery:
        with pytest.raises(AssertionError):
            await _campaign(
                tmp_path / "one", effort.round(0), nursery, _CAMPAIGN, plant=plant
            )
