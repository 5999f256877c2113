"""A directory as a target: a local disk, or an NFS or SMB mount."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from mirror.disk import durable, filesystem
from mirror.disk.durable import Manners
from mirror.errors import TargetError
from mirror.layout import SUFFIX
from mirror.ports import Kept, TargetHealth
from mirror.targets.directory import read as reading
from mirror.targets.directory import scan, spooled_file
from mirror.targets.directory.errors import target_error
from mirror.targets.directory.folders import Tree
from mirror.targets.directory.place import Placing
from mirror.targets.directory.root import DAMAGED, HIDDEN, TEMPORARY, Root
from mirror.targets.directory.temporaries import Temporaries

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterator
    from pathlib import Path

    from mirror.ports import Beside, Examined, Publication

T = TypeVar("T")

_BATCH: Final = 500
_BATCH_S: Final = 5.0
_BATCH_BYTES: Final = 8 * 1024 * 1024
_PROBE: Final = b"archive-mirror looks whether it can write here\n"
_PRIVATE: Final = Manners(file_mode=0o600, dir_mode=0o700)


class DirectoryTarget:
    """Keeps files below a root; implements `ports.Target`.

    A file on the root's own file system is linked to its final name: it is the same
    file from then on, and must never be written to again.

    Args:
        name: In the configuration.
        root: Absolute path.
        node_id: Begins the names of temporary files.
        mount: Refuse unless the root is a mount point.
        min_free: Bytes to leave free.
        file_mode: Of kept files and sidecars, where the file system has modes.
        dir_mode: Of the folders made.
        group: Name or number of the group of both; None leaves it alone.
        threads: Publishes at once.
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
        self._root = Root(target=name, path=root, mount=mount)
        self._node_id = node_id
        self._min_free = min_free
        self._file_mode = file_mode
        self._dir_mode = dir_mode
        self._group = group
        self._manners = Manners(file_mode=file_mode, dir_mode=dir_mode)
        self._marker_id: str | None = None
        self._warning: str | None = None
        self._tree = Tree(name)
        self._temporaries = Temporaries(node_id)
        # One thread more than publishes, so that a look at the target has one.
        self._threads = ThreadPoolExecutor(
            threads + 1, thread_name_prefix=f"target-{name}"
        )

    @property
    def name(self) -> str:
        """The name in the configuration."""
        return self._name

    async def open(self, remembered: str | None) -> TargetHealth:
        """Check that this is the target we know; see `ports.Target`.

        The root is made only at first use, and never where a mount is asked for: an
        empty folder must not stand in for a disk that is away.
        """
        return await self._run(partial(self._open, remembered), str(self._root.path))

    async def publish(self, publication: Publication) -> Kept:
        """Keep one file and its sidecar; see `ports.Target`."""
        path = str(self._root.path / publication.path)
        return await self._run(partial(self._publish, publication), path)

    async def look(self, marker_id: str) -> None:
        """Check that this is the target we know; see `ports.Target`."""
        await self._run(partial(self._look, marker_id), str(self._root.path))

    async def examine(
        self,
        path: str,
        *,
        size_bytes: int,
        marker_id: str,
        read: Callable[[int], None],
    ) -> Examined:
        """Read a kept file and its sidecar; see `ports.Target`."""
        work = partial(self._examine, path, size_bytes, marker_id, read)
        return await self._run(work, str(self._root.path / path))

    async def identify(self) -> str:
        """Return the id in the target's marker; see `ports.Target`."""
        return await self._run(self._identify, str(self._root.path))

    async def survey(self, marker_id: str) -> AsyncGenerator[list[Beside], None]:
        """Yield all sidecars there are; see `ports.Target`."""
        walk = self._survey(marker_id)
        try:
            while found := await self._run(partial(_some, walk), str(self._root.path)):
                yield found
        finally:
            with contextlib.suppress(ValueError):  # a thread is in it still
                walk.close()

    async def beside(self, path: str, marker_id: str) -> Beside | None:
        """Return one sidecar and what lies beside it; see `ports.Target`."""
        work = partial(self._beside, path, marker_id)
        return await self._run(work, str(self._root.path / path))

    async def set_aside(self, path: str, *, sidecar: bool) -> str:
        """Move what lies at a path into the hidden folder; see `ports.Target`."""
        work = partial(self._set_aside, path, ".json" if sidecar else "")
        return await self._run(work, str(self._root.path / path))

    async def close(self) -> None:
        """Let idle threads end; one that hangs is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T], path: str) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, work)
        except OSError as exc:
            raise target_error(
                exc, target=self._name, path=path, root=self._root.path
            ) from exc

    def _open(self, remembered: str | None) -> TargetHealth:
        self._manners = Manners(
            file_mode=self._file_mode, dir_mode=self._dir_mode, gid=self._gid()
        )
        if remembered is None:
            self._root.make(self._dir_mode)
        with self._root.opened() as root:
            found = self._root.marker(root)
            if remembered is not None:
                self._root.expect(found, remembered)
            self._tree.forget()
            self._warning = None
            with durable.closing(self._below(root)) as below:
                if found is None:
                    with self._temporaries.named("marker", within=below) as name:
                        found = self._root.make_marker(root, below, name)
                self._temporaries.clean(below)
                self._prove_writable(below)
            self._marker_id = found
            free = self._free(root)
            return TargetHealth(
                marker_id=found,
                free_bytes=None if free is None else max(0, free),
                full=None if free is None or free > 0 else self._no_room(1, free),
                warning=self._warning,
            )

    def _publish(self, publication: Publication) -> Kept:
        *folders, _ = _segments(publication.path, self._name)
        with self._root.known(self._opened()) as root, ExitStack() as held:
            spool = held.enter_context(spooled_file.opened(publication))
            below = held.enter_context(durable.closing(self._below(root)))
            opened = self._tree.open(root, folders, self._manners)
            folder = held.enter_context(durable.closing(opened))
            placing = Placing(
                target=self._name,
                publication=publication,
                manners=self._manners,
                folder=folder,
                below=below,
                temporaries=self._temporaries,
                reserve=partial(self._reserve, root),
            )
            verified = placing.run(spool)
        return Kept(path=publication.path, verified=verified)

    def _look(self, marker_id: str) -> None:
        with self._root.known(marker_id):
            return

    def _examine(
        self, path: str, size_bytes: int, marker_id: str, read: Callable[[int], None]
    ) -> Examined:
        segments = _segments(path, self._name)
        with self._root.known(marker_id) as root:
            return reading.examine(root, segments, size_bytes=size_bytes, read=read)

    def _identify(self) -> str:
        with self._root.opened() as root:
            found = self._root.marker(root)
        if found is None:
            raise self._root.unmarked()
        return found

    def _survey(self, marker_id: str) -> Generator[Beside, None, None]:
        with self._root.known(marker_id) as root:
            yield from scan.sidecars(root)

    def _beside(self, path: str, marker_id: str) -> Beside | None:
        segments = _segments(path, self._name)
        with self._root.known(marker_id) as root:
            return scan.beside(root, segments)

    def _set_aside(self, path: str, suffix: str) -> str:
        *folders, name = _segments(path, self._name)
        name += suffix
        aside = [HIDDEN, DAMAGED, *folders]
        with self._root.known(self._opened()) as root, ExitStack() as held:
            opened = self._tree.open(root, folders, self._manners)
            source = held.enter_context(durable.closing(opened))
            opened = self._ours(root, aside)
            within = held.enter_context(durable.closing(opened))
            moved = durable.move_numbered(name, source=source, within=within)
            os.fsync(within)
            os.fsync(source)
        return "/".join([*aside, moved])

    def _opened(self) -> str:
        """Return the marker that `open` found."""
        if self._marker_id is None:
            raise TargetError("not_open", f"target {self._name} was not looked at yet")
        return self._marker_id

    def _below(self, root: int) -> int:
        """Open the folder for temporary files."""
        return self._ours(root, [HIDDEN, TEMPORARY])

    def _ours(self, root: int, segments: list[str]) -> int:
        """Open a folder in the hidden one; nobody else may write on the way there.

        Raises:
            TargetError: Somebody may.
        """
        for number in range(1, len(segments)):
            above = self._tree.open(root, segments[:number], _PRIVATE)
            with durable.closing(above):
                self._guard(root, above, segments[:number])
        opened = self._tree.open(root, segments, _PRIVATE)
        try:
            self._guard(root, opened, segments)
        except BaseException:
            os.close(opened)
            raise
        return opened

    def _guard(self, root: int, folder: int, segments: list[str]) -> None:
        path, gid = "/".join(segments), self._manners.gid
        warning = self._root.guard(root, folder, path, gid)
        self._warning = self._warning or warning

    def _prove_writable(self, below: int) -> None:
        with self._temporaries.named("probe", within=below) as name:
            durable.write_new(name, [_PROBE], within=below, manners=_PRIVATE)
            with durable.closing(durable.open_file(name, within=below)) as fd:
                found = os.read(fd, len(_PROBE) + 1)
            if found != _PROBE:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            os.unlink(name, dir_fd=below)

    def _free(self, root: int) -> int | None:
        free = filesystem.free_bytes(os.fstatvfs(root))
        return None if free is None else free - self._min_free

    def _reserve(self, root: int, wanted: int) -> None:
        free = self._free(root)
        if free is not None and free < wanted:
            raise TargetError("no_space", self._no_room(wanted, free))

    def _no_room(self, wanted: int, free: int) -> str:
        return (
            f"target {self._name}: {wanted} bytes are needed at {self._root.path}, "
            f"{max(0, free)} are free above min_free; free some space there"
        )

    def _gid(self) -> int:
        if self._group is None:
            return -1
        if self._group.isascii() and self._group.isdigit():
            return int(self._group)
        try:
            return grp.getgrnam(self._group).gr_gid
        except KeyError as exc:
            raise TargetError(
                "no_group",
                f"target {self._name}: there is no group {self._group}; make it "
                "(groupadd), or correct `group`",
            ) from exc


def _some(walk: Iterator[Beside]) -> list[Beside]:
    """Return the next few; fewer where they are long or come slowly."""
    found: list[Beside] = []
    until, left = time.monotonic() + _BATCH_S, _BATCH_BYTES
    for one in walk:
        found.append(one)
        left -= len(one.sidecar or b"")
        if len(found) == _BATCH or left <= 0 or time.monotonic() > until:
            break
    return found


def _segments(path: str, target: str) -> list[str]:
    """Split a path, trusting nobody to have made it safe."""
    segments = path.split("/")
    bad = any(part in {"", ".", ".."} or "\0" in part for part in segments)
    if bad or segments[0] == HIDDEN or not path.endswith(SUFFIX):
        raise TargetError("bad_path", f"target {target}: no file is kept at {path!r}")
    return segments
