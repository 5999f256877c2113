"""A target's disk goes away, or another one comes: nothing lands where it must not."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

import pytest

from mirror.simulator import Behaviour, Vms
from tests.proof.disk_images import Volume, hung
from tests.proof.processes import Nursery, Stage

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from mirror.simulator import Export
    from tests.proof.figures import Effort

_KIB = 1024
_PATIENCE_S = 55.0
"""More than a write and a look that hang and a retry, less than any other timer."""
_LOSSES = ("unmounted", "blank_disk", "other_disk", "read_only", "hung")


class _Life:
    """A mirror whose target `nas` is a disk of its own.

    Attributes:
        beside: There is another target, so that the spool lies beside the ledger; else
            it lies on the disk.
        disks: By name; `own` is the right one, all have one mount point.
    """

    def __init__(
        self,
        stage: Stage,
        disks: dict[str, Volume],
        *,
        mount: bool,
        beside: bool,
        plant: str | None,
    ) -> None:
        self.stage = stage
        self.plant = plant
        self.disks = disks
        self.beside = beside
        self.point = disks["own"].path
        self._name = f"mount={mount}, beside={beside}"
        stage.site.tables["targets"].clear()
        stage.checker.roots.clear()
        stage.site.tables["targets"]["nas"] = {
            "type": "directory",
            "path": str(self.point),
            "mount": mount,
        }
        stage.checker.roots["nas"] = self.point
        if beside:
            stage.add_target("vault")

    @classmethod
    @contextlib.asynccontextmanager
    async def make(
        cls,
        folder: Path,
        nursery: Nursery,
        *,
        mount: bool,
        beside: bool,
        plant: str | None,
    ) -> AsyncIterator[_Life]:
        """Mount the right disk, and have the others ready."""
        folder.mkdir()
        async with contextlib.AsyncExitStack() as held:
            own = await held.enter_async_context(
                Volume.make(folder, name="nas", size_kib=64 * _KIB)
            )
            disks = {"own": own}
            for name in ("blank_disk", "other_disk"):
                other = Volume.make(folder, name=name, at=own.path)
                disks[name] = await held.enter_async_context(other)
            vms = Vms(behaviour=Behaviour(rate=1500 * _KIB), other_origin=False)
            await held.enter_async_context(vms)
            stage = Stage.make(folder, vms, nursery)
            life = cls(stage, disks, mount=mount, beside=beside, plant=plant)
            await life.make_other_disk()
            yield life

    async def make_other_disk(self) -> None:
        """Make another mirror's disk, with all folders that ours has."""
        other = self.disks["other_disk"]
        async with other.mounted():
            for folder in ("spool", "tmp"):
                (self.point / ".archive-mirror" / folder).mkdir(parents=True)
            marker = self.point / ".archive-mirror" / "target.json"
            marker.write_text(json.dumps({"target_id": "another"}))

    async def lose(self, how: str, rng: random.Random) -> None:
        """Lose the disk while files are under way, let others come, bring it back."""
        at = f"{self._name}, {how}"
        child = await self.stage.start("run", plant=self.plant)
        exports = [self._offer(rng) for _ in range(3)]
        await self.stage.reach_a_moment(rng, 0.7)
        async with self._away(how, at) as see_untouched:
            exports += [self._offer(rng) for _ in range(2)]
            await self._until_fetched(exports, at)
            if rng.random() < 1 / 2:
                await child.kill()
                child = await self.stage.start("run", plant=self.plant)
                exports.append(self._offer(rng))
                await self._until_fetched(exports, at)
            see_untouched()
            if how != "hung":  # it takes its time until that is told
                await self._until_told(at)
        await self._until(at, "saved", exports, {"saved"})
        self.stage.hear(child)
        self.stage.checker.look()
        assert self.stage.checker.breaks == [], at
        assert await child.stop() == 0, at

    def _offer(self, rng: random.Random) -> Export:
        return self.stage.offer(self.stage.vms.add(size=rng.randint(200, 800) * _KIB))

    @contextlib.asynccontextmanager
    async def _away(self, how: str, at: str) -> AsyncIterator[Callable[[], None]]:
        """Take the disk away; give what sees that nothing landed in its place."""
        own, other = self.disks["own"], self.disks.get(how)
        if how == "hung":
            with hung(self.point):
                yield lambda: None
            return
        if how == "read_only":
            own.fail()
        else:
            await own.unmount()
        async with other.mounted() if other else contextlib.nullcontext():
            there = _tree(self.point)

            def see_untouched() -> None:
                assert _tree(self.point) == there, f"{at}: bytes landed there"

            yield see_untouched
            see_untouched()
        if how != "read_only":
            assert _tree(self.point) == [], f"{at}: bytes landed below the mount point"
        await own.come_back()

    async def _until_fetched(self, exports: list[Export], at: str) -> None:
        """Wait until files are in the spool, and on the other target, if any."""
        await self._until(at, "fetched", exports, {"spooled", "saved"})
        if self.beside:
            await self._until_in_vault({export.export_id for export in exports})

    async def _until_in_vault(self, ids: set[int]) -> None:
        vault = self.stage.checker.roots["vault"]
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                kept = {int(p.name.split("-")[0]) for p in vault.rglob("*.mp4.json")}
                if ids <= kept:
                    return
                await asyncio.sleep(0.05)

    async def _until(
        self, at: str, what: str, exports: list[Export], states: set[str]
    ) -> None:
        ids = missing = {export.export_id for export in exports}
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while True:
                    rows = await self.stage.listed()
                    missing = ids - {r["id"] for r in rows if r["state"] in states}
                    if not missing:
                        return
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"{at}: {missing} are not {what}") from None

    async def _until_told(self, at: str) -> None:
        """Wait until `status` tells that the target cannot be used."""
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                status = await self.stage.run("status", "--json")
                assert status.code.result() == 0, f"{at}: {status.err.read_text()}"
                told = json.loads(status.out.read_text())
                problems = {each["name"]: each["problem"] for each in told["targets"]}
                if problems.pop("nas"):
                    assert not any(problems.values()), f"{at}: {problems}"
                    return
                await asyncio.sleep(0.1)


def _tree(root: Path) -> list[str]:
    """Return all that lies below a folder, with the lengths of files."""
    return sorted(
        f"{path.relative_to(root)} {path.stat().st_size if path.is_file() else ''}"
        for path in root.rglob("*")
    )


async def _round(
    folder: Path,
    nursery: Nursery,
    rng: random.Random,
    *,
    mount: bool,
    beside: bool,
    losses: tuple[str, ...] = _LOSSES,
    plant: str | None = None,
) -> int:
    """Lose a disk in each way, one after another; return how often."""
    async with _Life.make(
        folder, nursery, mount=mount, beside=beside, plant=plant
    ) as life:
        await life.stage.settle()
        for how in rng.sample(losses, len(losses)):
            await life.lose(how, rng)
        await life.stage.settle()
        assert life.stage.checker.breaks == []
    return len(losses)


@pytest.mark.timeout(600)
async def test_the_disk_of_a_target_goes_away(tmp_path, effort: Effort):
    async with Nursery.open() as nursery:

        async def work(number: int, rng: random.Random) -> int:
            mount, beside = number % 2 == 0, number // 2 % 2 == 0
            folder = tmp_path / str(number)
            return await _round(folder, nursery, rng, mount=mount, beside=beside)

        lost = await effort.side_by_side(work, 4, 200, share=0.05)
    effort.record(13, lost=sum(lost), bytes_below=0, breaks=0)


@pytest.mark.parametrize("how", ["unmounted", "blank_disk"])
async def test_a_planted_bug_shows_on_the_wrong_disk(tmp_path, effort: Effort, how):
    async with Nursery.open() as nursery:
        with pytest.raises(AssertionError, match="bytes landed"):
            await _round(
                tmp_path / "one",
                nursery,
                effort.round(0),
                mount=False,
                beside=False,
                losses=(how,),
                plant="any_disk",
            )
