"""SIGKILL at each durability call of a file's life, and at random moments of many."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from mirror.simulator import FAULTS, Behaviour, Vms
from tests.proof.processes import Nursery, Stage
from tests.proof.shim import Action, Shim, library

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.proof.figures import Effort

_KIB = 1024
_IN_FLIGHT = 8
_CAMPAIGN = 25
_MAX_POINTS = 2000
_SOON_AFTER = 10


async def _killed_at(
    stage: Stage, shim: Shim, point: int, *, plant: str | None = None
) -> bool:
    """Kill `once` before its n-th call; tell whether it made so many."""
    shim.set(Action.KILL_BEFORE, at=point)
    child = await stage.run("once", env={"PROOF_SHIM": str(shim.path)}, plant=plant)
    stage.hear(child)
    stage.checker.look()
    return child.code.result() == -signal.SIGKILL


@contextlib.asynccontextmanager
async def _one_file(
    folder: Path, nursery: Nursery
) -> AsyncIterator[tuple[Stage, Shim]]:
    """Offer one file, and count the calls of who fetches it.

    The file's body is cut once, so that a resume is met; it goes to two targets, so
    that both ways to publish are.
    """
    folder.mkdir()
    async with Vms(other_origin=False) as vms:
        stage = Stage.make(folder, vms, nursery)
        stage.add_target("vault")
        stage.offer(vms.add(size=300_000, faults=[FAULTS["cut"]]))
        yield stage, Shim(folder / "shim", folder / "home")


async def _publishing(folder: Path, nursery: Nursery, plant: str) -> list[int]:
    """Return which of the calls are made about a target, and those soon after."""
    async with _one_file(folder, nursery) as (stage, shim):
        shim.set(Action.NONE, log=True)
        child = await stage.run("once", env={"PROOF_SHIM": str(shim.path)}, plant=plant)
        # What is called saved too soon may end the program while it is placed.
        assert child.code.result() in {0, 3}
        roots = [f" {root}/" for root in stage.checker.roots.values()]
        calls = enumerate(shim.log(), 1)
        about = [n for n, call in calls if any(root in call for root in roots)]
        return list(range(about[0], about[-1] + _SOON_AFTER))


async def _point(folder: Path, nursery: Nursery, number: int, **how: str) -> bool:
    """Kill one file's life at one call, run again; False when it has fewer calls."""
    async with _one_file(folder, nursery) as (stage, shim):
        killed = await _killed_at(stage, shim, number, plant=how.get("plant"))
        if killed:
            await stage.settle()
        assert stage.checker.breaks == [], f"killed before call {number}"
        return killed


async def _lane(folder: Path, nursery: Nursery, first: int, step: int) -> int:
    """Go through every `step`-th point from the first on; return how many."""
    for done, number in enumerate(range(first, _MAX_POINTS, step)):
        if not await _point(folder / str(number), nursery, number):
            return done
    raise AssertionError(f"one file's life never ended within {_MAX_POINTS} calls")


@pytest.mark.timeout(600)
async def test_kill_at_each_call(tmp_path, effort: Effort):
    async with Nursery.open(preload=library()) as nursery, asyncio.TaskGroup() as group:
        lanes = [
            group.create_task(_lane(tmp_path, nursery, first, 2)) for first in (1, 2)
        ]
    points = sum(lane.result() for lane in lanes)
    assert points > 100
    effort.record(1, points=points, breaks=0)


@pytest.mark.parametrize("plant", ["saved_first", "in_place"])
async def test_a_planted_bug_shows_at_some_call(tmp_path, plant):
    async with Nursery.open(preload=library()) as nursery:
        calls = await _publishing(tmp_path / "whole", nursery, plant)
        with pytest.raises(AssertionError, match="killed before call"):
            for number in reversed(calls):
                await _point(tmp_path / str(number), nursery, number, plant=plant)


async def _campaign(
    stage: Stage, rng: random.Random, kills: int, *, plant: str | None = None
) -> int:
    """Kill the service again and again, then settle; return how many hit a transfer."""
    vms, hits = stage.vms, 0
    for _ in range(kills):
        unsaved = [e for e in vms.catalogue if not _sent(vms, e.export_id)]
        for _ in range(_IN_FLIGHT + 1 - len(unsaved)):
            stage.offer(vms.add(size=rng.choice([100, 1500, 3000, 6000]) * _KIB))
        child = await stage.start("run", plant=plant)
        hits += await stage.reach_a_moment(rng, 1.4)
        await child.kill()
        stage.hear(child)
        stage.checker.look()
        assert stage.checker.breaks == []
    vms.behaviour = Behaviour()
    await stage.settle()
    return hits


def _sent(vms: Vms, export_id: int) -> bool:
    """Tell whether a file was once sent to its end."""
    return any(
        each.ended == "complete" and each.status in {200, 206}
        for each in vms.file_requests(export_id)
    )


async def _random_kills(
    folder: Path, rng: random.Random, nursery: Nursery, kills: int, **how: str
) -> int:
    folder.mkdir()
    behaviour = Behaviour(rate=1000 * _KIB)
    async with Vms(behaviour=behaviour, other_origin=False) as vms:
        stage = Stage.make(folder, vms, nursery, concurrency=_IN_FLIGHT)
        stage.add_target("vault")
        hits = await _campaign(stage, rng, kills, plant=how.get("plant"))
    assert stage.checker.breaks == []
    return hits


@pytest.mark.timeout(600)
async def test_kill_at_random_moments(tmp_path, effort: Effort):
    async with Nursery.open() as nursery:

        async def campaign(number: int, rng: random.Random) -> int:
            folder = tmp_path / str(number)
            hits = await _random_kills(folder, rng, nursery, _CAMPAIGN)
            shutil.rmtree(folder)
            return hits

        hits = await effort.side_by_side(campaign, 2, 2000 // _CAMPAIGN, share=0.3)
    kills = _CAMPAIGN * len(hits)
    assert sum(hits) * 2 >= kills, "too few kills met a transfer to prove anything"
    effort.record(2, kills=kills, hit_a_transfer=sum(hits), breaks=0)


async def test_a_planted_bug_shows_at_random_kills(tmp_path, effort: Effort):
    async with Nursery.open() as nursery:
        with pytest.raises(AssertionError):
            await _random_kills(
                tmp_path / "one", effort.round(0), nursery, _CAMPAIGN, plant="in_place"
            )
