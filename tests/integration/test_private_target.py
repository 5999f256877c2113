"""A local user who may write to a target's root gets no byte of his called ours."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from mirror.disk import durable, filesystem
from mirror.errors import TargetError
from mirror.ports import ContentError, PathTakenError
from tests.directory_bench import (
    BYTES,
    HIDDEN,
    PATH,
    World,
    publish,
    publish_to,
    refuse_with,
)

if TYPE_CHECKING:
    from pathlib import Path

HIS = BYTES[::-1]
STRANGER = 54_321
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "root").mkdir()
    return World(root=tmp_path / "root", spool=tmp_path / "spooled")


def take_over(world: World, how: str, *folders: str) -> None:
    """Let others write to folders of ours."""
    for name in folders:
        folder = world.root / name
        folder.mkdir(parents=True, exist_ok=True)
        if how == "owner":
            os.chown(folder, STRANGER, -1)
        else:
            folder.chmod(0o770 if how == "group" else 0o703)


HOW = [pytest.param("owner", marks=AS_ROOT), "group", "others"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("folder", [HIDDEN, f"{HIDDEN}/tmp"])
@pytest.mark.parametrize("known", [False, True])
async def test_a_hidden_folder_that_others_may_write_to(
    world: World, how: str, folder: str, known: bool
) -> None:
    """It is not used, at first use nor later; the error names the remedy."""
    remembered = (
        (await world.target().probe(None, write=True)).marker_id if known else None
    )
    take_over(world, how, folder)

    with pytest.raises(TargetError) as failed:
        await world.target().probe(remembered, write=True)

    assert failed.value.reason == "not_private"
    where = world.root / folder
    assert f"chmod -R go-w {where}" in str(failed.value)
    assert world.visible() == {}


@pytest.mark.parametrize("how", HOW)
async def test_taken_over_under_way(world: World, how: str) -> None:
    """Looked at before each publish, not only at the start."""
    target = world.target()
    await target.probe(None, write=True)
    take_over(world, how, HIDDEN)

    for may_link in (True, False):
        with pytest.raises(TargetError) as failed:
            await publish_to(target, world.publication(may_link=may_link))
        assert failed.value.reason == "not_private"
    assert world.visible() == {}
    await target.close()


@pytest.mark.parametrize("spool", ["folder", "file", "owner"])
async def test_a_spooled_file_that_others_could_write_is_read_before_it_is_kept(
    world: World, spool: str
) -> None:
    """Not linked: it is copied, and what is not what was fetched is thrown away."""
    if spool == "owner" and os.geteuid() != 0:
        pytest.skip("needs another user")
    wanted = world.publication()
    if spool == "folder":
        world.spool.parent.chmod(0o777)
    elif spool == "file":
        world.spool.chmod(0o666)
    else:
        os.chown(world.spool, STRANGER, -1)
    kept = await publish(world, wanted)

    assert kept.verified
    assert not (world.root / PATH).samefile(world.spool)

    world.spool.write_bytes(HIS)
    with pytest.raises(ContentError):
        await publish(world, replace(wanted, path="hq/other.mp4"))
    assert "hq/other.mp4" not in world.visible()


async def test_one_of_ours_that_was_linked_before_is_read(world: World) -> None:
    """A run that was killed left the name; meanwhile others may have written to it."""
    wanted = world.publication()
    await publish(world, wanted)
    world.spool.chmod(0o666)
    world.spool.write_bytes(HIS)

    with pytest.raises(PathTakenError):
        await publish(world, wanted)


@pytest.mark.parametrize("links", [True, False])
async def test_what_is_swapped_before_it_gets_its_name(
    world: World, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """The file that was read back is the one that is named, or nothing is kept."""
    real = durable.digest_on_disk

    def swap(fd: int, *came: Any) -> str:
        digest = real(fd, *came)
        tmp = world.root / HIDDEN / "tmp"
        for path in tmp.glob("*.part"):
            if path.stat().st_size == len(BYTES):
                path.rename(tmp / "away")
                path.write_bytes(HIS)
        return digest

    monkeypatch.setattr(durable, "digest_on_disk", swap)
    if not links:
        monkeypatch.setattr(os, "link", refuse_with(errno.EPERM))
    wanted = world.publication(may_link=False)
    if links:
        assert (await publish(world, wanted)).verified
        assert world.visible()[PATH] == BYTES
    else:
        with pytest.raises(PathTakenError):
            await publish(world, wanted)


async def test_where_inodes_have_no_lasting_number(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was named is read once more then, and is ours if its bytes are."""
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)

    assert (await publish(world, world.publication(may_link=False))).verified


@pytest.mark.parametrize("how", HOW)
async def test_where_modes_cannot_be_kept(
    world: World, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """exFAT, SMB, mapped users: used, with a warning, and read back."""
    monkeypatch.setattr(filesystem, "keeps_modes", lambda _: False)
    take_over(world, how, HIDDEN, f"{HIDDEN}/tmp")
    target = world.target()
    health = await target.probe(None, write=True)

    assert health.warning is not None
    assert "mount options" in health.warning
    assert (await publish_to(target, world.publication(may_link=False))).verified
    await target.close()


async def test_shared_by_its_group(world: World) -> None:
    """Nodes of several users: the group is the one that is configured, no other."""
    take_over(world, "group", HIDDEN, f"{HIDDEN}/tmp")
    gid = (world.root / HIDDEN).stat().st_gid
    health = await world.target(group=str(gid)).probe(None, write=True)
    assert health.warning is not None
    assert "group" in health.warning

    (world.root / HIDDEN).chmod(0o777)
    with pytest.raises(TargetError) as failed:
        await world.target(group=str(gid)).probe(health.marker_id, write=True)
    assert failed.value.reason == "not_private"


async def test_the_id_of_a_marker_is_told_nobody(world: World) -> None:
    """Neither by its file nor by an error."""
    health = await world.target().probe(None, write=True)
    place = world.root / HIDDEN / "target.json"

    assert place.stat().st_mode & 0o777 == 0o600
    with pytest.raises(TargetError) as failed:
        await world.target().probe("the one we know", write=True)
    assert health.marker_id not in str(failed.value)
    assert "the one we know" not in str(failed.value)


def test_whether_modes_are_kept_is_tried(world: World, monkeypatch) -> None:
    """By a folder that is removed again; one that cannot be made shows nothing."""
    root = os.open(world.root, os.O_RDONLY)
    assert filesystem.keeps_modes(root)

    real = os.mkdir

    def mkdir(*given: Any, **how: Any) -> None:
        real(*given, **how)
        for path in world.root.iterdir():  # as a mount with a umask of 0 does
            path.chmod(0o777)

    monkeypatch.setattr(os, "mkdir", mkdir)
    assert not filesystem.keeps_modes(root)
    assert list(world.root.iterdir()) == []
    monkeypatch.setattr(os, "mkdir", refuse_with(errno.EACCES))
    assert filesystem.keeps_modes(root)
    os.close(root)


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL, errno.ENOTSUP, errno.EACCES])
@pytest.mark.parametrize("rename", ["renameat2", "rename"])
async def test_any_error_of_a_link_is_tried_another_way(
    world: World, monkeypatch: pytest.MonkeyPatch, code: int, rename: str
) -> None:
    """`rclone mount` answers EIO; one that is said of a rename too is believed."""
    monkeypatch.setattr(os, "link", refuse_with(code))
    if rename == "rename":
        monkeypatch.setattr(durable, "rename_noreplace", refuse_with(code))
    wanted = world.publication()

    assert (await publish(world, wanted)).verified
    assert world.visible() == world.whole(wanted)
    assert world.temporaries() == []
    monkeypatch.setattr(durable, "rename_noreplace", refuse_with(code))
    monkeypatch.setattr(os, "rename", refuse_with(code))
    with pytest.raises(TargetError):
        await publish(world, replace(wanted, path="hq/b.mp4"))
    assert world.visible() == world.whole(wanted)


async def test_a_file_system_that_reports_no_blocks_is_of_unknown_size(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not full: files are kept there, whatever `min_free` says."""
    nothing = os.statvfs_result([4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255])
    monkeypatch.setattr(os, "fstatvfs", lambda _: nothing)
    world.options["min_free"] = 2**40
    target = world.target()
    health = await target.probe(None, write=True)

    assert (health.free_bytes, health.size_bytes, health.full) == (None,) * 3
    assert (await publish_to(target, world.publication(may_link=False))).verified
    await target.close()


async def test_a_full_one_is_told_by_a_look(world: World) -> None:
    """Before any copy is owed there."""
    health = await world.target(min_free=2**60).probe(None, write=True)

    assert health.free_bytes == 0
    assert health.full is not None
    assert str(world.root) in health.full
    assert (await world.target().probe(None, write=True)).full is None
