"""The spool: partial files and whole files that wait for their targets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from mirror.disk import filesystem
from mirror.disk.lanes import Heartbeat, HungError, Job, Lanes
from mirror.errors import FetchError, SpoolError
from mirror.pipeline.spool.part import Part, PartName, holds
from mirror.pipeline.spool.space import Space
from mirror.tasks import run_to_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from mirror.model import Export

P = ParamSpec("P")
T = TypeVar("T")

_STRAY_S = 86_400.0
"""Younger files are left alone: they may be in use by a copy of this node."""
_ANSWERS_S = 10.0
"""Long enough for a disk to spin up."""
_LOOKS_S = 1.0
"""Where the spool may lie, and whether it answers, is believed for so long."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A folder that may hold the spool.

    Attributes:
        path: Of the folder.
        give_mode: Gives an open file the mode it shall have once it is whole.
        guard: Raises OSError unless `path` still lies where it is believed to;
            asked in a thread before each use.
        min_free: Bytes that must stay free there.
        private: It is not used if others may write to it.
        beside_ledger: The ledger lies on its file system.
    """

    path: Path
    min_free: int = 0
    private: bool = False
    beside_ledger: bool = False
    guard: Callable[[], None] | None = None
    give_mode: Callable[[int], None] | None = None


class Spool:
    """Opens parts and frees them, each call in a thread of its place's own.

    Args:
        node_id: Part of each file's name.
        places: Where the spool may lie, best first; the last always works.
        threads: How many parts of a place are hashed and written at once.
        space: Says who may write how much; by default it knows of no other files.
    """

    def __init__(
        self,
        *,
        node_id: str,
        places: Callable[[], list[Place]],
        threads: int,
        space: Space | None = None,
    ) -> None:
        self.space = space or Space()
        self.space.remove = self.remove
        self._node_id = node_id
        self._places = places
        self._lanes = Lanes(threads, name="spool")
        self._known: list[Place] = []
        self._looked_at = -_LOOKS_S
        self._answered: dict[Path, float] = {}

    async def use(
        self,
        part: Part,
        call: Callable[Concatenate[Part, P], T],
        *args: P.args,
        **named: P.kwargs,
    ) -> T:
        """Run a blocking call about a part.

        Raises:
            SpoolError: The spool cannot do it now; or it hung, and so it is with every
                further call about this part.
        """
        return await self.end(part, self.start(part, call, *args, **named))

    def start(
        self,
        part: Part,
        call: Callable[Concatenate[Part, P], T],
        *args: P.args,
        **named: P.kwargs,
    ) -> Job[T]:
        """Begin a call that `end` waits for; nothing else may use the part meanwhile.

        Raises:
            SpoolError: See `use`.
        """
        folder = part.path.parent
        if part.left is not None:
            raise _hung(folder)
        todo = functools.partial(call, part, *args, **named)
        return self._lanes.of(folder).start(todo)

    async def end(self, part: Part, job: Job[T]) -> T:
        """Wait for a call that was begun; see `use`."""

        def left(future: Future[Any]) -> None:
            part.left = future

        return await self._end(part.path.parent, job, left)

    async def put_away(self, part: Part) -> None:
        """Close a part; one that hangs is closed when it wakes up."""
        self.space.unregister(part)
        if part.left is None:
            with contextlib.suppress(SpoolError):
                await self.use(part, Part.close)
        else:
            self._lanes.of(part.path.parent).after(part.left, part.close)

    def file_name(self, export: Export) -> str:
        """Return the name of an export's file in the spool."""
        return PartName.of(export, self._node_id, export.part_number).text

    def path_of(self, export: Export) -> Path | None:
        """Return where an export's file lies, if it has one."""
        if export.spool_dir is None:
            return None
        return Path(export.spool_dir) / self.file_name(export)

    def paths_of(self, export: Export) -> set[Path]:
        """Return where all bodies of an export lie: its file, and a held one."""
        paths = {self.path_of(export)}
        if export.held_dir is not None and export.held_number is not None:
            name = PartName.of(export, self._node_id, export.held_number)
            paths.add(Path(export.held_dir) / name.text)
        return {path for path in paths if path is not None}

    async def open(self, export: Export) -> Part:
        """Open an export's part in the best place there is now.

        Raises:
            FetchError: Somebody else has it open.
            SpoolError: There is no place.
        """
        failure: SpoolError | None = None
        old = self.path_of(export)
        for place in await self._places_now():
            try:
                if not await self._answers(place):
                    raise _hung(place.path)
                part = await self._open_in(place, export)
            except SpoolError as exc:
                failure = failure or exc
                continue
            if old is not None and old != part.path:
                # It will not be continued; best effort, for its disk may be away.
                await self._forget(part, old)
            self.space.register(part, export)
            return part
        raise failure or SpoolError("spool_failed", "no spool folder is configured")

    async def make_room(
        self, part: Part, rest: int | None, *, begun: bool = True
    ) -> None:
        """Reserve room for a file.

        Args:
            part: That is open.
            rest: Bytes still to come of it; None while unknown.
            begun: Its body has begun.

        Raises:
            NoRoomError: There is none without touching the reserve.
            SpoolError: The spool cannot be asked.
        """
        self.space.expect(part, rest, begun=begun)
        await self.space.reserve(part, lambda: self.use(part, Part.room_bytes))

    async def keep_room(self, part: Part, more: int = 0) -> None:
        """Reserve more room as a file grows, unless what it has is enough.

        Args:
            part: That is open.
            more: Bytes about to be written; 0 reserves for a while ahead.

        Raises:
            NoRoomError: There is none without touching the reserve.
            SpoolError: The spool cannot be asked.
        """
        if not more or not self.space.holds(part, more):
            await self.space.reserve(
                part,
                lambda: self.use(part, Part.room_bytes),
                more=more,
                renew=True,
            )

    async def check_there(self, export: Export) -> None:
        """Check that the folder of an export's file is there, be the file or not.

        Raises:
            SpoolError: It is away, as far as can be told.
        """
        folder = Path(export.spool_dir or "")
        await self._reach(folder)
        await self._run(folder, functools.partial(self._check_there, folder))

    async def remove(self, exports: Iterable[Export]) -> None:
        """Remove exports' files from the spool, if they are there.

        Raises:
            SpoolError: One cannot be removed; others may have been.
        """
        await self._remove({path for path in map(self.path_of, exports) if path})

    async def strays(self) -> list[tuple[Path, PartName]]:
        """Return this node's older files, each with its name."""
        found = []
        for place in await self._places_now():
            with contextlib.suppress(SpoolError):
                listing = functools.partial(self._strays, place)
                found += await self._run(place.path, listing)
        return found

    async def is_body(self, path: Path, export: Export) -> bool:
        """Tell whether a stray file holds the bytes that are kept of an export.

        Raises:
            SpoolError: It cannot be read.
        """
        heartbeat = Heartbeat()
        size, sha256 = export.size_bytes or 0, export.sha256 or ""
        todo = functools.partial(holds, path, size, sha256, heartbeat.beat)
        return await self._run(path.parent, todo, heartbeat=heartbeat)

    async def sweep(self, path: Path) -> None:
        """Remove a stray file."""
        await self._remove({path})

    def close(self) -> None:
        """Stop the threads once they are idle."""
        self._lanes.close()

    async def _run(
        self,
        folder: Path,
        call: Callable[[], T],
        *,
        heartbeat: Heartbeat | None = None,
        left: Callable[[Future[Any]], None] = lambda _: None,
    ) -> T:
        """Run a blocking call about a folder to its end, or until it hangs.

        Args:
            folder: Whose threads are used.
            call: Blocking.
            heartbeat: See `Lane.run`.
            left: Called with a call that hangs.

        Raises:
            SpoolError: The spool cannot do it now.
        """
        job = self._lanes.of(folder).start(call, heartbeat)
        return await self._end(folder, job, left)

    async def _end(
        self, folder: Path, job: Job[T], left: Callable[[Future[Any]], None]
    ) -> T:
        async def end() -> T:
            try:
                return await self._lanes.of(folder).end(job)
            except HungError as exc:
                left(exc.job)
                raise _hung(folder) from exc

        try:
            # What has ended costs no task.
            result = job.future.result() if job.done else await run_to_end(end())
        except OSError as exc:
            full = exc.errno in _FULL
            raise SpoolError(
                "spool_full" if full else "spool_failed",
                f"the spool cannot be used ({exc.strerror or exc})"
                + ("; free some space there" if full else ""),
            ) from exc
        self._answered[folder] = time.monotonic()
        return result

    async def _open_in(self, place: Place, export: Export) -> Part:
        """Open an export's part in one place.

        Raises:
            FetchError: Somebody else has it open.
            SpoolError: It cannot be opened there.
        """
        opened: list[Part] = []
        heartbeat = Heartbeat()

        def close() -> None:
            while opened:
                opened.pop().close()

        def left(job: Future[Any]) -> None:
            self._lanes.of(place.path).after(job, close)

        todo = functools.partial(self._open, place, export, opened, heartbeat.beat)
        try:
            return await self._run(place.path, todo, heartbeat=heartbeat, left=left)
        except asyncio.CancelledError:
            close()
            raise

    async def _forget(self, part: Part, old: Path) -> None:
        """Remove what lies in another place, if that is possible just now."""
        try:
            with contextlib.suppress(SpoolError):
                await self._remove({old})
        except asyncio.CancelledError:
            await run_to_end(self.put_away(part))
            raise

    async def _remove(self, paths: set[Path]) -> None:
        for folder in {path.parent for path in paths}:
            there = [path for path in paths if path.parent == folder]
            await self._reach(folder)
            await self._run(folder, functools.partial(self._unlink, folder, there))

    async def _places_now(self) -> list[Place]:
        """Return where the spool may lie, as it was not long ago."""
        now = time.monotonic()
        if now - self._looked_at > _LOOKS_S:
            self._known = await asyncio.to_thread(self._places)
            self._looked_at = now
        return self._known

    async def _answers(self, place: Place) -> bool:
        """Tell whether a place answers at all, also with an error.

        One that hangs must not hold up what can go elsewhere.
        """
        lane = self._lanes.of(place.path)
        if lane.hangs:
            return False
        if time.monotonic() - self._answered.get(place.path, -_LOOKS_S) < _LOOKS_S:
            return True
        try:
            await lane.ask(functools.partial(_ask, place), patience_s=_ANSWERS_S)
        except HungError:
            return False
        return True

    async def _reach(self, folder: Path) -> None:
        """Make sure that a folder of the spool's answers.

        Raises:
            SpoolError: It hangs.
        """
        for place in await self._places_now():
            if place.path == folder and not await self._answers(place):
                raise _hung(folder)

    def _check_there(self, folder: Path) -> None:
        for place in self._known:
            if place.path == folder:
                if place.guard is not None:
                    place.guard()
                return
        if not folder.is_dir():
            raise OSError(errno.ENODEV, "the folder of the spooled file is away")

    def _unlink(self, folder: Path, paths: Iterable[Path]) -> None:
        """Remove files; fail if their disk is away."""
        for place in self._known:
            if place.path == folder and place.guard is not None:
                place.guard()
        for path in paths:
            path.unlink(missing_ok=True)

    def _strays(self, place: Place) -> list[tuple[Path, PartName]]:
        if place.guard is not None:
            place.guard()
        before_s, found = time.time() - _STRAY_S, []
        for path in place.path.iterdir():
            name = PartName.read(path.name)
            mine = name is not None and name.node_id == self._node_id
            if name and mine and path.stat().st_mtime < before_s:
                found.append((path, name))
        return found

    def _open(
        self,
        place: Place,
        export: Export,
        opened: list[Part],
        beat: Callable[[], None],
    ) -> Part:
        if place.guard is not None:
            place.guard()
        else:
            place.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if place.private and filesystem.is_open(place.path):
            raise OSError(errno.EPERM, f"others may write to {place.path}")
        try:
            part = Part.open(
                place.path / self.file_name(export),
                size=export.part_bytes if export.spool_dir == str(place.path) else 0,
                sha256=export.part_sha256,
                beat=beat,
            )
        except BlockingIOError as exc:
            raise FetchError(
                "part_in_use",
                "the file is being written, or copied, by something else; if its "
                "state directory is a copy of this one, stop it",
            ) from exc
        part.min_free = place.min_free
        part.beside_ledger = place.beside_ledger
        part.give_mode = place.give_mode
        opened.append(part)
        return part


def _ask(place: Place) -> None:
    """Touch a place; what it says is asked again by whoever uses it."""
    with contextlib.suppress(OSError):
        if place.guard is not None:
            place.guard()
        place.path.stat()


def _hung(folder: Path) -> SpoolError:
    return SpoolError(
        "spool_failed",
        f"the spool in {folder} gives no answer; check its disk or mount",
    )
