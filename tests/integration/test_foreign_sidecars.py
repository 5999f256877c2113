"""What others put beside our files costs no memory, and is never parsed by chance."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from mirror import sidecar
from mirror.ports import MAX_SIDECAR_BYTES, PathTakenError
from mirror.sidecar import SidecarError
from mirror.targets.directory import place as placing
from mirror.targets.directory import read
from tests.directory_bench import PATH, World, publish_to

if TYPE_CHECKING:
    from pathlib import Path

HUGE = 64 * 1024 * 1024
BATCH = 16 * 1024 * 1024


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "root").mkdir()
    return World(root=tmp_path / "root", spool=tmp_path / "spooled")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many bytes were asked for at once, each time."""
    real, found = os.pread, []

    def pread(fd: int, length: int, offset: int) -> bytes:
        found.append(length)
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    return found


def sparse(path: Path, size: int = HUGE) -> None:
    """Put a file there that is long and takes no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


async def test_a_long_one_in_the_way_is_not_read(
    world: World, asked: list[int]
) -> None:
    sparse(world.root / f"{PATH}.json")
    target = world.target()
    await target.probe(None, write=True)

    with pytest.raises(PathTakenError):
        await publish_to(target, world.publication())

    assert asked == []
    await target.close()


async def test_a_long_one_is_not_read_by_verify(world: World, asked: list[int]) -> None:
    target = world.target()
    health = await target.probe(None, write=True)
    wanted = world.publication()
    await publish_to(target, wanted)
    sparse(world.root / f"{PATH}.json")
    asked.clear()
    found = await target.examine(
        PATH,
        size_bytes=wanted.size_bytes,
        marker_id=health.marker_id,
        came=lambda _: None,
    )

    assert found.sidecar == b""
    assert found.sha256 == wanted.sha256
    assert len(asked) == 2
    await target.close()


async def test_many_long_ones_are_surveyed_at_no_cost(
    world: World, asked: list[int]
) -> None:
    """Each is told, none is read, and none is taken for a record of ours."""
    for number in range(300):
        sparse(world.root / "x" / f"{number}.mp4.json")
    target = world.target()
    health = await target.probe(None, write=True)
    found = [one async for some in target.scan(health.marker_id) for one in some]

    assert [one.sidecar for one in found] == [b""] * 300
    assert asked == []
    with pytest.raises(SidecarError):
        sidecar.export_of(found[0], 0)
    await target.close()


async def test_what_is_surveyed_at_once_is_bounded_by_bytes(world: World) -> None:
    (world.root / "x").mkdir()
    for number in range(100):
        (world.root / "x" / f"{number}.mp4.json").write_bytes(b" " * MAX_SIDECAR_BYTES)
    target = world.target()
    health = await target.probe(None, write=True)
    batches = [some async for some in target.scan(health.marker_id)]

    assert sum(len(some) for some in batches) == 100
    assert max(sum(len(one.sidecar or b"") for one in some) for some in batches) < BATCH
    await target.close()


def test_one_that_grows_while_it_is_read_is_read_no_further(
    world: World, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its length was right when it was looked at."""
    sparse(world.root / "a", HUGE)
    fd = os.open(world.root / "a", os.O_RDONLY)
    about = os.stat_result([0o100644, 0, 0, 1, 0, 0, 10, 0, 0, 0])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", lambda _: about)

        assert read.record_in(fd) == b""
    assert len(asked) == 1
    os.close(fd)


async def test_what_lies_there_is_not_parsed_by_a_publish(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is searched for what makes it ours; only our own record is parsed."""
    wanted = world.publication()
    parsed: list[Any] = []
    real = json.loads

    def loads(text: Any) -> Any:
        parsed.append(text)
        return real(text)

    place = world.root / f"{PATH}.json"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"[" * 100_000 + b"]" * 100_000)
    target = world.target()
    await target.probe(None, write=True)
    monkeypatch.setattr(json, "loads", loads)

    with pytest.raises(PathTakenError):
        await publish_to(target, wanted)
    assert [one for one in parsed if one == place.read_bytes()] == []
    await target.close()


@pytest.mark.parametrize(
    ("found", "ours"),
    [
        (b'{"source": "hq", "id": 7, "sha256": "ab"}', True),
        (b'{\n "format": 1,\n "source" : "hq",\n "id":7,\n "sha256":"ab"\n}', True),
        (b'{"source": "hq", "id": 70, "sha256": "ab"}', False),
        (b'{"source": "hq", "id": 17, "sha256": "ab"}', False),
        (b'{"source": "hq2", "id": 7, "sha256": "ab"}', False),
        (b'{"source": "hq", "id": 7}', False),
        (b"", False),
    ],
)
def test_what_makes_a_record_ours(found: bytes, ours: bool) -> None:
    """The same source, id and digest."""
    record = b'{"source": "hq", "id": 7, "sha256": "ab", "attempts": 2}'

    assert placing._same_export(found, record) is ours
