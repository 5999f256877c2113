"""Run blocking calls without waiting for a disk that is dead: a lane for each disk.

A call that makes no step for longer than the disk's patience is given up: whoever waits
gets a `HungError`, and the call's thread ends when the disk lets it. Until then the
lane counts as hung.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from concurrent.futures import Future
    from pathlib import Path

T = TypeVar("T")

PATIENCE_S = 30.0
"""A disk that takes longer over one step may never end it."""
MOST_PATIENCE_S = 300.0
"""No disk that is of any use takes so long."""
_SLOWER = 3.0


class HungError(TimeoutError):
    """A call was given up; its thread still runs.

    Attributes:
        job: The call.
        waited_s: For so long.
    """

    def __init__(self, text: str, job: Future[Any], waited_s: float) -> None:
        super().__init__(text)
        self.job = job
        self.waited_s = waited_s


class GivenUpError(Exception):
    """Ends a call that was given up, at its next step."""


class Heartbeat:
    """Shows that a call of many steps gets on, and ends it once it was given up.

    Attributes:
        at: When it last got on, by `time.monotonic`.
        given_up: The caller waits for it no longer.
    """

    def __init__(self) -> None:
        self.at = time.monotonic()
        self.given_up = False

    def beat(self) -> None:
        """Show that a step is done.

        Raises:
            GivenUpError: The next one must not begin.
        """
        if self.given_up:
            raise GivenUpError
        self.at = time.monotonic()


@dataclass(slots=True)
class Job(Generic[T]):
    """A call that a thread was given.

    Attributes:
        future: Of the thread.
        heartbeat: See `Lane.run`.
    """

    future: Future[T]
    heartbeat: Heartbeat

    @property
    def done(self) -> bool:
        """It has ended."""
        return self.future.done()


class Lane:
    """The threads of one disk: so many calls at once, and a question besides.

    Attributes:
        slowest_s: The longest step that ended, in time or late.
    """

    def __init__(self, threads: int, *, name: str) -> None:
        self.slowest_s = 0.0
        self._name = name
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._asker = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-ask")
        self._questions: dict[Hashable, tuple[Future[Any], float]] = {}
        self._left: set[Future[Any]] = set()

    @property
    def patience_s(self) -> float:
        """How long a step may take: some disks are slow and not dead."""
        return min(MOST_PATIENCE_S, max(PATIENCE_S, _SLOWER * self.slowest_s))

    @property
    def hangs(self) -> bool:
        """A call that was given up has not ended yet."""
        return bool(self._left)

    async def run(
        self,
        call: Callable[[], T],
        heartbeat: Heartbeat | None = None,
        *,
        patience_s: float | None = None,
    ) -> T:
        """Run a blocking call; cancelled, it is left, and stops at its next step.

        A call of many steps beats `heartbeat` after each. `patience_s` is for one step;
        the disk's own by default.

        Raises:
            HungError: It made no step for too long.
        """
        return await self.end(self.start(call, heartbeat), patience_s=patience_s)

    def start(
        self, call: Callable[[], T], heartbeat: Heartbeat | None = None
    ) -> Job[T]:
        """Give a call to a thread, for `end` to wait for it; see `run`."""
        beats = heartbeat or Heartbeat()

        def timed() -> T:
            try:
                return call()
            finally:
                self.slowest_s = max(self.slowest_s, time.monotonic() - beats.at)

        return Job(self._pool.submit(timed), beats)

    async def end(self, job: Job[T], *, patience_s: float | None = None) -> T:
        """Wait for a call; see `run`."""
        future, heartbeat = job.future, job.heartbeat
        waiting = _waiting(future)
        try:
            while not future.done():
                longest_s = self.patience_s if patience_s is None else patience_s
                left_s = heartbeat.at + longest_s - time.monotonic()
                if left_s > 0:
                    await asyncio.wait([waiting], timeout=left_s)
                    continue
                self._leave(job)
                raise HungError(f"{self._name} gives no answer", future, longest_s)
        except asyncio.CancelledError:
            heartbeat.given_up = True
            future.cancel()
            raise
        return future.result()

    async def ask(
        self, call: Callable[[], T], *, patience_s: float, key: Hashable = None
    ) -> T:
        """Ask whether the disk answers; never held up by calls that `run` runs.

        While an earlier call of the same key runs, this waits for that one: a second
        call would hang as the first does.

        Raises:
            HungError: No answer for so long.
        """
        job, since = self._questions.get(key, (None, 0.0))
        if job is None or job.done():
            job, since = self._asker.submit(call), time.monotonic()
            self._questions[key] = job, since
        left_s = since + patience_s - time.monotonic()
        if left_s > 0:
            await asyncio.wait([_waiting(job)], timeout=left_s)
        if not job.done():
            raise HungError(f"{self._name} gives no answer", job, patience_s)
        answer: T = job.result()
        return answer

    def after(self, job: Future[Any], call: Callable[[], object]) -> None:
        """Run a call once another has ended; nobody waits for it."""

        def submit(_: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):
                self._pool.submit(call)

        job.add_done_callback(submit)

    def close(self) -> None:
        """Stop the threads once they are idle; wait for none."""
        self._pool.shutdown(wait=False)
        self._asker.shutdown(wait=False)

    def _leave(self, job: Job[Any]) -> None:
        """Wait no longer for a call; one that has not begun never will."""
        job.heartbeat.given_up = True
        if not job.future.cancel():
            self._left.add(job.future)
            job.future.add_done_callback(self._left.discard)


class Lanes:
    """A lane for each folder: what hangs in one holds up nothing in another."""

    def __init__(self, threads: int, *, name: str) -> None:
        self._threads = threads
        self._name = name
        self._lanes: dict[Path, Lane] = {}

    def of(self, folder: Path) -> Lane:
        """Return the lane of a folder."""
        if folder not in self._lanes:
            self._lanes[folder] = Lane(self._threads, name=self._name)
        return self._lanes[folder]

    def close(self) -> None:
        """Stop all threads once they are idle."""
        for lane in self._lanes.values():
            lane.close()


def _waiting(job: Future[T]) -> asyncio.Future[T]:
    """Return what waits for a call, its exception retrieved, or asyncio logs it."""
    waiting = asyncio.wrap_future(job)
    waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
    return waiting
