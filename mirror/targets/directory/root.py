"""A directory target's root: is it there, is it mounted, is it the one we know."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import stat
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mirror import __version__
from mirror.disk import durable, filesystem
from mirror.disk.durable import FileModes
from mirror.disk.mounts import is_mount
from mirror.errors import TargetError
from mirror.model import iso, to_us, utc_now
from mirror.targets.directory.errors import user

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HIDDEN: Final = ".archive-mirror"
MARKER: Final = "target.json"
TEMPORARY: Final = "tmp"
SPOOL: Final = "spool"
DAMAGED: Final = "damaged"
_MARKER_BYTES: Final = 4096
_PRIVATE: Final = FileModes(file_mode=0o600, dir_mode=0o700)


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """Where a target is believed to lie; with `mount`, it must be a mount point."""

    target: str
    path: Path
    mount: bool

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """Hold the root open; what is done through it stays on one file system."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError as exc:
            raise self._missing() from exc
        with durable.closing(fd):
            if self.mount and not is_mount(fd, self.path):
                raise self._not_mounted()
            yield fd

    @contextlib.contextmanager
    def known(self, marker_id: str) -> Iterator[int]:
        """Hold the root open if its marker is the one we know; see `expect`."""
        with self.opened() as root:
            self.expect(self.marker(root), marker_id)
            yield root

    def make(self, dir_mode: int) -> None:
        """Make the root at first use, if its parent is there and no mount is asked."""
        if self.mount or self.path.exists() or not self.path.parent.is_dir():
            return
        try:
            with durable.closing(os.open(self.path.parent, os.O_RDONLY)) as parent:
                durable.make_folder(self.path.name, within=parent, mode=dir_mode)
                os.fsync(parent)
        except PermissionError as exc:
            raise self._missing() from exc

    def marker(self, root: int) -> str | None:
        """Return the id in the marker, read through the open root; None if none.

        Raises:
            TargetError: There is one that cannot be understood.
        """
        try:
            with durable.closing(durable.open_folder(HIDDEN, within=root)) as hidden:
                return self._read(hidden)
        except FileNotFoundError:
            return None

    def make_marker(self, root: int, tmp: int, temporary: str) -> str:
        """Make a marker where there is none; return its id, or a quicker node's.

        `temporary` is a free name in `tmp`, the open folder for temporary files.
        """
        content = {
            "target_id": str(uuid.uuid4()),
            "created_at": iso(to_us(utc_now())),
            "tool": f"archive-mirror {__version__}",
        }
        text = json.dumps(content, indent=1).encode()
        durable.write_new(temporary, [text], within=tmp, modes=_PRIVATE)
        with durable.closing(durable.open_folder(HIDDEN, within=root)) as hidden:
            with contextlib.suppress(FileExistsError):
                durable.place(temporary, MARKER, source=tmp, within=hidden)
            os.fsync(hidden)
            with contextlib.suppress(FileNotFoundError):
                # On SMB no two names of one file can be open at once, and the client
                # closes the first one late (EINVAL; MS-SMB2 3.3.5.9.8).
                os.unlink(temporary, dir_fd=tmp)
            marker_id = self._read(hidden)
        if marker_id is None:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self.path))
        return marker_id

    def expect(self, marker_id: str | None, known: str) -> None:
        """Make sure that a marker is the one we know.

        Raises:
            TargetError: It is not; the text says how to accept what is there.
        """
        remedy = (
            f"if another disk takes its place, `archive-mirror check --adopt "
            f"{self.target}` accepts it, once `findmnt -T {self._quoted}` shows it"
        )
        where = f"target {self.target}: {self.path}/{HIDDEN}/{MARKER}"
        if marker_id is None:
            raise TargetError(
                "marker_missing",
                f"{where} is missing: its disk is not mounted there, or was emptied. "
                f"Nothing is written. Mount it; {remedy}",
            )
        if marker_id != known:
            raise TargetError(
                "marker_differs",
                f"{where} is that of another target. "
                f"Nothing is written. Mount the right disk; {remedy}",
            )

    def guard(self, root: int, folder: int, path: str, gid: int) -> str | None:
        """Make sure that nobody else may write to an open folder of ours, at `path`.

        Who can, could put other bytes into a file between its proof and its name. Of a
        group that is configured to share the target `gid` is the number, else -1.

        Returns:
            A warning where that cannot be had: where the file system keeps neither
            owner nor mode, or nodes share the target by their group.

        Raises:
            TargetError: They may; the text says how to close it.
        """
        about, top = os.fstat(folder), os.fstat(root)
        where = self.path / path
        if filesystem.is_ours(about, owners=filesystem.owners(top)):
            return None
        if gid == about.st_gid and not about.st_mode & stat.S_IWOTH:
            return f"all of its group may write to {where}; copies are read back"
        if not filesystem.keeps_modes(root):
            return (
                f"its file system does not keep who may write to {where}; copies are "
                "read back. Its mount options can let the service's user alone write"
            )
        quoted = shlex.quote(str(where))
        raise TargetError(
            "not_private",
            f"target {self.target}: others may write to {where}, and change files "
            "there before they are kept. Nothing is written. If all that lies there is "
            f"yours: `chown -R {user()} {quoted} && chmod -R go-w {quoted}`; else move "
            "it away",
        )

    def unmarked(self) -> TargetError:
        """Return the error of a root without a marker."""
        return TargetError(
            "marker_missing",
            f"target {self.target}: {self.path}/{HIDDEN}/{MARKER} is missing: its disk "
            "is not mounted there, was emptied, or never held a copy. Mount it; if it "
            f"is new, `archive-mirror check --adopt {self.target}` gives it one, once "
            f"`findmnt -T {self._quoted}` shows it",
        )

    def _read(self, hidden: int) -> str | None:
        """Return the id in the marker in an open hidden folder; None if none."""
        try:
            with durable.closing(durable.open_file(MARKER, within=hidden)) as fd:
                text = os.read(fd, _MARKER_BYTES)
            marker_id = json.loads(text)["target_id"]
        except FileNotFoundError:
            return None
        except (RecursionError, ValueError, TypeError, KeyError) as exc:
            raise self._broken() from exc
        if not isinstance(marker_id, str) or not marker_id:
            raise self._broken()
        return marker_id

    def _broken(self) -> TargetError:
        return TargetError(
            "marker_broken",
            f"target {self.target}: {self.path}/{HIDDEN}/{MARKER} cannot be "
            "understood; check the disk, and restore or remove that file",
        )

    def _not_mounted(self) -> TargetError:
        remedy = f"`mount {self._quoted}`. Nothing is written: it would "
        remedy += "fill the disk below. mount = true is for a disk or share of its own"
        for above in self.path.parents[:-1]:
            with durable.closing(os.open(above, os.O_PATH | os.O_DIRECTORY)) as fd:
                if is_mount(fd, above):
                    remedy += (
                        f". If it is a folder of the disk at {above}, set path to "
                        f"{above}, and let layout begin with the folder"
                    )
                    break
        return TargetError(
            "not_mounted",
            f"target {self.target}: nothing is mounted at {self.path}; {remedy}",
        )

    @property
    def _quoted(self) -> str:
        """Return the path as a shell takes it."""
        return shlex.quote(str(self.path))

    def _missing(self) -> TargetError:
        if self.mount:
            remedy = "its disk is not mounted; make the mount point and mount it"
        else:
            command = f"install -d -o {user()} -m 0750 {self._quoted}"
            remedy = f"its disk is away; or at first use make it: `{command}`"
        return TargetError(
            "root_missing", f"target {self.target}: {self.path} is missing: {remedy}"
        )
