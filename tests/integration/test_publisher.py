"""When a publisher works, when it waits, and what it leaves when something fails."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import shutil
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from mirror.backoff import Pace
from mirror.errors import LedgerError, TargetError
from mirror.model import CopyState, State
from mirror.pipeline.publish import attempt
from mirror.ports import ContentError
from tests.builders import HOUR, NOW
from tests.publisher_bench import BYTES, PublisherBench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mirror.pipeline.publish.publisher import Publisher

PATH = "hq/1.mp4"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[PublisherBench]:
    structlog.reset_defaults()  # a test before may have set a level
    async with PublisherBench.open(tmp_path) as made:
        yield made


def away() -> None:
    """Stand in for a disk that is not mounted."""
    raise OSError(errno.ENOTCONN, "not mounted")


def failure() -> TargetError:
    """Return one that a target may meet."""
    return TargetError("io", "the disk is tired")


def of(events: list[Any], name: str) -> list[Any]:
    """Return the events of one name."""
    return [each for each in events if each["event"] == name]


async def begun(bench: PublisherBench, publisher: Publisher) -> asyncio.Task[None]:
    """Claim a copy and publish it in a task of its own."""
    assert await publisher.monitor.check()
    duties = await publisher.claim()
    assert duties
    return asyncio.create_task(publisher.copies.publish(duties))


async def turns(number: int = 10) -> None:
    """Let all tasks run on that need no thread."""
    for _ in range(number):
        await asyncio.sleep(0)


# --- when it works and when it waits --------------------------------------------


@pytest.mark.parametrize(
    ("most", "times"),
    [(1, [0, 10, 20, 30]), (2, [0, 0, 10, 10]), (3, [0, 0, 0, 10])],
)
async def test_so_many_are_published_at_once(bench, most, times):
    """The next begins as soon as one has ended, and each end is told."""
    bench.concurrency = most
    for number in range(1, 5):
        await bench.add(number)
    bench.nas.script = [10.0] * 4
    async with bench.running() as publisher:
        await asyncio.sleep(5)
        assert publisher.running == most
        await asyncio.sleep(40)
        assert publisher.running == 0

    assert [when for when, _ in bench.nas.asked] == times
    assert bench.nas.busiest == most
    assert bench.changes == 4
    assert len(bench.kept()) == 4


@pytest.mark.parametrize("most", [1, 2])
async def test_a_slow_copy_is_waited_for_in_peace(bench, most):
    """Whether or not there is room for one more, and though another is due."""
    bench.concurrency = most
    await bench.add(1)
    await bench.add(2)
    bench.nas.script = [1000.0, 1000.0]
    async with bench.running():
        await asyncio.sleep(990)
        asked = bench.ledger.calls

    assert asked < 200


async def test_an_hour_without_work_is_slept_through(bench):
    """New work is taken up at once all the same; the target is looked at too."""
    async with bench.running() as publisher:
        await asyncio.sleep(3000)
        await bench.add()
        publisher.wake.set()
        await asyncio.sleep(0.001)
        asked, when = bench.ledger.calls, bench.nas.asked[0][0]
        await asyncio.sleep(600)

    assert asked < 500
    assert when == 3000
    assert (await bench.copy()).state is CopyState.SAVED
    assert 50 <= len(bench.nas.looks) <= 62


async def test_new_work_waits_a_minute_at_most(bench):
    """Should nobody say that there is some."""
    async with bench.running():
        await asyncio.sleep(200)
        await bench.add()
        await asyncio.sleep(60)

    assert (await bench.copy()).state is CopyState.SAVED


async def test_a_failed_copy_is_tried_ever_more_rarely(bench):
    """At the moment it is due, not before, and not much later."""
    await bench.add()
    bench.nas.script = [failure()] * 5
    with structlog.testing.capture_logs() as events:
        async with bench.running():
            await asyncio.sleep(0.5)
            copy = await bench.copy()
            await asyncio.sleep(60)

    assert (copy.state, copy.last_error) == (CopyState.FAILED, "the disk is tired")
    assert (copy.due_us, copy.attempts) == (NOW + 1_000_000, 1)
    assert [when for when, _ in bench.nas.asked] == [0, 1, 3, 7, 15, 31]
    assert (await bench.copy()).state is CopyState.SAVED
    assert [each["reason"] for each in of(events, "copy.postponed")] == ["io"] * 5
    assert bench.count("copies_total", target="nas", outcome="failed") == 5
    assert bench.count("copies_total", target="nas", outcome="saved") == 1


async def test_no_wait_is_longer_than_the_longest(bench):
    """Nor is one that is shorter than a minute rounded up to it."""
    bench.pace = Pace(initial=timedelta(seconds=0.5), maximum=timedelta(seconds=100))
    await bench.add()
    bench.nas.script = [failure()] * 10
    async with bench.running():
        await asyncio.sleep(1000)
    times = [when for when, _ in bench.nas.asked]

    assert times[:4] == [0, 0.5, 1.5, 3.5]
    assert times[-3:] == [times[-1] - 200, times[-1] - 100, times[-1]]
    assert (await bench.copy()).state is CopyState.SAVED


async def test_a_target_is_looked_at_each_minute_though_nothing_is_due(bench):
    """An operator learns that it is gone before the next copy needs it."""
    bench.pace = Pace(initial=timedelta(seconds=600), maximum=timedelta(seconds=600))
    await bench.add()
    bench.nas.script = [failure()]
    with structlog.testing.capture_logs() as events:
        async with bench.running():
            await asyncio.sleep(1)
            (bench.folder / "nas").rename(bench.folder / "elsewhere")
            await asyncio.sleep(130)

    assert len(of(events, "target.lost")) == 1


async def test_other_copies_go_on_while_one_waits(bench):
    """A failure holds up that copy only."""
    await bench.add(1)
    await bench.add(2)
    bench.nas.script = [failure()]
    async with bench.running():
        await asyncio.sleep(0.5)

        assert (await bench.copy(1)).state is CopyState.FAILED
        assert (await bench.copy(2)).state is CopyState.SAVED


async def test_a_clock_that_is_put_back_holds_up_no_copy(bench):
    """A due time further away than the longest wait was set by the clock before."""
    await bench.add()
    bench.nas.script = [failure()]
    async with bench.running():
        await asyncio.sleep(0.5)
        bench.ahead_us = -24 * HOUR
        await asyncio.sleep(61)

    assert (await bench.copy()).state is CopyState.SAVED


async def test_a_clock_that_stands_still_keeps_no_processor_busy(bench):
    """A machine that was suspended may see such a moment."""
    await bench.add()
    bench.nas.script = [failure()]
    async with bench.running():
        await asyncio.sleep(0.5)
        bench.stopped_us, before = NOW + 999_990, bench.ledger.calls
        await asyncio.sleep(2)
        asked, bench.stopped_us = bench.ledger.calls - before, None
        await asyncio.sleep(1)

    assert asked < 200
    assert (await bench.copy()).state is CopyState.SAVED


# --- a target that goes and comes back ------------------------------------------


@pytest.mark.parametrize(
    ("most_s", "gaps"),
    [(600, [1, 2, 4, 8, 16, 32, 60, 60]), (5, [1, 2, 4, 5, 5, 5])],
)
async def test_a_target_that_is_away_is_looked_for(bench, most_s, gaps):
    """Once a minute at least; no attempt is counted meanwhile; it is told once."""
    bench.pace = Pace(initial=timedelta(seconds=1), maximum=timedelta(seconds=most_s))
    root, elsewhere = bench.folder / "nas", bench.folder / "elsewhere"
    with structlog.testing.capture_logs() as events:
        async with bench.running() as publisher:
            await asyncio.sleep(1)
            root.rename(elsewhere)
            root.mkdir()
            await bench.add()
            publisher.wake.set()
            await asyncio.sleep(sum(gaps) + 1)
            looks, attempts = bench.nas.looks[1:], (await bench.copy()).attempts
            root.rmdir()
            elsewhere.rename(root)
            await asyncio.sleep(61)

    between = [b - a for a, b in itertools.pairwise(looks)]
    assert between[: len(gaps)] == gaps
    assert attempts == 1
    assert bench.kept() == {PATH: BYTES}
    assert (await bench.copy()).state is CopyState.SAVED
    assert len(of(events, "target.lost")) == len(of(events, "target.recovered")) == 1


async def test_a_paused_target_is_left_alone(bench):
    """What is under way ends; the rest follows when the pause is over."""
    await bench.add(1)
    await bench.add(2)
    bench.nas.script = [10.0]
    async with bench.running() as publisher:
        await asyncio.sleep(1)
        publisher.paused = True
        await asyncio.sleep(3000)
        assert (await bench.copy(1)).state is CopyState.SAVED
        assert (await bench.copy(2)).state is CopyState.PENDING
        assert bench.nas.looks == [0]
        publisher.paused = False
        publisher.wake.set()
        await asyncio.sleep(0.01)

    assert [when for when, _ in bench.nas.asked] == [0, 3001]
    assert (await bench.copy(2)).state is CopyState.SAVED


# --- what a saved copy leaves ---------------------------------------------------


async def test_a_saved_export_says_how_long_and_how_close_it_was(bench):
    """To the millisecond and to the second, from the start of the last fetch."""
    await bench.add()
    deadline_us = (await bench.export()).deadline_us or 0
    bench.ahead_us = deadline_us - 7_200_501_000 - NOW
    with structlog.testing.capture_logs() as events:
        async with bench.running() as publisher:
            await asyncio.sleep(1)
            export = await bench.export()
            assert publisher.copies.path_for(export) == PATH
    (saved,) = of(events, "export.saved")
    copy, record = await bench.copy(), bench.folder / "nas" / f"{PATH}.json"

    assert saved["margin_s"] == 7201
    assert saved["took_s"] == round((bench.ahead_us + 12_345_678) / 1e6, 3)
    assert isinstance(saved["margin_s"], int)
    assert bench.kept() == {PATH: BYTES}
    assert json.loads(record.read_bytes())["sha256"] == export.sha256
    assert (export.state, export.spool_dir) == (State.SAVED, None)
    assert (copy.saved_us, copy.verified_us) == (NOW + bench.ahead_us, None)
    assert list((bench.folder / "spool").iterdir()) == []
    assert bench.progress.saved_files == 1


@pytest.mark.parametrize(
    ("required", "state"),
    [
        (("nas",), State.SAVED),
        ((), State.SAVED),
        (("nas", "vault"), State.SPOOLED),
        (("vault",), State.SPOOLED),
    ],
)
async def test_a_file_stays_spooled_until_every_target_has_it(bench, required, state):
    """An export is saved once the required ones do, or any if none is."""
    bench.targets, bench.required = ("nas", "vault"), required
    path = await bench.add()
    with structlog.testing.capture_logs() as events:
        async with bench.running():
            await asyncio.sleep(1)

    assert (await bench.copy()).state is CopyState.SAVED
    assert (await bench.copy(target="vault")).state is CopyState.PENDING
    assert (await bench.export()).state is state
    assert len(of(events, "export.saved")) == (state is State.SAVED)
    assert path.read_bytes() == BYTES


async def test_a_copied_file_leaves_the_spool(bench):
    """Read back it is proven, and the spool has its room again."""
    bench.may_link = False
    path = await bench.add()
    inode = path.stat().st_ino
    async with bench.running():
        await asyncio.sleep(1)
    copy = await bench.copy()

    assert (copy.state, copy.verified_us) == (CopyState.SAVED, NOW)
    assert (bench.folder / "nas" / PATH).stat().st_ino != inode
    assert not path.exists()


async def test_a_spool_that_cannot_be_freed_is_freed_later(bench):
    """The copy is saved for all that, and the ledger knows that the file is there."""
    path = await bench.add()

    async def unplug() -> None:
        bench.guard = away

    bench.nas.script = [unplug]
    with structlog.testing.capture_logs() as events:
        async with bench.running() as publisher:
            await asyncio.sleep(1)
            export = await bench.export()
            bench.guard = None
            await publisher.copies.free(export.stored_key)
    (failed,) = of(events, "spool.failed")

    assert (failed["export"], failed["log_level"]) == (export.label, "warning")
    assert "not mounted" in failed["error"]
    assert (export.state, export.spool_dir) == (State.SAVED, str(path.parent))
    assert not path.exists()
    assert (await bench.export()).spool_dir is None


async def test_two_exports_at_one_path_are_told_apart(bench):
    """Though their bytes be the same: each has a file of its own."""
    bench.same_path = True
    await bench.add(1)
    await bench.add(2)
    with structlog.testing.capture_logs() as events:
        async with bench.running():
            await asyncio.sleep(1)

    assert bench.kept() == {"hq/same.mp4": BYTES, "hq/same~2.mp4": BYTES}
    assert (await bench.copy(1)).path == "hq/same.mp4"
    assert (await bench.copy(2)).path == "hq/same~2.mp4"
    assert of(events, "path.taken") == []


async def test_where_all_paths_are_taken_is_told(bench, monkeypatch):
    """What lies there is never overwritten, and the copy stays owed."""
    monkeypatch.setattr(attempt, "MAX_NUMBER", 3)
    await bench.add()
    (bench.folder / "nas" / "hq").mkdir(parents=True)
    strangers = {PATH: b"one", "hq/1~2.mp4": b"two"}
    for path, content in strangers.items():
        (bench.folder / "nas" / path).write_bytes(content)
    with structlog.testing.capture_logs() as events:
        async with bench.running():
            await asyncio.sleep(0.5)
    (postponed,) = of(events, "copy.postponed")

    assert postponed["reason"] == "path_taken"
    assert "lie at the same path" in ((await bench.copy()).last_error or "")
    assert bench.kept() == strangers


# --- bytes that are gone or damaged ---------------------------------------------


@pytest.mark.parametrize("damage", ["gone", "short", "flipped"])
async def test_a_damaged_file_in_the_spool_is_fetched_anew(bench, damage):
    """Not a byte of it is shown on the target, and none is left in the spool."""
    bench.may_link = False
    path = await bench.add()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(BYTES[:-1] + (b"" if damage == "short" else b"?"))
    with structlog.testing.capture_logs() as events:
        async with bench.running():
            await asyncio.sleep(100)
    export, copy = await bench.export(), await bench.copy()

    assert (export.state, export.reason) == (State.READY, "spool_lost")
    assert (export.spool_dir, export.part_bytes) == (None, 0)
    assert (copy.state, len(bench.nas.asked)) == (CopyState.PENDING, 1)
    assert not path.exists()
    assert bench.kept() == {}
    assert [each["log_level"] for each in of(events, "spool.file_lost")] == ["error"]
    assert bench.changes == 1


async def test_a_spool_that_is_away_is_waited_for(bench):
    """Its files are not lost: nothing is fetched anew for that."""
    path = await bench.add()
    spool = path.parent.rename(bench.folder / "unplugged")
    bench.guard = away
    with structlog.testing.capture_logs() as events:
        async with bench.running():
            await asyncio.sleep(0.5)
            export, copy = await bench.export(), await bench.copy()
            spool.rename(path.parent)
            bench.guard = None
            await asyncio.sleep(1)
    (postponed,) = of(events, "copy.postponed")

    assert (export.state, copy.state) == (State.SPOOLED, CopyState.FAILED)
    assert postponed["reason"] == "spool_failed"
    assert "not mounted" in (copy.last_error or "")
    assert (await bench.copy()).state is CopyState.SAVED
    assert bench.kept() == {PATH: BYTES}


async def kept_elsewhere(bench: PublisherBench, *names: str) -> dict[str, Path]:
    """Let other targets hold the export, and the spool be free; return the files."""
    bench.targets = ("nas", *names)
    path = await bench.add()
    key, files = (await bench.export()).stored_key, {}
    for name in names:
        health = await bench.other(name).probe(None, write=True)
        await bench.thread(_known_by, name, health.marker_id)
        files[name] = bench.folder / name / PATH
        files[name].parent.mkdir(parents=True)
        shutil.copy(path, files[name])
        await bench.thread(_saved_on, key, name)
    path.unlink()
    export = await bench.export()
    await bench.thread(lambda ledger: ledger.copies.freed([export]))
    return files


def _known_by(ledger, name: str, marker_id: str) -> None:
    ledger.targets.checked(
        name, marker_id=marker_id, free_bytes=None, problem=None, now_us=NOW
    )


def _saved_on(ledger, key: int, name: str) -> None:
    ledger.copies.fix_path(key, name, PATH)
    ledger.copies.saved(key, name, verified=True, now_us=NOW, required=())


async def test_a_copy_is_made_from_another_target(bench):
    """A copy with bytes of its own: one bad block must not take both."""
    files = await kept_elsewhere(bench, "vault")
    async with bench.running():
        await asyncio.sleep(1)

    assert (await bench.copy()).verified_us == NOW
    assert bench.kept() == {PATH: BYTES}
    kept = (bench.folder / "nas" / PATH).stat()
    assert kept.st_ino != files["vault"].stat().st_ino
    assert kept.st_nlink == 1


@pytest.mark.parametrize("damage", ["gone", "short", "flipped"])
async def test_a_damaged_sibling_is_no_reason_to_fetch(bench, damage):
    """The export is kept somewhere; its copy here waits, and says for what."""
    file = (await kept_elsewhere(bench, "vault"))["vault"]
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(BYTES[:-1] + (b"" if damage == "short" else b"?"))
    with structlog.testing.capture_logs() as events:
        async with bench.running():
            await asyncio.sleep(0.5)
            export, copy = await bench.export(), await bench.copy()
            file.write_bytes(BYTES)
            await asyncio.sleep(1)
    (postponed,) = of(events, "copy.postponed")

    assert export.state is State.SAVED
    assert (copy.state, postponed["reason"]) == (CopyState.FAILED, "no_origin")
    assert str(file) in (copy.last_error or "")
    assert of(events, "spool.file_lost") == []
    assert (await bench.copy()).state is CopyState.SAVED


@pytest.mark.parametrize("damage", ["gone", "flipped", "unreachable", "unknown"])
async def test_another_sibling_is_taken_if_one_is_damaged(bench, damage):
    """One good copy anywhere is enough."""
    files = await kept_elsewhere(bench, "attic", "vault")
    if damage == "gone":
        files["attic"].unlink()
    elif damage == "flipped":
        files["attic"].write_bytes(BYTES[:-1] + b"?")
    elif damage == "unreachable":
        bench.nas.script = [TargetError("no_origin", "stale file handle")]
    else:
        bench.targets = ("nas", "vault")
    async with bench.running():
        await asyncio.sleep(0.5)

    assert (await bench.copy()).state is CopyState.SAVED
    assert bench.kept() == {PATH: BYTES}


async def test_without_any_bytes_a_copy_waits(bench):
    """No target is left that could give them."""
    await kept_elsewhere(bench, "vault")
    bench.targets = ("nas",)
    with structlog.testing.capture_logs() as events:
        async with bench.running():
            await asyncio.sleep(0.5)
    (postponed,) = of(events, "copy.postponed")

    assert postponed["reason"] == "no_origin"
    assert (await bench.copy()).state is CopyState.FAILED
    assert (await bench.export()).state is State.SAVED


@pytest.mark.parametrize("damaged", [False, True])
async def test_a_copy_that_was_kept_before_is_read_before_it_is_believed(
    bench, damaged
):
    """What lies there may be the spooled file itself, and both be damaged."""
    bench.targets = ("nas", "vault")
    path = await bench.add()
    async with bench.running() as publisher:
        await asyncio.sleep(1)
        assert path.samefile(bench.folder / "nas" / PATH)
        if damaged:
            path.write_bytes(BYTES[:-1] + b"?")
        await bench.thread(_found_bad, (await bench.export()).stored_key)
        publisher.wake.set()
        await asyncio.sleep(0.5)
    copy = await bench.copy()

    assert copy.state is (CopyState.PENDING if damaged else CopyState.SAVED)
    assert copy.verified_us == (None if damaged else NOW + 1_000_000)


def _found_bad(ledger, key: int) -> None:
    subject = ledger.verification.copy_to_read(key, "nas")
    ledger.verification.bad(subject, error="bits", targets=("nas", "vault"), now_us=NOW)


async def test_a_fault_that_two_targets_meet_costs_one_fetch(bench):
    """The later of them must not take the file away that was fetched anew."""
    bench.targets = bench.required = ("nas", "vault")
    bench.may_link = False
    path = await bench.add()
    path.write_bytes(BYTES[:-1] + b"?")
    key = (await bench.export()).stored_key

    async def fetched_anew() -> None:
        await asyncio.sleep(10)
        await bench.thread(lambda ledger: ledger.copies.spool_lost(key, "by vault"))
        await bench.add()
        raise ContentError("other bytes")

    bench.nas.script = [fetched_anew]
    await (await begun(bench, bench.publisher()))

    assert path.read_bytes() == BYTES
    assert (await bench.export()).state is State.SPOOLED
    async with bench.running():
        await asyncio.sleep(1)
    assert (await bench.copy()).state is CopyState.SAVED


# --- faults of ours, of the ledger, and cancellations ---------------------------


async def test_a_fault_of_ours_stops_that_copy_only(bench):
    """It is told by its name: its text may hold what is secret."""
    await bench.add(1)
    await bench.add(2)
    bench.nas.script = [ZeroDivisionError("secret")]
    with structlog.testing.capture_logs() as events:
        async with bench.running():
            await asyncio.sleep(0.5)
    (postponed,) = of(events, "copy.postponed")

    assert postponed["reason"] == "unexpected"
    assert "secret" not in str(postponed) + str((await bench.copy(1)).last_error)
    assert (await bench.copy(2)).state is CopyState.SAVED


async def test_a_ledger_that_fails_ends_the_publisher(bench):
    """At whatever step; after a restart each copy is published, and once."""
    number = at = 1
    ended = False
    while not ended:
        await bench.add(number)
        bench.ledger.calls = 0

        def fail(call: int, at: int = at) -> None:
            if call == at:
                raise LedgerError("the disk is full")

        bench.ledger.at_call = fail
        work = asyncio.create_task(bench.publisher().run())
        done, _ = await asyncio.wait([work], timeout=30)
        ended = not done
        if done:
            failed = work.exception()
            assert isinstance(failed, ExceptionGroup | LedgerError)
            assert "the disk is full" in str(getattr(failed, "exceptions", failed))
        else:
            work.cancel()
            await asyncio.wait([work])
        bench.ledger.at_call, bench.ledger.calls = lambda _: None, 0
        await bench.thread(lambda ledger: ledger.fetches.recover())
        async with bench.running():
            await asyncio.sleep(1)
        assert (await bench.copy(number)).state is CopyState.SAVED
        assert bench.kept()[f"hq/{number}.mp4"] == BYTES
        number, at = number + 1, at + 1

    assert at > 7
    assert len(bench.kept()) == number - 1


async def test_a_cancelled_copy_goes_back_to_the_queue(bench):
    """The target ends what it began; the attempt does not count."""
    await bench.add()
    bench.nas.script = [100.0]
    work = await begun(bench, bench.publisher())
    await asyncio.sleep(1)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    copy = await bench.copy()

    assert bench.clock.now_s == 100
    assert (copy.state, copy.attempts) == (CopyState.PENDING, 0)
    assert bench.kept() == {PATH: BYTES}
    assert (await bench.export()).state is State.SPOOLED
    async with bench.running():
        await asyncio.sleep(1)
    assert bench.kept() == {PATH: BYTES}
    assert (await bench.copy()).state is CopyState.SAVED


@pytest.mark.parametrize("more", [1, 2, 5])
async def test_a_copy_that_is_cancelled_again_is_given_back_all_the_same(bench, more):
    """Though the ledger be busy with something else just then."""
    await bench.add()
    bench.nas.script = [100.0]
    work = await begun(bench, bench.publisher())
    await asyncio.sleep(1)
    with bench.ledger.busy() as asked:
        work.cancel()
        await asked.wait()
        for _ in range(more):
            await turns()
            work.cancel()
        await turns()
    with pytest.raises(asyncio.CancelledError):
        await work
    copy = await bench.copy()

    assert (copy.state, copy.attempts) == (CopyState.PENDING, 0)


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_a_copy_that_is_cancelled_when_proven_is_saved(bench, times):
    """What is on the target is written down, and the spool freed."""
    path = await bench.add()
    bench.nas.script = [100.0]
    work = await begun(bench, bench.publisher())
    await asyncio.sleep(1)
    with structlog.testing.capture_logs() as events:
        with bench.ledger.busy() as asked:
            await asked.wait()
            for _ in range(times):
                await turns()
                work.cancel()
            await turns()
        with pytest.raises(asyncio.CancelledError):
            await work

    assert (await bench.copy()).state is CopyState.SAVED
    assert (await bench.export()).state is State.SAVED
    assert len(of(events, "export.saved")) == 1
    assert not path.exists()
