"""The spool: partial files and whole files that wait for their targets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mirror import mp4
from mirror.errors import FetchError, SpoolError
from mirror.mirroring.finish import finish

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirror.model import Export

T = TypeVar("T")

_READ_BYTES = 1024 * 1024
_MAX_IOV = 512
_RESERVE_BYTES = 256 * 1024 * 1024
_RESERVE_SHARE = 20
_STRAY_S = 86_400.0
"""Younger files are left alone: they may be in use by a copy of this node."""
_ANSWERS_S = 10.0
"""Long enough for a disk to spin up."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A folder that may hold the spool.

    Attributes:
        path: Of the folder.
        guard: Raises OSError unless `path` still lies where it is believed to;
            asked in a thread before each use.
        min_free: Bytes that must stay free there.
    """

    path: Path
    min_free: int = 0
    guard: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True, order=True)
class PartName:
    """The name of a file in the spool.

    Attributes:
        mark: Tells exports of one id apart.
    """

    source: str
    export_id: int
    mark: str
    node_id: str

    @classmethod
    def of(cls, export: Export, node_id: str) -> PartName:
        """Return the name of an export's file."""
        digest = hashlib.sha256(export.created_key.encode("utf-8", "replace"))
        return cls(export.source, export.export_id, digest.hexdigest()[:8], node_id)

    @classmethod
    def read(cls, text: str) -> PartName | None:
        """Return what a file's name says; None if it is no such name."""
        told = re.fullmatch(r"(.+)-(\d+)-([0-9a-f]{8})\.([^.]+)\.part", text)
        return told and cls(told[1], int(told[2]), told[3], told[4])

    @property
    def text(self) -> str:
        """The name."""
        return f"{self.source}-{self.export_id}-{self.mark}.{self.node_id}.part"


class Part:
    """One file in the spool, open for appending. Blocking; one thread at a time.

    Attributes:
        size: Bytes written and hashed.
        min_free: Bytes that must stay free on its file system.
        broken: An fsync failed: what is not yet proven must be fetched anew.
    """

    def __init__(
        self, fd: int, folder: int, name: str, size: int, digest: hashlib._Hash
    ) -> None:
        self._fd = fd
        self._folder = folder
        self._name = name
        self._digest = digest
        self.size = size
        self.min_free = 0
        self.broken = False
        self._stuck = False

    @classmethod
    def open(cls, path: Path, *, size: int, sha256: str | None) -> Part:
        """Open a part and keep of it what is proven, perhaps nothing.

        Args:
            path: Of the file; made if absent. Its folder must exist.
            size: Durable length, as the ledger has it.
            sha256: Digest of these bytes.

        Raises:
            BlockingIOError: Somebody else writes it, or copies from it.
            OSError: It cannot be used.
        """
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        fd = -1
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(path.name, flags, 0o600, dir_fd=folder)
            _take(fd)
            if os.fstat(fd).st_nlink > 1:
                # A target keeps this very file: it must never change again.
                os.close(fd)
                fd = -1
                os.unlink(path.name, dir_fd=folder)
                fd = os.open(path.name, flags | os.O_EXCL, 0o600, dir_fd=folder)
                _take(fd)
            digest = _prefix_digest(fd, size)
            if digest is None or digest.hexdigest() != sha256:
                size, digest = 0, hashlib.sha256()
            os.ftruncate(fd, size)
            return cls(fd, folder, path.name, size, digest)
        except BaseException:
            if fd >= 0:
                os.close(fd)
            os.close(folder)
            raise

    def append(self, chunks: Sequence[bytes]) -> None:
        """Hash and write bytes at the end, all of them or an error.

        After an error nothing more is taken: what came next would lie where the
        bytes that failed belong.
        """
        if self._stuck:
            raise OSError(errno.EIO, "an earlier write to this file failed")
        for start in range(0, len(chunks), _MAX_IOV):
            group = chunks[start : start + _MAX_IOV]
            self._stuck = True
            self._write(group)
            self._stuck = False
            for chunk in group:
                self._digest.update(chunk)
                self.size += len(chunk)

    def restart(self) -> None:
        """Throw away all bytes."""
        os.ftruncate(self._fd, 0)
        self.size = 0
        self._digest = hashlib.sha256()

    def flush(self) -> tuple[int, str]:
        """Make what is written durable; return its length and digest."""
        size, sha256 = self.size, self._digest.hexdigest()
        self._sync(os.fdatasync)
        return size, sha256

    def room_bytes(self) -> int:
        """Return how much may still be written before the reserve is touched.

        The reserve is `min_free`, and never less than a twentieth of a small file
        system or 256 MiB of a large one.
        """
        found = os.fstatvfs(self._fd)
        share = found.f_blocks * found.f_frsize // _RESERVE_SHARE
        reserve = max(self.min_free, min(_RESERVE_BYTES, share))
        return found.f_bavail * found.f_frsize - reserve

    def examine(self, explicit_end: bool) -> str | None:
        """Return what is wrong with the file as an mp4, if anything."""
        return mp4.check(self._fd, self.size, explicit_end=not explicit_end)

    def finish(self) -> str:
        """Make the whole file and its name durable; return its digest."""
        self._sync(os.fsync)
        os.fsync(self._folder)
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Remove the file's name; nothing of it is worth keeping."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._folder)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
        os.close(self._folder)

    def _sync(self, how: Callable[[int], None]) -> None:
        if self.broken:
            raise OSError(errno.EIO, "an earlier fsync of this file failed")
        try:
            how(self._fd)
        except OSError:
            self.broken = True
            raise

    def _write(self, chunks: Sequence[bytes]) -> None:
        offset = self.size
        pending = [memoryview(chunk) for chunk in chunks]
        while pending:
            written = os.pwritev(self._fd, pending, offset)
            offset += written
            while pending and written >= len(pending[0]):
                written -= len(pending.pop(0))
            if written:
                pending[0] = pending[0][written:]


class Spool:
    """Opens parts and frees them, each call in a thread of its own pool.

    Args:
        node_id: Part of each file's name.
        places: Where the spool may lie, best first; the last always works.
        threads: How many parts are hashed and written at once.
    """

    def __init__(
        self,
        *,
        node_id: str,
        places: Callable[[], list[Place]],
        threads: int,
    ) -> None:
        self._node_id = node_id
        self._places = places
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="spool")
        # One thread for each place at most: none is asked again before it answers.
        self._askers = ThreadPoolExecutor(thread_name_prefix="spool-ask")
        self._asked: dict[Path, tuple[asyncio.Future[None], float]] = {}

    async def run(self, call: Callable[..., T], *args: object) -> T:
        """Run a blocking call in the spool's threads.

        Raises:
            SpoolError: The spool cannot do it now.
        """
        loop = asyncio.get_running_loop()
        try:
            return await finish(loop.run_in_executor(self._pool, call, *args))
        except OSError as exc:
            full = exc.errno in _FULL
            raise SpoolError(
                "spool_full" if full else "spool_failed",
                f"the spool cannot be used ({exc.strerror or exc})"
                + ("; free some space there" if full else ""),
            ) from exc

    def file_name(self, export: Export) -> str:
        """Return the name of an export's file in the spool."""
        return PartName.of(export, self._node_id).text

    def path_of(self, export: Export) -> Path | None:
        """Return where an export's file lies, if it has one."""
        if export.spool_dir is None:
            return None
        return Path(export.spool_dir) / self.file_name(export)

    async def open(self, export: Export) -> tuple[Part, Path]:
        """Open an export's part in the best place there is now.

        Raises:
            FetchError: Somebody else has it open.
            SpoolError: There is no place.
        """
        opened: list[Part] = []
        places = [
            one for one in await self.run(self._places) if await self._answers(one)
        ]
        try:
            return await self.run(self._open, export, opened, places)
        except asyncio.CancelledError:
            for part in opened:
                part.close()
            raise

    async def make_room(self, part: Part, wanted: int) -> None:
        """Check that so many more bytes leave the reserve free.

        Raises:
            SpoolError: They would not.
        """
        room = await self.run(part.room_bytes)
        if wanted > room:
            raise SpoolError(
                "spool_full",
                f"the spool has room for {max(0, room)} bytes above its reserve, "
                f"{wanted} are needed; free some space there",
            )

    async def lost(self, export: Export) -> bool:
        """Tell whether a file is gone from a spool that is there."""
        await self._reach(Path(export.spool_dir or ""))
        return await self.run(self._lost, export)

    async def remove(self, export: Export) -> None:
        """Remove an export's file from the spool, if it is there."""
        path = self.path_of(export)
        if path is not None:
            await self._reach(path.parent)
            await self.run(self._unlink, path)

    async def strays(self) -> list[tuple[Path, str, int]]:
        """Return this node's older files, each with the source and id in its name."""
        return await self.run(self._strays)

    async def sweep(self, path: Path) -> None:
        """Remove a stray file that is of no use."""
        await self.run(self._unlink, path)

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False)
        self._askers.shutdown(wait=False)

    async def _answers(self, place: Place) -> bool:
        """Tell whether a place answers at all, be it with an error.

        One that hangs must not hold up what can go elsewhere.
        """
        loop = asyncio.get_running_loop()
        asked, since = self._asked.get(place.path, (None, 0.0))
        if asked is None or asked.done():
            asked, since = loop.run_in_executor(self._askers, _ask, place), loop.time()
            self._asked[place.path] = asked, since
        left_s = since + _ANSWERS_S - loop.time()
        if left_s > 0 and not asked.done():
            await asyncio.wait([asked], timeout=left_s)
        return asked.done()

    async def _reach(self, folder: Path) -> None:
        """Make sure that a folder of the spool's answers.

        Raises:
            SpoolError: It hangs.
        """
        for place in await self.run(self._places):
            if place.path == folder and not await self._answers(place):
                raise SpoolError(
                    "spool_failed",
                    f"the spool in {folder} gives no answer; check its disk or mount",
                )

    def _lost(self, export: Export) -> bool:
        folder = Path(export.spool_dir or "")
        for place in self._places():
            if place.path == folder:
                if place.guard is not None:
                    place.guard()
                return True
        if not folder.is_dir():
            raise OSError(errno.ENODEV, "the folder of the spooled file is away")
        return True

    def _unlink(self, path: Path) -> None:
        """Remove a file, but take none for removed whose disk is away."""
        for place in self._places():
            if place.path == path.parent and place.guard is not None:
                place.guard()
        path.unlink(missing_ok=True)

    def _strays(self) -> list[tuple[Path, str, int]]:
        before_s, found = time.time() - _STRAY_S, []
        for place in self._places():
            with contextlib.suppress(OSError):
                if place.guard is not None:
                    place.guard()
                for path in place.path.iterdir():
                    name = PartName.read(path.name)
                    mine = name is not None and name.node_id == self._node_id
                    if name and mine and path.stat().st_mtime < before_s:
                        found.append((path, name.source, name.export_id))
        return found

    def _open(
        self, export: Export, opened: list[Part], places: Sequence[Place]
    ) -> tuple[Part, Path]:
        failure: OSError | None = None
        for place in places:
            try:
                if place.guard is not None:
                    place.guard()
                else:
                    place.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                same = export.spool_dir == str(place.path)
                part = Part.open(
                    place.path / self.file_name(export),
                    size=export.part_bytes if same else 0,
                    sha256=export.part_sha256,
                )
            except BlockingIOError as exc:
                raise FetchError(
                    "part_in_use",
                    "the file is being written, or copied, by something else; if its "
                    "state directory is a copy of this one, stop it",
                ) from exc
            except OSError as exc:
                failure = failure or exc
                continue
            part.min_free = place.min_free
            opened.append(part)
            old = self.path_of(export)
            hung = {one.path for one in self._places()} - {one.path for one in places}
            if not same and old is not None and old.parent not in hung:
                # It will not be continued; best effort, for its disk may be away.
                with contextlib.suppress(OSError):
                    self._unlink(old)
            return part, place.path
        raise failure or OSError(errno.ENOENT, "no spool folder is configured")


def _prefix_digest(fd: int, size: int) -> hashlib._Hash | None:
    """Return the digest of the first `size` bytes; None if there are fewer."""
    digest = hashlib.sha256()
    offset = 0
    while offset < size:
        block = os.pread(fd, min(_READ_BYTES, size - offset), offset)
        if not block:
            return None
        digest.update(block)
        offset += len(block)
    return digest


def _take(fd: int) -> None:
    """Be the only one who has a part open; not every file system can tell.

    A part's name is that of its node. Two processes are of one node if the state
    directory of one is a copy.

    Raises:
        BlockingIOError: Somebody else has it open.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return


def _ask(place: Place) -> None:
    """Touch a place; what it says is asked again by whoever uses it."""
    with contextlib.suppress(OSError):
        if place.guard is not None:
            place.guard()
        place.path.stat()
