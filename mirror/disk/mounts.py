"""What kind of file system a folder lies on, told without asking the disk (Linux)."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "afs", "davfs"}
)
_MOUNTS = Path("/proc/self/mountinfo")
_MOST_LINKS = 40


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted file system.

    Attributes:
        device: `major:minor`.
        kind: As in `mount -t`.
    """

    device: str
    kind: str

    @property
    def network(self) -> bool:
        """It is known to lie on another machine."""
        return self.kind in _NETWORK or self.kind.startswith("fuse.sshfs")

    @property
    def may_hang(self) -> bool:
        """It may make whoever touches it wait for a dead machine or program."""
        return self.network or (self.kind != "fuseblk" and self.kind.startswith("fuse"))


def mount_of(path: Path) -> Mount | None:
    """Return what an absolute path lies on, as far as that is known.

    The answer comes from the list of mounts, and from symbolic links on mounts that
    cannot hang: one that hangs must not hang whoever wants to go round it.
    """
    try:
        mounts = _mounts()
    except OSError:
        return None
    here, pending, links = Path("/"), list(reversed(path.parts[1:])), 0
    while pending and links < _MOST_LINKS:
        name = pending.pop()
        here = here.parent if name == ".." else here / name
        if here in mounts:
            if mounts[here].may_hang:
                break
            continue
        with contextlib.suppress(OSError):
            target = here.readlink()
            links += 1
            here = Path("/") if target.is_absolute() else here.parent
            pending += reversed([part for part in target.parts if part != "/"])
    return next((mounts[at] for at in (here, *here.parents) if at in mounts), None)


def is_network(path: Path) -> bool:
    """Tell whether `path` is known to lie on a network file system."""
    mount = mount_of(path)
    return mount is not None and mount.network


def same_device(path: Path, other: Path) -> bool:
    """Tell whether both are known to lie on one file system."""
    mount = mount_of(path)
    return mount is not None and mount == mount_of(other)


def nearest(path: Path) -> Path:
    """Return the nearest folder above that exists."""
    return next((each for each in (path, *path.parents) if each.exists()), path)


def _mounts() -> dict[Path, Mount]:
    """Return all mounts by mount point; of several at one point, the uppermost."""
    mounts = {}
    for line in _MOUNTS.read_bytes().splitlines():
        fields, _, rest = line.partition(b" - ")
        _, _, device, _, point, *_ = fields.split(b" ")
        kind = os.fsdecode(rest.split(b" ")[0])
        mounts[_path(point)] = Mount(device.decode(), kind)
    return mounts


def is_mount(root: int, path: Path) -> bool:
    """Tell whether the open root is where a file system is mounted.

    A folder that is mounted on itself is none: systemd does that to each path of
    `ReadWritePaths=`, also while the share is not mounted there.
    """
    if os.fstat(root).st_dev != os.stat("..", dir_fd=root).st_dev:
        return True
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return False
    mounts = {}
    for line in lines:
        number, parent, _, *paths = line.split(b" ")[:5]
        origin, point = map(_path, paths)
        mounts[number] = (parent, origin, point)
    resolved = Path(os.path.realpath(path))
    for parent, origin, point in mounts.values():
        if point == resolved:
            _, above, place = mounts.get(parent, (b"", Path(), point))
            if origin != above / os.path.relpath(point, place):
                return True
    return False


def _path(field: bytes) -> Path:
    """Undo how the kernel writes spaces and the like: as backslash and octal."""
    plain = re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), field)
    return Path(os.fsdecode(plain))
