"""One publisher with a real ledger, spool and folders, at a time that leaps."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry
from typing_extensions import override

from mirror.backoff import Pace
from mirror.ledger import Ledger, LedgerThread
from mirror.lifecycle import attempt as ended
from mirror.lifecycle.list_row import plan
from mirror.metrics import Metrics
from mirror.model import Attempt, Copy, Export, Receipt, from_us, to_us
from mirror.pipeline.progress import Progress
from mirror.pipeline.publish import target_health
from mirror.pipeline.publish.attempt import CopyPublisher
from mirror.pipeline.publish.publisher import Publisher
from mirror.pipeline.publish.target_health import TargetMonitor
from mirror.pipeline.spool.spool import Place, Spool
from mirror.ports import PROBE_S
from mirror.targets.directory.target import DirectoryTarget
from tests import builders
from tests.builders import HOUR, NOW
from tests.fake_clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from mirror.ports import Kept, Publication, TargetHealth

BYTES = bytes(range(256)) * 20
MOST_CALLS = 3000
"""A loop that asks the ledger so often does not sleep."""


class CountedLedger:
    """A ledger's thread that counts what it is asked.

    Attributes:
        calls: So often.
        at_call: Told the number of a call before it is made; may raise.
    """

    def __init__(self, thread: LedgerThread) -> None:
        self._thread = thread
        self.calls = 0
        self.at_call: Callable[[int], None] = lambda _: None

    async def __call__(self, call: Callable[..., Any], *args: Any) -> Any:
        self.calls += 1
        assert self.calls < MOST_CALLS, "the loop does not sleep"
        self.at_call(self.calls)
        return await self._thread(call, *args)

    @contextlib.contextmanager
    def busy(self, call: int = 1) -> Iterator[asyncio.Event]:
        """Keep it busy with something else from a later call on; tell of that call."""
        free, asked, at = threading.Event(), asyncio.Event(), self.calls + call

        def at_call(number: int) -> None:
            if number == at:
                self._thread._pool.submit(free.wait, 30)
                asked.set()

        self.at_call = at_call
        try:
            yield asked
        finally:
            free.set()


class Nas(DirectoryTarget):
    """A directory that plays a script, one step for each publish.

    Attributes:
        script: Seconds it takes, an error to raise, or what to await before.
        asked: When something was to be published, and what.
        looks: When the target was looked at.
    """

    def __init__(self, clock: FakeClock, root: Path, threads: int) -> None:
        super().__init__(
            name="nas",
            root=root,
            node_id="n0de",
            mount=False,
            min_free=0,
            file_mode=0o640,
            dir_mode=0o750,
            group=None,
            threads=threads,
        )
        self._clock = clock
        self.script: list[Any] = []
        self.asked: list[tuple[float, Publication]] = []
        self.looks: list[float] = []
        self.busy = self.busiest = 0

    @override
    async def probe(
        self, known: str | None, *, write: bool, patience_s: float = PROBE_S
    ) -> TargetHealth:
        self.looks.append(self._clock.now_s)
        return await super().probe(known, write=write, patience_s=patience_s)

    @override
    async def publish(self, batch: Sequence[Publication]) -> list[Kept | Exception]:
        (publication,) = batch
        self.asked.append((self._clock.now_s, publication))
        step = self.script.pop(0) if self.script else None
        self.busy += 1
        self.busiest = max(self.busy, self.busiest)
        try:
            if isinstance(step, Exception):
                return [step]
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif step is not None:
                await step()
            return await super().publish(batch)
        finally:
            self.busy -= 1


@dataclass(slots=True, kw_only=True)
class PublisherBench:
    """What a publisher needs, and what a test sees of it.

    Attributes:
        thread: For the test itself.
        ledger: For the publisher.
        targets: All there are; a copy is owed to each.
        required: Of these.
        may_link: Of the publisher's target.
        changes: How often the publisher said that something changed.
        ahead_us: The wall clock less the time that has passed.
        stopped_us: Where the wall clock stands still.
    """

    folder: Path
    clock: FakeClock
    thread: LedgerThread
    ledger: CountedLedger
    spool: Spool
    nas: Nas
    metrics: Metrics
    progress: Progress = field(default_factory=Progress)
    pace: Pace = field(
        default_factory=lambda: Pace(
            initial=timedelta(seconds=1), maximum=timedelta(minutes=10)
        )
    )
    concurrency: int = 1
    targets: tuple[str, ...] = ("nas",)
    required: tuple[str, ...] = ("nas",)
    may_link: bool = True
    same_path: bool = False
    guard: Callable[[], None] | None = None
    changes: int = 0
    ahead_us: int = 0
    stopped_us: int | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[PublisherBench]:
        """Set it up with an empty ledger."""
        ledger = Ledger.open(folder)
        ledger.walks.source("hq")
        thread = LedgerThread(ledger)
        with FakeClock.begin() as clock, pytest.MonkeyPatch.context() as patch:
            # The longest wait there can be, each time.
            patch.setattr("random.random", lambda: 1.0)
            passed = SimpleNamespace(monotonic=lambda: clock.now_s + 1000)
            patch.setattr(target_health, "time", passed)
            (folder / "spool").mkdir()
            bench = cls(
                folder=folder,
                clock=clock,
                thread=thread,
                ledger=CountedLedger(thread),
                spool=Spool(node_id="n0de", places=lambda: bench.places, threads=2),
                nas=Nas(clock, folder / "nas", 3),
                metrics=Metrics(CollectorRegistry()),
            )
            try:
                yield bench
            finally:
                bench.spool.close()
                await bench.nas.close()
                await thread.close()

    @property
    def places(self) -> list[Place]:
        """Where the spool may lie."""
        return [Place(path=self.folder / "spool", guard=self._find_spool)]

    def _find_spool(self) -> None:
        if self.guard is None:
            (self.folder / "spool").mkdir(exist_ok=True)
        else:
            self.guard()

    def other(self, name: str) -> DirectoryTarget:
        """Return another target, below the same folder."""
        return DirectoryTarget(
            name=name,
            root=self.folder / name,
            node_id="n0de",
            mount=False,
            min_free=0,
            file_mode=0o640,
            dir_mode=0o750,
            group=None,
            threads=1,
        )

    def publisher(self) -> Publisher:
        """Return a publisher as after a restart."""
        ledger: Any = self.ledger
        monitor = TargetMonitor(
            self.nas, ledger=ledger, metrics=self.metrics, pace=self.pace, now=self.now
        )
        copies = CopyPublisher(
            self.nas,
            ledger=ledger,
            spool=self.spool,
            metrics=self.metrics,
            progress=self.progress,
            monitor=monitor,
            node_id="n0de",
            path_for=lambda export: (
                "hq/same.mp4" if self.same_path else f"hq/{export.export_id}.mp4"
            ),
            may_link=lambda: self.may_link,
            source_urls={"hq": "https://vms.example"},
            required=frozenset(self.required),
            targets={
                name: self.nas if name == "nas" else self.other(name)
                for name in self.targets
            },
            pace=self.pace,
            now=self.now,
        )
        self.nas.traits = dataclasses.replace(
            self.nas.traits, at_once=self.concurrency, in_batch=1
        )
        return Publisher(
            self.nas,
            copies=copies,
            monitor=monitor,
            ledger=ledger,
            longest_wait=self.pace.maximum,
            changed=self._changed,
            now=self.now,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Publisher]:
        """Run a publisher for as long as the block lasts."""
        made = self.publisher()
        work = asyncio.create_task(made.run())
        try:
            yield made
            if work.done():
                await work
        finally:
            work.cancel()
            await asyncio.wait([work])

    def now(self) -> datetime:
        """Return the wall clock."""
        now_us = NOW + self.ahead_us + round(self.clock.now_s * 1e6)
        return from_us(now_us if self.stopped_us is None else self.stopped_us)

    async def add(self, number: int = 1, content: bytes = BYTES, **given: Any) -> Path:
        """Spool an export; return where its file lies."""
        listed = builders.row(export_id=number, created_key=f"k{number}", **given)
        key = await self.thread(_met, listed)
        claimed = await self.thread(
            lambda ledger: ledger.fetches.claim(["hq"], now_us=NOW, horizon_us=HOUR)
        )
        assert claimed is not None and claimed.key == key
        path = self.folder / "spool" / self.spool.file_name(claimed)
        path.write_bytes(content)
        now_us = to_us(self.now())
        await self.thread(_spooled, key, path.parent, content, self.targets, now_us)
        return path

    async def export(self, number: int = 1) -> Export:
        """Return the ledger's record of an export."""
        found = await self.thread(lambda ledger: ledger.queries.find(number))
        return found[0]

    async def copy(self, number: int = 1, target: str = "nas") -> Copy:
        """Return a copy of an export."""
        key = (await self.export(number)).stored_key
        found = await self.thread(lambda ledger: ledger.copies.of(key))
        return next(one for one in found if one.target == target)

    def kept(self) -> dict[str, bytes]:
        """Return the visible files on the target that are no sidecars."""
        root = self.folder / "nas"
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*.mp4")
            if ".archive-mirror" not in path.parts
        }

    def count(self, name: str, **labels: str) -> float:
        """Return one figure."""
        found = self.metrics.registry.get_sample_value(f"archive_mirror_{name}", labels)
        return found or 0.0

    def _changed(self) -> None:
        self.changes += 1


def _met(ledger: Ledger, listed: Any) -> int:
    around = builders.walk()
    _, keys = ledger.walks.meet(
        "hq", [listed], lambda prior, row: plan(prior, row, around)
    )
    (key,) = keys
    return key


def _spooled(
    ledger: Ledger,
    key: int,
    folder: Path,
    content: bytes,
    targets: tuple[str, ...],
    now_us: int,
) -> None:
    attempt = Attempt(
        number=0,
        times=1,
        started_us=now_us - 12_345_678,
        ended_us=now_us - 2_000_000,
        outcome="whole",
        offset_bytes=0,
        held_bytes=len(content),
        error=None,
    )
    receipt = Receipt(
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        etag=None,
        last_modified=None,
    )

    def whole(export: Export) -> Export:
        export = dataclasses.replace(export, spool_dir=str(folder))
        return ended.whole(export, receipt, attempt)

    ledger.fetches.settle(key, whole, attempt, targets)
