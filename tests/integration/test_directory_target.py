"""The directory target on real file systems, with every step made to fail."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import grp
import hashlib
import json
import os
import pwd
import shutil
import stat
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import pytest

from mirror.disk import durable, mounts
from mirror.errors import TargetError
from mirror.ports import ContentError, Kept, PathTakenError, Publication, SpooledFile
from mirror.targets.directory.target import DirectoryTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirror.ports import Target

P = ParamSpec("P")
R = TypeVar("R")
BYTES = bytes(range(256)) * 100
PATH = "hq/camera-7/2026/11/23/6414-gate.mp4"
HIDDEN = ".archive-mirror"


@dataclass
class World:
    """A target's root, a spool, and what shall be published."""

    root: Path
    spool: Path
    options: dict[str, Any] = field(default_factory=dict)

    def target(self, **options: object) -> DirectoryTarget:
        settings: dict[str, Any] = {
            "name": "nas",
            "root": self.root,
            "node_id": "n0de",
            "mount": False,
            "min_free": 0,
            "file_mode": 0o640,
            "dir_mode": 0o750,
            "group": None,
            "threads": 2,
        }
        return DirectoryTarget(**{**settings, **self.options, **options})

    def publication(
        self, content: bytes = BYTES, *, may_link: bool = True, **changes: object
    ) -> Publication:
        if not self.spool.exists():
            self.spool.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        record = {"source": "hq", "id": 6414, "sha256": sha256, "attempts": 1}
        wanted = Publication(
            content=SpooledFile(path=self.spool, may_link=may_link),
            path=PATH,
            sidecar=json.dumps(record).encode(),
            size_bytes=len(content),
            sha256=sha256,
            token="n0de-1",
        )
        return replace(wanted, **cast("dict[str, Any]", changes))

    def visible(self) -> dict[str, bytes]:
        """Return all files outside the hidden folder."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in self.root.rglob("*")
            if not path.is_dir() and HIDDEN not in path.parts
        }

    def temporaries(self) -> list[str]:
        folder = self.root / HIDDEN / "tmp"
        return sorted(path.name for path in folder.iterdir())

    def whole(self, wanted: Publication) -> dict[str, bytes]:
        return {wanted.path: BYTES, f"{wanted.path}.json": wanted.sidecar}


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


@pytest.fixture
def swift(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Return a world that reads in small steps."""
    monkeypatch.setattr(durable, "READ_BYTES", len(BYTES) // 2 + 1)
    return world


async def publish_to(target: Target, wanted: Publication) -> Kept:
    """Publish one file, and raise why not."""
    (result,) = await target.publish([wanted])
    if isinstance(result, Exception):
        raise result
    return result


async def publish(world: World, wanted: Publication) -> Kept:
    """Open the target as after a restart, publish once, and close it."""
    target = world.target()
    try:
        await target.probe(None, write=True)
        return await publish_to(target, wanted)
    finally:
        await target.close()


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


async def test_marker(world: World) -> None:
    """A marker is made once, and found again."""
    first = await world.target().probe(None, write=True)
    text = (world.root / HIDDEN / "target.json").read_text()

    again = await world.target().probe(None, write=True)
    known = await world.target().probe(first.marker_id, write=True)

    assert first.marker_id == again.marker_id == known.marker_id
    assert first.free_bytes
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
    with pytest.raises(TargetError, match="mount = false") as failed:
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


def refuse_with(code: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


CALLS = [
    "open", "close", "dup", "stat", "fstat", "mkdir", "link", "unlink", "rename",
    "write", "pread", "read", "fsync", "fchmod", "fchown", "fstatvfs",
]  # fmt: skip


class CrashError(Exception):
    """The process was killed: nothing that follows happens any more."""


class Saboteur:
    """Counts the calls of a target's threads and spoils the one asked for.

    Args:
        number: 1-based; of the calls made by the target.
        code: The error it gives; None kills the process there.
        late: The call is done, only its answer gets lost.
    """

    def __init__(self, number: int, code: int | None, *, late: bool) -> None:
        self.number = number
        self.code = code
        self.late = late
        self.count = 0
        self.spoiled: str | None = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, real: Callable[P, R]) -> Callable[P, R]:
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if not threading.current_thread().name.startswith("target-"):
                return real(*args, **kwargs)
            self.count += 1
            dead = self.code is None and self.spoiled is not None
            if self.count != self.number and not dead:
                return real(*args, **kwargs)
            self.spoiled = self.spoiled or name
            if name == "close" or (self.late and not dead):
                real(*args, **kwargs)
            if self.code is None:
                raise CrashError
            raise OSError(self.code, os.strerror(self.code))

        return call


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "code",
    [errno.EIO, errno.ENOSPC, errno.ESTALE, errno.EROFS, errno.EPERM, None],
    ids=["EIO", "ENOSPC", "ESTALE", "EROFS", "EPERM", "killed"],
)
@pytest.mark.parametrize("may_link", [True, False], ids=["link", "copy"])
async def test_every_step_may_fail(
    swift: World,
    monkeypatch: pytest.MonkeyPatch,
    may_link: bool,
    code: int | None,
    late: bool,
) -> None:
    """Fail each call in turn: nothing partial shows, and a repeat ends right."""
    world = swift
    spoiled: Counter[str] = Counter()
    for number in range(1, 1000):
        shutil.rmtree(world.root)
        world.root.mkdir()
        world.spool.unlink(missing_ok=True)
        wanted = world.publication(may_link=may_link)
        saboteur = Saboteur(number, code, late=late)
        with monkeypatch.context() as patched:
            saboteur.install(patched)
            try:
                await publish(world, wanted)
                failed = False
            except (TargetError, ContentError, CrashError):
                failed = True

        seen = world.visible()
        assert seen.items() <= world.whole(wanted).items(), (number, saboteur.spoiled)
        assert failed or seen == world.whole(wanted)
        await publish(world, wanted)
        assert world.visible() == world.whole(wanted)
        assert world.temporaries() == []
        assert list((world.root / HIDDEN).glob("*.part")) == []
        if saboteur.spoiled is None:
            break
        spoiled[saboteur.spoiled] += 1

    assert {"open", "mkdir", "link", "write", "fsync", "fchmod"} <= spoiled.keys()
    assert spoiled.total() > 60


class Journal:
    """Writes down what is made and flushed, by inode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.flushed: list[int] = []
        self.named: dict[tuple[int, str], int] = {}
        self.unflushed: set[int] = set()
        self.early: list[str] = []
        notes: dict[str, Callable[..., None]] = {
            "fsync": self._fsync,
            "write": self._write,
            "fchmod": self._write,
            "link": self._link,
            "mkdir": self._mkdir,
        }
        for name, note in notes.items():
            monkeypatch.setattr(os, name, self._noted(getattr(os, name), note))
        self.folders: set[int] = set()

    def _noted(self, real: Callable[P, R], note: Callable[..., None]) -> Callable[P, R]:
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            result = real(*args, **kwargs)
            if threading.current_thread().name.startswith("target-"):
                note(*args, **kwargs)
            return result

        return call

    def _write(self, fd: int, *_: object) -> None:
        self.unflushed.add(os.fstat(fd).st_ino)

    def _fsync(self, fd: int) -> None:
        self.unflushed.discard(os.fstat(fd).st_ino)
        self.folders.discard(os.fstat(fd).st_ino)

    def _link(self, _: str, name: str, *, dst_dir_fd: int, **__: object) -> None:
        made = os.stat(name, dir_fd=dst_dir_fd)
        if made.st_ino in self.unflushed:
            self.early.append(name)
        self.folders.add(os.fstat(dst_dir_fd).st_ino)

    def _mkdir(self, name: str, *_: object, dir_fd: int) -> None:
        self.folders.add(os.fstat(dir_fd).st_ino)


@pytest.mark.parametrize("may_link", [True, False], ids=["link", "copy"])
async def test_order_of_durability(
    world: World, monkeypatch: pytest.MonkeyPatch, may_link: bool
) -> None:
    """Flushed before it gets its name; the names flushed before it is called kept."""
    world.spool.write_bytes(BYTES)
    world.spool.chmod(0o600)
    journal = Journal(monkeypatch)

    await publish(world, world.publication(may_link=may_link))

    assert journal.early == []
    assert journal.unflushed == set()
    assert journal.folders == set()


async def test_folders_of_a_killed_run_are_flushed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that was there already is not taken for durable."""
    (world.root / PATH).parent.mkdir(parents=True)
    flushed: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        flushed.append(os.fstat(fd).st_ino)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)

    await publish(world, world.publication())

    parents = [world.root, *(world.root / part for part in ["hq", "hq/camera-7/2026"])]
    assert {path.stat().st_ino for path in parents} <= set(flushed)


async def test_failed_flush_throws_the_file_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose flush failed is never flushed again nor kept."""
    real, inodes = os.fsync, []
    target = world.target()
    await target.probe(None, write=True)

    def fsync(fd: int) -> None:
        if os.fstat(fd).st_size == len(BYTES):
            inodes.append(os.fstat(fd).st_ino)
            if len(inodes) == 1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(TargetError) as failed:
        await publish_to(target, world.publication(may_link=False))

    assert failed.value.reason == "io_error"
    assert len(inodes) == 1
    assert world.temporaries() == []
    assert world.visible() == {}
    await target.close()


async def test_failed_close_throws_the_file_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that is told lost only at closing (NFS, SMB) is a failure."""
    real, failed_once = os.close, threading.Event()
    target = world.target()
    await target.probe(None, write=True)

    def close(fd: int) -> None:
        written = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
        real(fd)
        if written and not failed_once.is_set():
            failed_once.set()
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "close", close)
    with pytest.raises(TargetError) as failed:
        await publish_to(target, world.publication(may_link=False))

    assert failed.value.reason == "no_space"
    assert world.visible() == {}
    await target.close()


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
