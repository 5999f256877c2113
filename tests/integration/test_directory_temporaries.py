"""Temporary files on a directory target: which go, and which stay."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from mirror.disk import durable
from tests.directory_bench import HIDDEN, World, publish_to

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mirror.ports import Kept, Target


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "root").mkdir()
    return World(root=tmp_path / "root", spool=tmp_path / "spooled")


@asynccontextmanager
async def under_way(
    world: World, target: Target, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[asyncio.Task[Kept]]:
    """Publish, and wait before the name is given for as long as the block lasts."""
    real, waiting, looked = durable.place, threading.Event(), threading.Event()

    def slow(temporary: str, name: str, **how: int) -> None:
        waiting.set()
        assert looked.wait(60)
        real(temporary, name, **how)

    monkeypatch.setattr(durable, "place", slow)
    publication = world.publication(may_link=False)
    publishing = asyncio.create_task(publish_to(target, publication))
    try:
        while not waiting.is_set():
            await asyncio.sleep(0.01)
        yield publishing
    finally:
        looked.set()


async def test_own_leftovers_are_cleaned(world: World) -> None:
    """Only what this node left behind goes; the spool and others' files stay."""
    earlier, target = world.target(), world.target()
    await earlier.probe(None, write=True)
    await earlier.close()
    tmp = world.root / HIDDEN / "tmp"
    (world.root / HIDDEN / "spool").mkdir()
    (world.root / HIDDEN / "spool" / "n0de-1.part").touch()
    for name in ["n0de-1-aa.part", "n0de2-1.part", "other-1.part"]:
        (tmp / name).touch()

    await target.probe(None, write=True)

    assert world.temporaries() == ["n0de2-1.part", "other-1.part"]
    assert (world.root / HIDDEN / "spool" / "n0de-1.part").exists()
    await target.close()


async def test_a_look_spares_what_is_under_way(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look each minute does not take the file of a running publish away."""
    target = world.target()
    health = await target.probe(None, write=True)
    async with under_way(world, target, monkeypatch) as published:
        await target.probe(health.marker_id, write=True)

    assert (await published).verified
    await target.close()


async def test_a_clone_of_this_node_does_not_keep_a_copy_from_ending(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take a file away when it starts, but not at its look each minute."""
    target, clone = world.target(), world.target()
    health = await target.probe(None, write=True)
    await clone.probe(health.marker_id, write=True)
    async with under_way(world, target, monkeypatch) as published:
        await clone.probe(health.marker_id, write=True)

    assert (await published).verified
    await target.close()
    await clone.close()


async def test_what_could_not_be_removed_is_removed_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is away when a copy fails is tidied when it is back."""
    target, unlink = world.target(), os.unlink
    health = await target.probe(None, write=True)

    def away(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(os, "unlink", away)
        await publish_to(target, world.publication(may_link=False))
    assert len(world.temporaries()) == 2
    monkeypatch.setattr(os, "unlink", unlink)
    await target.probe(health.marker_id, write=True)

    assert world.temporaries() == []
    await target.close()
