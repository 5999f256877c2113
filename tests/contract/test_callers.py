"""Whoever uses targets needs no folder: all is done with targets in memory."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING, Any

import pytest

from mirror.app import check, verify
from mirror.app.rebuild import rebuild
from mirror.ledger import Ledger
from mirror.model import CopyState, State
from mirror.pipeline.verify.scrub import Sample
from mirror.simulator import Vms
from tests.memory_target import Memory, MemoryTarget
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mirror.pipeline.verify.judge import CopyFinding, VerifyTally
    from mirror.simulator import Export as Served

SIZE = 20_000


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as served:
        yield served


@pytest.fixture
def memories(monkeypatch: pytest.MonkeyPatch) -> dict[str, Memory]:
    """Let each configured target be one in memory; return these by name."""
    made: dict[str, Memory] = {}

    def target_for(settings: Any, *, node_id: str) -> MemoryTarget:
        memory = made.setdefault(settings.name, Memory())
        return MemoryTarget(settings.name, memory)

    for name, module in list(sys.modules.items()):
        if name.startswith("mirror.") and hasattr(module, "target_for"):
            monkeypatch.setattr(module, "target_for", target_for)
    return made


async def kept(
    folder: Path, vms: Vms, number: int, *targets: str
) -> tuple[Site, list[Served]]:
    """Let the real pipeline keep so many exports on `nas` and these targets."""
    site = Site.make(folder, vms)
    for target in targets:
        path = str(folder / target)
        site.tables["targets"][target] = {"type": "directory", "path": path}
    served = [vms.add(size=SIZE) for _ in range(number)]
    report = await site.once()
    assert (report.saved, report.owed) == (number, 0)
    return site, served


async def verified(
    site: Site, *, repair: bool = False
) -> tuple[VerifyTally, list[CopyFinding]]:
    """Verify all copies."""
    findings: list[CopyFinding] = []
    settings = site.settings()
    tally = await verify.run(
        settings,
        targets=sorted(settings.targets),
        sample=Sample(),
        repair=repair,
        told=findings.append,
        watch=lambda _: None,
    )
    return tally, findings


def path_of(site: Site, served: Served, target: str = "nas") -> str:
    """Return where the copy of an export lies."""
    copies = site.dossier(served).copies
    (path,) = [copy.path for copy in copies if copy.target == target]
    return str(path)


async def test_exports_are_published(tmp_path, vms, memories) -> None:
    """From the list to the saved copy, and the spool is free again."""
    site, served = await kept(tmp_path, vms, 3, "usb")

    for memory in memories.values():
        media = {n: c for n, c in memory.files.items() if n.endswith(".mp4")}
        assert {len(content) for content in media.values()} == {SIZE}
        assert len(memory.files) == 2 * len(media) == 6
    assert {site.export(each).state for each in served} == {State.SAVED}
    assert list((tmp_path / "state" / "spool").iterdir()) == []
    assert not site.archive.exists()


async def test_a_target_that_was_away_gets_its_copies(tmp_path, vms, memories) -> None:
    """Later; what it lacks is owed meanwhile."""
    memories["nas"] = Memory(problem="no route to host")
    site = Site.make(tmp_path, vms)
    served = vms.add(size=SIZE)
    async with site.service():
        await site.until_state(served, State.SPOOLED)
        memories["nas"].problem = None
        await site.until_state(served, State.SAVED)

    assert len(memories["nas"].files) == 2


async def test_a_target_added_later_is_filled_from_another(
    tmp_path, vms, memories
) -> None:
    """Its copies are made of what the other one keeps: the VMS has it no more."""
    site, (served,) = await kept(tmp_path, vms, 1)
    vms.delete_file(served)
    path = str(tmp_path / "usb")
    site.tables["targets"]["usb"] = {"type": "directory", "path": path}
    await site.once()

    copy = next(c for c in site.dossier(served).copies if c.target == "usb")
    assert copy.state is CopyState.SAVED
    there, here = memories["usb"].files, memories["nas"].files
    assert there[str(copy.path)] == here[path_of(site, served)]


@pytest.mark.parametrize("damage", ["gone", "flipped", "sidecar"])
async def test_damage_is_found_and_repaired(tmp_path, vms, memories, damage) -> None:
    """From the copy on the other target; what lay there is set aside."""
    site, (served,) = await kept(tmp_path, vms, 1, "usb")
    nas, path = memories["nas"], path_of(site, served)
    before = dict(nas.files)
    match damage:
        case "gone":
            del nas.files[path]
        case "flipped":
            nas.files[path] = nas.files[path][:-1] + b"?"
        case _:
            nas.files[f"{path}.json"] = b"{}"
    tally, _ = await verified(site)
    assert (tally.damaged, tally.good) == (1, 1)

    tally, findings = await verified(site, repair=True)
    assert (tally.repaired, [each.repaired for each in findings]) == (1, [True])
    assert nas.files[path] == before[path]
    assert len(nas.aside) == (damage != "gone")
    tally, findings = await verified(site)
    assert (tally.exit_code, findings) == (0, [])


async def test_a_ledger_is_made_anew(tmp_path, vms, memories) -> None:
    """From what the targets hold."""
    site, served = await kept(tmp_path, vms, 3)
    memories["nas"].files.pop(path_of(site, served[2]))
    (tmp_path / "state" / "ledger.sqlite3").unlink()
    done = await rebuild.run(
        site.settings(),
        targets=["nas"],
        force=False,
        told=lambda _: None,
        watch=lambda _: None,
    )

    assert done.exports == {"saved": 2, "damaged": 1}
    with contextlib.closing(Ledger.read(site.settings().state_dir)) as ledger:
        assert ledger.targets.marker("nas") == memories["nas"].marker_id


async def test_a_target_is_checked(tmp_path, vms, memories) -> None:
    """It is well, or it is said what is wrong."""
    site = Site.make(tmp_path, vms)
    (tmp_path / "token").chmod(0o600)

    async def checked() -> tuple[str, str]:
        findings = await check.run(site.settings(), secret=lambda _: None)
        (found,) = [each for each in findings if each.name == "target nas"]
        return found.grade.value, found.detail

    grade, detail = await checked()
    assert (grade, "writable" in detail) == ("pass", True)
    memories["nas"].problem = "no route to host"
    assert await checked() == ("fail", "no route to host")


async def test_a_hung_target_holds_up_no_other(
    tmp_path, vms, memories, monkeypatch
) -> None:
    """It answers no probe; the other one gets its copies all the same."""
    memories["nas"] = Memory()
    memories["nas"].answers.clear()
    site = Site.make(tmp_path, vms)
    path = str(tmp_path / "usb")
    site.tables["targets"]["nas"] |= {"required": False}
    site.tables["targets"]["usb"] = {"type": "directory", "path": path}
    served = vms.add(size=SIZE)
    monkeypatch.setitem(MemoryTarget.probe.__kwdefaults__, "patience_s", 0.2)
    async with site.service():
        await site.until_state(served, State.SAVED)
        memories["nas"].answers.set()
        async with asyncio.timeout(60):
            while len(memories["nas"].files) < 2:
                await asyncio.sleep(0.02)

    assert memories["usb"].files.keys() == memories["nas"].files.keys()
