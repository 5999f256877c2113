"""Count the awaits of a piece of work and of every task it starts; cancel it there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterator

_watching: ContextVar[Suspensions | None] = ContextVar("watching", default=None)


@dataclass(slots=True)
class Suspensions:
    """Cancels the work at its n-th suspension and at some that follow.

    Attributes:
        at: The first; 0 is never.
        times: At so many in a row.
        count: Suspensions so far, in all tasks of the work.
        tasks: The work's own and those it started.
    """

    at: int = 0
    times: int = 1
    count: int = 0
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    async def run(self, work: Coroutine[Any, Any, Any]) -> bool:
        """Run the work to its end; tell whether it was cancelled there.

        Raises:
            TimeoutError: It did not end within a minute.
        """
        context = copy_context()
        context.run(_watching.set, self)
        top = asyncio.create_task(work, context=context)
        async with asyncio.timeout(60):
            await asyncio.wait([top])
        if top.cancelled():
            return True
        top.result()
        return False

    def suspended(self) -> None:
        """Count one, and cancel if it is its turn."""
        self.count += 1
        if self.at and self.at <= self.count < self.at + self.times:
            # Before the event loop sees what is awaited, so that it is this await.
            asyncio.get_running_loop().call_soon(self.tasks[0].cancel)


@contextlib.contextmanager
def counted() -> Iterator[None]:
    """Let the running loop make tasks whose suspensions are counted."""
    loop = asyncio.get_running_loop()

    def factory(
        loop: asyncio.AbstractEventLoop, coro: Any, **more: Any
    ) -> asyncio.Task[Any]:
        context = more.get("context") or copy_context()
        watching = context.get(_watching)
        if watching is None or not asyncio.iscoroutine(coro):
            return asyncio.Task(coro, loop=loop, **more)
        task = asyncio.Task(_Watched(coro, watching), loop=loop, **more)
        watching.tasks.append(task)
        return task

    loop.set_task_factory(factory)
    try:
        yield
    finally:
        loop.set_task_factory(None)


class _Watched(Coroutine[Any, Any, Any]):
    """A coroutine that tells of each time it gives control away."""

    def __init__(self, work: Coroutine[Any, Any, Any], watching: Suspensions) -> None:
        self._work = work
        self._watching = watching

    @override
    def send(self, value: Any) -> Any:
        awaited = self._work.send(value)
        self._watching.suspended()
        return awaited

    @override
    def throw(self, *given: Any) -> Any:
        awaited = self._work.throw(*given)
        self._watching.suspended()
        return awaited

    @override
    def close(self) -> None:
        self._work.close()

    @override
    def __await__(self) -> Any:
        return self._work.__await__()
