"""Files and sidecars brought under their names on real file systems."""

from __future__ import annotations

import asyncio
import errno
import grp
import os
import stat
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from mirror.disk import durable
from mirror.errors import TargetError
from mirror.ports import ContentError, Kept, PathTakenError
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


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "root").mkdir()
    return World(root=tmp_path / "root", spool=tmp_path / "spooled")


@pytest.fixture
def far(world: World, on_disk: Path) -> World:
    """Return a world whose spool lies on another file system than the root."""
    if on_disk.stat().st_dev == world.root.stat().st_dev:
        pytest.skip("needs /dev/shm as a second file system")
    world.spool = on_disk / "spooled"
    return world


async def test_linked_on_one_file_system(world: World) -> None:
    """The spooled file itself gets its final name; nothing is copied."""
    wanted = world.publication()

    kept = await publish(world, wanted)

    assert kept == Kept(verified=False)
    assert world.visible() == world.whole(wanted)
    assert (world.root / PATH).samefile(world.spool)
    assert world.temporaries() == []


async def test_copied_across_file_systems(far: World) -> None:
    """A file from elsewhere is copied, read back, and called verified."""
    wanted = far.publication()

    kept = await publish(far, wanted)

    assert kept.verified
    assert far.visible() == far.whole(wanted)
    assert far.spool.read_bytes() == BYTES
    assert far.temporaries() == []


async def test_copied_where_it_may_not_link(world: World) -> None:
    wanted = world.publication(may_link=False)

    kept = await publish(world, wanted)

    assert kept.verified
    assert not (world.root / PATH).samefile(world.spool)


@pytest.mark.parametrize("may_link", [True, False])
async def test_modes(world: World, may_link: bool) -> None:
    """Files and folders get their modes whatever the umask; ours stay private."""
    before = os.umask(0o077)
    try:
        await publish(world, world.publication(may_link=may_link))
    finally:
        os.umask(before)

    modes = {
        str(path.relative_to(world.root)): path.stat().st_mode & 0o7777
        for path in world.root.rglob("*")
    }
    assert modes[PATH] == modes[f"{PATH}.json"] == 0o640
    assert modes["hq"] == modes["hq/camera-7/2026/11/23"] == 0o750
    assert modes[HIDDEN] == modes[f"{HIDDEN}/tmp"] == 0o700


async def test_group(world: World) -> None:
    """Files, sidecars and folders get the group."""
    others = [gid for gid in os.getgroups() if gid != os.getegid()]
    gid = others[0] if others else (4 if os.geteuid() == 0 else os.getegid())
    world.options["group"] = grp.getgrgid(gid).gr_name

    await publish(world, world.publication())

    made = list((world.root / "hq").rglob("*"))
    assert {path.stat().st_gid for path in made} == {gid}


async def test_unknown_group(world: World) -> None:
    with pytest.raises(TargetError, match="no group nobody-at-all") as failed:
        await world.target(group="nobody-at-all").probe(None, write=True)

    assert failed.value.reason == "no_group"


@pytest.mark.parametrize("may_link", [True, False])
async def test_repeat(world: World, may_link: bool) -> None:
    """What is there already with the right bytes is ours, and stays as it is."""
    wanted = world.publication(may_link=may_link)
    await publish(world, wanted)
    before = (world.root / PATH).stat()
    later = wanted.sidecar.replace(b'"attempts": 1', b'"attempts": 2')

    kept = await publish(world, replace(wanted, sidecar=later))

    assert kept.verified is not may_link
    assert (world.root / PATH).stat().st_ino == before.st_ino
    assert world.visible() == world.whole(wanted)


async def test_adopts_equal_bytes(world: World) -> None:
    """An equal file of another inode is read, compared and taken as ours."""
    wanted = world.publication()
    (world.root / PATH).parent.mkdir(parents=True)
    (world.root / PATH).write_bytes(BYTES)

    kept = await publish(world, wanted)

    assert kept.verified
    assert world.visible() == world.whole(wanted)


@pytest.mark.parametrize("may_link", [True, False])
@pytest.mark.parametrize("there", ["longer", "same length", "folder", "link", "fifo"])
async def test_never_overwrites(world: World, there: str, may_link: bool) -> None:
    """Whatever else lies at the path stays, and no sidecar comes beside it."""
    place = world.root / PATH
    place.parent.mkdir(parents=True)
    if there == "folder":
        place.mkdir()
    elif there == "link":
        place.symlink_to(world.spool)
    elif there == "fifo":
        os.mkfifo(place)
    else:
        place.write_bytes(BYTES + b"x" if there == "longer" else BYTES[::-1])
    before = place.lstat()

    with pytest.raises(PathTakenError):
        await publish(world, world.publication(may_link=may_link))

    assert place.lstat().st_ino == before.st_ino
    assert place.lstat().st_size == before.st_size
    assert not (world.root / f"{PATH}.json").exists()
    assert world.temporaries() == []


async def test_a_forbidden_set_group_id_costs_only_itself(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What systemd's RestrictSUIDSGID= refuses is left out, and the file is kept."""
    make, change = os.mkdir, os.fchmod

    def forbid(mode: int) -> None:
        if mode & stat.S_ISGID:
            raise PermissionError(errno.EPERM, "Operation not permitted")

    def mkdir(path: str, mode: int = 0o777, **how: Any) -> None:
        forbid(mode)
        make(path, mode & 0o700, **how)  # as a umask of 0077 has it

    def fchmod(fd: int, mode: int) -> None:
        forbid(mode)
        change(fd, mode)

    monkeypatch.setattr(os, "mkdir", mkdir)
    monkeypatch.setattr(os, "fchmod", fchmod)
    target = world.target(dir_mode=0o2750)
    await target.probe(None, write=True)
    await publish_to(target, world.publication())

    folder = (world.root / PATH).parent
    assert world.visible()[PATH] == BYTES
    assert folder.stat().st_mode & 0o7777 == 0o750


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("may_link", [True, False])
async def test_somebody_is_quicker(
    world: World, monkeypatch: pytest.MonkeyPatch, may_link: bool, equal: bool
) -> None:
    """A file that appears after the look is taken as ours, or stays as it is."""
    real, content = durable.give_mode, BYTES if equal else BYTES[::-1]

    def give_mode(fd: int, mode: int, gid: int) -> None:
        place = world.root / PATH
        if stat.S_ISREG(os.fstat(fd).st_mode) and place.parent.exists():
            place.write_bytes(content)
        real(fd, mode, gid)

    monkeypatch.setattr(durable, "give_mode", give_mode)
    if equal:
        assert (await publish(world, world.publication(may_link=may_link))).verified
    else:
        with pytest.raises(PathTakenError):
            await publish(world, world.publication(may_link=may_link))

    assert world.visible()[PATH] == content
    assert not (world.root / PATH).samefile(world.spool)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 100_000,
        b'{"source": "hq", "id": 6414, "sha256": "00"}',
        b'{"source": "hq", "id": 6415, "sha256": "SHA"}',
        b'{"source": "branch", "id": 6414, "sha256": "SHA"}',
    ],
)
async def test_foreign_sidecar(world: World, content: bytes) -> None:
    """A sidecar of something else stays, and no file comes to lie beside it."""
    wanted = world.publication()
    content = content.replace(b"SHA", wanted.sha256.encode())
    place = world.root / f"{PATH}.json"
    place.parent.mkdir(parents=True)
    place.write_bytes(content)

    with pytest.raises(PathTakenError):
        await publish(world, wanted)

    assert world.visible() == {f"{PATH}.json": content}


@pytest.mark.parametrize("may_link", [True, False])
async def test_spooled_file_is_gone(world: World, may_link: bool) -> None:
    wanted = world.publication(may_link=may_link)
    world.spool.unlink()

    with pytest.raises(ContentError, match="is gone"):
        await publish(world, wanted)

    assert world.visible() == {}


@pytest.mark.parametrize("may_link", [True, False])
async def test_spooled_file_has_another_length(world: World, may_link: bool) -> None:
    world.spool.write_bytes(BYTES[:-1])

    with pytest.raises(ContentError, match="bytes long"):
        await publish(world, world.publication(may_link=may_link))

    assert world.visible() == {}


async def test_spooled_file_has_other_bytes(world: World) -> None:
    """A copy is made only of the bytes that were fetched."""
    world.spool.write_bytes(BYTES[::-1])

    with pytest.raises(ContentError, match="other bytes"):
        await publish(world, world.publication(may_link=False))

    assert world.visible() == {}
    assert world.temporaries() == []


async def test_read_back_differs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that gives back other bytes than it took keeps nothing."""
    monkeypatch.setattr(durable, "digest_on_disk", lambda *_: "00")

    with pytest.raises(TargetError) as failed:
        await publish(world, world.publication(may_link=False))

    assert failed.value.reason == "read_back_differs"
    assert world.visible() == {}
    assert world.temporaries() == []


@pytest.mark.parametrize("may_link", [True, False])
async def test_symbolic_link_in_the_way(
    world: World, tmp_path: Path, may_link: bool
) -> None:
    """A link among the folders is refused, and nothing is written behind it."""
    (tmp_path / "elsewhere").mkdir()
    (world.root / "hq").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(TargetError, match="hq is a symbolic link") as failed:
        await publish(world, world.publication(may_link=may_link))

    assert failed.value.reason == "in_the_way"
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    "path",
    [
        "../a.mp4",
        "/a.mp4",
        "a//b.mp4",
        "a/./b.mp4",
        f"{HIDDEN}/a.mp4",
        "a.json",
        "a\0.mp4",
        "",
    ],
)
async def test_bad_paths(world: World, path: str) -> None:
    with pytest.raises(TargetError) as failed:
        await publish(world, world.publication(path=path))

    assert failed.value.reason == "bad_path"


@pytest.mark.parametrize("may_link", [True, False])
async def test_min_free(world: World, may_link: bool) -> None:
    """What must stay free stays free, and the health says how much is left."""
    target = world.target(min_free=2**60)
    health = await target.probe(None, write=True)

    with pytest.raises(TargetError, match="min_free") as failed:
        await publish_to(target, world.publication(may_link=may_link))

    assert health.free_bytes == 0
    assert failed.value.reason == "no_space"
    assert world.visible() == {}
    await target.close()


@pytest.mark.parametrize(
    "code", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EXDEV]
)
@pytest.mark.parametrize("rename", ["renameat2", "rename"])
async def test_without_links(
    world: World, monkeypatch: pytest.MonkeyPatch, code: int, rename: str
) -> None:
    """Where links cannot be made, a rename that replaces nothing does."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    def unknown(*_: object, **__: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "link", refuse)
    if rename == "rename":
        monkeypatch.setattr(durable, "rename_noreplace", unknown)
    wanted = world.publication()

    kept = await publish(world, wanted)

    assert kept.verified
    assert world.visible() == world.whole(wanted)
    assert world.temporaries() == []
    (world.root / PATH).write_bytes(b"another")
    with pytest.raises(PathTakenError):
        await publish(world, wanted)
    assert (world.root / PATH).read_bytes() == b"another"


@pytest.mark.parametrize("blunt", [False, True])
def test_place_replaces_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, blunt: bool
) -> None:
    """Without links, neither the rename nor its stand-in replaces a file."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    if blunt:
        monkeypatch.setattr(durable, "rename_noreplace", refuse_with(errno.ENOSYS))
    (world.root / "old").write_bytes(b"old")
    (world.root / "new").write_bytes(b"new")
    folder = os.open(world.root, os.O_RDONLY)

    with pytest.raises(FileExistsError):
        durable.place("new", "old", source=folder, within=folder)

    assert (world.root / "old").read_bytes() == b"old"
    os.close(folder)


async def test_many_at_once(world: World) -> None:
    """Publishes that make the same folders do not meet, nor share a name."""
    target = world.target(threads=8)
    await target.probe(None, write=True)
    wanted = [
        world.publication(path=f"hq/a/b/{n}.mp4", token="n0de-1", may_link=False)
        for n in range(16)
    ]

    kept = await asyncio.gather(*(publish_to(target, one) for one in wanted))

    assert [one.verified for one in kept] == [True] * 16
    assert len(world.visible()) == 32
    assert world.temporaries() == []
    await target.close()
