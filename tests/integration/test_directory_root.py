"""The root of a directory target: its marker, its mount, who may write there."""

from __future__ import annotations

import errno
import json
import os
import pwd
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirror.disk import durable, mounts
from mirror.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator


from tests.directory_bench import HIDDEN, World, publish_to


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "root").mkdir()
    return World(root=tmp_path / "root", spool=tmp_path / "spooled")


async def test_marker(world: World) -> None:
    """A marker is made once, and found again."""
    first = await world.target().probe(None, write=True)
    text = (world.root / HIDDEN / "target.json").read_text()

    again = await world.target().probe(None, write=True)
    known = await world.target().probe(first.marker_id, write=True)

    assert first.marker_id == again.marker_id == known.marker_id
    assert first.free_bytes and first.size_bytes
    assert first.size_bytes >= first.free_bytes
    assert json.loads(text).keys() == {"target_id", "created_at", "tool"}
    assert json.loads(text)["target_id"] == first.marker_id
    assert (world.root / HIDDEN / "target.json").read_text() == text


async def test_marker_of_a_share(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux opens no file on SMB that has another name it closed a moment ago."""
    opened = durable.open_file

    def open_file(name: str, *, within: int) -> int:
        if os.stat(name, dir_fd=within).st_nlink > 1:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
        return opened(name, within=within)

    monkeypatch.setattr(durable, "open_file", open_file)
    health = await world.target().probe(None, write=True)

    assert health.marker_id


@pytest.mark.parametrize("found", ["missing", "differs", "broken", "link"])
async def test_other_disk(world: World, found: str, tmp_path: Path) -> None:
    """With the marker missing or another one, nothing is written and the text helps."""
    target = world.target()
    health = await target.probe(None, write=True)
    place = world.root / HIDDEN / "target.json"
    good = place.read_bytes()
    place.unlink()
    if found == "differs":
        place.write_text('{"target_id": "another"}')
    elif found == "broken":
        place.write_text('{"target_id": 7}')
    elif found == "link":
        (tmp_path / "marker").write_bytes(good)
        place.symlink_to(tmp_path / "marker")
    before = sorted(world.root.rglob("*"))

    with pytest.raises(TargetError) as published:
        await publish_to(target, world.publication())
    with pytest.raises(TargetError) as opened:
        await world.target().probe(health.marker_id, write=True)

    assert published.value.reason == opened.value.reason
    assert sorted(world.root.rglob("*")) == before
    assert str(world.root) in str(opened.value)
    if found in {"missing", "differs"}:
        assert opened.value.reason == f"marker_{found}"
        assert "`archive-mirror check --adopt nas`" in str(opened.value)
    await target.close()


@pytest.mark.parametrize("mount", [True, False])
async def test_of_an_unmounted_share_no_guard_is_to_be_switched_off(
    world: World, *, mount: bool
) -> None:
    """It is to be mounted; what accepts another disk is told with how to look first."""
    await world.target().probe(None, write=True)
    shutil.rmtree(world.root)
    world.root.mkdir()
    with pytest.raises(TargetError, match=r"[Mm]ount") as failed:
        await world.target(mount=mount).probe("remembered", write=True)

    text = str(failed.value)
    assert "mount = false" not in text
    assert "Nothing is written" in text
    assert text.endswith("shows it") or "--adopt" not in text


async def test_another_disk_under_way(world: World, tmp_path: Path) -> None:
    """Swapped between two publishes, the new disk stays as it is."""
    target = world.target()
    await target.probe(None, write=True)
    await publish_to(target, world.publication())
    world.root.rename(tmp_path / "old")
    world.root.mkdir()

    with pytest.raises(TargetError) as failed:
        await publish_to(target, world.publication(path="hq/other.mp4"))

    assert failed.value.reason == "marker_missing"
    assert list(world.root.iterdir()) == []
    await target.close()


async def test_root_is_made_at_first_use_only(world: World) -> None:
    """An empty folder never stands in for a disk that was there once."""
    world.root.rmdir()
    with pytest.raises(TargetError, match="`install -d -o") as failed:
        await world.target().probe("remembered", write=True)
    assert failed.value.reason == "root_missing"
    assert not world.root.exists()

    with pytest.raises(TargetError, match="not mounted"):
        await world.target(mount=True).probe(None, write=True)
    assert not world.root.exists()

    with pytest.raises(TargetError, match="`install -d -o"):
        await world.target(root=world.root / "deeper").probe(None, write=True)
    assert not world.root.exists()

    await world.target().probe(None, write=True)
    assert world.root.stat().st_mode & 0o7777 == 0o750


async def test_mount_point(world: World) -> None:
    """Where a mount is asked for, a plain folder is refused."""
    with pytest.raises(TargetError, match="nothing is mounted") as failed:
        await world.target(mount=True).probe(None, write=True)

    assert failed.value.reason == "not_mounted"
    assert list(world.root.iterdir()) == []


async def test_a_folder_of_a_mount_is_no_mount_point(world: World) -> None:
    """Who names a folder of the share is told where the share is mounted."""
    with pytest.raises(TargetError, match="set path to /proc, and let layout") as told:
        await world.target(root=Path(f"/proc/{os.getpid()}"), mount=True).probe(
            None, write=True
        )
    assert told.value.reason == "not_mounted"


def test_mount_points_are_known(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system's root, and what the kernel tells of; no folder on itself."""
    assert mounts.is_mount(os.open("/proc", os.O_RDONLY), Path("/proc"))

    spaced = world.root / "a b"
    spaced.mkdir()
    table = world.root / "mountinfo"
    escaped = str(spaced).replace(" ", "\\040")
    above = "35 1 98:0 /lower / rw - ext4 /dev/x rw\n"
    table.write_text(f"{above}36 35 98:0 /x {escaped} rw - ext4 /dev/x rw\n")
    monkeypatch.setattr(mounts, "_MOUNTS", table)
    assert mounts.is_mount(os.open(spaced, os.O_RDONLY), spaced)
    assert not mounts.is_mount(os.open(world.root, os.O_RDONLY), world.root)

    itself = f"37 35 98:0 /lower{escaped} {escaped} rw - ext4 /dev/x rw\n"
    table.write_text(above + itself)
    assert not mounts.is_mount(os.open(spaced, os.O_RDONLY), spaced)
    table.write_text(f"{above}36 35 98:0 /x {escaped} rw - ext4 /dev/x rw\n{itself}")
    assert mounts.is_mount(os.open(spaced, os.O_RDONLY), spaced)


async def test_read_only_root(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that cannot be written to shows when it is looked at."""
    health = await world.target().probe(None, write=True)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(durable, "write_new", refuse)
    with pytest.raises(TargetError, match="Read-only file system") as failed:
        await world.target().probe(health.marker_id, write=True)

    assert failed.value.reason == "read_only"
    assert f"ReadWritePaths=-{world.root.parent} " in str(failed.value)
    assert str(world.root) in str(failed.value)


@pytest.fixture
def as_anybody(world: World) -> Iterator[None]:
    """Be a user without privileges, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    for folder in (world.root, *world.root.parents):
        if folder.stat().st_uid == 0 and "pytest" in str(folder):
            folder.chmod(0o755)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_no_permission(world: World, as_anybody: None) -> None:
    if os.geteuid() != 65534:
        world.root.chmod(0o500)
    with pytest.raises(TargetError) as failed:
        await world.target().probe(None, write=True)

    assert failed.value.reason == "no_permission"
    user = pwd.getpwuid(os.geteuid()).pw_name
    assert f"`chown -R {user} {world.root}`" in str(failed.value)


async def test_a_root_that_may_not_be_made(world: World, as_anybody: None) -> None:
    """The remedy is a command for root, and gives it to the right user."""
    if os.geteuid() != 65534:
        world.root.chmod(0o500)
    with pytest.raises(TargetError) as failed:
        await world.target(root=world.root / "a b").probe(None, write=True)

    assert failed.value.reason == "root_missing"
    user = pwd.getpwuid(os.geteuid()).pw_name
    told = f"`install -d -o {user} -m 0750 '{world.root}/a b'`"
    assert told in str(failed.value)
