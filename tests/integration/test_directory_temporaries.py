"""Temporary files on a directory target: which go, and which stay."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from mirror.disk import durable
from tests.directory_bench import HIDDEN, World, publish_to

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "root").mkdir()
    return World(root=tmp_path / "root", spool=tmp_path / "spooled")


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
    looked, target = threading.Event(), world.target()
    real, waiting = durable.place, threading.Event()

    def slow(temporary: str, name: str, **how: int) -> None:
        waiting.set()
        assert looked.wait(60)
        real(temporary, name, **how)

    health = await target.probe(None, write=True)
    monkeypatch.setattr(durable, "place", slow)
    under_way = asyncio.create_task(
        publish_to(target, world.publication(may_link=False))
    )
    while not waiting.is_set():
        await asyncio.sleep(0.01)
    await target.probe(health.marker_id, write=True)
    looked.set()

    assert (await under_way).verified
    await target.close()


async def test_a_clone_of_this_node_does_not_keep_a_copy_from_ending(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take a file away when it starts, but not at its look each minute."""
    looked, target, clone = threading.Event(), world.target(), world.target()
    real, waiting = durable.place, threading.Event()

    def slow(temporary: str, name: str, **how: int) -> None:
        waiting.set()
        assert looked.wait(60)
        real(temporary, name, **how)

    health = await target.probe(None, write=True)
    await clone.probe(health.marker_id, write=True)
    monkeypatch.setattr(durable, "place", slow)
    under_way = asyncio.create_task(
        publish_to(target, world.publication(may_link=False))
    )
    while not waiting.is_set():
        await asyncio.sleep(0.01)
    await clone.probe(health.marker_id, write=True)
    looked.set()

    assert (await under_way).verified
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
