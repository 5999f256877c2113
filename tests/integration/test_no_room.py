"""What finds no room in the spool is asked for ever less often."""

from __future__ import annotations

import contextlib
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from mirror.errors import NoRoomError
from mirror.pipeline.spool.space import Space
from mirror.pipeline.spool.spool import Place, Spool
from tests import builders

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 10_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def disk(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return a disk with one MiB above the reserve."""
    disk = SimpleNamespace(
        f_blocks=8 * 1024 * MIB // 4096,
        f_frsize=4096,
        f_bavail=257 * MIB // 4096,
    )
    monkeypatch.setattr(os, "fstatvfs", lambda _: disk)
    return disk


def spool_of(folder: Path, clock: Clock) -> Spool:
    """Return a spool in a folder."""
    return Spool(
        node_id="n",
        places=lambda: [Place(path=folder, min_free=0)],
        threads=2,
        space=Space(clock=clock),
    )


@pytest.mark.parametrize(
    ("held", "waits"),
    [
        pytest.param(8 * MIB, [5, 10, 20, 40, 60, 60, 60, 60, 60, 60], id="now"),
        pytest.param(0, [5, 10, 20, 40, 80, 160, 320, 600, 600, 600], id="ever"),
    ],
)
async def test_what_finds_no_room_waits_twice_as_long_each_time(tmp_path, held, waits):
    """Though it may ask the VMS first, for its length is not known before."""
    clock = Clock()
    spool = spool_of(tmp_path, clock)
    other = await spool.open(builders.export(key=1, export_id=1))
    other.append([b"a" * held])
    found = []
    for _ in waits:
        part = await spool.open(builders.export(key=2, export_id=2))
        await spool.make_room(part, None, begun=False)
        with pytest.raises(NoRoomError) as caught:
            await spool.make_room(part, 4 * MIB)
        await spool.put_away(part)
        found.append(caught.value.retry_after_s)
        clock.now_s += found[-1] or 0
    await spool.put_away(other)
    spool.close()

    assert found == waits


async def test_room_ends_the_wait(tmp_path):
    """The next time begins anew."""
    spool = spool_of(tmp_path, Clock())
    part = await spool.open(builders.export(key=2, export_id=2))
    found = []
    for rest in (4 * MIB, 4 * MIB, MIB, 4 * MIB):
        try:
            await spool.make_room(part, rest)
        except NoRoomError as exc:
            found.append(exc.retry_after_s)
        else:
            found.append(None)
    await spool.put_away(part)
    spool.close()

    assert found == [5, 10, None, 5]


async def test_what_has_room_keeps_nobody_waiting(tmp_path, disk):
    """Also before its body begins: its answer may never come."""
    spool = spool_of(tmp_path, Clock())
    parts = [
        await spool.open(builders.export(key=number, export_id=number, order_us=number))
        for number in (1, 2, 3)
    ]
    parts[2].append([b"a" * 8 * MIB])
    with pytest.raises(NoRoomError):
        await spool.make_room(parts[0], 4 * MIB, begun=False)
    disk.f_bavail = (256 + 6) * MIB // 4096
    await spool.make_room(parts[0], 4 * MIB, begun=False)
    await spool.make_room(parts[1], MIB, begun=False)
    for part in parts:
        await spool.put_away(part)
    spool.close()


async def test_what_was_given_is_not_given_twice(tmp_path, disk):
    """Whether it was written since the disk was asked, or is still to come."""
    spool = spool_of(tmp_path, Clock())
    disk.f_bavail = (256 + 200) * MIB // 4096
    given = []
    for number in range(1, 15):
        part = await spool.open(builders.export(key=number, export_id=number))
        with contextlib.suppress(NoRoomError):
            await spool.make_room(part, 20 * MIB)
            given.append(part)
            if number % 2:
                part.size += 20 * MIB
                disk.f_bavail -= 20 * MIB // 4096
    for part in given:
        await spool.put_away(part)
    spool.close()

    assert len(given) == 10
