"""Three days of life, compressed: nothing grows, nothing is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from mirror.ledger import Ledger
from mirror.model import State
from mirror.simulator import Life, Vms
from mirror.simulator.exports import Stage as At
from tests.proof.processes import CheckedMirror, Processes
from tests.proof.resource_probe import ProbedService, Usage

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from mirror.simulator import Export
    from mirror.simulator.faults import Step
    from tests.proof.figures import Figures

KIB, MIB = 1024, 1024 * 1024
HOUR_S = 3600.0
_FULL_BUDGET_S = 4 * HOUR_S
_KEEP_ALIVE_S = 20.0
_WAITING_H = 24.0
_ENOUGH_FOR_A_SLOPE = 48.0
FILE_FAULTS: list[Step] = [
    "cut", "reset", "stall", "empty", "html", "json_page", "no_length",
    "no_length_cut", "chunked", "chunked_cut", "gzip", "status_403", "status_404",
    "status_410", "status_500", "status_503", "busy_429", "busy_503", "redirect",
    "wrong_type", "ignore_range", "wrong_start", "wrong_total", "no_content_range",
    "range_refused", "if_range_full", "weak_etag", "other_etag", "no_validators",
    "truncated_mp4", "no_moov", ("garbage", "ignore_range"), "huge_header",
    "wrong_date",
]  # fmt: skip
"""Garbage as a rest, with the right validators, nobody could tell from the file."""
LIES: set[Step] = {
    "no_length_cut", "truncated_mp4", "no_moov", ("garbage", "ignore_range")
}  # fmt: skip
"""A body like this is kept as doubtful if the file seems gone before another comes."""
LIST_FAULTS = [
    "status_401", "status_422", "status_500", "status_503", "busy_429", "html",
    "empty", "cut", "reset", "truncated_json", "no_data", "data_not_list",
    "deep_json", "duplicate_rows", "insert_row", "delete_row", "string_meta",
    "no_meta", "bad_row", "flip_flags", "endless_pages",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scale:
    """How long a life, and how fast it goes by.

    Attributes:
        speed: Simulated seconds in one.
        restless_hours: In the beginning it is restarted now and then.
    """

    hours: float
    exports: int
    speed: float
    restless_hours: float
    long: bool = False

    def real_s(self, hours: float) -> float:
        """Return how long so many simulated hours last, in seconds."""
        return hours * HOUR_S / self.speed

    def text(self, hours: float) -> str:
        """Return a simulated duration as the configuration has it."""
        return f"{max(1, round(self.real_s(hours) * 1000))}ms"


SHORT = Scale(hours=4, exports=250, speed=320, restless_hours=1.0)
LONG = Scale(hours=72, exports=10_000, speed=160, restless_hours=12, long=True)


@dataclass(slots=True)
class Days:
    """What happens at the VMS, at the targets and to the service, hour by hour.

    Attributes:
        cut_short: Exports that were not offered for their whole lifetime, and when.
        hopeless: Exports whose file gives nothing but errors until the end.
        lying: Exports whose file is not what is sent first.
        quiet_hours: In which nothing new came.
        samples: Of the service since it was last started.
    """

    scale: Scale
    mirror: CheckedMirror
    service: ProbedService
    listen: str
    rng: random.Random
    began: float = field(default_factory=time.monotonic)
    known: dict[int, Export] = field(default_factory=dict)
    cut_short: dict[int, float] = field(default_factory=dict)
    hopeless: set[int] = field(default_factory=set)
    lying: set[int] = field(default_factory=set)
    quiet_hours: float = 0.0
    samples: list[Usage] = field(default_factory=list)
    wal_bytes: int = 0
    happened: Counter[str] = field(default_factory=Counter)
    _last: dict[str, float] = field(default_factory=dict)
    _away: Path | None = None

    @property
    def vms(self) -> Vms:
        """The simulated VMS."""
        return self.mirror.vms

    @property
    def hour(self) -> float:
        """The simulated hours since the beginning."""
        return (time.monotonic() - self.began) * self.scale.speed / HOUR_S

    async def live(self, until: float, *, restless: bool) -> None:
        """Let life go on until that hour."""
        while self.hour < until:
            self._ask()
            for hours, happening in (
                (0.1, self._scrape),
                (0.2, self._sample),
                (0.5, self._trouble_the_list),
                (0.8, self._switch_target),
                (1.2, self._rotate_token),
                (1.3, self._cut_short),
                (1.7, self.reload),
                (self.scale.restless_hours / 5, self._restart),
            ):
                name = happening.__name__
                if happening == self._restart and not restless:
                    continue
                if self.hour - self._last.setdefault(name, self.hour) >= hours:
                    self._last[name] = self.hour
                    self.happened[name.strip("_")] += 1
                    await happening()
            await asyncio.sleep(0.05)

    async def quiet(self, *, last: bool = False) -> Usage:
        """Let all work end while nothing new comes; return what is used then.

        Args:
            last: What could not be had so far can be had now.
        """
        began = self.hour
        await self._switch_target(away=False)
        self.vms.script_list()
        for export in self.vms.exports if last else ():
            self.vms.script(export)
        spared = set() if last else self.cut_short.keys()
        async with asyncio.timeout(max(90.0, self.scale.real_s(10))):
            while (
                self._wanted() - _in_state(self.mirror, State.SAVED) - spared
                or self._undecided()
                or self._being_made()
                or _in_state(self.mirror, State.SPOOLED)
            ):
                self.vms.advance()
                await asyncio.sleep(0.3)
        # No connection is kept alive, for as long as it may or by chance.
        self.vms.script_list(then="no_length")
        # Engines that were let go have no thread left; this one has nothing to do.
        await self._begin_anew()
        await asyncio.sleep(_KEEP_ALIVE_S if self.scale.long else 2)
        await self.metrics()
        looks = [await self._look_soon() for _ in range(6)]
        self.vms.script_list()
        # Nor is what was not asked for meanwhile asked for at once.
        self.quiet_hours += self.hour - began
        return replace(
            looks[-1],
            files=min(each.files for each in looks),
            sockets=min(each.sockets for each in looks),
            tasks=min(each.tasks for each in looks),
        )

    async def _begin_anew(self) -> None:
        """Have another engine, and wait until it has read the list."""
        reloads = len(self.service.events("config.reloaded"))
        await self.reload()
        async with asyncio.timeout(90):
            while len(self.service.events("config.reloaded")) == reloads:
                await asyncio.sleep(0.1)
            sweeps = self._sweeps()
            while self._sweeps() == sweeps:
                await asyncio.sleep(0.1)

    def _sweeps(self) -> int:
        return sum(each["sweep"] for each in self.service.events("list.walked"))

    async def _look_soon(self) -> Usage:
        await asyncio.sleep(0.3)
        return await self.service.look(self.hour)

    def judge(self, listed: list[dict[str, Any]]) -> list[str]:
        """Let the checker judge; return what should have come to an end by now."""
        self._ask()
        rows = {row["id"]: row for row in listed}
        for export_id, export in self.known.items():
            if export_id not in self.cut_short:
                self.mirror.offer(export, must=export.stage is not At.ASKED)
            elif export_id in rows:
                self.mirror.offer(export, must=False)
        self.mirror.checker.settle(listed)
        return [
            f"cut short at {hour:.1f} of {self.hour:.1f} h: {rows[export_id]}"
            for export_id, hour in self.cut_short.items()
            if export_id in rows
            and rows[export_id]["state"] not in {"saved", "lost", "unavailable"}
            and self.hour - hour > _decided_within(rows[export_id])
        ]

    def _wanted(self) -> set[int]:
        """Return the exports that have a file now."""
        return {e.export_id for e in self.vms.exports if e.stage is At.MADE}

    def _being_made(self) -> bool:
        """Return whether a file is still to come."""
        return any(e.stage is At.ASKED and e.due_at for e in self.vms.exports)

    def _undecided(self) -> set[int]:
        """Return the exports that nobody could fetch and that are not called lost."""
        deleted = {e.export_id for e in self.vms.exports if e.stage is At.DELETED}
        ended = _in_state(self.mirror, State.LOST) | _in_state(self.mirror, State.SAVED)
        return (self.hopeless & deleted) - ended

    def _ask(self) -> None:
        """Let as many exports be asked for as should have been by now."""
        self.vms.advance()
        lived = self.hour - self.quiet_hours
        wanted = self.scale.exports * lived / self.scale.hours
        while len(self.known) < min(wanted, self.scale.exports):
            hopeless = len(self.known) < 2 or self.rng.random() < 0.005
            # Not one twice: of two bodies that are alike the second is believed.
            number = 0 if hopeless else self.rng.choice([0, 0, 0, 1, 2])
            steps = self.rng.sample(FILE_FAULTS, k=number)
            steps.sort(key=LIES.__contains__)
            size = self.rng.randint(40 * KIB, 110 * KIB)
            export = self.vms.add(
                stage=At.ASKED,
                size=size,
                faults=steps,
                then="status_500" if hopeless else None,
            )
            self.known[export.export_id] = export
            if not LIES.isdisjoint(steps):
                self.lying.add(export.export_id)
            if hopeless:
                self.hopeless.add(export.export_id)
                self.cut_short[export.export_id] = self.hour
        listed = {export.export_id: export for export in self.vms.exports}
        self.known |= listed
        for export_id in self.known.keys() - listed.keys():
            if self.known[export_id].stage is not At.DELETED:
                self.cut_short.setdefault(export_id, self.hour)

    async def _cut_short(self) -> None:
        """Delete files and rows too early; make files again; shrink the list."""
        exports = self.vms.exports
        for export in exports:
            self.known.setdefault(export.export_id, export)
            over = export.stage is At.DELETED
            if over and self.rng.random() < 0.05:
                self.vms.remove_row(export)
            elif over and self.rng.random() < 0.01:
                self.vms.make_file(export)
                if export.export_id in self.cut_short:
                    self.cut_short[export.export_id] = self.hour
            elif over or export.export_id in self.lying:
                continue
            elif self.rng.random() < 0.04:
                self.cut_short[export.export_id] = self.hour
                if self.rng.random() < 0.5:
                    self.vms.remove_row(export)
                elif export.stage is At.MADE:
                    self.vms.delete_file(export)
                else:
                    export.due_at = None

    async def _trouble_the_list(self) -> None:
        there = {e.export_id for e in self.vms.exports if e.stage is not At.DELETED}
        held = self.lying & there - _in_state(self.mirror, State.SAVED)
        faults = [each for each in LIST_FAULTS if each != "flip_flags" or not held]
        self.vms.script_list(*self.rng.choices(faults, k=self.rng.randint(1, 3)))

    async def _rotate_token(self) -> None:
        self.vms.token = f"token-{self.rng.random()}"
        await asyncio.sleep(self.scale.real_s(0.05))
        (self.mirror.site.folder / "token").write_text(self.vms.token)

    async def reload(self) -> None:
        """Change the configuration."""
        transfer = self.mirror.site.tables["transfer"]
        transfer["concurrency"] = 24 - transfer.get("concurrency", 16)
        self.mirror.config()
        self.service.hang_up()

    async def _switch_target(self, *, away: bool | None = None) -> None:
        """Take a target away, or give it back."""
        if self._away is not None:
            self._away.with_suffix(".away").rename(self._away)
            self._away = None
        elif away is None:
            self._away = self.rng.choice(list(self.mirror.checker.roots.values()))
            self._away.rename(self._away.with_suffix(".away"))

    async def _restart(self) -> None:
        number = self.rng.choice([signal.SIGTERM, signal.SIGKILL])
        code = await self.service.stop(number)
        assert code in {0, -signal.SIGKILL}, self.service.tail()
        await self.service.start()
        self.samples.clear()

    async def _sample(self) -> None:
        self.samples.append(await self.service.look(self.hour))
        wal = self.mirror.site.folder / "state" / "ledger.sqlite3-wal"
        with contextlib.suppress(FileNotFoundError):
            self.wal_bytes = max(self.wal_bytes, wal.stat().st_size)

    async def _scrape(self) -> None:
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            await self.metrics()

    async def metrics(self) -> dict[str, float]:
        """Read the metrics, as Prometheus would."""
        timeout = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with session.get(f"http://{self.listen}/metrics") as response:
                lines = (await response.text()).splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


def _decided_within(row: dict[str, Any]) -> float:
    """Return the hours that hold its end: a deadline or the limit, and two sweeps."""
    return (_WAITING_H if row["reason"] == "no_file_yet" else 8) + 4


def _in_state(mirror: CheckedMirror, state: State) -> set[int]:
    ledger = Ledger.read(mirror.site.folder / "state")
    try:
        return {export.export_id for export in ledger.by_state(state)}
    finally:
        ledger.close()


def slope(samples: list[Usage]) -> float:
    """Return by how much memory grows, in bytes a day, as the best line has it."""
    line = statistics.linear_regression(
        [each.hour / 24 for each in samples], [each.resident for each in samples]
    )
    return line.slope


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def _days(folder: Path, scale: Scale, rng: random.Random) -> AsyncIterator[Days]:
    """Start the service, beside a VMS that lives."""
    life = Life(
        generation_delay=timedelta(minutes=4),
        file_lifetime=timedelta(hours=3),
        cleanup_interval=timedelta(minutes=10),
        speed=scale.speed,
    )
    async with Processes.open() as processes, Vms(life=life, other_origin=False) as vms:
        mirror = CheckedMirror.make(
            folder,
            vms,
            processes,
            poll_interval=scale.text(1 / 15),
            sweep_interval=scale.text(2),
            lookback=scale.text(4),
            file_lifetime=scale.text(3),
            waiting_limit=scale.text(_WAITING_H),
            # By its headers a lie is the file.
            second_look=False,
            per_page=500,
        )
        mirror.add_target("vault")
        listen = f"127.0.0.1:{_free_port()}"
        mirror.site.tables["http"]["listen"] = listen
        mirror.site.tables["transfer"] = {
            "retry_initial": scale.text(5 / HOUR_S),
            "retry_max": scale.text(1 / 6),
            "stall_timeout": "1s",
            "first_byte_timeout": "1s",
            "concurrency": 16,
        }
        service = ProbedService(mirror.logs, mirror.config())
        await service.start()
        # What is lost of later exports counts as lost by us.
        await service.wait_for('"sweep": true')
        try:
            yield Days(scale, mirror, service, listen, rng)
        finally:
            if service.process is not None and service.process.returncode is None:
                await service.stop(signal.SIGKILL)


@pytest.mark.timeout(0)
async def test_a_long_life(tmp_path, figures: Figures):
    """All that was offered long enough is kept, each loss is counted, nothing grows.

    In the long form as much of 72 hours as its time allows.
    """
    scale = SHORT
    if figures.total_s is not None:
        share = min(1.0, figures.total_s / _FULL_BUDGET_S)
        scale = replace(
            LONG,
            hours=LONG.hours * share,
            exports=round(LONG.exports * share),
            restless_hours=LONG.restless_hours * share,
        )
    async with _days(tmp_path, scale, figures.round(0)) as days:
        await _live_and_judge(days, partial(figures.record, 11))


async def _live_and_judge(days: Days, record: Callable[..., None]) -> None:
    scale = days.scale
    await days.live(scale.restless_hours, restless=True)
    before = await days.quiet()
    days.samples.clear()
    await days.live(scale.hours + days.quiet_hours, restless=False)
    samples = days.samples.copy()
    after = await days.quiet(last=True)
    metrics = await days.metrics()
    assert await days.service.stop() == 0
    listed = await days.mirror.listed()
    undecided = days.judge(listed)
    counted = sum(
        value for name, value in metrics.items() if "exports_lost_total{" in name
    )
    lost = sum(row["state"] == "lost" for row in listed)
    ledger = (days.mirror.site.folder / "state" / "ledger.sqlite3").stat().st_size
    settled = [each for each in samples if each.hour > scale.hours / 3]
    record(
        hours=round(scale.hours, 1),
        exports=len(listed),
        saved=sum(row["state"] == "saved" for row in listed),
        lost=lost,
        counted=round(counted),
        breaks=len(days.mirror.checker.breaks),
        before=before,
        after=after,
        mib_a_day=round(slope(settled) / MIB, 2),
        ledger_mib=round(ledger / MIB, 1),
        wal_mib=round(days.wal_bytes / MIB, 1),
        happened=dict(days.happened),
    )

    assert days.mirror.checker.breaks == []
    assert undecided == []
    assert counted >= lost >= 1
    assert counted == len(days.service.events("export.lost"))
    assert after.files <= before.files
    assert after.tasks <= before.tasks
    assert after.threads.pop("spool", 0) <= 16
    before.threads.pop("spool", None)
    assert Counter(after.threads) <= Counter(before.threads)
    assert ledger < 4 * MIB + 6 * KIB * len(listed)
    assert days.wal_bytes < 32 * MIB
    if scale.long:
        assert after.sockets <= before.sockets
    if scale.hours > _ENOUGH_FOR_A_SLOPE:
        assert slope(settled) < MIB, settled
    else:
        assert samples[-1].resident - samples[0].resident < 12 * MIB
