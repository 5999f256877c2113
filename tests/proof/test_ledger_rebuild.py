"""Row 15: `rebuild` may be killed at any call, and takes little memory."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirror import sidecar
from mirror.ledger import LEDGER_NAME
from mirror.simulator import Vms
from tests.proof.checker import Checker
from tests.proof.ledger_archive import SIZE, Archive, differences
from tests.proof.processes import Processes
from tests.proof.shim import Action, Shim, library
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.proof.figures import Figures


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with Vms(other_origin=False) as vms:
        yield await Archive.make(tmp_path, vms)


@pytest.mark.timeout(600)
async def test_a_rebuild_may_be_killed_at_any_call(archive: Archive, figures: Figures):
    """There is the old ledger or the new one, and the next rebuild completes."""
    states = archive.ledger.parent
    shim = Shim(archive.folder.with_name("shim"), states)
    logs = archive.folder.with_name("logs")
    logs.mkdir()
    archive.site.settings()
    config = str(archive.site.folder / "archive-mirror.toml")
    met: Counter[str] = Counter()
    async with Processes.open(preload=library()) as processes:

        async def rebuild(at: int) -> bool:
            shim.set(Action.KILL_BEFORE, at=at)
            child = await processes.run(
                *("rebuild", "--force", "-c", config),
                folder=logs,
                env={"PROOF_SHIM": str(shim.path)},
            )
            assert child.code.result() in {0, -9}, child.err.read_text()
            return child.code.result() == -9

        assert not await rebuild(1 << 40)
        calls = shim.count
        assert calls > 50
        tried = list(range(1, calls + 1))
        if not figures.long:
            tried = sorted({*figures.round(0).sample(tried, 6), *tried[-6:]})
        for at in tried:
            archive.restore_state()
            before = archive.listed()
            if not await rebuild(at):
                break
            after = archive.listed()
            met["old" if after == before else "new"] += 1
            wrong = [
                each
                for right, now in zip(before, after, strict=True)
                for each in differences(right, now)
            ]
            assert wrong == [], f"seed {figures.seed}, killed before call {at}"
            assert await archive.rebuilt(force=True) == [], at
            assert not (states / "rebuilding").exists()
    assert met["old"] and met["new"], met
    figures.record(15, rebuild_killed_at=met.total(), **met)


async def test_a_rebuild_that_trusts_sidecars_is_caught(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
):
    """The judgement of claims turns red if files are not looked at."""
    gone = next(archive.checker.roots["nas"].rglob("*.mp4"))
    twin = archive.checker.roots["usb"] / gone.relative_to(archive.checker.roots["nas"])
    gone.unlink()
    twin.unlink()

    async def claimed() -> list[str]:
        archive.ledger.unlink(missing_ok=True)
        await archive.rebuilt()
        checker = Checker(archive.checker.roots)
        listed = archive.listed()
        for each in archive.checker._all():
            checker.offer(each)
        checker.settle([one for one in listed if one["state"] == "saved"])
        return [one for one in checker.breaks if "is called saved" in one]

    assert await claimed() == []
    monkeypatch.setattr(sidecar, "is_whole", lambda *_: True)
    assert await claimed() != []


async def test_a_rebuild_takes_little_memory(tmp_path, figures: Figures):
    """However many sidecars there are."""
    number = 100_000 if figures.long else 2000
    async with Vms(other_origin=False) as vms:
        site = Site.make(tmp_path, vms)
        site.tables["targets"]["nas"]["layout"] = "{source}/{id}"
        served = vms.add(size=SIZE)
        await site.once()
    media = site.archive / f"hq/{served.export_id}.mp4"
    record = json.loads(Path(f"{media}.json").read_bytes())
    config = site.folder / "archive-mirror.toml"
    peaks = []
    for first, last in ((10_000, 10_100), (20_000, 20_000 + number)):
        for one in range(first, last):
            folder = site.archive / f"more/{one // 1000}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{one}.mp4").write_bytes(b"x")
            (folder / f"{one}.mp4.json").write_text(
                json.dumps(record | {"id": one, "size_bytes": 1, "item": {"id": one}})
            )
        (site.settings().state_dir / LEDGER_NAME).unlink()
        peaks.append(await _peak_bytes("-c", str(config), "rebuild"))
        assert len(site.exports()) == 1 + 100 + (last - first) * (first > 10_000)

    assert peaks[1] - peaks[0] < 24 * 2**20
    figures.record(15, sidecars=number, memory_mib=round(peaks[1] / 2**20, 1))


async def _peak_bytes(*arguments: str) -> int:
    """Run a command; return the most memory that it ever had."""

    def run() -> int:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "mirror", *arguments],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
        )
        _, status, usage = os.wait4(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        return usage.ru_maxrss * 1024

    return await asyncio.to_thread(run)
