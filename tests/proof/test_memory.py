"""Memory: 64 downloads under a control group of 128 MiB, all at once or eight."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sqlite3
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirror.simulator import Vms
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.proof.figures import Figures

MIB = 1024 * 1024
_DOWNLOADS = 64
_LIMIT = 128 * MIB
_BOUND = 96 * MIB
_PROJECT = Path(__file__).parents[2]
_KEPT_HEAD = MIB
_FULL_BUDGET_S = 4 * 3600.0
_PUNCH = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_ENTER = 'echo 0 > "$0" && exec "$@"'


@dataclass(frozen=True, slots=True)
class Group:
    """A memory control group of version 1 or 2; page cache counts in both."""

    path: Path
    version: int

    @classmethod
    @contextlib.contextmanager
    def limited(cls, size_bytes: int) -> Iterator[Group]:
        """Make one with a hard limit; removed at the end, when it is empty."""
        group = cls._made()
        try:
            name = {1: "memory.limit_in_bytes", 2: "memory.max"}[group.version]
            (group.path / name).write_text(str(size_bytes))
            yield group
        finally:
            group.path.rmdir()

    @classmethod
    def _made(cls) -> Group:
        if os.geteuid() != 0:
            pytest.skip("needs root: a control group limits the memory")
        name = f"archive-mirror-proof-{os.getpid()}"
        for line in Path("/proc/mounts").read_text().splitlines():
            _, point, kind, options, *_ = line.split(" ")
            root = Path(point)
            if kind == "cgroup" and "memory" in options.split(","):
                (root / name).mkdir()
                return cls(root / name, 1)
            if kind == "cgroup2":
                offered = (root / "cgroup.controllers").read_text().split()
                if "memory" in offered:
                    (root / "cgroup.subtree_control").write_text("+memory")
                    (root / name).mkdir()
                    return cls(root / name, 2)
        pytest.skip("needs a kernel with the memory controller of control groups")

    def kills(self) -> int:
        """Return how many processes the kernel has ended for want of memory."""
        name = {1: "memory.oom_control", 2: "memory.events"}[self.version]
        lines = (self.path / name).read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])

    def anonymous(self) -> int:
        """Return the bytes that are no page cache."""
        lines = (self.path / "memory.stat").read_text().splitlines()
        found = dict(line.split() for line in lines)
        return int(found[{1: "total_rss", 2: "anon"}[self.version]])

    def peak(self) -> int:
        """Return the most bytes ever charged, page cache included."""
        name = {1: "memory.max_usage_in_bytes", 2: "memory.peak"}[self.version]
        return int((self.path / name).read_text())


@dataclass(slots=True)
class Watch:
    """What one process came to use.

    Attributes:
        peak: Of its resident memory, in bytes, as the kernel kept it (VmHWM).
        anonymous: The most seen of the group that is no page cache.
    """

    process: asyncio.subprocess.Process
    group: Group
    peak: int = 0
    anonymous: int = 0

    def look(self) -> bool:
        """Look once; tell whether the process is still there."""
        with contextlib.suppress(OSError, StopIteration):
            status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
            line = next(each for each in status if each.startswith("VmHWM:"))
            self.peak = max(self.peak, int(line.split()[1]) * 1024)
        self.anonymous = max(self.anonymous, self.group.anonymous())
        return self.process.returncode is None


@contextlib.asynccontextmanager
async def _running(
    site: Site, group: Group, *, plant: str = ""
) -> AsyncIterator[Watch]:
    """Run the service in the group, in an interpreter of its own."""
    site.settings()
    program = ["tests.proof.planted_bugs.plant", plant]
    with (site.folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", _ENTER, str(group.path / "cgroup.procs")),
            *(sys.executable, "-m", *program, "run", "-c"),
            str(site.folder / "archive-mirror.toml"),
            cwd=_PROJECT,
            stdout=log,
            stderr=log,
        )
        watch = Watch(process, group)
        try:
            yield watch
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(30):
                    await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()


@dataclass(slots=True)
class Puncher:
    """Gives back the disk behind what the ledger calls durable.

    It stands in for a disk of 256 GiB. The mirror has written and flushed these
    bytes; they are not read again unless a transfer breaks off.
    """

    site: Site
    punched_bytes: int = 0
    _done: dict[Path, int] = field(default_factory=dict)
    _libc: ctypes.CDLL = field(default_factory=lambda: ctypes.CDLL(None))

    def punch(self) -> None:
        """Punch once; blocking."""
        spool = self.site.archive / ".archive-mirror" / "spool"
        for export_id, _, durable in _ledger(self.site, "fetching"):
            for path in spool.glob(f"hq-{export_id}-*.part"):
                begin = self._done.get(path, _KEPT_HEAD)
                length = (durable - begin) // MIB * MIB
                if length <= 0:
                    continue
                with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
                    failed = self._libc.fallocate(
                        file.fileno(),
                        _PUNCH,
                        ctypes.c_int64(begin),
                        ctypes.c_int64(length),
                    )
                    assert not failed, "this file system cannot punch holes"
                    self._done[path] = begin + length
                    self.punched_bytes += length


def _ledger(site: Site, state: str) -> list[tuple[int, str, int]]:
    """Return id, digest and durable bytes of the exports in a state."""
    path = site.folder / "state" / "ledger.sqlite3"
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
        try:
            return connection.execute(
                "SELECT export_id, sha256, part_bytes FROM exports WHERE state = ?",
                (state,),
            ).fetchall()
        except sqlite3.OperationalError:
            return []


def _site(folder: Path, vms: Vms, at_once: int = _DOWNLOADS) -> Site:
    site = Site.make(
        folder, vms, concurrency=at_once, poll_interval="5s", sweep_interval="60s"
    )
    site.tables["transfer"] |= {"concurrency": at_once, "stall_timeout": "120s"}
    return site


def _certified(folder: Path) -> ssl.SSLContext:
    """Make a certificate for the loopback address; return what shows it."""
    key, certificate = folder / "vms.key", folder / "vms.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-keyout", str(key), "-out", str(certificate), "-subj", "/CN=vms",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def _mirrored(
    folder: Path,
    size_bytes: int,
    *,
    tls: bool = False,
    punches: bool = False,
    at_once: int = _DOWNLOADS,
) -> dict[str, object]:
    """Mirror all files under the limit; return the figures."""
    context = _certified(folder) if tls else None
    async with Vms(other_origin=False, ssl_context=context) as vms:
        served = [vms.add(size=size_bytes) for _ in range(_DOWNLOADS)]
        site = _site(folder, vms, at_once)
        if tls:
            site.tables["sources"]["hq"]["tls"] = {"ca_file": str(folder / "vms.pem")}
        puncher = Puncher(site)
        began = time.monotonic()
        with Group.limited(_LIMIT) as group:
            async with _running(site, group) as watch:
                while len(_ledger(site, "saved")) < _DOWNLOADS:
                    assert watch.look(), (site.folder / "log").read_text()[-2000:]
                    if punches:
                        await asyncio.to_thread(puncher.punch)
                    await asyncio.sleep(0.5)
                watch.look()
            kills, charged = group.kills(), group.peak()
        took_s = time.monotonic() - began
        digests = {number: sha256 for number, sha256, _ in _ledger(site, "saved")}
        checked = served[:: len(served) // 4] if punches else served
        right = {each.export_id: vms.truth(each).sha256 for each in checked}

        assert kills == 0
        assert watch.process.returncode == 0
        assert vms.journal.peak_in_flight == at_once
        assert vms.journal.counters["bytes"] >= _DOWNLOADS * size_bytes
        assert {number: digests[number] for number in right} == right
        assert watch.peak < _BOUND, f"{watch.peak / MIB:.1f} MiB resident"
        return {
            "downloads": f"{_DOWNLOADS} x {size_bytes // MIB} MiB",
            "at_once": at_once,
            "kills": kills,
            "resident_peak_mib": round(watch.peak / MIB, 1),
            "without_page_cache_mib": round(watch.anonymous / MIB, 1),
            "group_peak_mib": round(charged / MIB, 1),
            "seconds": round(took_s),
            "punched_gib": round(puncher.punched_bytes / 1024**3, 1),
        }


@pytest.mark.timeout(0)
async def test_many_downloads_take_little_memory(on_disk, figures: Figures):
    """In the long form the files are as large as its time allows, at best 4 GiB."""
    size_bytes = 16 * MIB
    if figures.total_s is not None:
        share = min(1.0, figures.total_s / _FULL_BUDGET_S)
        size_bytes = max(16, round(4096 * share)) * MIB
    reached = await _mirrored(on_disk, size_bytes, punches=True)
    figures.record(10, **reached)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("at_once", [8, 16, _DOWNLOADS])
async def test_many_downloads_over_tls_take_little_memory(
    on_disk, figures: Figures, at_once
):
    """A connection with TLS holds bytes in more places, and few have long batches."""
    reached = await _mirrored(on_disk, 16 * MIB, tls=True, at_once=at_once)
    figures.record(10, **reached)


async def test_a_body_that_is_gathered_whole_is_seen(on_disk):
    """A planted bug keeps each body in memory; the figures show it."""
    async with Vms(other_origin=False) as vms:
        for _ in range(_DOWNLOADS):
            vms.add(size=16 * MIB)
        site = _site(on_disk, vms)
        with Group.limited(_LIMIT) as group:
            async with _running(site, group, plant="hoarded_bodies") as watch:
                async with asyncio.timeout(60):
                    while watch.look() and watch.peak < _BOUND:
                        await asyncio.sleep(0.1)

            assert watch.peak >= _BOUND or group.kills()
