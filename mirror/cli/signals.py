"""Run a coroutine so that Ctrl-C and SIGTERM end it in order."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")
_BY_SIGNAL = 128


def run(work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` gives; a signal cancels it and exits with 128 + its number."""
    caught: list[signal.Signals] = []

    async def guarded() -> T:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()

        def cancel(number: signal.Signals) -> None:
            caught.append(number)
            task.cancel()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, cancel, number)
        return await task

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError as exc:
        raise typer.Exit(_BY_SIGNAL + (caught or [signal.SIGTERM])[0]) from exc
