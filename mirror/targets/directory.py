"""A directory as a target: a local disk, or a mounted NFS or SMB share."""

from __future__ import annotations

import asyncio
import errno
import grp
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from mirror.errors import MirrorError, TargetError
from mirror.ports import Kept, PathTakenError, SpoolFileError, TargetHealth
from mirror.targets import durable, marker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mirror.ports import Publication

T = TypeVar("T")

_REASONS = {
    errno.ENOSPC: ("no_space", "free some space there"),
    errno.EDQUOT: ("no_space", "the quota is used up; raise it or free some space"),
    errno.EROFS: ("read_only", "it is read-only; look at the kernel's log, remount it"),
    errno.EACCES: ("denied", "let the service's user write there"),
    errno.EPERM: ("denied", "let the service's user write there"),
    errno.ENOENT: ("away", "mount it, or make the directory"),
    errno.ENOTDIR: ("bad_path", "something there is a file or a link, no directory"),
    errno.ELOOP: ("bad_path", "a symbolic link is in the way; remove it"),
    errno.ESTALE: ("away", "the share was exported anew; remount it"),
    errno.ENODEV: ("away", "mount it"),
    errno.EIO: ("failing", "the disk or share fails; look at the kernel's log"),
}


class DirectoryTarget:
    """A `ports.Target` over a directory.

    Args:
        name: In the configuration.
        root: Absolute path of the directory.
        node_id: Begins the names of this machine's temporary files.
        mount: Refuse unless something is mounted at `root`.
        min_free: Bytes that are left free.
        file_mode: Of kept files.
        dir_mode: Of directories made.
        group: Of both; None leaves it.
        threads: Publishes at once; a hung mount blocks no more than these.
    """

    def __init__(
        self,
        *,
        name: str,
        root: Path,
        node_id: str,
        mount: bool,
        min_free: int,
        file_mode: int,
        dir_mode: int,
        group: str | None,
        threads: int,
    ) -> None:
        self._name = name
        self._root = root
        self._node_id = node_id
        self._mount = mount
        self._min_free = min_free
        self._file_mode = file_mode
        self._dir_mode = dir_mode
        self._group = group
        self._marker_id: str | None = None
        self._cleaned = False
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"target-{name}")

    @property
    def name(self) -> str:
        """The name in the configuration."""
        return self._name

    async def open(self, remembered: str | None) -> TargetHealth:
        """Check the directory; see `ports.Target`."""
        return await self._run(lambda: self._open(remembered))

    async def publish(self, publication: Publication) -> Kept:
        """Keep one file and its sidecar; see `ports.Target`."""
        return await self._run(lambda: self._publish(publication))

    async def close(self) -> None:
        """Let the threads go; one that hangs is left behind."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, call: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, call)
        except OSError as exc:
            raise self._explained(exc) from exc

    def _explained(self, exc: OSError) -> TargetError:
        reason, remedy = _REASONS.get(exc.errno or 0, ("failing", "look at it"))
        text = exc.strerror or str(exc)
        return TargetError(
            reason, f"target {self._name} at {self._root}: {text}; {remedy}"
        )

    def _open(self, remembered: str | None) -> TargetHealth:
        if remembered is None and not self._mount and not self._root.exists():
            self._root.mkdir(self._dir_mode, parents=True)
        root = marker.open_root(self._name, self._root, mount=self._mount)
        try:
            found = self._read_marker(root)
            if found is None and remembered is None:
                found = marker.make(root)
            self._marker_id = self._same(found, remembered or found)
            self._prove_writable(root)
            if not self._cleaned:
                self._clean(root)
                self._cleaned = True
            return TargetHealth(
                marker_id=self._marker_id, free_bytes=self._free_bytes(root)
            )
        finally:
            os.close(root)

    def _read_marker(self, root: int) -> str | None:
        try:
            return marker.read(root)
        except ValueError as exc:
            raise TargetError(
                "marker_bad",
                f"target {self._name}: the marker in {self._root}/{marker.HIDDEN} "
                f"cannot be read ({exc}); nothing was written",
            ) from exc

    def _same(self, found: str | None, expected: str | None) -> str:
        """Return the marker's id if it is the one expected."""
        if found is not None and found == expected:
            return found
        what = "has no marker of ours" if found is None else "is another one"
        raise TargetError(
            "marker_missing" if found is None else "marker_differs",
            f"target {self._name}: the disk at {self._root} {what}; mount the right "
            "one, or if this is the right one from now on, run: archive-mirror check "
            f"--adopt {self._name}. Nothing was written",
        )

    def _prove_writable(self, root: int) -> None:
        """Write, sync, read and remove a small file; remove what we left behind."""
        folder = durable.make_folders(
            root,
            [marker.HIDDEN, marker.TEMPORARY],
            mode=0o700,
            prepare=lambda _: None,
        )
        probe = f"{self._node_id}-probe"
        try:
            durable.remove(folder, probe)
            durable.write_new(folder, probe, b"archive-mirror\n", mode=0o600)
            durable.remove(folder, probe)
        finally:
            os.close(folder)

    def _clean(self, root: int) -> None:
        """Remove what a publish of this machine left when it was killed."""
        below = self._temporaries(root)
        try:
            for name in os.listdir(below):  # noqa: PTH208 -- by descriptor
                if name.startswith(f"{self._node_id}-"):
                    durable.remove(below, name)
        finally:
            os.close(below)

    def _free_bytes(self, root: int) -> int:
        found = os.fstatvfs(root)
        return max(0, found.f_bavail * found.f_frsize - self._min_free)

    def _publish(self, wanted: Publication) -> Kept:
        *above, leaf = wanted.path.split("/")
        if not leaf or any(part in {"", ".", ".."} for part in (*above, leaf)):
            raise MirrorError(f"{wanted.path!r} is no path for a kept file")
        root = marker.open_root(self._name, self._root, mount=self._mount)
        try:
            self._same(self._read_marker(root), self._marker_id)
            folder = durable.make_folders(
                root, above, mode=self._dir_mode, prepare=self._prepare_folder
            )
            try:
                if durable.is_file(folder, f"{leaf}.json"):
                    _check_sidecar(folder, f"{leaf}.json", wanted)
                verified = self._place_media(root, folder, leaf, wanted)
                self._place_sidecar(root, folder, f"{leaf}.json", wanted)
                os.fsync(folder)
            finally:
                os.close(folder)
        finally:
            os.close(root)
        return Kept(path=wanted.path, verified=verified)

    def _place_media(
        self, root: int, folder: int, leaf: str, wanted: Publication
    ) -> bool:
        """Put the file in place; tell whether its kept bytes were read back."""
        spooled = _open_spooled(wanted)
        try:
            if durable.is_file(folder, leaf):
                return _ours_already(folder, leaf, spooled, wanted)
            near = os.fstat(spooled).st_dev == os.fstat(root).st_dev
            if wanted.may_link and near:
                self._prepare_file(spooled)
                try:
                    _link(wanted, folder, leaf, spooled)
                except FileExistsError:
                    return _ours_already(folder, leaf, spooled, wanted)
                except OSError as exc:
                    if exc.errno not in durable.NO_LINKS:
                        raise
                else:
                    return False
            self._copy(root, folder, leaf, spooled, wanted)
            return True
        finally:
            os.close(spooled)

    def _copy(
        self, root: int, folder: int, leaf: str, spooled: int, wanted: Publication
    ) -> None:
        """Copy beside, prove by reading back, then give the final name."""
        if self._free_bytes(root) < wanted.size_bytes:
            raise TargetError(
                "no_space",
                f"target {self._name} at {self._root}: {wanted.size_bytes} bytes do "
                "not fit above min_free; free some space there",
            )
        temporary = f"{wanted.token}.part"
        below = self._temporaries(root)
        try:
            durable.remove(below, temporary)
            try:
                self._fill(below, temporary, spooled, wanted)
                durable.move_new(below, temporary, folder, leaf)
            except BaseException:
                durable.remove(below, temporary)
                raise
        except FileExistsError as exc:
            raise PathTakenError(f"another file lies at {wanted.path}") from exc
        finally:
            os.close(below)

    def _fill(
        self, below: int, temporary: str, spooled: int, wanted: Publication
    ) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600, dir_fd=below)
        try:
            digest, offset = hashlib.sha256(), 0
            while block := os.pread(spooled, durable.READ_BYTES, offset):
                digest.update(block)
                durable.write_all(fd, block)
                offset += len(block)
            if digest.hexdigest() != wanted.sha256:
                raise SpoolFileError("the spooled file is not what was fetched")
            self._prepare_file(fd)
            os.fsync(fd)
        finally:
            os.close(fd)
        _read_back(below, temporary, wanted, self._name)

    def _place_sidecar(
        self, root: int, folder: int, leaf: str, wanted: Publication
    ) -> None:
        if durable.is_file(folder, leaf):
            _check_sidecar(folder, leaf, wanted)
            return
        temporary = f"{wanted.token}.json"
        below = self._temporaries(root)
        try:
            durable.remove(below, temporary)
            durable.write_new(below, temporary, wanted.sidecar, mode=0o600)
            fd = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=below)
            try:
                self._prepare_file(fd)
                os.fsync(fd)
            finally:
                os.close(fd)
            durable.move_new(below, temporary, folder, leaf)
        except FileExistsError as exc:
            raise PathTakenError(f"another file lies at {wanted.path}.json") from exc
        finally:
            os.close(below)

    def _temporaries(self, root: int) -> int:
        return durable.make_folders(
            root, [marker.HIDDEN, marker.TEMPORARY], mode=0o700, prepare=lambda _: None
        )

    def _prepare_file(self, fd: int) -> None:
        self._give_group(fd)
        os.fchmod(fd, self._file_mode)

    def _prepare_folder(self, fd: int) -> None:
        self._give_group(fd)
        os.fchmod(fd, self._dir_mode)

    def _give_group(self, fd: int) -> None:
        if self._group is None:
            return
        try:
            number = grp.getgrnam(self._group).gr_gid
        except KeyError as exc:
            raise TargetError(
                "no_group",
                f"target {self._name}: there is no group {self._group} on this machine",
            ) from exc
        os.fchown(fd, -1, number)


def _open_spooled(wanted: Publication) -> int:
    try:
        fd = os.open(wanted.spooled, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as exc:
        raise SpoolFileError("the spooled file is gone") from exc
    size = os.fstat(fd).st_size
    if size != wanted.size_bytes:
        os.close(fd)
        raise SpoolFileError(
            f"the spooled file has {size} bytes instead of {wanted.size_bytes}"
        )
    return fd


def _link(wanted: Publication, folder: int, leaf: str, spooled: int) -> None:
    """Give the spooled file itself its final name, after a look that it is it."""
    os.link(wanted.spooled, leaf, dst_dir_fd=folder, follow_symlinks=False)
    placed = os.stat(leaf, dir_fd=folder, follow_symlinks=False)
    opened = os.fstat(spooled)
    if (placed.st_dev, placed.st_ino) != (opened.st_dev, opened.st_ino):
        durable.remove(folder, leaf)
        raise SpoolFileError("the spooled file was replaced meanwhile")


def _ours_already(folder: int, leaf: str, spooled: int, wanted: Publication) -> bool:
    """Take a file at the final name as ours if it is; tell whether it was read.

    Raises:
        PathTakenError: It is another file.
    """
    fd = os.open(leaf, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        placed, opened = os.fstat(fd), os.fstat(spooled)
        if (placed.st_dev, placed.st_ino) == (opened.st_dev, opened.st_ino):
            return False
        if (
            placed.st_size != wanted.size_bytes
            or durable.digest_of(fd) != wanted.sha256
        ):
            raise PathTakenError(f"another file lies at {wanted.path}")
        os.fsync(fd)
    finally:
        os.close(fd)
    return True


def _read_back(below: int, temporary: str, wanted: Publication, name: str) -> None:
    fd = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=below)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if durable.digest_of(fd) != wanted.sha256:
            raise TargetError(
                "read_back_differs",
                f"target {name} gives back other bytes than were written to it; test "
                "its disk and memory. Nothing was kept",
            )
    finally:
        os.close(fd)


def _check_sidecar(folder: int, leaf: str, wanted: Publication) -> None:
    """Take a sidecar as ours if it tells of the same export and bytes.

    Raises:
        PathTakenError: It does not.
    """
    fd = os.open(leaf, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(fd, "rb") as file:
        content = file.read(durable.READ_BYTES)
        os.fsync(file.fileno())
    try:
        found, ours = json.loads(content), json.loads(wanted.sidecar)
        same = all(found[key] == ours[key] for key in ("source", "id", "sha256"))
    except (ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise PathTakenError(f"another file lies at {wanted.path}.json")
