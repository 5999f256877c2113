"""A directory as a target: a local disk, or an NFS or SMB mount."""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from mirror.disk import mounts
from mirror.disk.durable import FileModes
from mirror.disk.lanes import Heartbeat, HungError, Lane
from mirror.errors import TargetError
from mirror.ports import PROBE_S, ProvesBy, SpoolFolder, Traits
from mirror.targets.directory.root import HIDDEN, SPOOL, Root
from mirror.targets.directory.store import DirectoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from mirror.ports import Kept, Publication, StoredFile, TargetHealth

T = TypeVar("T")

READ_S = 60.0
"""A read of which nothing came for so long hangs in a dead mount."""
_IN_BATCH: Final = 16
_NO_ANSWER: Final = (
    "no answer for {:.0f} s; its disk or its server hangs: check the mount, mount it "
    "anew"
)
_NO_BYTE: Final = "not a byte came for {:.0f} s; its disk or mount hangs"
_BATCH: Final = 500
_BATCH_S: Final = 5.0
_BATCH_BYTES: Final = 8 * 1024 * 1024


class DirectoryTarget:
    """Keeps files below a root; implements `ports.Target`.

    A file on the root's own file system is linked to its final name: it is the same
    file from then on, and must never be written to again.

    It takes the keys of `[targets.NAME]`: `root` is the absolute path, `threads` the
    concurrency, `group` a name or a number; modes are set where the file system has
    them. The node's id begins the names of temporary files.
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
        self.name = name
        self.place = str(root)
        self.traits = Traits(
            at_once=threads,
            in_batch=_IN_BATCH,
            proves_by=ProvesBy.READ_BACK,
            links_in=root,
        )
        self._root = root
        self._min_free = min_free
        self._store = DirectoryStore(
            Root(target=name, path=root, mount=mount),
            node_id=node_id,
            min_free=min_free,
            modes=FileModes(file_mode=file_mode, dir_mode=dir_mode),
            group=group,
        )
        # One thread more than publishes, for who reads meanwhile.
        self._lane = Lane(threads + 1, name=f"target-{name}")

    @property
    def spool_folder(self) -> SpoolFolder | None:
        """A folder in the hidden one; see `ports.Target`."""
        return SpoolFolder(
            path=self._root / HIDDEN / SPOOL,
            network=mounts.is_network(self._root),
            min_free=self._min_free,
            ready=self._store.ready_spool,
            give_mode=self._store.give_mode,
        )

    async def first_use(self) -> str | None:
        """Say whether the root is to be made; see `ports.Target`."""
        missing = await self._ask(self._store.first_use, PROBE_S, "first use")
        return f"{self._root} is not there; it is made" if missing else None

    async def probe(
        self, known: str | None, *, write: bool, patience_s: float = PROBE_S
    ) -> TargetHealth:
        """Look at the marker, and write where asked; see `ports.Target`."""
        if write and self._lane.hangs:
            raise self._hung(patience_s)
        work = partial(self._store.probe, known, write=write)
        return await self._ask(work, patience_s, (known, write))

    async def publish(self, batch: Sequence[Publication]) -> list[Kept | Exception]:
        """Keep files and their sidecars; see `ports.Target`."""
        results: list[Kept | Exception] = []
        if not batch:
            return results
        heartbeat = Heartbeat()
        work = partial(
            self._store.publish,
            batch,
            results,
            loop=asyncio.get_running_loop(),
            heartbeat=heartbeat,
        )
        try:
            await self._run(work, batch[0].path, heartbeat)
        except TargetError as exc:
            # What comes late is not added: these are the results now.
            results = list(results)
            results += [exc] * (len(batch) - len(results))
        return results

    async def examine(
        self,
        path: str,
        *,
        size_bytes: int,
        marker_id: str,
        came: Callable[[int], None],
    ) -> StoredFile:
        """Read a kept file and its sidecar; see `ports.Target`."""
        heartbeat = Heartbeat()

        def beat(number: int) -> None:
            heartbeat.beat()
            came(number)

        work = partial(
            self._store.examine,
            path,
            size_bytes=size_bytes,
            marker_id=marker_id,
            came=beat,
        )
        return await self._read(work, path, heartbeat)

    async def read(self, path: str, marker_id: str) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a kept file; see `ports.Target`."""
        chunks = self._store.chunks(path, marker_id)
        with _closing(chunks):
            while chunk := await self._read(partial(next, chunks, b""), path):
                yield chunk

    async def scan(self, marker_id: str) -> AsyncGenerator[list[StoredFile], None]:
        """Yield all sidecars there are; see `ports.Target`."""
        stored = self._store.scan(marker_id)
        with _closing(stored):
            while some := await self._read(partial(_some, stored)):
                yield some

    async def find(self, path: str, marker_id: str) -> StoredFile | None:
        """Return one sidecar and what lies beside it; see `ports.Target`."""
        return await self._read(partial(self._store.find, path, marker_id), path)

    async def set_aside(self, path: str, *, sidecar: bool) -> str:
        """Move what lies at a path into the hidden folder; see `ports.Target`."""
        return await self._run(
            partial(self._store.set_aside, path, sidecar=sidecar), path
        )

    async def delete(self, path: str) -> None:
        """Remove a file and its sidecar; see `ports.Target`."""
        await self._run(partial(self._store.delete, path), path)

    async def close(self) -> None:
        """Stop the threads once they are idle; never wait for one that hangs."""
        self._lane.close()

    async def _ask(self, work: Callable[[], T], patience_s: float, key: object) -> T:
        with self._translated():
            return await self._lane.ask(work, patience_s=patience_s, key=key)

    async def _run(
        self, work: Callable[[], T], path: str, heartbeat: Heartbeat | None = None
    ) -> T:
        with self._translated(path):
            return await self._lane.run(work, heartbeat)

    async def _read(
        self,
        work: Callable[[], T],
        path: str = "",
        heartbeat: Heartbeat | None = None,
    ) -> T:
        with self._translated(path, _NO_BYTE):
            return await self._lane.run(work, heartbeat, patience_s=READ_S)

    @contextlib.contextmanager
    def _translated(self, path: str = "", hung: str = _NO_ANSWER) -> Iterator[None]:
        try:
            yield
        except HungError as exc:
            raise self._hung(exc.waited_s, hung) from exc
        except OSError as exc:
            raise self._store.error(exc, path) from exc

    def _hung(self, waited_s: float, text: str = _NO_ANSWER) -> TargetError:
        return TargetError("hung", f"target {self.name}: {text.format(waited_s)}")


@contextlib.contextmanager
def _closing(generator: Generator[object, None, None]) -> Iterator[None]:
    """Close a generator at the end, unless a thread is in it still."""
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            generator.close()


def _some(stored: Iterator[StoredFile]) -> list[StoredFile]:
    """Return the next few; fewer where they are long or come slowly."""
    some: list[StoredFile] = []
    until, left = time.monotonic() + _BATCH_S, _BATCH_BYTES
    for each in stored:
        some.append(each)
        left -= len(each.sidecar or b"")
        if len(some) == _BATCH or left <= 0 or time.monotonic() > until:
            break
    return some
