"""What kind of file system a folder lies on (Linux)."""

from __future__ import annotations

import os
from pathlib import Path

_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "afs", "davfs"}
)
_MOUNTS = Path("/proc/self/mountinfo")


def kind(path: Path) -> str | None:
    """Return the type of the file system that holds `path`; None if unknown."""
    try:
        device = nearest(path).stat().st_dev
        lines = _MOUNTS.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        fields, _, rest = line.partition(" - ")
        if fields.split()[2:3] == [wanted]:
            return rest.split()[0]
    return None


def is_network(path: Path) -> bool:
    """Tell whether `path` is known to lie on a network file system."""
    found = kind(path)
    return found in _NETWORK or (found or "").startswith("fuse.sshfs")


def same_device(one: Path, other: Path) -> bool:
    """Tell whether both lie on one file system."""
    try:
        return nearest(one).stat().st_dev == nearest(other).stat().st_dev
    except OSError:
        return False


def nearest(path: Path) -> Path:
    """Return the nearest folder above that exists."""
    for folder in (path, *path.parents):
        if folder.exists():
            return folder
    return path
