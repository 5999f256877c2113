"""Cancel fetch and publish at every await, and go on with a fresh engine."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mirror.app.status import public_json
from mirror.ledger import Filter, Ledger
from mirror.ledger.copies import Copies
from mirror.ledger.fetch_queue import FetchQueue
from mirror.model import State, to_us, utc_now
from mirror.pipeline.fetch import receive
from mirror.pipeline.spool.part import Part
from mirror.simulator import Vms
from mirror.simulator.exports import stamp
from mirror.tasks import run_to_end
from tests.proof.awaits import Suspensions, counted
from tests.proof.checker import Checker, Offered
from tests.proof.planted_bugs.plant import replace_function
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from mirror.model import Export
    from mirror.pipeline.engine import Engine
    from mirror.simulator import Export as Served
    from tests.proof.figures import Figures

SIZE = 300_000
_HORIZON_US = 10**9
_HOP_S = 0.001
_ALL_POINTS = {"resumed", "gone"}
_MOST = 3000


def _descriptors() -> list[str]:
    """Return what the open descriptors lead to."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(each.readlink()).split(":[")[0])
    return found


def _threads() -> list[str]:
    return sorted(
        each.name
        for each in threading.enumerate()
        if each.name.startswith(("spool", "target-", "ledger"))
    )


@dataclass(slots=True)
class Bench:
    """One mirror with two targets: files are linked to one and copied to the other."""

    vms: Vms
    site: Site
    checker: Checker
    descriptors: list[str]
    patience_s: float = 5.0

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[Bench]:
        """Set it up in an empty folder; counts what tasks of the work await."""
        async with Vms(other_origin=False) as vms:
            site = Site.make(folder, vms, second_look=False)
            site.tables["targets"]["vault"] = {
                "type": "directory",
                "path": str(folder / "vault"),
            }
            checker = Checker({"nas": site.archive, "vault": folder / "vault"})
            with counted():
                yield cls(vms, site, checker, _descriptors())

    def add(self, **more: Any) -> Served:
        """Offer a file."""
        served = self.vms.add(size=SIZE, **more)
        self.checker.offer(
            Offered(
                "hq",
                served.export_id,
                stamp(served.created_at),
                frozenset(sha256 for _, sha256 in self.vms.truth(served).versions),
            )
        )
        return served

    async def go_on(self) -> None:
        """Let a fresh engine save all there is."""
        async with self.site.engine() as engine, asyncio.timeout(60):
            await engine.prepare()
            while not self.all_saved():
                await engine.listers["hq"].walk(sweep=False)
                while export := await claimed(engine):
                    await fetch(engine, export)
                for name in engine.publishers:
                    while await publish_one(engine, name):
                        pass

    def all_saved(self) -> bool:
        """Tell whether the ledger calls all exports saved."""
        exports = self.site.exports()
        return len(exports) == len(self.vms.exports) and all(
            export.state is State.SAVED for export in exports.values()
        )

    def listed(self) -> list[dict[str, Any]]:
        """Return what `list --json` says."""
        ledger = Ledger.read(self.site.settings().state_dir)
        try:
            found = list(ledger.queries.exports(Filter()))
        finally:
            ledger.close()
        return [public_json.export(export, copies) for export, copies in found]

    async def judge(self, work: Suspensions) -> None:
        """Fail unless the work has left nothing behind and nothing in its hands."""
        assert [task for task in work.tasks if not task.done()] == []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.patience_s):
                while self.left_open() or _threads():
                    await asyncio.sleep(0.002)
        assert _threads() == []
        assert self.left_open() == []
        assert self.held() == []
        self.checker.look()

    def left_open(self) -> list[str]:
        """Return what the descriptors lead to that were not open at first."""
        return list((Counter(_descriptors()) - Counter(self.descriptors)).elements())

    def held(self) -> list[tuple[int, str, list[str]]]:
        """Return what is claimed; an engine that ends gives all of it back."""
        return [
            (row["id"], row["state"], [copy["state"] for copy in row["copies"]])
            for row in self.listed()
            if row["state"] == "fetching"
            or any(copy["state"] == "publishing" for copy in row["copies"])
        ]


async def claimed(engine: Engine) -> Export | None:
    """Claim the next export, as the pool would; what is held is asked for at once."""
    await engine.ledger(lambda ledger: ledger.fetches.ask_again())
    now_us = to_us(utc_now())
    return await engine.ledger(
        lambda ledger: ledger.fetches.claim(
            ["hq"], now_us=now_us, horizon_us=_HORIZON_US
        )
    )


async def fetch(engine: Engine, export: Export) -> None:
    """Run one attempt, as the pool would."""
    source = engine.pool.sources["hq"]
    await engine.pool.attempt(source, export)


async def publish_one(engine: Engine, name: str) -> bool:
    """Publish the next copy of a target, as its publisher would."""
    publisher = engine.publishers[name]
    await publisher.monitor.check()
    duties = await publisher.claim()
    if not duties:
        return False
    await publisher.copies.publish(duties)
    return True


# How the attempts of one export go: those before it, and the one that is cancelled.
ATTEMPTS: dict[str, list[str | None]] = {
    "whole": [None],
    "resumed": ["cut", None],
    "cut": ["cut"],
    "begun anew": ["cut", "ignore_range"],
    "unfit": ["cut", "wrong_start"],
    "gone": ["status_404"],
    "busy": ["busy_503"],
    "a page": ["html"],
    "no mp4": ["no_moov"],
    "redirected": ["redirect"],
}


@pytest.fixture(autouse=True)
def _many_long_awaits(monkeypatch):
    """Make a checkpoint after each chunk, and each hop to a thread take its time.

    So a cancellation comes before the thread begins, and before it has ended.
    """
    submit = ThreadPoolExecutor.submit

    def slow(work: Callable[..., Any], *given: Any, **more: Any) -> Any:
        time.sleep(_HOP_S)
        done = work(*given, **more)
        time.sleep(_HOP_S)
        return done

    monkeypatch.setattr(receive, "CHECKPOINT_S", 0.0)
    monkeypatch.setattr(
        ThreadPoolExecutor,
        "submit",
        lambda self, work, *given, **more: submit(self, slow, work, *given, **more),
    )


async def _prepared(
    bench: Bench, engine: Engine, steps: Sequence[str | None]
) -> Export:
    """Offer a file and make all attempts but the last; return what is to be tried."""
    bench.add(faults=steps)
    await engine.prepare()
    await engine.listers["hq"].walk(sweep=False)
    for _ in steps[:-1]:
        await fetch(engine, await _next(engine))
    return await _next(engine)


async def _next(engine: Engine) -> Export:
    async with asyncio.timeout(20):
        while (export := await claimed(engine)) is None:
            await asyncio.sleep(0.01)
        return export


async def _cancelled_fetch(
    bench: Bench, steps: Sequence[str | None], work: Suspensions
) -> bool:
    """Cancel one attempt; tell whether it came so far."""
    async with bench.site.engine() as engine:
        export = await _prepared(bench, engine, steps)
        await work.run(fetch(engine, export))
        assert bench.held() == []
    await bench.judge(work)
    await bench.go_on()
    return work.count >= work.at


async def _cancelled_publish(bench: Bench, target: str, work: Suspensions) -> bool:
    """Cancel one publish; tell whether it came so far."""
    async with bench.site.engine() as engine:
        await fetch(engine, await _prepared(bench, engine, [None]))
        publisher = engine.publishers[target]
        duties = await publisher.claim()
        assert duties
        await work.run(publisher.copies.publish(duties))
        assert bench.held() == []
    await bench.judge(work)
    await bench.go_on()
    return work.count >= work.at


async def _each_point(
    bench: Bench,
    attempt: Callable[[Suspensions], Awaitable[bool]],
    times: int,
    step: int = 1,
) -> int:
    """Cancel at every suspension in turn; return how many there are."""
    for at in range(1, _MOST, step):
        try:
            reached = await attempt(Suspensions(at, times))
        except Exception as exc:
            exc.add_note(f"cancelled at suspension {at}, {times} in a row")
            raise
        if not reached:
            bench.checker.settle(bench.listed())
            assert bench.checker.breaks == [], f"{times} in a row"
            return at - step
    raise AssertionError(f"the work did not end within {_MOST} suspensions")


def _in_a_row(figures: Figures, *, often: bool) -> Sequence[int]:
    """Return how many cancellations come in a row, one campaign each."""
    if figures.long:
        return (1, 2, 5)
    return (1, 5) if often else (1,)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ATTEMPTS)
async def test_cancel_at_each_await_of_a_fetch(tmp_path, name, figures: Figures):
    """The bytes had are kept, the export is ready at once, and is saved in the end."""
    points = {}
    async with Bench.open(tmp_path) as bench:
        for times in _in_a_row(figures, often=name == "gone"):
            points[times] = await _each_point(
                bench,
                lambda work: _cancelled_fetch(bench, ATTEMPTS[name], work),
                times,
                step=1 if figures.long or name in _ALL_POINTS else 3,
            )

    assert points[1] > 5
    figures.record(19, attempt=name, points=points, breaks=0)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("target", ["nas", "vault"])
async def test_cancel_at_each_await_of_a_publish(tmp_path, target, figures: Figures):
    """Linked to one target, copied to the other: all of it is there, or nothing."""
    points = {}
    async with Bench.open(tmp_path) as bench:
        for times in _in_a_row(figures, often=True):
            points[times] = await _each_point(
                bench, lambda work: _cancelled_publish(bench, target, work), times
            )

    assert points[1] >= 4
    figures.record(19, target=target, points=points, breaks=0)


async def _whole_life(bench: Bench, work: Suspensions) -> None:
    """Cancel an engine that lists, fetches and publishes a file that is cut once."""
    bench.add(faults=["cut"])
    async with bench.site.engine() as engine:
        for lister in engine.listers.values():
            lister.poll_due.set()
            lister.sweep_due.set()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(work.run(engine.run()))
            while not running.done() and not bench.all_saved():
                await asyncio.sleep(0.02)
            if not work.at or work.at > work.count:
                # It was quicker than the first one: there may be nothing left to do.
                work.at = work.count + 1
                engine.wake()
    await bench.judge(work)


@pytest.mark.timeout(1800)
async def test_cancel_at_the_awaits_of_a_whole_engine(tmp_path, figures: Figures):
    """Claims, walks, checks of targets and tidying are interrupted too."""
    async with Bench.open(tmp_path) as bench:
        whole = Suspensions()
        await _whole_life(bench, whole)
        rounds = 0
        for number, rng in figures.rounds(30, 2000, share=0.05):
            work = Suspensions(rng.randint(1, whole.count), rng.choice([1, 1, 2, 5]))
            try:
                await _whole_life(bench, work)
                if number % 10 == 9:
                    await bench.go_on()
            except Exception as exc:
                exc.add_note(f"seed {figures.seed}, round {number}: {work}")
                raise
            rounds += 1
        await bench.go_on()
        bench.checker.settle(bench.listed())

    assert bench.checker.breaks == []
    figures.record(19, engines_cancelled=rounds, awaits=whole.count, breaks=0)


async def _let_go(work: Awaitable[Any]) -> Any:
    return await work


async def _forget(*_: object) -> None:
    """Do nothing where something should be put right."""


def _leave(*_: object, **__: object) -> None:
    """Do nothing where something should be put right."""


BUGS: dict[str, tuple[str, object, str]] = {
    "a part stays open": ("state/spool", Part, "close"),
    "an export stays claimed": ("fetching", FetchQueue, "settle"),
    "a copy stays claimed": ("publishing", Copies, "release"),
}
"""What must be found, and the method that does nothing."""


@pytest.mark.parametrize("name", BUGS)
async def test_a_planted_bug_shows_at_some_await(tmp_path, monkeypatch, name):
    """Each way to leave something behind is found, and for what it is."""
    found, owner, method = BUGS[name]
    monkeypatch.setattr(owner, method, _leave)
    await _found_at_some_await(tmp_path, monkeypatch, found)


async def test_work_that_is_let_go_shows_at_some_await(tmp_path, monkeypatch):
    """What was begun does not come to its end before the cancellation goes on."""
    replace_function(monkeypatch, run_to_end, _let_go)
    await _found_at_some_await(tmp_path, monkeypatch, "fetching")


async def _found_at_some_await(folder: Path, monkeypatch: Any, found: str) -> None:
    # With the bug in it nothing can go on; what was cancelled is judged alone.
    monkeypatch.setattr(Bench, "go_on", _forget)
    async with Bench.open(folder) as bench:
        bench.patience_s = 0.5

        async def attempt(work: Suspensions) -> bool:
            if found == "publishing":
                return await _cancelled_publish(bench, "nas", work)
            return await _cancelled_fetch(bench, [None], work)

        with pytest.raises(AssertionError, match=found):
            await _each_point(bench, attempt, 5)
