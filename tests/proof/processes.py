"""archive-mirror in processes of its own, beside a simulated VMS in this one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mirror.simulator.exports import stamp
from tests.proof.checker import Checker, Offered
from tests.site import IMPATIENT, Site

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator

    from mirror.simulator import Export, Vms

_AT_START = 0.15
_PROJECT = Path(__file__).parents[2]


@dataclass(slots=True)
class Child:
    """One process of the mirror.

    Attributes:
        code: Future of its exit code; negative is the signal that ended it.
        peaks: Most resident memory in KiB, of each process that has ended.
        out: File with its standard output.
        err: File with its log, JSON lines.
    """

    pid: int
    code: asyncio.Future[int]
    peaks: dict[int, int]
    out: Path
    err: Path

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if not self.code.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    @property
    def peak_bytes(self) -> int:
        """The most memory it had, once it has ended."""
        return self.peaks[self.pid] * 1024

    async def kill(self) -> int:
        """End it as a crash would; return its exit code."""
        self.send(signal.SIGKILL)
        return await self.code

    async def stop(self) -> int:
        """End it as systemd would; return its exit code."""
        self.send(signal.SIGTERM)
        return await self.code

    def events(self) -> list[dict[str, Any]]:
        """Return its log, whole lines only."""
        found: list[dict[str, Any]] = []
        if not self.err.exists():
            return found
        for line in self.err.read_text("utf-8", "replace").splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found


class Nursery:
    """Forks processes of the mirror from an interpreter that has it loaded."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._born: dict[int, asyncio.Future[int]] = {}
        self._codes: dict[int, asyncio.Future[int]] = {}
        self._peaks: dict[int, int] = {}
        self._number = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, *, preload: Path | None = None) -> AsyncIterator[Self]:
        """Start the interpreter; at the end all its processes are killed.

        Args:
            preload: A library for all processes.
        """
        env = dict(os.environ)
        env |= {"LD_PRELOAD": str(preload)} if preload else {}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.proof.fork_server",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=_PROJECT,
            env=env,
        )
        self = cls(process)
        reading = asyncio.create_task(self._read())
        try:
            yield self
        finally:
            for pid, code in self._codes.items():
                if not code.done():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()
            await reading

    async def start(
        self,
        *argv: str,
        folder: Path,
        env: dict[str, str] | None = None,
        plant: str | None = None,
    ) -> Child:
        """Start `archive-mirror` with these arguments.

        Args:
            folder: Takes the files of its output.
            env: More variables of its environment.
            plant: A bug of `plants.PLANTS`.
        """
        self._number += 1
        born = asyncio.get_running_loop().create_future()
        self._born[self._number] = born
        out, err = folder / f"{self._number}.out", folder / f"{self._number}.log"
        order = {
            "number": self._number,
            "argv": [*argv, "--log-format", "json"],
            "env": env or {},
            "out": str(out),
            "err": str(err),
            "plant": plant,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        pid = await born
        return Child(pid, self._codes[pid], self._peaks, out, err)

    async def run(self, *argv: str, folder: Path, **more: Any) -> Child:
        """Start it and wait until it has ended."""
        child = await self.start(*argv, folder=folder, **more)
        await child.code
        return child

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            pid = said["pid"]
            if "code" in said:
                self._peaks[pid] = said["peak_kib"]
                if not self._codes[pid].cancelled():
                    self._codes[pid].set_result(said["code"])
            else:
                self._codes[pid] = asyncio.get_running_loop().create_future()
                born = self._born.pop(said["number"])
                if not born.cancelled():
                    born.set_result(pid)


@dataclass(slots=True)
class Stage:
    """One mirror of one simulated VMS, judged by the checker.

    Attributes:
        logs: Folder for what the processes print.
    """

    vms: Vms
    site: Site
    nursery: Nursery
    logs: Path
    checker: Checker
    _offered: dict[int, Export] = field(default_factory=dict)

    @classmethod
    def make(
        cls,
        folder: Path,
        vms: Vms,
        nursery: Nursery,
        *,
        kept_in: Path | None = None,
        **source: Any,
    ) -> Self:
        """Return a stage in a folder; `site.tables` may still be changed.

        Args:
            kept_in: Takes state and footage, as of a disk that is to fail; by default
                they lie with the configuration.
            source: Keys of the source's table.
        """
        home, logs = folder / "home", folder / "logs"
        home.mkdir()
        logs.mkdir()
        site = Site.make(home, vms, kept_in=kept_in, **source)
        site.tables["transfer"] |= IMPATIENT
        return cls(vms, site, nursery, logs, Checker({"nas": site.archive}))

    def add_target(self, name: str, **more: Any) -> Path:
        """Add a directory target; return its root."""
        root = self.site.archive.parent / name
        self.site.tables["targets"][name] = {
            "type": "directory",
            "path": str(root),
            **more,
        }
        self.checker.roots[name] = root
        return root

    def offer(self, export: Export, *, must: bool = True) -> Export:
        """Tell the checker of an export; again whenever its file changes."""
        truth = self.vms.truth(export)
        self.checker.offer(
            Offered(
                source="hq",
                export_id=export.export_id,
                created_at=stamp(export.created_at),
                hashes=frozenset(sha256 for _, sha256 in truth.versions),
                must=must,
            )
        )
        return export

    def config(self) -> str:
        """Write the configuration; return its path."""
        self.site.settings()
        return str(self.site.folder / "archive-mirror.toml")

    async def start(self, command: str = "run", *more: str, **how: Any) -> Child:
        """Start a command of the mirror."""
        return await self.nursery.start(
            command, "-c", self.config(), *more, folder=self.logs, **how
        )

    async def run(self, command: str, *more: str, **how: Any) -> Child:
        """Run a command of the mirror to its end."""
        child = await self.start(command, *more, **how)
        await child.code
        return child

    async def reach_a_moment(self, rng: random.Random, within_s: float) -> bool:
        """Wait for a random moment of a run; tell whether a file is under way then.

        Args:
            within_s: How long after the first request for a file, at most; now and
                then the moment comes in the first half second of the run.
        """
        asked = self.vms.journal.counters["requests"]

        def under_way() -> bool:
            return any(
                each.kind == "file" and each.ended is None and each.number > asked
                for each in self.vms.requests
            )

        if rng.random() < _AT_START:
            await asyncio.sleep(rng.uniform(0, 0.5))
        else:
            await self.vms.until(under_way)
            await asyncio.sleep(rng.uniform(0, within_s))
        return under_way()

    def hear(self, child: Child) -> None:
        """Tell the checker what a process has said to be saved."""
        for event in child.events():
            if event.get("event") == "export.saved":
                source, export_id = event["export"].split("@")[0].split("/")
                self.checker.acked(source, int(export_id))

    async def listed(self) -> list[dict[str, Any]]:
        """Return the lines of `list --json`."""
        child = await self.run("list", "--json")
        assert child.code.result() == 0, child.err.read_text()
        return [json.loads(line) for line in child.out.read_text().splitlines()]

    async def settle(self) -> None:
        """Let `once` finish all work, then have the checker judge the end."""
        child = await self.run("once")
        self.hear(child)
        if child.code.result() != 0:
            tail = child.err.read_text()[-2000:] + child.out.read_text()[-500:]
            self.checker.breaks.append(f"once ended with {child.code.result()}: {tail}")
        self.checker.settle(await self.listed())
