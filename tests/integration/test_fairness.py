"""One that is bad in any way costs those beside it nothing."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from mirror.ledger import Filter, Ledger
from mirror.model import State
from mirror.pipeline.spool import reservation
from mirror.simulator import Behaviour, Vms, fault
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from mirror.app.service import Service
    from mirror.model import Export
    from mirror.pipeline.engine import Engine

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
SIZE = 40_000


class Disk:
    """A small disk that the spool believes to lie on.

    Attributes:
        overflows: How often more was written than it holds.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        self.taken = 0
        self.overflows = 0

    def used(self) -> int:
        used = self.taken
        for path in self.folder.glob("*.part"):
            with contextlib.suppress(FileNotFoundError):
                used += path.stat().st_size
        return used

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        write, real = os.pwritev, os.fstatvfs

        def fstatvfs(fd: int) -> Any:
            if self.folder != Path(f"/proc/self/fd/{fd}").readlink().parent:
                return real(fd)
            free = max(0, self.size - self.used())
            return SimpleNamespace(
                f_blocks=self.size // KIB, f_frsize=KIB, f_bavail=free // KIB
            )

        def pwritev(fd: int, buffers: Any, offset: int) -> int:
            more = sum(len(one) for one in buffers)
            if self.used() + more > self.size:
                self.overflows += 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(fd, buffers, offset)

        monkeypatch.setattr(os, "fstatvfs", fstatvfs)
        monkeypatch.setattr(os, "pwritev", pwritev)


def site_of(
    folder: Path, first: Vms, others: dict[str, Vms] | None = None, **source: Any
) -> Site:
    """Return a site with a source `hq` and others, each at a VMS of its own."""
    site = Site.make(folder, first, **source)
    # No healthy file ends by it, however busy the machine is.
    site.tables["transfer"]["stall_timeout"] = "30s"
    for name, vms in (others or {}).items():
        (folder / f"token-{name}").write_text(vms.token)
        site.tables["sources"][name] = site.tables["sources"]["hq"] | {
            "url": vms.url,
            "token_file": str(folder / f"token-{name}"),
        }
    return site


@contextlib.asynccontextmanager
async def servers(number: int) -> AsyncIterator[list[Vms]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(Vms(other_origin=False))
            for _ in range(number)
        ]


async def engine_of(site: Site, service: Service) -> Engine:
    """Wait until the service has its parts."""
    await site.until(lambda: service.engine is not None)
    assert service.engine is not None
    return service.engine


def of(site: Site, source: str) -> list[Export]:
    return exports(site, source=source)


def exports(site: Site, **wanted: Any) -> list[Export]:
    """Return what the ledger has, or what of it a `Filter` of that shows."""
    ledger = Ledger.read(site.settings().state_dir)
    try:
        return [one for one, _ in ledger.queries.exports(Filter(**wanted))]
    finally:
        ledger.close()


async def saved(site: Site, sources: Iterable[str], files: int) -> list[Export]:
    """Wait until each of these sources has so many files saved; return those."""
    wanted = set(sources)

    def kept() -> list[Export]:
        return [
            one
            for name in wanted
            for one in exports(site, source=name, states=(State.SAVED,))
        ]

    await site.until(lambda: len(kept()) >= files * len(wanted), 90)
    return kept()


@pytest.mark.parametrize("concurrency", [4, 1])
async def test_files_that_never_answer_stop_only_themselves(tmp_path, concurrency):
    """What has just timed out yields; concurrency does not fall."""
    async with servers(1) as (vms,):
        site = site_of(tmp_path, vms, concurrency=concurrency)
        site.tables["transfer"]["first_byte_timeout"] = "1s"
        mute = [vms.add(size=SIZE, then="hang") for _ in range(3)]
        for _ in range(40):
            vms.add(size=SIZE)
        async with site.service() as service:
            good = await saved(site, ["hq"], 40)
            engine = await engine_of(site, service)
            await site.until(lambda: max(site.export(o).timeouts for o in mute) > 1)
            allowed = engine.pool.sources["hq"].limit.allowed
            assert service.health is not None
            told = [one["text"] for one in (await service.health.status())["concerns"]]

    assert {one.attempts for one in good} == {1}
    assert allowed == concurrency
    assert any("of source hq do" in text and "not answer" in text for text in told)
    assert all(site.export(one).state is not State.SAVED for one in mute)


@pytest.mark.parametrize(("hostile", "concurrency"), [(4, 4), (1, 16)])
async def test_sources_that_drip_stop_only_themselves(tmp_path, hostile, concurrency):
    """A source with work and none running may always start one."""
    async with servers(hostile + 1) as (well, *ill):
        site = site_of(tmp_path, well, {f"ill{n}": v for n, v in enumerate(ill)})
        for number, vms in enumerate(ill):
            site.tables["sources"][f"ill{number}"]["concurrency"] = concurrency
            for _ in range(concurrency):
                vms.add(size=SIZE, then=fault("drip", seconds=0.2))
        async with site.service() as service:
            engine = await engine_of(site, service)
            await site.until(lambda: engine.pool.running == 16)
            for _ in range(3):
                well.add(size=SIZE)
            good = await saved(site, ["hq"], 3)

    assert {one.attempts for one in good} == {1}


async def test_files_that_drip_stop_only_themselves(tmp_path):
    """They hold each slot of their source, and give it to what was not tried."""
    async with servers(1) as (vms,):
        site = site_of(tmp_path, vms)
        for _ in range(4):
            vms.add(size=SIZE, then=fault("drip", seconds=0.05))
        async with site.service() as service:
            engine = await engine_of(site, service)
            engine.pool.patience_s = 0.3
            await site.until(lambda: engine.pool.running == 4)
            for _ in range(6):
                vms.add(size=SIZE)
            good = await saved(site, ["hq"], 6)

    assert {one.attempts for one in good} == {1}


async def test_a_size_that_never_fits_is_that_files_fault(tmp_path, monkeypatch):
    """No other source is held up, nor the rest of its own."""
    disk = Disk(tmp_path / "spool", 20 * MIB)
    disk.patch(monkeypatch)
    async with servers(2) as (well, ill):
        site = site_of(tmp_path, well, {"ill": ill})
        site.tables["spool_dir"] = str(disk.folder)
        site.tables["transfer"] |= {"retry_initial": "2s", "retry_max": "60s"}
        for _ in range(8):
            ill.add(size=40 * GIB, then=fault("stall", at=1000))
        for _ in range(5):
            well.add(size=SIZE)
            ill.add(size=SIZE)
        async with site.service():
            good = await saved(site, ["hq", "ill"], 5)

    assert {one.attempts for one in good} == {1}


async def test_the_spool_does_not_fill_with_its_own_parts(tmp_path, monkeypatch):
    """Six files through a spool that holds fewer; each is asked for once or twice."""
    disk = Disk(tmp_path / "spool", 10 * MIB)
    disk.patch(monkeypatch)
    async with servers(1) as (vms,):
        site = site_of(tmp_path, vms, concurrency=6)
        site.tables["spool_dir"] = str(disk.folder)
        served = [vms.add(size=2_500_000) for _ in range(6)]
        async with site.service():
            await saved(site, ["hq"], 6)
        requests = sum(len(vms.file_requests(one)) for one in served)

    assert disk.overflows == 0
    assert requests <= 12


async def test_a_full_spool_asks_the_vms_for_nothing(tmp_path, monkeypatch):
    """Room is made sure of before a request."""
    disk = Disk(tmp_path / "spool", 10 * MIB)
    disk.taken = disk.size
    disk.patch(monkeypatch)
    async with servers(1) as (vms,):
        site = site_of(tmp_path, vms)
        site.tables["spool_dir"] = str(disk.folder)
        served = vms.add(size=SIZE)
        async with site.service():
            await site.until(lambda: any(one.last_error for one in of(site, "hq")))
        requests = len(vms.file_requests(served))

    assert "room" in (site.export(served).last_error or "")
    assert requests == 0


async def test_parts_that_fill_the_spool_give_way(tmp_path, monkeypatch):
    """The nearest deadline that can then finish gets the room of the latest."""
    disk = Disk(tmp_path / "spool", 10 * MIB)
    async with servers(1) as (vms,):
        site = site_of(tmp_path, vms)
        site.tables["spool_dir"] = str(disk.folder)
        cut = fault("cut", at=2_450_000)
        served = [vms.add(size=4_000_000, then=cut) for _ in range(4)]
        async with site.service():
            await site.until(
                lambda: sum(one.part_bytes > 2_400_000 for one in exports(site)) == 4
            )
        disk.patch(monkeypatch)
        for one in served:
            one.script.write([])
        before = sum(len(vms.file_requests(one)) for one in served)
        async with site.service():
            await saved(site, ["hq"], 4)
        requests = sum(len(vms.file_requests(one)) for one in served) - before

    assert disk.overflows == 0
    assert requests <= 10


async def test_files_larger_than_their_share_of_the_spool_take_turns(
    tmp_path, monkeypatch
):
    """Four begin that do not fit together; the later ones give way while they run."""
    monkeypatch.setattr(reservation, "LEAST_BYTES", 256 * KIB)
    monkeypatch.setattr(reservation, "SPAN_S", 0.1)
    disk = Disk(tmp_path / "spool", 10 * MIB)
    disk.patch(monkeypatch)
    async with servers(1) as (vms,):
        vms.behaviour = Behaviour(rate=2_000_000)
        site = site_of(tmp_path, vms)
        site.tables["spool_dir"] = str(disk.folder)
        served = [vms.add(size=4_000_000) for _ in range(4)]
        async with site.service():
            await saved(site, ["hq"], 4)
        requests = sum(len(vms.file_requests(one)) for one in served)

    assert disk.overflows == 0
    assert requests <= 20


async def test_a_source_that_fills_the_disk_leaves_room_for_others(
    tmp_path, monkeypatch
):
    """With its target away its whole files stay; half the spool is its share."""
    disk = Disk(tmp_path / "spool", 24 * MIB)
    disk.patch(monkeypatch)
    async with servers(2) as (well, ill):
        site = site_of(tmp_path, well, {"ill": ill})
        site.tables["spool_dir"] = str(disk.folder)
        site.tables["targets"]["nas"]["mount"] = True
        mute = [well.add(size=SIZE, then="hang") for _ in range(1)]
        for _ in range(30):
            ill.add(size=2_000_000)
        async with site.service() as service:
            engine = await engine_of(site, service)
            await site.until(lambda: engine.pool.spool_failures > 3, 60)
            for _ in range(5):
                well.add(size=SIZE)
            await site.until(
                lambda: sum(o.state is State.SPOOLED for o in of(site, "hq")) == 5
            )

    assert mute
    assert disk.overflows == 0
    assert {o.attempts for o in of(site, "hq") if o.state is State.SPOOLED} == {1}
