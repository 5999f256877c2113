"""archive-mirror in processes of its own, beside a simulated VMS in this one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from typing_extensions import override

from mirror.simulator.exports import stamp
from tests.proof.checker import Checker, Offered
from tests.site import IMPATIENT, Site
from tests.warm_command import ForkServer

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator

    from mirror.simulator import Export, Vms

_AT_START = 0.15


class Reports(asyncio.Protocol):
    """What the fork server reports of one process.

    Attributes:
        pid: Future of its process id.
        code: Future of its exit code; negative is the signal that ended it.
        ended: Whether it has ended.
        peak_bytes: The most memory it had, once it has ended.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.pid: asyncio.Future[int] = loop.create_future()
        self.code: asyncio.Future[int] = loop.create_future()
        self.ended = False
        self.peak_bytes = 0
        self._text = b""

    @override
    def data_received(self, data: bytes) -> None:
        self._text += data
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            number, *peak_kib = map(int, line.split())
            self.ended = bool(peak_kib)
            self.peak_bytes = sum(peak_kib) * 1024
            future = self.code if self.ended else self.pid
            if not future.done():
                future.set_result(number)


@dataclass(slots=True)
class Child:
    """One process of the mirror.

    Attributes:
        out: File with its standard output.
        err: File with its log, JSON lines.
    """

    pid: int
    reports: Reports
    out: Path
    err: Path

    @property
    def code(self) -> asyncio.Future[int]:
        """Its exit code; negative is the signal that ended it."""
        return self.reports.code

    @property
    def peak_bytes(self) -> int:
        """The most memory it had, once it has ended."""
        return self.reports.peak_bytes

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if not self.reports.ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

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
        events: list[dict[str, Any]] = []
        if self.err.exists():
            for line in self.err.read_text("utf-8", "replace").splitlines():
                with contextlib.suppress(ValueError):
                    events.append(json.loads(line))
        return events


class Processes:
    """Starts processes of the mirror."""

    def __init__(self, server: ForkServer) -> None:
        self._server = server
        self._children: list[Child] = []
        self._count = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, *, preload: Path | None = None) -> AsyncIterator[Self]:
        """Make ready to start them; at the end all are killed.

        Args:
            preload: A library for all processes.
        """
        with contextlib.closing(ForkServer(preload)) as server:
            processes = cls(server)
            try:
                yield processes
            finally:
                for child in processes._children:
                    child.send(signal.SIGKILL)

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
            plant: Bugs to plant in it.
        """
        self._count += 1
        out, err = folder / f"{self._count}.out", folder / f"{self._count}.log"
        with contextlib.ExitStack() as stack:
            streams = [
                stack.enter_context(path.open(mode)).fileno()
                for path, mode in ((Path(os.devnull), "rb"), (out, "wb"), (err, "ab"))
            ]
            fd = self._server.start(
                [*argv, "--log-format", "json"],
                streams,
                env=os.environ | (env or {}),
                plant=plant or "",
            )
        _, reports = await asyncio.get_running_loop().connect_read_pipe(
            Reports, os.fdopen(fd, "rb")
        )
        child = Child(await reports.pid, reports, out, err)
        self._children.append(child)
        return child

    async def run(self, *argv: str, folder: Path, **more: Any) -> Child:
        """Start it and wait until it has ended."""
        child = await self.start(*argv, folder=folder, **more)
        await child.code
        return child


@dataclass(slots=True)
class CheckedMirror:
    """One mirror of one simulated VMS, judged by the checker.

    Attributes:
        logs: Folder for what the processes print.
    """

    vms: Vms
    site: Site
    processes: Processes
    logs: Path
    checker: Checker

    @classmethod
    def make(
        cls,
        folder: Path,
        vms: Vms,
        processes: Processes,
        *,
        kept_in: Path | None = None,
        **source: Any,
    ) -> Self:
        """Return a mirror in a folder; `site.tables` may still be changed.

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
        return cls(vms, site, processes, logs, Checker({"nas": site.archive}))

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
        return await self.processes.start(
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
