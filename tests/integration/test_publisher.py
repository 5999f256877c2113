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

from mirror.errors import LedgerError, TargetError
from mirror.lifecycle.attempt import Pace
from mirror.model import CopyState, State
from mirror.pipeline.publish import publisher
from mirror.ports import SpoolFileError
from tests.builders import HOUR, NOW
from tests.publisher_bench import BYTES, Desk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mirror.pipeline.publish.publisher import Publisher

PATH = "hq/1.mp4"


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    structlog.reset_defaults()  # a test before may have set a level
    async with Desk.open(tmp_path) as made:
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


async def begun(desk: Desk, publisher: Publisher) -> asyncio.Task[None]:
    """Claim a copy and publish it in a task of its own."""
    assert await publisher.standing.check()
    duty = await publisher._claim()
    assert duty is not None
    return asyncio.create_task(publisher._publish(duty))


async def turns(number: int = 10) -> None:
    """Let all tasks run on that need no thread."""
    for _ in range(number):
        await asyncio.sleep(0)


# --- when it works and when it waits --------------------------------------------


@pytest.mark.parametrize(
    ("most", "times"),
    [(1, [0, 10, 20, 30]), (2, [0, 0, 10, 10]), (3, [0, 0, 0, 10])],
)
async def test_so_many_are_published_at_once(desk, most, times):
    """The next begins as soon as one has ended, and each end is told."""
    desk.concurrency = most
    for number in range(1, 5):
        await desk.add(number)
    desk.nas.script = [10.0] * 4
    async with desk.running() as publisher:
        await asyncio.sleep(5)
        assert publisher.running == most
        await asyncio.sleep(40)
        assert publisher.running == 0

    assert [when for when, _ in desk.nas.asked] == times
    assert desk.nas.busiest == most
    assert desk.changes == 4
    assert len(desk.kept()) == 4


@pytest.mark.parametrize("most", [1, 2])
async def test_a_slow_copy_is_waited_for_in_peace(desk, most):
    """Whether or not there is room for one more, and though another is due."""
    desk.concurrency = most
    await desk.add(1)
    await desk.add(2)
    desk.nas.script = [1000.0, 1000.0]
    async with desk.running():
        await asyncio.sleep(990)
        asked = desk.ledger.calls

    assert asked < 200


async def test_an_hour_without_work_is_slept_through(desk):
    """New work is taken up at once all the same; the target is looked at too."""
    async with desk.running() as publisher:
        await asyncio.sleep(3000)
        await desk.add()
        publisher.wake.set()
        await asyncio.sleep(0.001)
        asked, when = desk.ledger.calls, desk.nas.asked[0][0]
        await asyncio.sleep(600)

    assert asked < 500
    assert when == 3000
    assert (await desk.copy()).state is CopyState.SAVED
    assert 50 <= len(desk.nas.looks) <= 62


async def test_new_work_waits_a_minute_at_most(desk):
    """Should nobody say that there is some."""
    async with desk.running():
        await asyncio.sleep(200)
        await desk.add()
        await asyncio.sleep(60)

    assert (await desk.copy()).state is CopyState.SAVED


async def test_a_failed_copy_is_tried_ever_more_rarely(desk):
    """At the moment it is due, not before, and not much later."""
    await desk.add()
    desk.nas.script = [failure()] * 5
    with structlog.testing.capture_logs() as events:
        async with desk.running():
            await asyncio.sleep(0.5)
            copy = await desk.copy()
            await asyncio.sleep(60)

    assert (copy.state, copy.last_error) == (CopyState.FAILED, "the disk is tired")
    assert (copy.due_us, copy.attempts) == (NOW + 1_000_000, 1)
    assert [when for when, _ in desk.nas.asked] == [0, 1, 3, 7, 15, 31]
    assert (await desk.copy()).state is CopyState.SAVED
    assert [each["reason"] for each in of(events, "copy.postponed")] == ["io"] * 5
    assert desk.count("copies_total", target="nas", outcome="failed") == 5
    assert desk.count("copies_total", target="nas", outcome="saved") == 1


async def test_no_wait_is_longer_than_the_longest(desk):
    """Nor is one that is shorter than a minute rounded up to it."""
    desk.pace = Pace(initial=timedelta(seconds=0.5), maximum=timedelta(seconds=100))
    await desk.add()
    desk.nas.script = [failure()] * 10
    async with desk.running():
        await asyncio.sleep(1000)
    times = [when for when, _ in desk.nas.asked]

    assert times[:4] == [0, 0.5, 1.5, 3.5]
    assert times[-3:] == [times[-1] - 200, times[-1] - 100, times[-1]]
    assert (await desk.copy()).state is CopyState.SAVED


async def test_a_target_is_looked_at_each_minute_though_nothing_is_due(desk):
    """An operator learns that it is gone before the next copy needs it."""
    desk.pace = Pace(initial=timedelta(seconds=600), maximum=timedelta(seconds=600))
    await desk.add()
    desk.nas.script = [failure()]
    with structlog.testing.capture_logs() as events:
        async with desk.running():
            await asyncio.sleep(1)
            (desk.folder / "nas").rename(desk.folder / "elsewhere")
            await asyncio.sleep(130)

    assert len(of(events, "target.lost")) == 1


async def test_other_copies_go_on_while_one_waits(desk):
    """A failure holds up that copy only."""
    await desk.add(1)
    await desk.add(2)
    desk.nas.script = [failure()]
    async with desk.running():
        await asyncio.sleep(0.5)

        assert (await desk.copy(1)).state is CopyState.FAILED
        assert (await desk.copy(2)).state is CopyState.SAVED


async def test_a_clock_that_is_put_back_holds_up_no_copy(desk):
    """A due time further away than the longest wait was set by the clock before."""
    await desk.add()
    desk.nas.script = [failure()]
    async with desk.running():
        await asyncio.sleep(0.5)
        desk.ahead_us = -24 * HOUR
        await asyncio.sleep(61)

    assert (await desk.copy()).state is CopyState.SAVED


async def test_a_clock_that_stands_still_keeps_no_processor_busy(desk):
    """A machine that was suspended may see such a moment."""
    await desk.add()
    desk.nas.script = [failure()]
    async with desk.running():
        await asyncio.sleep(0.5)
        desk.stopped_us, before = NOW + 999_990, desk.ledger.calls
        await asyncio.sleep(2)
        asked, desk.stopped_us = desk.ledger.calls - before, None
        await asyncio.sleep(1)

    assert asked < 200
    assert (await desk.copy()).state is CopyState.SAVED


# --- a target that goes and comes back ------------------------------------------


@pytest.mark.parametrize(
    ("most_s", "gaps"),
    [(600, [1, 2, 4, 8, 16, 32, 60, 60]), (5, [1, 2, 4, 5, 5, 5])],
)
async def test_a_target_that_is_away_is_looked_for(desk, most_s, gaps):
    """Once a minute at least; no attempt is counted meanwhile; it is told once."""
    desk.pace = Pace(initial=timedelta(seconds=1), maximum=timedelta(seconds=most_s))
    root, elsewhere = desk.folder / "nas", desk.folder / "elsewhere"
    with structlog.testing.capture_logs() as events:
        async with desk.running() as publisher:
            await asyncio.sleep(1)
            root.rename(elsewhere)
            root.mkdir()
            await desk.add()
            publisher.wake.set()
            await asyncio.sleep(sum(gaps) + 1)
            looks, attempts = desk.nas.looks[1:], (await desk.copy()).attempts
            root.rmdir()
            elsewhere.rename(root)
            await asyncio.sleep(61)

    between = [b - a for a, b in itertools.pairwise(looks)]
    assert between[: len(gaps)] == gaps
    assert attempts == 1
    assert desk.kept() == {PATH: BYTES}
    assert (await desk.copy()).state is CopyState.SAVED
    assert len(of(events, "target.lost")) == len(of(events, "target.recovered")) == 1


async def test_a_paused_target_is_left_alone(desk):
    """What is under way ends; the rest follows when the pause is over."""
    await desk.add(1)
    await desk.add(2)
    desk.nas.script = [10.0]
    async with desk.running() as publisher:
        await asyncio.sleep(1)
        publisher.paused = True
        await asyncio.sleep(3000)
        assert (await desk.copy(1)).state is CopyState.SAVED
        assert (await desk.copy(2)).state is CopyState.PENDING
        assert desk.nas.looks == [0]
        publisher.paused = False
        publisher.wake.set()
        await asyncio.sleep(0.01)

    assert [when for when, _ in desk.nas.asked] == [0, 3001]
    assert (await desk.copy(2)).state is CopyState.SAVED


# --- what a saved copy leaves ---------------------------------------------------


async def test_a_saved_export_says_how_long_and_how_close_it_was(desk):
    """To the millisecond and to the second, from the start of the last fetch."""
    await desk.add()
    deadline_us = (await desk.export()).deadline_us or 0
    desk.ahead_us = deadline_us - 7_200_501_000 - NOW
    with structlog.testing.capture_logs() as events:
        async with desk.running() as publisher:
            await asyncio.sleep(1)
            export = await desk.export()
            assert publisher.path_for(export) == PATH
    (saved,) = of(events, "export.saved")
    copy, record = await desk.copy(), desk.folder / "nas" / f"{PATH}.json"

    assert saved["margin_s"] == 7201
    assert saved["took_s"] == round((desk.ahead_us + 12_345_678) / 1e6, 3)
    assert isinstance(saved["margin_s"], int)
    assert desk.kept() == {PATH: BYTES}
    assert json.loads(record.read_bytes())["sha256"] == export.sha256
    assert (export.state, export.spool_dir) == (State.SAVED, None)
    assert (copy.saved_us, copy.verified_us) == (NOW + desk.ahead_us, None)
    assert list((desk.folder / "spool").iterdir()) == []
    assert desk.progress.saved_files == 1


@pytest.mark.parametrize(
    ("required", "state"),
    [
        (("nas",), State.SAVED),
        ((), State.SAVED),
        (("nas", "vault"), State.SPOOLED),
        (("vault",), State.SPOOLED),
    ],
)
async def test_a_file_stays_spooled_until_every_target_has_it(desk, required, state):
    """An export is saved once the required ones do, or any if none is."""
    desk.targets, desk.required = ("nas", "vault"), required
    path = await desk.add()
    with structlog.testing.capture_logs() as events:
        async with desk.running():
            await asyncio.sleep(1)

    assert (await desk.copy()).state is CopyState.SAVED
    assert (await desk.copy(target="vault")).state is CopyState.PENDING
    assert (await desk.export()).state is state
    assert len(of(events, "export.saved")) == (state is State.SAVED)
    assert path.read_bytes() == BYTES


async def test_a_copied_file_leaves_the_spool(desk):
    """Read back it is proven, and the spool has its room again."""
    desk.may_link = False
    path = await desk.add()
    inode = path.stat().st_ino
    async with desk.running():
        await asyncio.sleep(1)
    copy = await desk.copy()

    assert (copy.state, copy.verified_us) == (CopyState.SAVED, NOW)
    assert (desk.folder / "nas" / PATH).stat().st_ino != inode
    assert not path.exists()


async def test_a_spool_that_cannot_be_freed_is_freed_later(desk):
    """The copy is saved for all that, and the ledger knows that the file is there."""
    path = await desk.add()

    async def unplug() -> None:
        desk.guard = away

    desk.nas.script = [unplug]
    with structlog.testing.capture_logs() as events:
        async with desk.running() as publisher:
            await asyncio.sleep(1)
            export = await desk.export()
            desk.guard = None
            await publisher.free(export.stored_key)
    (failed,) = of(events, "spool.failed")

    assert (failed["export"], failed["log_level"]) == (export.label, "warning")
    assert "not mounted" in failed["error"]
    assert (export.state, export.spool_dir) == (State.SAVED, str(path.parent))
    assert not path.exists()
    assert (await desk.export()).spool_dir is None


async def test_two_exports_at_one_path_are_told_apart(desk):
    """Though their bytes be the same: each has a file of its own."""
    desk.same_path = True
    await desk.add(1)
    await desk.add(2)
    with structlog.testing.capture_logs() as events:
        async with desk.running():
            await asyncio.sleep(1)

    assert desk.kept() == {"hq/same.mp4": BYTES, "hq/same~2.mp4": BYTES}
    assert (await desk.copy(1)).path == "hq/same.mp4"
    assert (await desk.copy(2)).path == "hq/same~2.mp4"
    assert of(events, "path.taken") == []


async def test_where_all_paths_are_taken_is_told(desk, monkeypatch):
    """What lies there is never overwritten, and the copy stays owed."""
    monkeypatch.setattr(publisher, "MAX_NUMBER", 3)
    await desk.add()
    (desk.folder / "nas" / "hq").mkdir(parents=True)
    strangers = {PATH: b"one", "hq/1~2.mp4": b"two"}
    for path, content in strangers.items():
        (desk.folder / "nas" / path).write_bytes(content)
    with structlog.testing.capture_logs() as events:
        async with desk.running():
            await asyncio.sleep(0.5)
    (postponed,) = of(events, "copy.postponed")

    assert postponed["reason"] == "path_taken"
    assert "lie at the same path" in ((await desk.copy()).last_error or "")
    assert desk.kept() == strangers


# --- bytes that are gone or damaged ---------------------------------------------


@pytest.mark.parametrize("damage", ["gone", "short", "flipped"])
async def test_a_damaged_file_in_the_spool_is_fetched_anew(desk, damage):
    """Not a byte of it is shown on the target, and none is left in the spool."""
    desk.may_link = False
    path = await desk.add()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(BYTES[:-1] + (b"" if damage == "short" else b"?"))
    with structlog.testing.capture_logs() as events:
        async with desk.running():
            await asyncio.sleep(100)
    export, copy = await desk.export(), await desk.copy()

    assert (export.state, export.reason) == (State.READY, "spool_lost")
    assert (export.spool_dir, export.part_bytes) == (None, 0)
    assert (copy.state, len(desk.nas.asked)) == (CopyState.PENDING, 1)
    assert not path.exists()
    assert desk.kept() == {}
    assert [each["log_level"] for each in of(events, "spool.file_lost")] == ["error"]
    assert desk.changes == 1


async def test_a_spool_that_is_away_is_waited_for(desk):
    """Its files are not lost: nothing is fetched anew for that."""
    path = await desk.add()
    spool = path.parent.rename(desk.folder / "unplugged")
    desk.guard = away
    with structlog.testing.capture_logs() as events:
        async with desk.running():
            await asyncio.sleep(0.5)
            export, copy = await desk.export(), await desk.copy()
            spool.rename(path.parent)
            desk.guard = None
            await asyncio.sleep(1)
    (postponed,) = of(events, "copy.postponed")

    assert (export.state, copy.state) == (State.SPOOLED, CopyState.FAILED)
    assert postponed["reason"] == "spool_failed"
    assert "not mounted" in (copy.last_error or "")
    assert (await desk.copy()).state is CopyState.SAVED
    assert desk.kept() == {PATH: BYTES}


async def kept_elsewhere(desk: Desk, *names: str) -> dict[str, Path]:
    """Let other targets hold the export, and the spool be free; return the files."""
    desk.targets = ("nas", *names)
    path = await desk.add()
    key, files = (await desk.export()).stored_key, {}
    for name in names:
        desk.siblings[name] = desk.folder / name
        files[name] = desk.folder / name / PATH
        files[name].parent.mkdir(parents=True)
        shutil.copy(path, files[name])
        await desk.thread(_saved_on, key, name)
    path.unlink()
    await desk.thread(lambda ledger: ledger.copies.freed(key))
    return files


def _saved_on(ledger, key: int, name: str) -> None:
    ledger.copies.fix_path(key, name, PATH)
    ledger.copies.saved(key, name, verified=True, now_us=NOW, required=())


async def test_a_copy_is_made_from_another_target(desk):
    """A copy with bytes of its own: one bad block must not take both."""
    files = await kept_elsewhere(desk, "vault")
    async with desk.running():
        await asyncio.sleep(1)

    assert (await desk.copy()).verified_us == NOW
    assert desk.kept() == {PATH: BYTES}
    kept = (desk.folder / "nas" / PATH).stat()
    assert kept.st_ino != files["vault"].stat().st_ino
    assert kept.st_nlink == 1


@pytest.mark.parametrize("damage", ["gone", "short", "flipped"])
async def test_a_damaged_sibling_is_no_reason_to_fetch(desk, damage):
    """The export is kept somewhere; its copy here waits, and says for what."""
    file = (await kept_elsewhere(desk, "vault"))["vault"]
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(BYTES[:-1] + (b"" if damage == "short" else b"?"))
    with structlog.testing.capture_logs() as events:
        async with desk.running():
            await asyncio.sleep(0.5)
            export, copy = await desk.export(), await desk.copy()
            file.write_bytes(BYTES)
            await asyncio.sleep(1)
    (postponed,) = of(events, "copy.postponed")

    assert export.state is State.SAVED
    assert (copy.state, postponed["reason"]) == (CopyState.FAILED, "no_origin")
    assert str(file) in (copy.last_error or "")
    assert of(events, "spool.file_lost") == []
    assert (await desk.copy()).state is CopyState.SAVED


@pytest.mark.parametrize("damage", ["gone", "flipped", "unreachable", "unknown"])
async def test_another_sibling_is_taken_if_one_is_damaged(desk, damage):
    """One good copy anywhere is enough."""
    files = await kept_elsewhere(desk, "attic", "vault")
    if damage == "gone":
        files["attic"].unlink()
    elif damage == "flipped":
        files["attic"].write_bytes(BYTES[:-1] + b"?")
    elif damage == "unreachable":
        desk.nas.script = [TargetError("no_origin", "stale file handle")]
    else:
        del desk.siblings["attic"]
    async with desk.running():
        await asyncio.sleep(0.5)

    assert (await desk.copy()).state is CopyState.SAVED
    assert desk.kept() == {PATH: BYTES}


async def test_without_any_bytes_a_copy_waits(desk):
    """No target is left that could give them."""
    await kept_elsewhere(desk, "vault")
    desk.siblings.clear()
    with structlog.testing.capture_logs() as events:
        async with desk.running():
            await asyncio.sleep(0.5)
    (postponed,) = of(events, "copy.postponed")

    assert postponed["reason"] == "no_origin"
    assert (await desk.copy()).state is CopyState.FAILED
    assert (await desk.export()).state is State.SAVED


@pytest.mark.parametrize("damaged", [False, True])
async def test_a_copy_that_was_kept_before_is_read_before_it_is_believed(desk, damaged):
    """What lies there may be the spooled file itself, and both be damaged."""
    desk.targets = ("nas", "vault")
    path = await desk.add()
    async with desk.running() as publisher:
        await asyncio.sleep(1)
        assert path.samefile(desk.folder / "nas" / PATH)
        if damaged:
            path.write_bytes(BYTES[:-1] + b"?")
        await desk.thread(_found_bad, (await desk.export()).stored_key)
        publisher.wake.set()
        await asyncio.sleep(0.5)
    copy = await desk.copy()

    assert copy.state is (CopyState.PENDING if damaged else CopyState.SAVED)
    assert copy.verified_us == (None if damaged else NOW + 1_000_000)


def _found_bad(ledger, key: int) -> None:
    subject = ledger.verification.copy_to_read(key, "nas")
    ledger.verification.bad(subject, error="bits", targets=("nas", "vault"), now_us=NOW)


async def test_a_fault_that_two_targets_meet_costs_one_fetch(desk):
    """The later of them must not take the file away that was fetched anew."""
    desk.targets = desk.required = ("nas", "vault")
    desk.may_link = False
    path = await desk.add()
    path.write_bytes(BYTES[:-1] + b"?")
    key = (await desk.export()).stored_key

    async def fetched_anew() -> None:
        await asyncio.sleep(10)
        await desk.thread(lambda ledger: ledger.copies.spool_lost(key, "by vault"))
        await desk.add()
        raise SpoolFileError("other bytes")

    desk.nas.script = [fetched_anew]
    await (await begun(desk, desk.publisher()))

    assert path.read_bytes() == BYTES
    assert (await desk.export()).state is State.SPOOLED
    async with desk.running():
        await asyncio.sleep(1)
    assert (await desk.copy()).state is CopyState.SAVED


# --- faults of ours, of the ledger, and cancellations ---------------------------


async def test_a_fault_of_ours_stops_that_copy_only(desk):
    """It is told by its name: its text may hold what is secret."""
    await desk.add(1)
    await desk.add(2)
    desk.nas.script = [ZeroDivisionError("secret")]
    with structlog.testing.capture_logs() as events:
        async with desk.running():
            await asyncio.sleep(0.5)
    (postponed,) = of(events, "copy.postponed")

    assert postponed["reason"] == "unexpected"
    assert "secret" not in str(postponed) + str((await desk.copy(1)).last_error)
    assert (await desk.copy(2)).state is CopyState.SAVED


async def test_a_ledger_that_fails_ends_the_publisher(desk):
    """At whatever step; after a restart each copy is published, and once."""
    number = at = 1
    ended = False
    while not ended:
        await desk.add(number)
        desk.ledger.calls = 0

        def fail(call: int, at: int = at) -> None:
            if call == at:
                raise LedgerError("the disk is full")

        desk.ledger.at_call = fail
        work = asyncio.create_task(desk.publisher().run())
        done, _ = await asyncio.wait([work], timeout=30)
        ended = not done
        if done:
            failed = work.exception()
            assert isinstance(failed, ExceptionGroup | LedgerError)
            assert "the disk is full" in str(getattr(failed, "exceptions", failed))
        else:
            work.cancel()
            await asyncio.wait([work])
        desk.ledger.at_call, desk.ledger.calls = lambda _: None, 0
        await desk.thread(lambda ledger: ledger.fetches.recover())
        async with desk.running():
            await asyncio.sleep(1)
        assert (await desk.copy(number)).state is CopyState.SAVED
        assert desk.kept()[f"hq/{number}.mp4"] == BYTES
        number, at = number + 1, at + 1

    assert at > 7
    assert len(desk.kept()) == number - 1


async def test_a_cancelled_copy_goes_back_to_the_queue(desk):
    """The target ends what it began; the attempt does not count."""
    await desk.add()
    desk.nas.script = [100.0]
    work = await begun(desk, desk.publisher())
    await asyncio.sleep(1)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    copy = await desk.copy()

    assert desk.clock.now_s == 100
    assert (copy.state, copy.attempts) == (CopyState.PENDING, 0)
    assert desk.kept() == {PATH: BYTES}
    assert (await desk.export()).state is State.SPOOLED
    async with desk.running():
        await asyncio.sleep(1)
    assert desk.kept() == {PATH: BYTES}
    assert (await desk.copy()).state is CopyState.SAVED


@pytest.mark.parametrize("more", [1, 2, 5])
async def test_a_copy_that_is_cancelled_again_is_given_back_all_the_same(desk, more):
    """Though the ledger be busy with something else just then."""
    await desk.add()
    desk.nas.script = [100.0]
    work = await begun(desk, desk.publisher())
    await asyncio.sleep(1)
    with desk.ledger.busy() as asked:
        work.cancel()
        await asked.wait()
        for _ in range(more):
            await turns()
            work.cancel()
        await turns()
    with pytest.raises(asyncio.CancelledError):
        await work
    copy = await desk.copy()

    assert (copy.state, copy.attempts) == (CopyState.PENDING, 0)


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_a_copy_that_is_cancelled_when_proven_is_saved(desk, times):
    """What is on the target is written down, and the spool freed."""
    path = await desk.add()
    desk.nas.script = [100.0]
    work = await begun(desk, desk.publisher())
    await asyncio.sleep(1)
    with structlog.testing.capture_logs() as events:
        with desk.ledger.busy() as asked:
            await asked.wait()
            for _ in range(times):
                await turns()
                work.cancel()
            await turns()
        with pytest.raises(asyncio.CancelledError):
            await work

    assert (await desk.copy()).state is CopyState.SAVED
    assert (await desk.export()).state is State.SAVED
    assert len(of(events, "export.saved")) == 1
    assert not path.exists()
