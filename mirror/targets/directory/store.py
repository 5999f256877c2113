"""What a directory target does on its disk: blocking."""

from __future__ import annotations

import dataclasses
import errno
import grp
import itertools
import os
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from mirror.disk import durable, filesystem
from mirror.disk.durable import FileModes
from mirror.disk.lanes import GivenUpError
from mirror.errors import TargetError
from mirror.layout import SUFFIX
from mirror.ports import Kept, TargetHealth
from mirror.targets.directory import content, read, scan
from mirror.targets.directory.errors import target_error
from mirror.targets.directory.folders import Folders
from mirror.targets.directory.place import Placement
from mirror.targets.directory.root import DAMAGED, HIDDEN, SPOOL, TEMPORARY, Root
from mirror.targets.directory.temporaries import Temporaries

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator, Sequence

    from mirror.disk.lanes import Heartbeat
    from mirror.ports import Publication, StoredFile

_PROBE: Final = b"archive-mirror looks whether it can write here\n"
_PRIVATE: Final = FileModes(file_mode=0o600, dir_mode=0o700)
_USABLE: Final = os.W_OK | os.X_OK


class DirectoryStore:
    """Files, sidecars and the hidden folder below one root; see `DirectoryTarget`.

    What fails raises OSError, which `target_error` translates, or TargetError.
    """

    def __init__(
        self,
        root: Root,
        *,
        node_id: str,
        min_free: int,
        modes: FileModes,
        group: str | None,
    ) -> None:
        self._root = root
        self._min_free = min_free
        self._modes = modes
        self._group = group
        self._marker_id: str | None = None
        self._warning: str | None = None
        self._folders = Folders(root.target)
        self._temporaries = Temporaries(node_id)

    def first_use(self) -> bool:
        """Tell whether a root that is not there yet is one that `probe` can make."""
        path = self._root.path
        missing = not self._root.mount and not path.exists()
        return missing and os.access(path.parent, _USABLE)

    def probe(self, known: str | None, *, write: bool) -> TargetHealth:
        """Look at the target; see `ports.Target`.

        The root is made only at first use, and never where a mount is asked for: an
        empty folder must not stand in for a disk that is away.
        """
        if not write:
            with self._root.opened() as root:
                marker_id = self._root.marker(root)
                if known is not None:
                    self._root.expect(marker_id, known)
                if marker_id is None:
                    raise self._root.unmarked()
                return self._health(root, marker_id)
        self._modes = dataclasses.replace(self._modes, gid=self._gid())
        if known is None:
            self._root.make(self._modes.dir_mode)
        with self._root.opened() as root:
            marker_id = self._root.marker(root)
            if known is not None:
                self._root.expect(marker_id, known)
            self._folders.forget()
            self._warning = None
            with durable.closing(self._tmp(root)) as tmp:
                if marker_id is None:
                    with self._temporaries.named("marker", within=tmp) as name:
                        marker_id = self._root.make_marker(root, tmp, name)
                self._temporaries.clean(tmp)
                self._prove_writable(tmp)
            self._marker_id = marker_id
            return self._health(root, marker_id)

    def publish(
        self,
        batch: Sequence[Publication],
        results: list[Kept | Exception],
        *,
        loop: asyncio.AbstractEventLoop,
        heartbeat: Heartbeat,
    ) -> None:
        """Publish one after another, and add a result for each.

        Those that follow each other into one folder share its flush, and have their
        results after it.

        Raises:
            OSError: All that have no result failed with it.
            TargetError: Likewise.
        """
        with (
            self._root.known(self._probed()) as root,
            durable.closing(self._tmp(root)) as tmp,
        ):
            for _, several in itertools.groupby(batch, _folder_of):
                members = [*several]
                try:
                    ended = self._place_in(root, tmp, members, loop, heartbeat)
                except OSError as exc:
                    ended = [self.error(exc, each.path) for each in members]
                except GivenUpError:
                    raise
                except Exception as exc:  # noqa: BLE001 -- it harms no other folder
                    ended = [exc] * len(members)
                results += ended

    def examine(
        self,
        path: str,
        *,
        size_bytes: int,
        marker_id: str,
        came: Callable[[int], None],
    ) -> StoredFile:
        """Read a kept file and its sidecar; see `ports.Target`."""
        segments_of(path, self._root.target)
        with self._root.known(marker_id) as root:
            return read.examine(root, path, size_bytes=size_bytes, came=came)

    def chunks(self, path: str, marker_id: str) -> Generator[bytes, None, None]:
        """Yield the bytes of a kept file; see `ports.Target.read`."""
        segments_of(path, self._root.target)
        with self._root.known(marker_id) as root:
            yield from read.chunks(root, path, str(self._root.path / path))

    def scan(self, marker_id: str) -> Generator[StoredFile, None, None]:
        """Yield all sidecars there are; see `ports.Target`."""
        with self._root.known(marker_id) as root:
            yield from scan.scan(root)

    def find(self, path: str, marker_id: str) -> StoredFile | None:
        """Return one sidecar and what lies beside it; see `ports.Target`."""
        segments_of(path, self._root.target)
        with self._root.known(marker_id) as root:
            return scan.find(root, path)

    def set_aside(self, path: str, *, sidecar: bool) -> str:
        """Move what lies at a path into the hidden folder; see `ports.Target`."""
        *folders, name = segments_of(path, self._root.target)
        name += ".json" if sidecar else ""
        aside = [HIDDEN, DAMAGED, *folders]
        with self._root.known(self._probed()) as root, ExitStack() as stack:
            opened = self._folders.open(root, folders, self._modes)
            source = stack.enter_context(durable.closing(opened))
            opened = self._private(root, aside)
            within = stack.enter_context(durable.closing(opened))
            moved = durable.move_numbered(name, source=source, within=within)
            os.fsync(within)
            os.fsync(source)
        return "/".join([*aside, moved])

    def delete(self, path: str) -> None:
        """Remove a file, then its sidecar; see `ports.Target`."""
        segments_of(path, self._root.target)
        with ExitStack() as stack:
            stack.enter_context(suppress(FileNotFoundError))
            root = stack.enter_context(self._root.known(self._probed()))
            folder, name = stack.enter_context(read.folder_of(root, path))
            for each in (name, f"{name}.json"):
                with suppress(FileNotFoundError):
                    os.unlink(each, dir_fd=folder)
                os.fsync(folder)

    def ready_spool(self, marker_id: str, shared: bool) -> None:
        """Make the folder for the spool; see `ports.SpoolFolder`."""
        try:
            with self._root.known(marker_id) as root, ExitStack() as stack:
                opened = durable.open_folder(HIDDEN, within=root)
                hidden = stack.enter_context(durable.closing(opened))
                durable.make_folder(SPOOL, within=hidden, mode=_PRIVATE.dir_mode)
                opened = durable.open_folder(SPOOL, within=hidden)
                spool = stack.enter_context(durable.closing(opened))
                us = filesystem.owners(os.fstat(root))
                ours = (
                    filesystem.is_ours(os.fstat(each), owners=us)
                    for each in (hidden, spool)
                )
                if not all(ours) and not shared:
                    where = self._root.path / HIDDEN
                    raise OSError(errno.EPERM, f"others may write to {where}")
        except TargetError as exc:
            text = f"another disk lies at target {self._root.target}"
            raise OSError(errno.ENODEV, text) from exc

    def give_mode(self, fd: int) -> None:
        """Give a spooled file its mode; see `ports.SpoolFolder`.

        Not where others than us may write to kept files: that would be too early.
        """
        modes = self._modes
        if not modes.file_mode & 0o022:
            durable.give_mode(fd, modes.file_mode, modes.gid)

    def error(self, exc: OSError, path: str = "") -> TargetError:
        """Return what an error of the file system means for the target."""
        root = self._root.path
        return target_error(
            exc, target=self._root.target, path=str(root / path), root=root
        )

    def _place_in(
        self,
        root: int,
        tmp: int,
        members: Sequence[Publication],
        loop: asyncio.AbstractEventLoop,
        heartbeat: Heartbeat,
    ) -> list[Kept | Exception]:
        """Place files and sidecars in one folder; it is flushed at the end."""
        *folders, _ = segments_of(members[0].path, self._root.target)
        ended: list[Kept | Exception] = []
        made = self._folders.open(root, folders, self._modes)
        with durable.closing(made) as folder:
            for publication in members:
                heartbeat.beat()
                result: Kept | Exception
                try:
                    with content.opened(publication, loop, heartbeat.beat) as opened:
                        placement = Placement(
                            target=self._root.target,
                            publication=publication,
                            content=opened,
                            modes=self._modes,
                            folder=folder,
                            tmp=tmp,
                            temporaries=self._temporaries,
                            reserve=partial(self._reserve, root),
                            beat=heartbeat.beat,
                        )
                        result = Kept(verified=placement.run())
                except OSError as exc:
                    result = self.error(exc, publication.path)
                except GivenUpError:
                    raise
                except Exception as exc:  # noqa: BLE001 -- it harms no other member
                    result = exc
                ended.append(result)
            os.fsync(folder)
        return ended

    def _probed(self) -> str:
        """Return the marker that `probe` found."""
        if self._marker_id is None:
            raise TargetError(
                "not_open", f"target {self._root.target} was not looked at yet"
            )
        return self._marker_id

    def _tmp(self, root: int) -> int:
        """Open the folder for temporary files."""
        return self._private(root, [HIDDEN, TEMPORARY])

    def _private(self, root: int, segments: list[str]) -> int:
        """Open a folder in the hidden one; nobody else may write on the way there."""
        for number in range(1, len(segments)):
            above = self._folders.open(root, segments[:number], _PRIVATE)
            with durable.closing(above):
                self._guard(root, above, segments[:number])
        opened = self._folders.open(root, segments, _PRIVATE)
        try:
            self._guard(root, opened, segments)
        except BaseException:
            os.close(opened)
            raise
        return opened

    def _guard(self, root: int, folder: int, segments: list[str]) -> None:
        path, gid = "/".join(segments), self._modes.gid
        warning = self._root.guard(root, folder, path, gid)
        self._warning = self._warning or warning

    def _prove_writable(self, tmp: int) -> None:
        with self._temporaries.named("probe", within=tmp) as name:
            durable.write_new(name, [_PROBE], within=tmp, modes=_PRIVATE)
            with durable.closing(durable.open_file(name, within=tmp)) as fd:
                text = os.read(fd, len(_PROBE) + 1)
            if text != _PROBE:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            os.unlink(name, dir_fd=tmp)

    def _health(self, root: int, marker_id: str) -> TargetHealth:
        free = self._free(root)
        return TargetHealth(
            marker_id=marker_id,
            free_bytes=None if free is None else max(0, free),
            size_bytes=filesystem.size_bytes(os.fstatvfs(root)),
            full=None if free is None or free > 0 else self._no_room(1, free),
            warning=self._warning,
        )

    def _free(self, root: int) -> int | None:
        free = filesystem.free_bytes(os.fstatvfs(root))
        return None if free is None else free - self._min_free

    def _reserve(self, root: int, size_bytes: int) -> None:
        free = self._free(root)
        if free is not None and free < size_bytes:
            raise TargetError("no_space", self._no_room(size_bytes, free))

    def _no_room(self, size_bytes: int, free: int) -> str:
        return (
            f"target {self._root.target}: {size_bytes} bytes are needed at "
            f"{self._root.path}, {max(0, free)} are free above min_free; free some "
            "space there"
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
                f"target {self._root.target}: there is no group {self._group}; make "
                "it (groupadd), or correct `group`",
            ) from exc


def _folder_of(publication: Publication) -> str:
    return publication.path.rpartition("/")[0]


def segments_of(path: str, target: str) -> list[str]:
    """Split a path, trusting nobody to have made it safe.

    Raises:
        TargetError: No file of ours lies at such a path.
    """
    segments = path.split("/")
    bad = any(part in {"", ".", ".."} or "\0" in part for part in segments)
    if bad or segments[0] == HIDDEN or not path.endswith(SUFFIX):
        raise TargetError("bad_path", f"target {target}: no file is kept at {path!r}")
    return segments
