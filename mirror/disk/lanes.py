"""Threads for blocking calls that may never end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

T = TypeVar("T")

PATIENCE_S = 30.0
"""A disk that takes longer over one step may never end it."""
MOST_PATIENCE_S = 300.0
"""No disk that is of any use takes so long."""
_SLOWER = 3.0


class HungError(TimeoutError):
    """A call goes on in its thread; nobody waits for it any longer.

    Attributes:
        job: The call.
    """

    def __init__(self, text: str, job: Future[Any]) -> None:
        super().__init__(text)
        self.job = job


class Pulse:
    """Shows that a call of many steps gets on.

    Attributes:
        at: When it last did, by `time.monotonic`.
    """

    def __init__(self) -> None:
        self.at = time.monotonic()

    def beat(self) -> None:
        """Show that a step is done."""
        self.at = time.monotonic()


@dataclass(slots=True, kw_only=True)
class _Room:
    """The threads of one folder.

    Attributes:
        slowest_s: What a step took at most that came to its end, be it late.
    """

    pool: ThreadPoolExecutor
    slowest_s: float = 0.0
    left: set[Future[Any]] = field(default_factory=set)

    @property
    def patience_s(self) -> float:
        """How long a step may take: some disks are slow and not dead."""
        return min(MOST_PATIENCE_S, max(PATIENCE_S, _SLOWER * self.slowest_s))


class Workers:
    """Runs blocking calls; each folder has threads of its own.

    What hangs in one folder holds up nothing in another.

    Args:
        threads: At once in each folder.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._rooms: dict[Path, _Room] = {}

    async def run(
        self,
        folder: Path,
        call: Callable[[], T],
        pulse: Pulse | None = None,
    ) -> T:
        """Run a call about a folder.

        Args:
            folder: Whose threads are used.
            call: Blocking.
            pulse: Beaten by a call that may take long.

        Raises:
            HungError: It made no step for too long.
        """
        room = self._room(folder)
        pulse = pulse or Pulse()
        job: Future[T] = room.pool.submit(call)
        waiting = asyncio.wrap_future(job)
        waiting.add_done_callback(_seen)
        while not waiting.done():
            left_s = pulse.at + room.patience_s - time.monotonic()
            if left_s > 0:
                await asyncio.wait([waiting], timeout=left_s)
                continue
            self._leave(room, job, pulse)
            raise HungError(f"{folder} gives no answer", job)
        room.slowest_s = max(room.slowest_s, time.monotonic() - pulse.at)
        return waiting.result()

    def hangs(self, folder: Path) -> bool:
        """Tell whether a call that was left there has not ended yet."""
        return folder in self._rooms and bool(self._rooms[folder].left)

    def after(self, folder: Path, job: Future[Any], call: Callable[[], object]) -> None:
        """Run a call about a folder once another has ended; nobody waits for it."""
        pool = self._room(folder).pool

        def submit(_: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):
                pool.submit(call)

        job.add_done_callback(submit)

    def close(self) -> None:
        """Let the threads end."""
        for room in self._rooms.values():
            room.pool.shutdown(wait=False)

    def _room(self, folder: Path) -> _Room:
        if folder not in self._rooms:
            pool = ThreadPoolExecutor(self._threads, thread_name_prefix="spool")
            self._rooms[folder] = _Room(pool=pool)
        return self._rooms[folder]

    def _leave(self, room: _Room, job: Future[T], pulse: Pulse) -> None:
        """Wait no longer for a call; one that has not begun never will."""
        if job.cancel():
            return

        def ended(_: Future[T]) -> None:
            room.slowest_s = max(room.slowest_s, time.monotonic() - pulse.at)
            room.left.discard(job)

        room.left.add(job)
        job.add_done_callback(ended)


def _seen(waiting: asyncio.Future[T]) -> None:
    """Take note of how a call ended that nobody waits for."""
    if not waiting.cancelled():
        waiting.exception()
