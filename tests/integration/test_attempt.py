"""What an attempt makes of odd bodies, a spool that fails and cancellations."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import os
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from prometheus_client import CollectorRegistry

from mirror.backoff import Pace
from mirror.errors import FetchError, FileGoneError
from mirror.ledger import Ledger, LedgerThread
from mirror.lifecycle.list_row import plan
from mirror.metrics import Metrics
from mirror.model import Attempt, Export, Reason, State, from_us
from mirror.pipeline.fetch import attempt as fetch
from mirror.pipeline.fetch import download
from mirror.pipeline.fetch.attempt import Fetcher
from mirror.pipeline.fetch.download import Downloader
from mirror.pipeline.fetch.first_byte import FirstByteWait
from mirror.pipeline.fetch.receive import ReceiveLimits
from mirror.pipeline.progress import Progress
from mirror.pipeline.spool.part import Part
from mirror.pipeline.spool.spool import Place, Spool
from mirror.ports import UNFIT_RANGE
from tests import builders, mp4_boxes
from tests.builders import FOLDER, HOUR, MINUTE, NOW
from tests.publisher_bench import CountedLedger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mirror.ports import Batch, ResumePoint, Validators

WHOLE = mp4_boxes.classic(
    (dataclasses.replace(mp4_boxes.VIDEO, samples=mp4_boxes.pictures(300)),)
)
TO_END = mp4_boxes.open_ended(WHOLE)
"""Whole only if the end of the body is known: its last box has no size."""


@dataclass
class Body:
    """An answer that plays a script: bytes are sent, errors raised, `...` is a stall.

    Attributes:
        stalls: Set once nothing more comes.
    """

    script: list[Any]
    start_bytes: int = 0
    total_bytes: int | None = None
    explicit_end: bool = True
    etag: str | None = '"e"'
    last_modified: str | None = None
    firm: bool = True
    stalls: asyncio.Event = field(default_factory=asyncio.Event)

    async def fill(self, batch: Batch, _: float = 0.0) -> bool:
        step = self.script.pop(0) if self.script else b""
        if isinstance(step, Exception):
            raise step
        if step is ...:
            self.stalls.set()
            await asyncio.Event().wait()
        if len(step) > len(batch.free):
            self.script.insert(0, step[len(batch.free) :])
        batch.add(step[: len(batch.free)])
        return bool(step)


@dataclass
class Vms:
    """Gives one answer after another, or raises it.

    Attributes:
        points: From where each request resumed.
        seen: What a look sees, or raises.
        waits_s: How long each waits for its first byte.
    """

    answers: list[Body | Exception] = field(default_factory=list)
    points: list[ResumePoint] = field(default_factory=list)
    seen: list[Validators | Exception | None] = field(default_factory=list)
    name: str = "hq"
    origin: str = "https://vms.example"
    oldest_us: int | None = None
    waits_s: list[float] = field(default_factory=list)
    lifetime_us: int = 3 * HOUR
    second_look: bool = True

    async def look(self, _: str, __: str | None) -> Validators | None:
        seen = self.seen.pop(0)
        if isinstance(seen, Exception):
            raise seen
        return seen

    @contextlib.asynccontextmanager
    async def open_file(
        self, _: str, __: str | None, point: ResumePoint, *, first_byte_s: float
    ) -> AsyncIterator[Any]:
        self.waits_s.append(first_byte_s)
        self.points.append(point)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        yield answer


@dataclass
class Bench:
    """A fetcher with a real ledger and spool.

    Attributes:
        tick_us: So far the wall clock goes each time somebody looks at it.
    """

    thread: LedgerThread
    ledger: CountedLedger
    spool: Spool
    fetcher: Fetcher
    vms: Vms
    progress: Progress
    folder: Path
    now_us: int = NOW
    tick_us: int = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[Bench]:
        ledger = Ledger.open(folder)
        ledger.walks.source("hq")
        thread = LedgerThread(ledger)
        watched: Any = CountedLedger(thread)
        place, progress = Place(path=folder / "spool"), Progress()
        spool = Spool(node_id="n", places=lambda: [place], threads=2)
        made: Bench
        parts: dict[str, Any] = {
            "ledger": watched,
            "spool": spool,
            "metrics": Metrics(CollectorRegistry()),
            "progress": progress,
            "now": lambda: from_us(made.tick()),
        }
        fetcher = Fetcher(
            **parts,
            downloader=Downloader(
                **parts,
                limits=ReceiveLimits(max_bytes=1 << 30, min_rate=None),
                first_byte_wait=FirstByteWait(timedelta(seconds=60)),
            ),
            pace=Pace(
                initial=timedelta(seconds=600.0501), maximum=timedelta(seconds=1200)
            ),
            targets=["nas"],
            looked_for=lambda _: True,
        )
        made = cls(thread, watched, spool, fetcher, Vms(), progress, folder)
        try:
            yield made
        finally:
            spool.close()
            await thread.close()

    def tick(self) -> int:
        """Return the wall clock."""
        self.now_us += self.tick_us
        return self.now_us

    async def claim(self, **row: Any) -> Export:
        """List the export once more and claim it."""
        at_us = self.now_us
        await self.thread(_met, builders.row(**row), at_us)
        export = await self.thread(
            lambda ledger: ledger.fetches.claim(["hq"], now_us=at_us, horizon_us=HOUR)
        )
        assert export is not None
        return export

    async def attempt(self, *answers: Body | Exception, **row: Any) -> Any:
        """Make one attempt; return what failed."""
        export = await self.claim(**row)
        self.vms.answers += answers
        return await self.try_once(export)

    async def try_once(self, export: Export) -> Exception | None:
        """Make the attempt of a claimed export."""
        source: Any = self.vms
        return await self.fetcher.attempt(source, export)

    async def export(self) -> Export:
        found = await self.thread(lambda ledger: ledger.queries.find(7))
        return found[0]

    async def attempts(self) -> list[Attempt]:
        export = await self.export()
        dossier = await self.thread(lambda ledger: ledger.queries.details(export))
        return list(dossier.attempts)

    def parts(self) -> list[bytes]:
        """Return what lies in the spool."""
        return [path.read_bytes() for path in (self.folder / "spool").iterdir()]


def _met(ledger: Ledger, listed: Any, at_us: int) -> None:
    around = builders.walk(at_us=at_us)
    ledger.walks.meet("hq", [listed], lambda prior, row: plan(prior, row, around))


@pytest.fixture
async def bench(tmp_path, monkeypatch) -> AsyncIterator[Bench]:
    structlog.reset_defaults()  # a test before may have set a level
    # The longest wait there can be, each time.
    monkeypatch.setattr(fetch, "random", SimpleNamespace(random=lambda: 1.0))
    async with Bench.open(tmp_path) as made:
        yield made


def cut() -> FetchError:
    return FetchError("cut", "the connection broke off")


# --- bodies ----------------------------------------------------------------------


async def test_a_whole_file_costs_the_ledger_one_transaction(bench):
    """What is proven is not written down before as a part of a file."""
    assert await bench.attempt(Body([WHOLE], total_bytes=len(WHOLE))) is None

    assert bench.ledger.calls == 1
    assert bench.progress.fetched_files == 1
    assert (await bench.export()).state is State.SPOOLED
    assert bench.parts() == [WHOLE]


@pytest.mark.parametrize(
    ("explicit_end", "announced", "state"),
    [
        (True, True, State.SPOOLED),
        (True, False, State.SPOOLED),
        (False, True, State.SPOOLED),
        (False, False, State.READY),
    ],
)
async def test_a_box_without_a_size_needs_a_known_end(
    bench, explicit_end, announced, state
):
    """It reaches to the end of the file, which chunks or a length must have told."""
    total = len(TO_END) if announced else None
    failure = await bench.attempt(
        Body([TO_END], total_bytes=total, explicit_end=explicit_end)
    )

    export = await bench.export()
    assert failure is None
    assert (export.state, export.held) == (state, state is State.READY)


async def test_such_a_file_that_is_all_there_needs_no_request(bench):
    """Its length was known when it was received."""
    await bench.attempt(Body([TO_END, cut()], total_bytes=len(TO_END)))
    bench.now_us += 20 * MINUTE

    assert await bench.attempt() is None
    assert len(bench.vms.points) == 1
    assert bench.parts() == [TO_END]


async def test_a_body_that_ends_early_without_a_word_was_cut(bench):
    """What came is kept, and continued."""
    failure = await bench.attempt(Body([WHOLE[:500]], total_bytes=len(WHOLE)))
    (one,) = await bench.attempts()

    assert (failure.reason, one.outcome, one.held_bytes) == ("cut", "cut", 500)
    assert "500 of" in (one.error or "")
    assert bench.progress.fetched_files == 0
    assert bench.parts() == [WHOLE[:500]]
    bench.now_us += 20 * MINUTE
    rest = Body([WHOLE[500:]], start_bytes=500, total_bytes=len(WHOLE))
    assert await bench.attempt(rest) is None
    assert bench.parts() == [WHOLE]


async def test_a_cut_behind_much_is_resumed_at_once(bench, monkeypatch):
    """For each answer that brought enough, in one attempt; then it waits."""
    monkeypatch.setattr(download, "WORTHWHILE_BYTES", 500)
    total = len(WHOLE)
    ends = (500, 1000, 1499)
    failure = await bench.attempt(
        *(
            Body([WHOLE[begin:end], cut()], start_bytes=begin, total_bytes=total)
            for begin, end in zip((0, *ends), ends, strict=False)
        )
    )
    (one,) = await bench.attempts()

    assert failure.reason == one.outcome == "cut"
    assert one.held_bytes == ends[-1]
    assert [point.size_bytes for point in bench.vms.points] == [0, 500, 1000]
    bench.now_us += 20 * MINUTE
    rest = Body([WHOLE[ends[-1] :]], start_bytes=ends[-1], total_bytes=total)
    assert await bench.attempt(rest) is None
    assert bench.parts() == [WHOLE]


async def test_bytes_that_are_brought_again_are_no_gain(bench, monkeypatch):
    """A server that always begins anew is not asked at once for ever."""
    monkeypatch.setattr(download, "WORTHWHILE_BYTES", 500)
    again = [Body([WHOLE[:600], cut()], total_bytes=len(WHOLE)) for _ in range(3)]
    failure = await bench.attempt(*again)

    assert failure.reason == "cut"
    assert len(bench.vms.points) == 2


@pytest.mark.parametrize("reason", ["timeout", "bad_answer"])
async def test_only_a_cut_is_resumed_at_once(bench, monkeypatch, reason):
    """What is silent, or broken, has time to recover."""
    monkeypatch.setattr(download, "WORTHWHILE_BYTES", 500)
    body = Body([WHOLE[:600], FetchError(reason, "gone")], total_bytes=len(WHOLE))

    assert (await bench.attempt(body)).reason == reason
    assert len(bench.vms.points) == 1


@pytest.mark.parametrize(
    ("sent", "what"),
    [
        ([], "nothing"),
        ([b"  <html><body>Not found"], "an HTML page"),
        (["\ufeff<html>".encode("utf-16-le")], "an HTML page"),
        (["<html>".encode("utf-16-be")], "an HTML page"),
        ([b'{"error": "not found"}'], "text"),
    ],
)
@pytest.mark.parametrize("held", [b"", WHOLE[:500]])
async def test_an_error_page_is_no_file(bench, sent, what, held):
    """Nor is an empty body; nothing of it is kept, and it costs nothing held."""
    if held:
        await bench.attempt(Body([held, cut()], total_bytes=len(WHOLE)))
        bench.now_us += 20 * MINUTE
    failure = await bench.attempt(Body(list(sent)))
    *_, one = await bench.attempts()

    assert (failure.reason, one.held_bytes) == ("error_page", len(held))
    assert one.error == f"the VMS sends {what} instead of the file"
    assert (await bench.export()).state is State.READY
    assert bench.parts() == ([held] if held else [])


async def test_binary_bytes_are_no_error_page(bench):
    """However few; their structure proves nothing."""
    failure = await bench.attempt(Body([bytes(range(20))]))
    export = await bench.export()

    assert failure is None
    assert export.held_bytes == 20
    assert "does not begin as an mp4" in (export.held_doubt or "")


@pytest.mark.parametrize("sent", [b"", b"<html><body>Not found"])
async def test_a_folder_without_a_file_is_waited_for(bench, sent):
    """Its file may need moments to appear."""
    failure = await bench.attempt(Body([sent]), url=FOLDER)
    export = await bench.export()

    assert isinstance(failure, FileGoneError)
    assert (export.state, export.reason) == (State.WAITING, Reason.URL_WITHOUT_FILE)


async def test_an_export_without_a_url_waits_for_one(bench):
    """Nothing is asked of the VMS."""
    export = dataclasses.replace(await bench.claim(), url=None)
    failure = await bench.try_once(export)
    found = await bench.export()

    assert isinstance(failure, FileGoneError)
    assert (found.state, found.reason) == (State.WAITING, Reason.FILE_GONE)
    assert "no url" in (found.last_error or "")
    assert bench.vms.points == []


@pytest.mark.parametrize(("room", "reason"), [(0, None), (-1, "spool_full")])
async def test_a_file_of_unknown_length_needs_the_reserve(
    bench, monkeypatch, room, reason
):
    """It may be begun as long as that is whole."""
    monkeypatch.setattr(Part, "room_bytes", lambda _: room)
    failure = await bench.attempt(Body([WHOLE]))

    assert getattr(failure, "reason", None) == reason


async def test_a_range_that_did_not_fit_is_not_asked_for_again(bench):
    """Until a body has begun: an answer between that had none says nothing of it."""
    await bench.attempt(Body([WHOLE[:500], cut()], total_bytes=len(WHOLE)))
    for failure in (FetchError(UNFIT_RANGE, "x"), FetchError("busy", "503"), cut()):
        bench.now_us += 20 * MINUTE
        await bench.attempt(failure)
    bench.now_us += 20 * MINUTE
    await bench.attempt(Body([WHOLE[:5000], cut()], total_bytes=len(WHOLE)))
    bench.now_us += 20 * MINUTE
    await bench.attempt(cut())

    assert [one.size_bytes for one in bench.vms.points] == [0, 500, 0, 0, 0, 5000]


# --- what is told ---------------------------------------------------------------


@pytest.mark.parametrize(("tick_s", "told"), [(0, 600.1), (1000, 0.0)])
async def test_when_it_is_tried_again_is_told(bench, tick_s, told):
    """In tenths of a second; what is due by then is not due in the past."""
    bench.tick_us = tick_s * 1_000_000
    with structlog.testing.capture_logs() as events:
        await bench.attempt(cut())
    (postponed,) = events

    assert (postponed["event"], postponed["retry_in_s"]) == ("export.postponed", told)


async def test_the_wait_for_a_first_byte_is_of_the_export(bench):
    """It grows with each that came too late, is kept, and ends with one that came."""
    late = FetchError("first_byte", "no answer for too long")
    for failure in (late, late, cut(), late):
        await bench.attempt(failure)
        bench.now_us += 20 * MINUTE

    assert bench.vms.waits_s == [60, 120, 240, 240]
    assert (await bench.export()).late == 3

    await bench.attempt(Body([WHOLE[:400], cut()], total_bytes=len(WHOLE)))

    assert bench.vms.waits_s[-1] == 480
    assert (await bench.export()).late == 0


async def test_a_lost_export_is_told_as_such(bench):
    """Once it is past its deadline and was seen without its file often enough."""
    bench.vms.oldest_us = NOW
    told = []
    for _ in range(3):
        bench.now_us += 4 * HOUR
        with structlog.testing.capture_logs() as events:
            await bench.attempt(FileGoneError(Reason.FILE_GONE, "404"))
        told.append([one for one in events if one["event"] == "export.lost"])
    export = await bench.export()

    assert told[:2] == [[], []]
    ((lost,),) = told[2:]
    assert (export.state, export.reason) == (State.LOST, Reason.EXPIRED)
    assert (lost["log_level"], lost["export"]) == ("error", export.label)
    assert lost["reason"] is Reason.EXPIRED


# --- a spool that fails, and cancellations --------------------------------------


async def test_a_spool_that_fails_as_an_attempt_ends_is_told(bench, monkeypatch):
    """The attempt is recorded with its own cause, and no file is left open."""

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fail)
    with structlog.testing.capture_logs() as events:
        failure = await bench.attempt(
            Body([WHOLE[:500], cut()], total_bytes=len(WHOLE))
        )
    (failed,) = (one for one in events if one["event"] == "spool.failed")
    export, (one,) = await bench.export(), await bench.attempts()

    assert (failure.reason, one.outcome, one.held_bytes) == ("cut", "cut", 0)
    assert (failed["export"], failed["log_level"]) == (export.label, "warning")
    assert (export.state, export.part_bytes) == (State.READY, 0)
    assert not any(_link(one).endswith(".part") for one in FDS.iterdir())


FDS = Path("/proc/self/fd")


def _link(fd: Path) -> str:
    with contextlib.suppress(OSError):
        return str(fd.readlink())
    return ""


async def cancelled(
    bench: Bench, work: asyncio.Task[Any], times: int, call: int
) -> None:
    """Cancel an attempt again and again while a call to the ledger has to wait."""
    with bench.ledger.busy(call) as asked:
        work.cancel()
        await asked.wait()
        for _ in range(times):
            for _ in range(10):
                await asyncio.sleep(0)
            work.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await work


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("times", [0, 1, 5])
async def test_a_cancelled_attempt_is_put_away_and_recorded(bench, times, call):
    """However often it is cancelled; each byte that came is kept; it is no failure."""
    body = Body([WHOLE[:500], ...], total_bytes=len(WHOLE))
    with structlog.testing.capture_logs() as events:
        work = asyncio.create_task(bench.attempt(body))
        await body.stalls.wait()
        await cancelled(bench, work, times, call)
    export, (one,) = await bench.export(), await bench.attempts()

    assert (export.state, export.due_us, export.part_bytes) == (State.READY, 0, 500)
    assert (one.outcome, one.held_bytes, one.error) == ("interrupted", 500, None)
    assert events == []
    assert bench.progress.transfers == {}
    assert bench.parts() == [WHOLE[:500]]


@pytest.mark.parametrize("times", [1, 5])
async def test_a_whole_file_is_recorded_though_cancelled(bench, times):
    """It is in the spool, and shall not be fetched again."""
    with bench.ledger.busy() as asked:
        work = asyncio.create_task(bench.attempt(Body([WHOLE], total_bytes=len(WHOLE))))
        await asked.wait()
        for _ in range(times):
            work.cancel()
            for _ in range(10):
                await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await work

    assert (await bench.export()).state is State.SPOOLED
    assert [one.outcome for one in await bench.attempts()] == ["whole"]
