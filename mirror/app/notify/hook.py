"""Run the command of `on_event` for each change of state."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE
from typing import TYPE_CHECKING

import structlog

from mirror.app.status import public_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.ledger import Event, LedgerThread
    from mirror.metrics import Metrics

LOOK_S = 1.0
LIMIT_S = 30.0
"""A command that takes longer is killed, with all that it started."""
AT_ONCE = 4
WAITING = 1000
"""More events than these are dropped: of the source with the most, the oldest."""
_ENVIRONMENT = ("PATH", "HOME", "LANG", "TZ")
_log = structlog.get_logger()


class EventHook:
    """Runs a command for each event, once; events wait, though not for ever.

    Sources take turns, so that one with many events delays no other.

    Args:
        command: Its words, the program first; empty is no command.
    """

    def __init__(
        self, command: Sequence[str], *, ledger: LedgerThread, metrics: Metrics
    ) -> None:
        self._command = command
        self._ledger = ledger
        self._metrics = metrics
        self._running: set[asyncio.Task[None]] = set()
        self._failing = False
        self._dropping = False

    async def run(self) -> None:
        """Run commands until cancelled; those that run then are killed."""
        has_command = bool(self._command)
        await self._ledger(lambda ledger: ledger.events.listen(on=has_command))
        if not has_command:
            return
        async with asyncio.TaskGroup() as group:
            while True:
                await self._trim()
                room = AT_ONCE - len(self._running)
                events = await self._ledger(
                    lambda ledger, room: ledger.events.take(room), room
                )
                for event in events:
                    task = group.create_task(self._notify(event), name="notify")
                    self._running.add(task)
                    task.add_done_callback(self._running.discard)
                await asyncio.sleep(LOOK_S)

    async def _trim(self) -> None:
        dropped = await self._ledger(lambda ledger: ledger.events.trim(WAITING))
        if dropped:
            self._metrics.events_ended("dropped", dropped)
            if not self._dropping:
                _log.warning("events.dropped", number=dropped, waiting=WAITING)
        self._dropping = dropped > 0

    async def _notify(self, event: Event) -> None:
        problem = await self._run(json.dumps(public_json.event(event)).encode())
        self._metrics.events_ended("failed" if problem else "told")
        if problem and not self._failing:
            program = self._command[0]
            _log.warning("event.failed", program=program, error=problem)
        self._failing = problem is not None

    async def _run(self, stdin: bytes) -> str | None:
        """Run the command with this input; return the problem, if there was one."""
        environment = {
            name: os.environ[name] for name in _ENVIRONMENT if name in os.environ
        }
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=PIPE,
                stdout=DEVNULL,
                stderr=DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as exc:
            return f"it cannot be started: {exc}"
        try:
            async with asyncio.timeout(LIMIT_S):
                await process.communicate(stdin)
        except TimeoutError:
            return f"it did not end within {LIMIT_S:.0f} s, and was killed"
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await asyncio.shield(process.wait())
        return f"it ended with {process.returncode}" if process.returncode else None
