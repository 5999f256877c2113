"""Two instances on one state directory, and two machines on one target."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from mirror.ledger import Ledger
from mirror.model import State
from mirror.simulator import Behaviour, Vms
from tests.proof.processes import Nursery, Stage

if TYPE_CHECKING:
    from pathlib import Path

    from tests.proof.figures import Effort
    from tests.proof.processes import Child

_KIB = 1024
_LOCKED = 75


def _in(state_dir: Path | str) -> dict[str, str]:
    """Return the environment that moves an instance to a state directory."""
    return {"ARCHIVE_MIRROR__STATE_DIR": str(state_dir)}


async def _begin(stage: Stage, config: str, state_dir: Path) -> Child:
    """Start the service on a state directory; the configuration is not written anew."""
    return await stage.nursery.start(
        "run", "-c", config, folder=stage.logs, env=_in(state_dir)
    )


async def _until_started(stage: Stage, child: Child) -> None:
    async with asyncio.timeout(30):
        while not _started(child):
            assert not child.code.done(), child.err.read_text()
            await asyncio.sleep(0.02)


def _started(child: Child) -> bool:
    return any(each["event"] == "service.started" for each in _events(child))


async def _refused(stage: Stage, command: str, state_dir: Path | str) -> None:
    """Start a second instance; it must end with 75 and say who holds what."""
    child = await stage.run(command, env=_in(state_dir))
    assert child.code.result() == _LOCKED, child.err.read_text()
    assert "another archive-mirror" in child.err.read_text()


async def test_a_second_instance_is_refused(tmp_path):
    """However its state directory is spelled, and when it was moved meanwhile."""
    async with Nursery.open() as nursery, Vms(other_origin=False) as vms:
        stage = Stage.make(tmp_path, vms, nursery)
        state = stage.site.folder / "state"
        first = await stage.start()
        await _until_started(stage, first)
        (tmp_path / "link").symlink_to(state)
        (tmp_path / "up").symlink_to(state.parent)
        for spelling in (
            str(state),
            f"{state}/",
            f"{state}/../state",
            str(tmp_path / "link"),
            str(tmp_path / "up" / "state"),
            os.path.relpath(state, stage.site.folder),
        ):
            for command in ("run", "once"):
                await _refused(stage, command, spelling)
        moved = state.rename(tmp_path / "moved")
        await _refused(stage, "run", moved)
        moved.rename(state)
        stage.offer(vms.add(size=100 * _KIB))
        async with asyncio.timeout(30):
            while not any(each["event"] == "export.saved" for each in _events(first)):
                await asyncio.sleep(0.02)

        assert await first.stop() == 0
        await stage.settle()
        assert stage.checker.breaks == []


@pytest.mark.timeout(300)
async def test_of_several_that_start_at_once_one_runs(tmp_path, effort: Effort):
    """Once it was killed, the next may run: no lock outlives its process."""
    async with Nursery.open() as nursery, Vms(other_origin=False) as vms:
        stage = Stage.make(tmp_path, vms, nursery)
        config, state, rounds = stage.config(), stage.site.folder / "state", 0
        for number, _ in effort.rounds(20, 1000, share=0.02):
            children = [await _begin(stage, config, state) for _ in range(3)]
            async with asyncio.timeout(30):
                while sum(child.code.done() for child in children) < 2:
                    await asyncio.sleep(0.01)
            (winner,) = (child for child in children if not child.code.done())
            codes = [each.code.result() for each in children if each is not winner]
            assert codes == [_LOCKED] * 2, f"round {number}"
            await _until_started(stage, winner)
            await winner.kill()
            rounds += 1
        effort.record(19, started_at_once=rounds, refused=2 * rounds)


async def _until_all_saved(
    stage: Stage, children: list[Child], states: list[Path]
) -> None:
    """Wait until each instance has saved all, stop them, and judge."""
    total = len(list(stage.vms.catalogue))
    async with asyncio.timeout(90):
        while not all(_saved(state) >= total for state in states):
            stage.checker.look()
            for child in children:
                assert not child.code.done(), child.err.read_text()[-2000:]
            await asyncio.sleep(0.05)
    for child in children:
        assert await child.stop() == 0
        stage.hear(child)
    for state in states:
        child = await stage.run("list", "--json", env=_in(state))
        lines = child.out.read_text().splitlines()
        stage.checker.settle([json.loads(line) for line in lines])


def _saved(state_dir: Path) -> int:
    ledger = Ledger.read(state_dir)
    try:
        return len(ledger.by_state(State.SAVED))
    finally:
        ledger.close()


def _events(child: Child) -> list[dict[str, Any]]:
    """Return the log of a process that may not have opened it yet."""
    return child.events() if child.err.exists() else []


def _left(root: Path) -> list[str]:
    """Return the files in a target's hidden folder, but for its marker."""
    hidden = root / ".archive-mirror"
    return [p.name for p in hidden.rglob("*") if p.is_file() and p.suffix == ".part"]


@pytest.mark.parametrize("links", [True, False], ids=["linked", "copied"])
async def test_two_machines_share_a_target(tmp_path, links, effort: Effort):
    """Both save all exports there; each file once, and none of one by the other."""
    async with Nursery.open() as nursery:
        async with Vms(
            behaviour=Behaviour(rate=2000 * _KIB), other_origin=False
        ) as vms:
            stage = Stage.make(tmp_path, vms, nursery)
            if not links:
                stage.add_target("vault")
            states = [stage.site.folder / "state", tmp_path / "second"]
            for _ in range(12):
                stage.offer(vms.add(size=600 * _KIB))
            config = stage.config()
            children = [await _begin(stage, config, state) for state in states]
            await _until_all_saved(stage, children, states)

            assert stage.checker.breaks == []
            assert sum(map(len, map(_left, stage.checker.roots.values()))) == 0
            assert all(
                len(list(root.rglob("*.mp4"))) == 12
                for root in stage.checker.roots.values()
            )
            effort.record(19, machines=2, exports=12, breaks=0)


async def test_a_copy_of_the_state_directory_does_no_harm(tmp_path, effort: Effort):
    """Two instances of one identity meet the same parts; no byte is mixed.

    The second starts from the copy when the first is far ahead of it.
    """
    async with Nursery.open() as nursery:
        async with Vms(behaviour=Behaviour(rate=300 * _KIB), other_origin=False) as vms:
            stage = Stage.make(tmp_path, vms, nursery, concurrency=8)
            states = [stage.site.folder / "state", tmp_path / "copy"]
            for _ in range(8):
                stage.offer(vms.add(size=1500 * _KIB))
            config = stage.config()
            first = await _begin(stage, config, states[0])
            await _until_sent(vms, 8 * 450 * _KIB)
            await first.kill()
            shutil.copytree(*states)
            children = [await _begin(stage, config, states[0])]
            await _until_sent(vms, 8 * 1200 * _KIB)
            children.append(await _begin(stage, config, states[1]))
            await _until_all_saved(stage, children, states)

            assert stage.checker.breaks == []
            effort.record(19, copied_state_dir="2 instances", exports=8, breaks=0)


async def _until_sent(vms: Vms, size_bytes: int) -> None:
    async with asyncio.timeout(30):
        while sum(each.sent_bytes for each in vms.requests) < size_bytes:
            await asyncio.sleep(0.02)
