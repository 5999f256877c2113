"""Counts what an export costs: things that a faster machine does not change."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from mirror.simulator import Vms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KINDS = ("hops", "commits", "fsyncs", "opens", "tasks")
_current: Counter[str] | None = None
_ignored: set[int] = set()


def _count(kind: str) -> None:
    if _current is not None and threading.get_ident() not in _ignored:
        _current[kind] += 1


def _audit(event: str, _: tuple[Any, ...]) -> None:
    if event == "open":
        _count("opens")


def _connected(real: Callable[..., Any]) -> Callable[..., Any]:
    def connect(*given: Any, **more: Any) -> Any:
        connection = real(*given, **more)
        connection.set_trace_callback(_traced)
        return connection

    return connect


def _traced(statement: str) -> None:
    if statement == "COMMIT":
        _count("commits")


sys.addaudithook(_audit)


@contextlib.contextmanager
def counting() -> Iterator[Counter[str]]:
    """Count in this process, from now to the end of the block, by `KINDS`.

    A hop is a call that another thread is given; a commit one of a connection that is
    opened meanwhile; SQLite's own files and flushes are not seen. Tasks are those of
    the running loop.
    """
    global _current  # noqa: PLW0603 -- an audit hook cannot be taken away
    loop = asyncio.get_running_loop()
    counts: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        for owner, name, kind in (
            (ThreadPoolExecutor, "submit", "hops"),
            (os, "fsync", "fsyncs"),
            (os, "fdatasync", "fsyncs"),
        ):
            patch.setattr(owner, name, _counted(getattr(owner, name), kind))
        patch.setattr(sqlite3, "connect", _connected(sqlite3.connect))
        loop.set_task_factory(_task)
        _current = counts
        try:
            yield counts
        finally:
            _current = None
            loop.set_task_factory(None)


def _counted(real: Callable[..., Any], kind: str) -> Callable[..., Any]:
    def call(*given: Any, **more: Any) -> Any:
        _count(kind)
        return real(*given, **more)

    return call


def _task(loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> Any:
    _count("tasks")
    return asyncio.Task(coroutine, loop=loop, **more)


@contextlib.contextmanager
def vms_beside(fill: Callable[[Vms], None]) -> Iterator[Vms]:
    """Run a simulated VMS in a thread that does not count."""
    ready, box = threading.Event(), []

    async def serve() -> None:
        _ignored.add(threading.get_ident())
        async with Vms(other_origin=False) as vms:
            fill(vms)
            end = asyncio.Event()
            box.append((vms, asyncio.get_running_loop(), end))
            ready.set()
            await end.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(60)
    vms, loop, end = box[0]
    try:
        yield vms
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(60)
        _ignored.discard(thread.ident or 0)
