"""SIGKILL at each durability call of a file's life, and at random moments of many."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from mirror.simulator import FAULTS, Behaviour, Vms
from tests.proof.processes import CheckedMirror, Processes
from tests.proof.shim import Action, Shim, library

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.proof.figures import Figures

_KIB = 1024
_IN_FLIGHT = 8
_CAMPAIGN = 25
_MAX_POINTS = 2000
_SOON_AFTER = 10


async def _killed_at(
    mirror: CheckedMirror, shim: Shim, point: int, *, plant: str | None = None
) -> bool:
    """Kill `once` before its n-th call; tell whether it made so many."""
    shim.set(Action.KILL_BEFORE, at=point)
    child = await mirror.run("once", env={"PROOF_SHIM": str(shim.path)}, plant=plant)
    mirror.hear(child)
    mirror.checker.look()
    return child.code.result() == -signal.SIGKILL


@contextlib.asynccontextmanager
async def _one_file(
    folder: Path, processes: Processes
) -> AsyncIterator[tuple[CheckedMirror, Shim]]:
    """Offer one file, and count the calls of who fetches it.

    The file's body is cut once, so that a resume is met; it goes to two targets, so
    that both ways to publish are.
    """
    folder.mkdir()
    async with Vms(other_origin=False) as vms:
        mirror = CheckedMirror.make(folder, vms, processes)
        mirror.add_target("vault")
        mirror.offer(vms.add(size=300_000, faults=[FAULTS["cut"]]))
        yield mirror, Shim(folder / "shim", folder / "home")


async def _publishing(folder: Path, processes: Processes, plant: str) -> list[int]:
    """Return which of the calls are made about a target, and those soon after."""
    async with _one_file(folder, processes) as (mirror, shim):
        shim.set(Action.NONE, log=True)
        child = await mirror.run(
            "once", env={"PROOF_SHIM": str(shim.path)}, plant=plant
        )
        # What is called saved too soon may end the program while it is placed.
        assert child.code.result() in {0, 3}
        roots = [f" {root}/" for root in mirror.checker.roots.values()]
        calls = enumerate(shim.log(), 1)
        about = [n for n, call in calls if any(root in call for root in roots)]
        return list(range(about[0], about[-1] + _SOON_AFTER))


async def _point(folder: Path, processes: Processes, number: int, **how: str) -> bool:
    """Kill one file's life at one call, run again; False when it has fewer calls."""
    async with _one_file(folder, processes) as (mirror, shim):
        killed = await _killed_at(mirror, shim, number, plant=how.get("plant"))
        if killed:
            await mirror.settle()
        assert mirror.checker.breaks == [], f"killed before call {number}"
        return killed


async def _lane(folder: Path, processes: Processes, first: int, step: int) -> int:
    """Go through every `step`-th point from the first on; return how many."""
    for done, number in enumerate(range(first, _MAX_POINTS, step)):
        if not await _point(folder / str(number), processes, number):
            return done
    raise AssertionError(f"one file's life never ended within {_MAX_POINTS} calls")


@pytest.mark.timeout(600)
async def test_kill_at_each_call(tmp_path, figures: Figures):
    """Before each call that changes a disk: what is saved is there, none is partial."""
    async with (
        Processes.open(preload=library()) as processes,
        asyncio.TaskGroup() as group,
    ):
        lanes = [
            group.create_task(_lane(tmp_path, processes, first, 2)) for first in (1, 2)
        ]
    points = sum(lane.result() for lane in lanes)
    assert points > 100
    figures.record(1, points=points, breaks=0)


@pytest.mark.parametrize("plant", ["saved_first", "in_place"])
async def test_a_planted_bug_shows_at_some_call(tmp_path, plant):
    """The judge finds it when the process is killed at one of the calls."""
    async with Processes.open(preload=library()) as processes:
        calls = await _publishing(tmp_path / "whole", processes, plant)
        with pytest.raises(AssertionError, match="killed before call"):
            for number in reversed(calls):
                await _point(tmp_path / str(number), processes, number, plant=plant)


async def _campaign(
    mirror: CheckedMirror, rng: random.Random, kills: int, *, plant: str | None = None
) -> int:
    """Kill the service again and again, then settle; return how many hit a transfer."""
    vms, hits = mirror.vms, 0
    for _ in range(kills):
        unsaved = [e for e in vms.exports if not _sent(vms, e.export_id)]
        for _ in range(_IN_FLIGHT + 1 - len(unsaved)):
            mirror.offer(vms.add(size=rng.choice([100, 1500, 3000, 6000]) * _KIB))
        child = await mirror.start("run", plant=plant)
        hits += await mirror.reach_a_moment(rng, 1.4)
        await child.kill()
        mirror.hear(child)
        mirror.checker.look()
        assert mirror.checker.breaks == []
    vms.behaviour = Behaviour()
    await mirror.settle()
    return hits


def _sent(vms: Vms, export_id: int) -> bool:
    """Tell whether a file was once sent to its end."""
    return any(
        each.ended == "complete" and each.status in {200, 206}
        for each in vms.file_requests(export_id)
    )


async def _random_kills(
    folder: Path, rng: random.Random, processes: Processes, kills: int, **how: str
) -> int:
    folder.mkdir()
    behaviour = Behaviour(rate=1000 * _KIB)
    async with Vms(behaviour=behaviour, other_origin=False) as vms:
        mirror = CheckedMirror.make(folder, vms, processes, concurrency=_IN_FLIGHT)
        mirror.add_target("vault")
        hits = await _campaign(mirror, rng, kills, plant=how.get("plant"))
    assert mirror.checker.breaks == []
    return hits


@pytest.mark.timeout(600)
async def test_kill_at_random_moments(tmp_path, figures: Figures):
    """What is saved is there, none is partial, and the next run saves the rest."""
    async with Processes.open() as processes:

        async def campaign(number: int, rng: random.Random) -> int:
            folder = tmp_path / str(number)
            hits = await _random_kills(folder, rng, processes, _CAMPAIGN)
            shutil.rmtree(folder)
            return hits

        hits = await figures.side_by_side(campaign, 2, 2000 // _CAMPAIGN, share=0.3)
    kills = _CAMPAIGN * len(hits)
    assert sum(hits) * 2 >= kills, "too few kills met a transfer to prove anything"
    figures.record(2, kills=kills, hit_a_transfer=sum(hits), breaks=0)


async def test_a_planted_bug_shows_at_random_kills(tmp_path, figures: Figures):
    """The judge finds a file that is visible before it is whole."""
    async with Processes.open() as processes:
        with pytest.raises(AssertionError):
            # One campaign may miss it by chance.
            for number in range(5):
                await _random_kills(
                    tmp_path / str(number),
                    figures.round(number),
                    processes,
                    _CAMPAIGN,
                    plant="in_place",
                )
