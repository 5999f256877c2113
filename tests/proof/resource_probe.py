"""The service in a process of its own, and what that process uses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KIB = 1024
_PROJECT = Path(__file__).parents[2]
_PROBE = """
import asyncio, collections, json, os, signal, sys, threading
from mirror import cli

def tell(*_):
    path = os.environ["PROBE"]
    names = (each.name.rpartition("_")[0] for each in threading.enumerate())
    said = {"tasks": len(asyncio.all_tasks()), "threads": collections.Counter(names)}
    with open(path + ".new", "w") as file:
        json.dump(said, file)
    os.replace(path + ".new", path)

signal.signal(signal.SIGUSR2, tell)
cli.main(sys.argv[1:])
"""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the process used at one moment; `hour` is simulated.

    Attributes:
        resident: Bytes of memory of its own.
        files: Descriptors that are no sockets.
        threads: But for those that asyncio keeps for all.
    """

    hour: float
    resident: int
    files: int
    sockets: int
    tasks: int
    threads: dict[str, int]


@dataclass(slots=True)
class ProbedService:
    """The service in an interpreter of its own, that says how many tasks it has."""

    folder: Path
    config: str
    process: asyncio.subprocess.Process | None = None
    starts: int = 0

    async def start(self) -> None:
        """Start it."""
        self.starts += 1
        with (self.folder / f"{self.starts}.log").open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _PROBE, "run", "-c", self.config),
                *("--log-format", "json"),
                cwd=_PROJECT,
                env={**os.environ, "PROBE": str(self.folder / "probe")},
                stdout=log,
                stderr=log,
            )
        await self.wait_for("service.started")

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it."""
        assert self.process is not None
        self.process.send_signal(number)
        async with asyncio.timeout(60):
            return await self.process.wait()

    def hang_up(self) -> None:
        """Let it read its configuration again."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    async def look(self, hour: float) -> Usage:
        """Return what it uses now."""
        assert self.process is not None
        probe, proc = self.folder / "probe", Path(f"/proc/{self.process.pid}")
        probe.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR2)
        async with asyncio.timeout(30):
            while not probe.exists():
                assert self.process.returncode is None, self.tail()
                await asyncio.sleep(0.01)
        said = json.loads(probe.read_text())
        status = (proc / "status").read_text().splitlines()
        line = next(each for each in status if each.startswith("RssAnon:"))
        opened = [_leads_to(each) for each in (proc / "fd").iterdir()]
        sockets = sum(each.startswith("socket:") for each in opened)
        return Usage(
            hour=hour,
            resident=int(line.split()[1]) * KIB,
            files=len(opened) - sockets,
            sockets=sockets,
            tasks=said["tasks"],
            threads={k: v for k, v in said["threads"].items() if k != "asyncio"},
        )

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of a name, of all its lives."""
        found = []
        for number in range(1, self.starts + 1):
            for line in (self.folder / f"{number}.log").read_text().splitlines():
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if event.get("event") == name:
                        found.append(event)
        return found

    def tail(self) -> str:
        """Return the end of its last log."""
        return (self.folder / f"{self.starts}.log").read_text()[-3000:]

    async def wait_for(self, event: str) -> None:
        """Wait until its last log has this text."""
        path = self.folder / f"{self.starts}.log"
        async with asyncio.timeout(60):
            while event not in path.read_text():
                assert self.process is not None
                assert self.process.returncode is None, path.read_text()[-3000:]
                await asyncio.sleep(0.02)


def _leads_to(descriptor: Path) -> str:
    with contextlib.suppress(OSError):
        return str(descriptor.readlink())
    return "socket: closed just now"
