"""Clocks that jump, that differ, that change for summer, that were asleep."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
import time_machine

from mirror.ledger.copies import Copies
from mirror.ledger.fetch_queue import FetchQueue
from mirror.model import State, from_us, to_us
from mirror.schedule import Schedule
from mirror.simulator import FAULTS, Behaviour, Vms, fault
from mirror.simulator.exports import stamp
from mirror.targets.directory.store import DirectoryStore
from tests.proof.checker import Checker, Offered
from tests.proof.processes import CheckedMirror, Processes
from tests.site import IMPATIENT, Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mirror.simulator import Export as Served
    from tests.proof.figures import Figures

HOUR = timedelta(hours=1)
KIB = 1024
POLL_S = 1.0
SWEEP_S = 3.0
RETRY_S = 0.5
_PATIENCE_S = 40.0
"""Far less than the three hours that a clock put back would take to be right."""


def _true_clock() -> Any:
    """Return a clock that no test puts forward or back."""
    started_at, started = datetime.now(UTC), time.monotonic()
    return lambda: started_at + timedelta(seconds=time.monotonic() - started)


@dataclass(slots=True)
class Work:
    """Counts how often the ledger is asked for work."""

    calls: Counter[str] = field(default_factory=Counter)

    @classmethod
    def watched(cls, monkeypatch: pytest.MonkeyPatch) -> Work:
        """Count from now on."""
        self = cls()
        for owner in (FetchQueue, Copies):
            self._count(monkeypatch, owner)
        return self

    def _count(self, monkeypatch: pytest.MonkeyPatch, owner: Any) -> None:
        real, name = owner.claim, owner.__name__

        def claim(*given: Any, **more: Any) -> Any:
            self.calls[name] += 1
            return real(*given, **more)

        monkeypatch.setattr(owner, "claim", claim)


@dataclass(slots=True)
class World:
    """A VMS whose clock is right, and a mirror whose clock a test sets."""

    vms: Vms
    site: Site
    checker: Checker
    wall: time_machine.Traveller
    work: Work

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        behaviour: Behaviour | None = None,
        **source: Any,
    ) -> AsyncIterator[World]:
        """Set it up in an empty folder."""
        clock = _true_clock()
        with time_machine.travel(clock(), tick=True) as wall:
            async with Vms(clock=clock, behaviour=behaviour, other_origin=False) as vms:
                source = {
                    "poll_interval": f"{POLL_S * 1000:.0f}ms",
                    "sweep_interval": f"{SWEEP_S * 1000:.0f}ms",
                } | source
                site = Site.make(folder, vms, **source)
                site.tables["transfer"] |= IMPATIENT | {
                    "retry_initial": f"{RETRY_S * 500:.0f}ms",
                    "retry_max": f"{RETRY_S * 1000:.0f}ms",
                }
                checker = Checker({"nas": site.archive})
                yield cls(vms, site, checker, wall, Work.watched(monkeypatch))

    def add(self, **more: Any) -> Served:
        """Offer a file."""
        served = self.vms.add(**({"size": 200 * KIB} | more))
        self.checker.offer(
            Offered(
                "hq",
                served.export_id,
                stamp(served.created_at),
                frozenset(sha for _, sha in self.vms.truth(served).versions),
            )
        )
        return served

    async def until_saved(self) -> None:
        """Wait until all are saved, and judge."""
        await self.site.until(self._all_saved, _PATIENCE_S)
        self.checker.look()
        assert self.checker.breaks == []

    def _all_saved(self) -> bool:
        found = self.site.exports()
        return len(found) == len(self.vms.exports) and all(
            each.state is State.SAVED for each in found.values()
        )

    async def not_busy(self, seconds: float = 2.5) -> None:
        """Watch an idle mirror: it lists at its interval, and hardly looks for work."""
        lists, calls = self.vms.journal.counters["list"], self.work.calls.total()
        await asyncio.sleep(seconds)
        lists = self.vms.journal.counters["list"] - lists
        calls = self.work.calls.total() - calls
        walks = seconds / POLL_S + seconds / SWEEP_S
        assert 1 <= lists <= 2 * walks + 4, f"{lists} lists in {seconds} s"
        assert calls <= 4 * (walks + seconds) + 8, f"{calls} claims in {seconds} s"


@pytest.fixture
async def world(tmp_path, monkeypatch) -> AsyncIterator[World]:
    async with World.open(tmp_path, monkeypatch) as made:
        yield made


@pytest.mark.parametrize("hours", [-3, 1])
async def test_a_step_while_files_are_fetched(world: World, hours, figures: Figures):
    """What runs goes on, what comes later comes in time, and back again."""
    world.vms.behaviour = Behaviour(rate=200 * KIB)
    async with world.site.service():
        for step in (hours * HOUR, -hours * HOUR):
            for _ in range(4):
                world.add()
            await world.vms.until(lambda: world.vms.journal.in_flight >= 4)
            world.wall.shift(step)
            world.add()
            await world.until_saved()
            await world.not_busy()
    figures.record(14, step=f"{hours:+d} h and back", saved=10, breaks=0)


_ODDS = [None, None, "cut", "stall", "status_500", "busy_503", "status_404", "reset"]


@pytest.mark.timeout(0)
async def test_steps_at_any_time(tmp_path, monkeypatch, figures: Figures):
    """Of any size up to three hours, between and amid failures of all kinds."""
    steps = 0
    for number, rng in figures.rounds(1, 300, share=0.05):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with World.open(
            folder, monkeypatch, behaviour=Behaviour(rate=400 * KIB)
        ) as world:
            async with world.site.service():
                for _ in range(4):
                    world.add(faults=rng.choices(_ODDS, k=3))
                    await asyncio.sleep(rng.uniform(0, 1))
                    world.wall.shift(HOUR * rng.uniform(-3, 3))
                    steps += 1
                try:
                    await world.until_saved()
                except TimeoutError as exc:
                    exc.add_note(f"seed {figures.seed}, round {number}")
                    raise
        monkeypatch.undo()
    figures.record(14, steps_up_to_3_h=steps, breaks=0)


FAILING = {
    "500": [FAULTS["status_500"]],
    "busy": [fault("busy_503", retry_after_s=1)],
    "cut": [FAULTS["cut"]],
    "gone": ["status_404"] * 8,
    "parked": [FAULTS["status_500"]] * 12,
}


async def _all_that_waits(world: World) -> None:
    """Bring exports into every state in which something is due later."""
    world.site.archive.mkdir()
    for steps in FAILING.values():
        world.add(faults=steps)
    states = {State.PARKED, State.WAITING, State.SPOOLED}
    await world.site.until(
        lambda: states <= {each.state for each in world.site.exports().values()},
        _PATIENCE_S,
    )


@pytest.mark.parametrize(
    ("hours", "restart"),
    [(-3, False), (3, False), (-3, True)],
    ids=["back", "forward", "back while it is stopped"],
)
async def test_a_step_while_things_wait(
    world: World, hours, restart, monkeypatch, figures: Figures
):
    """Back-off, parking, misses, a target that is away: none waits for three hours."""
    away = _TargetAway(monkeypatch)
    async with contextlib.AsyncExitStack() as running:
        await running.enter_async_context(world.site.service())
        away.since_now()
        await _all_that_waits(world)
        if restart:
            await running.aclose()
        world.wall.shift(hours * HOUR)
        away.over()
        if restart:
            await running.enter_async_context(world.site.service())
        await world.until_saved()
        await world.not_busy()
    figures.record(14, step=f"{hours:+d} h", waited="each way there is", breaks=0)


class _TargetAway:
    """Lets each publish fail until it is over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._away = False
        real = DirectoryStore.publish

        def publish(store: Any, *given: Any, **named: Any) -> Any:
            if self._away:
                raise OSError(errno.EIO, "away")
            return real(store, *given, **named)

        monkeypatch.setattr(DirectoryStore, "publish", publish)

    def since_now(self) -> None:
        self._away = True

    def over(self) -> None:
        self._away = False


async def test_a_step_while_the_list_cannot_be_read(world: World, figures: Figures):
    """The pause that the VMS asked for ends in time, by whatever clock it was told."""
    world.vms.script_list(then=fault("busy_429_date", retry_after_s=2))
    async with world.site.service():
        await world.vms.until(lambda: world.vms.journal.counters["list_429"] > 1)
        world.wall.shift(-3 * HOUR)
        world.add()
        world.vms.script_list()
        await world.until_saved()
    figures.record(14, step="-3 h", list="429 with a date", breaks=0)


async def _moved(world: World, served: list[Served]) -> None:
    """Fetch and publish all, and tell whether it was in this order."""
    async with world.site.engine() as engine, asyncio.TaskGroup() as group:
        await engine.prepare()
        movers = engine.start_moving(group)
        await world.site.until(world._all_saved, _PATIENCE_S)
        for mover in movers:
            mover.cancel()
    fetched = [each.export_id for each in world.vms.requests if each.kind == "file"]
    assert list(dict.fromkeys(fetched)) == [each.export_id for each in served]


@pytest.mark.parametrize("hours", [-3, -1, 1, 3])
@pytest.mark.parametrize("restart", [False, True], ids=["running", "stopped"])
async def test_the_order_outlives_a_step(
    world: World, hours, restart, figures: Figures
):
    """What was listed before it and is about to be deleted comes first."""
    world.site.tables["sources"]["hq"]["concurrency"] = 1
    now = world.vms.now()
    old = [world.add(created_at=now - HOUR * (2.9 - 0.3 * n)) for n in range(8)]
    async with contextlib.AsyncExitStack() as running:
        engine = await running.enter_async_context(world.site.engine())
        await engine.listers["hq"].walk(sweep=True)
        world.wall.shift(hours * HOUR)
        if restart:
            await running.aclose()
            engine = await running.enter_async_context(world.site.engine())
        new = world.add(created_at=now - 0.3 * HOUR)
        await engine.listers["hq"].walk(sweep=False)
    await _moved(world, [*old, new])
    figures.record(14, step=f"{hours:+d} h", in_order=len(old) + 1)


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_vms_whose_clock_is_wrong(
    tmp_path, monkeypatch, hours, figures: Figures
):
    """Deadlines are by the truth, the order too, and new exports are found."""
    behaviour = Behaviour(clock_skew=hours * HOUR)
    async with World.open(
        tmp_path, monkeypatch, behaviour=behaviour, concurrency=1, lookback="30m"
    ) as world:
        now = world.vms.now()
        served = [world.add(created_at=now - HOUR * (2.9 - 0.3 * n)) for n in range(8)]
        async with world.site.engine() as engine:
            await engine.listers["hq"].walk(sweep=True)
        for export in world.site.exports().values():
            (truly,) = (e for e in served if e.export_id == export.export_id)
            assert export.deadline_us is not None
            off = from_us(export.deadline_us) - (truly.created_at + 3 * HOUR)
            assert abs(off + behaviour.clock_skew) < timedelta(seconds=3)
        await _moved(world, served)
        async with world.site.service():
            world.add()
            await world.until_saved()
            await world.not_busy()
    figures.record(14, vms_clock=f"{hours:+d} h", saved=9, breaks=0)


async def test_two_vms_whose_clocks_differ(tmp_path, monkeypatch, figures: Figures):
    """One an hour ahead, one behind: the ledger knows which file goes first.

    Of each source the nearest deadline is fetched first; the sources wait for none.
    """
    clock = _true_clock()
    async with contextlib.AsyncExitStack() as stack:
        open_, vms = stack.enter_async_context, {}
        for name, skew in (("fast", HOUR), ("slow", -HOUR)):
            behaviour = Behaviour(clock_skew=skew)
            vms[name] = await open_(Vms(clock=clock, behaviour=behaviour))
        site = Site.make(tmp_path, vms["fast"])
        tables = site.tables["sources"]
        tables["fast"] = tables.pop("hq")
        tables["slow"] = tables["fast"] | {"url": vms["slow"].url}
        site.tables["transfer"]["concurrency"] = 1
        for number in range(6):
            served = vms[("fast", "slow")[number % 2]]
            age = HOUR * (2.9 - 0.4 * number)
            served.add(size=20_000, created_at=served.now() - age, export_id=number)
        engine = await open_(site.engine())
        await engine.prepare()
        for lister in engine.listers.values():
            await lister.walk(sweep=True)
        group = await open_(asyncio.TaskGroup())
        movers = engine.start_moving(group)
        await site.until(lambda: len(site.media()) == 6, _PATIENCE_S)
        for mover in movers:
            mover.cancel()
        order = {
            name: [each.export_id for each in one.requests if each.kind == "file"]
            for name, one in vms.items()
        }
        exports = sorted(site.all_exports(), key=lambda each: each.deadline_us or 0)
    assert [each.export_id for each in exports] == list(range(6))
    assert {name: list(dict.fromkeys(ids)) for name, ids in order.items()} == {
        "fast": [0, 2, 4],
        "slow": [1, 3, 5],
    }
    figures.record(14, two_vms="+1 h and -1 h", in_order=6)


@pytest.mark.parametrize(
    "change",
    [datetime(2030, 3, 31, 1, tzinfo=UTC), datetime(2030, 10, 27, 1, tzinfo=UTC)],
    ids=["spring", "autumn"],
)
async def test_the_nights_when_clocks_change(tmp_path, change, figures: Figures):
    """Names follow the calendar of `timezone`; nothing waits for the hour to pass."""
    berlin = ZoneInfo("Europe/Berlin")
    begin = (change - timedelta(seconds=3)).astimezone(berlin)
    with time_machine.travel(begin, tick=True):
        assert time.tzname[0] == "CET"
        async with Vms(other_origin=False) as vms:
            site = Site.make(tmp_path, vms, footage_timezone="Europe/Berlin")
            site.tables["timezone"] = "Europe/Berlin"
            site.tables["targets"]["nas"]["layout"] = (
                "{source}/{from:%Y-%m-%d %H.%M}/{id}"
            )
            checker = Checker({"nas": site.archive})
            async with site.service():
                number = 0
                while vms.now() < change + timedelta(seconds=2):
                    number += 1
                    minutes = timedelta(minutes=20 * number)
                    served = vms.add(
                        size=20_000,
                        # The rows show the local time that such a VMS would show.
                        footage_from=_naive(change - 2 * HOUR + minutes, berlin),
                        footage_to=_naive(change - 1.9 * HOUR + minutes, berlin),
                    )
                    checker.offer(
                        Offered(
                            "hq",
                            served.export_id,
                            stamp(served.created_at),
                            frozenset(sha for _, sha in vms.truth(served).versions),
                        )
                    )
                    lists = vms.journal.counters["list"]
                    await asyncio.sleep(1)
                    assert 1 <= vms.journal.counters["list"] - lists <= 60
                await site.until(lambda: len(site.media()) == number, _PATIENCE_S)
            checker.look()
            spans = [(e.footage_from, e.footage_to) for e in site.exports().values()]
    assert checker.breaks == []
    assert all(str(first) < str(last) for first, last in spans)
    figures.record(14, clocks_change=f"{change:%Y-%m-%d}", saved=number, breaks=0)


def _naive(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=UTC)


@pytest.mark.timeout(120)
async def test_a_machine_that_slept(tmp_path, figures: Figures):
    """Stopped in the middle of transfers, it goes on where it was."""
    async with Processes.open() as processes:
        async with Vms(behaviour=Behaviour(rate=200 * KIB), other_origin=False) as vms:
            mirror = CheckedMirror.make(tmp_path, vms, processes)
            for _ in range(4):
                mirror.offer(vms.add(size=600 * KIB))
            child = await mirror.start()
            for _ in range(2):
                await vms.until(lambda: vms.journal.in_flight > 0)
                child.send(signal.SIGSTOP)
                await asyncio.sleep(1.5)
                child.send(signal.SIGCONT)
                mirror.offer(vms.add(size=600 * KIB))
                await asyncio.sleep(0.5)
            assert await child.stop() == 0
            await mirror.settle()
            assert mirror.checker.breaks == []
    figures.record(14, slept="2 x 1.5 s", saved=6, breaks=0)


async def test_a_machine_that_slept_for_three_hours(
    tmp_path, monkeypatch, figures: Figures
):
    """It lists at once, not when the interval is over by the time it was awake."""
    async with World.open(
        tmp_path, monkeypatch, poll_interval="1h", sweep_interval="1h"
    ) as world:
        async with world.site.service():
            world.add()
            await world.until_saved()
            world.add()
            world.wall.shift(3 * HOUR)
            await world.until_saved()
    figures.record(14, slept="3 h by the clock", saved=2, breaks=0)


@pytest.mark.parametrize("plant", ["no horizon", "no look at the clock"])
async def test_a_mirror_that_trusts_the_clock_is_seen(world: World, plant, monkeypatch):
    """A planted bug waits until the clock is right again, three hours later."""
    world.site.tables["transfer"] |= {"retry_initial": "2s", "retry_max": "2s"}
    async with world.site.service() as service:
        served = world.add(faults=[FAULTS["status_500"]] * 3)

        def backs_off() -> bool:
            found = world.site.exports().get(served.export_id)
            return found is not None and found.due_us > to_us(datetime.now(UTC))

        await world.site.until(backs_off)
        if plant == "no horizon":
            assert service.engine is not None
            service.engine.pool._horizon_us = 10**18
        else:
            monkeypatch.setattr(Schedule, "check_clock", lambda _: None)
        world.wall.shift(-3 * HOUR)
        world.add()
        with pytest.raises(TimeoutError):
            await world.site.until(world._all_saved, 5)
