"""The marker: by which a directory target is known, whatever its path. Blocking."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from pathlib import Path

from mirror import __version__
from mirror.errors import TargetError
from mirror.model import iso, to_us, utc_now
from mirror.targets import durable

HIDDEN = ".archive-mirror"
TEMPORARY = "tmp"
_MARKER = "target.json"
_MAX_BYTES = 65536
_MOUNTS = Path("/proc/self/mountinfo")


def open_root(name: str, path: Path, *, mount: bool) -> int:
    """Open a target's root.

    Raises:
        OSError: It is not there.
        TargetError: It must be a mount point and is none.
    """
    if mount and not _is_mount(path):
        raise TargetError(
            "not_mounted",
            f"target {name}: nothing is mounted at {path}; mount it (systemctl status "
            "of the mount unit tells why it is not), nothing was written",
        )
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def read(root: int) -> str | None:
    """Return the id in the marker below an open root; None if there is none.

    Raises:
        OSError: It is there and cannot be read.
        ValueError: It is there and is no marker.
    """
    try:
        folder = durable.open_folder(root, HIDDEN)
    except FileNotFoundError:
        return None
    try:
        fd = os.open(_MARKER, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        return None
    finally:
        os.close(folder)
    with os.fdopen(fd, "rb") as file:
        found = json.loads(file.read(_MAX_BYTES))
    target_id = found.get("target_id") if isinstance(found, dict) else None
    if not isinstance(target_id, str) or not target_id:
        raise ValueError("the marker holds no target_id")
    return target_id


def make(root: int) -> str:
    """Write a marker where there is none, durably, and return its id."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(HIDDEN, 0o700, dir_fd=root)
        os.fsync(root)
    target_id = str(uuid.uuid4())
    content = {
        "target_id": target_id,
        "created_at": iso(to_us(utc_now())),
        "tool": f"archive-mirror {__version__}",
    }
    folder = durable.open_folder(root, HIDDEN)
    try:
        temporary = f"{_MARKER}.{target_id}"
        text = json.dumps(content, indent=1).encode()
        durable.write_new(folder, temporary, text, mode=0o644)
        durable.move_new(folder, temporary, folder, _MARKER)
        os.fsync(folder)
    except FileExistsError:
        durable.remove(folder, f"{_MARKER}.{target_id}")
        return read(root) or target_id
    finally:
        os.close(folder)
    return target_id


def _is_mount(path: Path) -> bool:
    """Tell whether something is mounted at `path`, bind mounts included."""
    if path.is_mount():
        return True
    try:
        lines = _MOUNTS.read_text("utf-8", "replace").splitlines()
        wanted = str(path.resolve())
    except OSError:
        return False
    points = (line.split(" ")[4] for line in lines if line.count(" ") > 4)  # noqa: PLR2004 -- proc(5)
    return any(point.replace("\\040", " ") == wanted for point in points)
