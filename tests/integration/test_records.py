"""What each attempt and each publish leaves in ledger, metrics, progress and log."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import structlog

from mirror import sidecar
from mirror.errors import OriginRefusedError, SpoolError, TargetError
from mirror.ledger import Partial
from mirror.model import CopyState, Export, State, to_us, utc_now
from mirror.pipeline.fetch.download import Downloader
from mirror.pipeline.spool import space
from mirror.pipeline.spool.part import Part
from mirror.simulator import Vms
from tests import builders
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from prometheus_client import CollectorRegistry

    from mirror.pipeline.engine import Engine
    from mirror.ports import Kept, Publication
    from mirror.simulator import Export as Served

SIZE = 300_000


@dataclass(slots=True)
class Bench:
    """An engine of which a test moves each part by hand, and what it counts."""

    site: Site
    vms: Vms
    engine: Engine
    counted: CollectorRegistry

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[Bench]:
        """Set it up with one source and one target."""
        async with Vms() as vms:
            site = Site.make(folder, vms)
            async with site.engine() as engine:
                await engine.prepare()
                yield cls(site, vms, engine, site.registry)

    async def add(self, *faults: str, size: int = SIZE) -> Served:
        """Offer a file and list it; by its date it may still be changing."""
        made_at = utc_now() + timedelta(minutes=5)
        served = self.vms.add(faults=faults, size=size, made_at=made_at)
        await self.engine.listers["hq"].walk(sweep=False)
        return served

    async def fetch(self) -> Exception | None:
        """Make the next attempt there is; return how it failed."""
        async with asyncio.timeout(60):
            while (export := await self.claimed()) is None:
                await asyncio.sleep(0.01)
            return await self.engine.pool.fetcher.attempt(
                self.engine.pool.sources["hq"].client, export
            )

    async def claimed(self) -> Export | None:
        now_us = to_us(utc_now())
        return await self.engine.ledger(
            lambda ledger: ledger.fetches.claim(["hq"], now_us=now_us, horizon_us=10**9)
        )

    async def publish(self) -> None:
        """Publish the copy that is due."""
        publisher = self.engine.publishers["nas"]
        assert await publisher.monitor.check()
        duties = await publisher.claim()
        assert duties
        await publisher.copies.publish(duties)

    async def reaches(self, served: Served, state: State) -> None:
        """Wait until an export is in a state."""
        async with asyncio.timeout(60):
            while self.site.export(served).state is not state:
                await asyncio.sleep(0.02)

    def count(self, name: str, **labels: str) -> float:
        """Return one figure."""
        found = self.counted.get_sample_value(f"archive_mirror_{name}", labels)
        return found or 0.0


@pytest.fixture
async def bench(tmp_path) -> AsyncIterator[Bench]:
    structlog.reset_defaults()  # a test before may have set a level
    async with Bench.open(tmp_path) as made:
        yield made


async def test_an_attempt_that_was_cut_and_the_next(bench: Bench):
    """Each says where it began, what was held at its end, and why it ended."""
    served = await bench.add("cut")
    with structlog.testing.capture_logs() as events:
        failure = await bench.fetch()
        cut = bench.site.export(served)
        assert await bench.fetch() is None
    attempts = bench.site.dossier(served).attempts
    export = bench.site.export(served)
    progress = bench.engine.progress
    postponed = next(each for each in events if each["event"] == "export.postponed")

    assert getattr(failure, "reason", None) == "cut"
    assert not [each for each in events if each["event"] == "export.lost"]
    assert 0 < cut.part_bytes < SIZE
    assert [one.outcome for one in attempts] == ["cut", "whole"]
    assert [one.offset_bytes for one in attempts] == [0, cut.part_bytes]
    assert [one.held_bytes for one in attempts] == [cut.part_bytes, SIZE]
    assert [one.error for one in attempts] == [str(failure), None]
    assert [one.times for one in attempts] == [1, 1]
    assert all(one.started_us < one.ended_us for one in attempts)
    assert (export.state, export.size_bytes) == (State.SPOOLED, SIZE)
    assert export.sha256 == bench.vms.truth(served).sha256
    assert progress.transfers == {}
    assert (progress.received_bytes, progress.fetched_files) == (SIZE, 1)
    assert bench.count("fetched_bytes_total") == SIZE
    assert bench.count("fetches_total", source="hq", outcome="cut") == 1
    assert bench.count("fetches_total", source="hq", outcome="whole") == 1
    assert bench.count("fetch_duration_seconds_count", source="hq") == 2
    assert bench.count("fetch_duration_seconds_sum", source="hq") < 20
    assert bench.count("deadline_margin_seconds_count", source="hq") == 1
    margins = {"name": "deadline_margin_seconds_bucket", "source": "hq"}
    assert bench.count(**margins, le="3600.0") == 0
    assert bench.count(**margins, le="10800.0") == 1
    assert postponed["log_level"] == "warning"
    assert postponed["held_bytes"] == cut.part_bytes
    assert (postponed["export"], postponed["error"]) == (cut.label, str(failure))
    assert (postponed["state"], postponed["reason"]) == (State.READY, cut.reason)
    assert postponed["attempts"] == cut.attempts
    assert 0 <= postponed["retry_in_s"] <= 0.1


async def test_a_file_that_is_away_is_news_once(bench: Bench):
    """Later misses are told to those who look closely; nothing is left in the spool."""
    served = await bench.add("status_404", "status_404")
    levels, failure = [], None
    for _ in range(2):
        with structlog.testing.capture_logs() as events:
            failure = await bench.fetch()
        levels += [e["log_level"] for e in events if e["event"] == "export.postponed"]
        assert "retry_in_s" not in events[-1]
        await bench.engine.listers["hq"].walk(sweep=False)
    attempts = bench.site.dossier(served).attempts

    assert failure is not None
    assert levels == ["warning", "debug"]
    assert [(one.outcome, one.held_bytes) for one in attempts] == [("file_gone", 0)]
    assert list(bench.site.folder.rglob("*.part")) == []


async def test_a_cancelled_attempt_is_recorded_as_such(bench: Bench):
    """It counts for nothing, costs no byte, and is no failure."""
    served = await bench.add("stall", size=2_000_000)
    work = asyncio.create_task(bench.fetch())
    await bench.site.until(lambda: bench.engine.progress.received_bytes > 0)
    (transfer,) = bench.engine.progress.transfers.values()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    export = bench.site.export(served)
    (attempt,) = bench.site.dossier(served).attempts

    assert (export.state, export.last_error) == (State.READY, None)
    assert export.part_bytes == attempt.held_bytes == transfer.done_bytes > 0
    assert (transfer.total_bytes, transfer.label) == (2_000_000, export.label)
    assert (attempt.outcome, attempt.error) == ("interrupted", None)
    assert bench.engine.progress.transfers == {}
    assert bench.count("fetch_duration_seconds_count", source="hq") == 0


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("empty", "the VMS sends an empty file"),
        ("html", "the VMS sends an HTML page instead of the file"),
        ("json_page", "the VMS sends text instead of the file"),
    ],
)
async def test_what_comes_instead_of_a_file_is_named(bench: Bench, fault, said):
    """An empty file, a page and other things are told apart."""
    await bench.add(fault)

    assert str(await bench.fetch()) == said


@pytest.mark.parametrize(
    ("faults", "outcomes", "offsets"),
    [
        (["cut", "ignore_range"], ["cut", "whole"], [0, 0]),
        (["cut", "html"], ["cut", "error_page", "whole"], [0, 150_000, 150_000]),
        (["cut", "wrong_start"], ["cut", "unfit_range", "whole"], [0, 150_000, 0]),
        (
            ["cut", "wrong_start", "cut"],
            ["cut", "unfit_range", "cut", "whole"],
            [0, 150_000, 0, 150_000],
        ),
        (["no_moov"], ["doubtful", "whole"], [0, 0]),
        (["no_length"], ["whole"], [0]),
        (["no_length_cut"], ["doubtful", "whole"], [0, 0]),
        (["chunked"], ["whole"], [0]),
    ],
)
async def test_where_each_attempt_begins(bench: Bench, faults, outcomes, offsets):
    """Behind the bytes that are surely of this file, else at its start."""
    bench.engine.pool.fetcher.patient = False  # a doubtful body is asked for at once
    served = await bench.add(*faults)
    failures = [await bench.fetch() for _ in outcomes]
    attempts = bench.site.dossier(served).attempts

    assert failures[-1] is None
    assert [one.outcome for one in attempts] == outcomes
    assert [one.offset_bytes for one in attempts] == offsets
    assert bench.site.export(served).sha256 == bench.vms.truth(served).sha256


async def test_a_whole_file_in_the_spool_needs_no_request(bench: Bench):
    """Killed between the last byte and the ledger, it is only proven again."""
    served = await bench.add("cut")
    await bench.fetch()
    export, spool = bench.site.export(served), bench.engine.spool
    path = spool.path_of(export)
    assert path is not None
    await bench.fetch()
    whole = bench.site.export(served)
    await bench.engine.ledger(
        lambda ledger: ledger.copies.spool_lost(export.stored_key, "again")
    )
    partial = Partial(
        spool_dir=str(path.parent),
        size_bytes=SIZE,
        sha256=whole.sha256 or "",
        total_bytes=SIZE,
        etag=None,
        last_modified=None,
    )
    await bench.engine.ledger(
        lambda ledger: ledger.fetches.checkpoint(export.stored_key, partial)
    )
    before = len(bench.vms.file_requests(served))

    assert await bench.fetch() is None
    assert len(bench.vms.file_requests(served)) == before
    assert bench.site.export(served).state is State.SPOOLED
    assert bench.site.export(served).sha256 == whole.sha256


async def test_a_file_that_does_not_fit_is_not_begun(bench: Bench, monkeypatch):
    """The reserve of the spool stays; nothing is held against the export."""
    monkeypatch.setattr(Part, "room_bytes", lambda _: SIZE - 1)
    served = await bench.add()
    failure = await bench.fetch()
    export = bench.site.export(served)

    assert getattr(failure, "reason", None) == "spool_full"
    assert (export.state, export.part_bytes) == (State.READY, 0)
    assert bench.site.dossier(served).attempts[0].outcome == "spool_full"
    monkeypatch.setattr(Part, "room_bytes", lambda _: SIZE)
    assert await bench.fetch() is None


async def test_only_what_is_missing_needs_room(bench: Bench, monkeypatch):
    """Bytes that are held are on the disk already; lost ones are not held."""
    monkeypatch.setattr(space, "SPARE_S", 0.0)
    served = await bench.add("cut", "cut")
    await bench.fetch()
    monkeypatch.setattr(Part, "room_bytes", lambda _: SIZE - 150_000)
    assert getattr(await bench.fetch(), "reason", None) == "cut"
    path = bench.engine.spool.path_of(bench.site.export(served))
    assert path is not None
    path.write_bytes(b"")
    failure = await bench.fetch()

    assert getattr(failure, "reason", None) == "spool_full"
    last = bench.site.dossier(served).attempts[-1]
    assert (last.outcome, last.offset_bytes, last.held_bytes) == ("spool_full", 0, 0)


async def test_a_redirect_elsewhere_parks_the_export(bench: Bench):
    """The operator must allow that origin."""
    served = await bench.add("redirect_other")
    failure = await bench.fetch()

    assert isinstance(failure, OriginRefusedError)
    assert bench.site.export(served).state is State.PARKED
    assert bench.site.dossier(served).attempts[0].outcome == "origin_refused"


async def test_a_fault_of_ours_stops_one_fetch_only(bench: Bench, monkeypatch):
    """It goes back to the queue, with what failed by its name."""

    async def crash(*_: object) -> None:
        raise ZeroDivisionError("secret")

    served = await bench.add()
    monkeypatch.setattr(Downloader, "run", crash)
    async with asyncio.timeout(60):
        export = await bench.claimed()
        assert export is not None
        await bench.engine.pool.attempt(bench.engine.pool.sources["hq"], export)
    (attempt,) = bench.site.dossier(served).attempts

    assert bench.site.export(served).state is State.READY
    assert attempt.error == "the attempt failed: ZeroDivisionError"
    assert (attempt.outcome, attempt.held_bytes) == ("unexpected", 0)


async def test_a_fault_of_ours_after_the_record_changes_nothing(bench, monkeypatch):
    """What is spooled stays so, and the pool goes on."""

    def crash(*_: object) -> None:
        raise ZeroDivisionError("secret")

    served = await bench.add()
    monkeypatch.setattr(bench.engine.pool.fetcher._metrics, "fetch_ended", crash)
    export = await bench.claimed()
    await bench.engine.pool.attempt(bench.engine.pool.sources["hq"], export)

    assert bench.site.export(served).state is State.SPOOLED
    assert [one.outcome for one in bench.site.dossier(served).attempts] == ["whole"]


async def test_a_cancelled_publish_gives_its_copy_back(bench: Bench):
    """What a thread began has ended; the attempt is not counted."""
    served = await bench.add()
    await bench.fetch()
    publisher = bench.engine.publishers["nas"]
    duties = await publisher.claim()
    assert duties
    work = asyncio.create_task(publisher.copies.publish(duties))
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    (copy,) = bench.site.dossier(served).copies

    assert (copy.state, copy.attempts) == (CopyState.PENDING, 0)
    assert len(bench.site.media()) == 1


async def test_a_path_that_is_taken_gets_a_number(bench: Bench):
    """What a stranger has put there stays."""
    served = await bench.add()
    await bench.fetch()
    publisher = bench.engine.publishers["nas"]
    wanted = bench.site.archive / publisher.copies.path_for(bench.site.export(served))
    wanted.parent.mkdir(parents=True, exist_ok=True)
    wanted.write_bytes(b"of a stranger")
    with structlog.testing.capture_logs() as events:
        await bench.publish()
    (copy,) = bench.site.dossier(served).copies

    assert wanted.read_bytes() == b"of a stranger"
    assert copy.state is CopyState.SAVED
    assert copy.path not in {None, str(wanted.relative_to(bench.site.archive))}
    assert [e["log_level"] for e in events if e["event"] == "path.taken"] == ["warning"]


async def test_no_origin_of_the_bytes_is_told(bench: Bench, monkeypatch):
    """Neither spooled nor kept elsewhere: the copy waits, and says why."""
    served = await bench.add()
    await bench.fetch()
    monkeypatch.setattr(bench.engine.spool, "path_of", lambda _: None)
    await bench.publish()
    (copy,) = bench.site.dossier(served).copies

    assert copy.state is CopyState.FAILED
    assert (copy.last_error or "").startswith("no spooled file and no readable copy")


async def test_a_saved_export_is_told_once(bench: Bench):
    """One line with what took how long; the spool is free again."""
    served = await bench.add()
    assert await bench.fetch() is None
    with structlog.testing.capture_logs() as events:
        await bench.publish()
    (saved,) = (each for each in events if each["event"] == "export.saved")
    export = bench.site.export(served)

    assert (saved["export"], saved["target"]) == (export.label, "nas")
    assert (saved["size_bytes"], saved["attempts"]) == (SIZE, export.attempts)
    assert 0 < saved["took_s"] < 60
    assert 3600 < saved["margin_s"] <= 3 * 3600
    assert bench.count("copies_total", target="nas", outcome="saved") == 1
    assert bench.engine.progress.saved_files == 1
    assert (export.state, export.spool_dir) == (State.SAVED, None)
    assert list(bench.site.folder.rglob("*.part")) == []


async def test_a_copy_that_fails_is_tried_later(bench: Bench):
    """With its cause; the target is looked at before the next try."""
    served = await bench.add()
    assert await bench.fetch() is None
    for folder in bench.site.archive.iterdir():
        folder.rename(bench.site.folder / folder.name)
    before_us = to_us(utc_now())
    with structlog.testing.capture_logs() as events:
        await bench.publish()
    (copy,) = bench.site.dossier(served).copies
    (postponed,) = (each for each in events if each["event"] == "copy.postponed")

    assert copy.state is CopyState.FAILED
    assert copy.last_error == postponed["error"]
    assert (copy.attempts, postponed["reason"]) == (1, "marker_missing")
    assert 0 <= copy.due_us - before_us < 60_000_000
    assert bench.count("copies_total", target="nas", outcome="failed") == 1
    assert not await bench.engine.publishers["nas"].monitor.check()


async def test_a_fault_of_ours_stops_one_copy_only(bench: Bench, monkeypatch):
    """It is told with its trace in the log, and by its name alone elsewhere."""

    def crash(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret")

    served = await bench.add()
    assert await bench.fetch() is None
    monkeypatch.setattr(sidecar, "record", crash)
    with structlog.testing.capture_logs() as events:
        await bench.publish()
    (copy,) = bench.site.dossier(served).copies

    assert copy.state is CopyState.FAILED
    assert copy.last_error == "the publish failed: ZeroDivisionError"
    assert [e["log_level"] for e in events if e["event"] == "publish.crashed"] == [
        "error"
    ]


async def test_spooled_bytes_that_are_gone_are_fetched_anew(bench: Bench):
    """Said loudly, and counted."""
    served = await bench.add()
    assert await bench.fetch() is None
    for part in bench.site.folder.rglob("*.part"):
        part.unlink()
    with structlog.testing.capture_logs() as events:
        await bench.publish()
    export = bench.site.export(served)

    assert (export.state, export.reason) == (State.READY, "spool_lost")
    assert bench.count("copies_total", target="nas", outcome="spool_lost") == 1
    assert [e["log_level"] for e in events if e["event"] == "spool.file_lost"] == [
        "error"
    ]


async def test_a_spool_that_is_away_postpones_its_copies(bench: Bench, monkeypatch):
    """Nothing is fetched anew for that: its disk may come back."""
    served = await bench.add()
    assert await bench.fetch() is None

    async def check_there(_: Export) -> None:
        raise SpoolError("spool_lost", "its disk is away")

    (part,) = bench.site.folder.rglob("*.part")
    away = part.rename(bench.site.folder / "away")
    monkeypatch.setattr(bench.engine.spool, "check_there", check_there)
    await bench.publish()
    (copy,) = bench.site.dossier(served).copies
    assert (copy.state, copy.attempts) == (CopyState.FAILED, 1)
    assert bench.site.export(served).state is State.SPOOLED

    away.rename(part)
    work = asyncio.create_task(bench.engine.publishers["nas"].run())
    await bench.reaches(served, State.SAVED)
    work.cancel()


async def test_a_copy_is_tried_again_when_it_is_due(bench: Bench, monkeypatch):
    """The loop sleeps until then, and no longer."""
    served = await bench.add()
    assert await bench.fetch() is None
    publisher, times = bench.engine.publishers["nas"], []
    place = publisher.target.publish

    async def publish(batch: Sequence[Publication]) -> list[Kept | Exception]:
        times.append(to_us(utc_now()))
        if len(times) == 1:
            return [TargetError("io", "for once")]
        return await place(batch)

    monkeypatch.setattr(publisher.target, "publish", publish)
    work = asyncio.create_task(publisher.run())
    await bench.reaches(served, State.SAVED)
    work.cancel()

    assert len(times) == 2


async def test_the_first_copy_is_the_spooled_file_itself(bench: Bench):
    """No byte is copied where the spool lies on the target's disk."""
    await bench.add()
    assert await bench.fetch() is None
    (part,) = bench.site.folder.rglob("*.part")
    inode = part.stat().st_ino
    await bench.publish()

    (kept,) = bench.site.archive.rglob("*.mp4")
    assert kept.stat().st_ino == inode


async def test_an_export_without_a_key_is_refused():
    """Whatever is fetched is in the ledger."""
    with pytest.raises(ValueError, match="not from the ledger"):
        _ = builders.export(key=None).stored_key
