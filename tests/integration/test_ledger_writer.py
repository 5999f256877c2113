"""The thread that owns the ledger: patience, order, cancellation."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from mirror.errors import LedgerError
from mirror.ledger import Ledger, LedgerThread, rows, writer
from mirror.ledger.database import Database
from tests.ledger_bench import (
    meet,
    row,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
async def thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writer, "_REPEAT_S", 0.01)
    monkeypatch.setattr(writer, "_GROUP_S", 60.0)
    made = LedgerThread(Ledger.open(tmp_path))
    yield made
    await made.close()


async def test_a_full_disk_is_waited_out(thread):
    """The call is repeated until it succeeds, has changed nothing until then."""
    tries = []

    def call(ledger: Ledger) -> str:
        with ledger._db.transaction() as connection:
            connection.execute(
                "INSERT INTO totals (source, event, total) VALUES ('a', 'b', 1)"
            )
            tries.append(1)
            if len(tries) < 5:
                raise sqlite3.OperationalError("database or disk is full")
        return "done"

    seen = []

    async def watch() -> None:
        while len(tries) < 5:
            seen.append(thread.problem)
            await asyncio.sleep(0.005)

    watching = asyncio.create_task(watch())
    assert await thread(call) == "done"
    await watching

    assert len(tries) == 5
    assert "database or disk is full" in seen
    assert thread.problem is None
    assert await thread(lambda ledger: ledger.queries.totals("b")) == {("a", ""): 1}


async def test_a_ledger_that_is_really_full_recovers(thread):
    """SQLite's own error, from its own limit on pages."""

    def limit(ledger: Ledger, pages: int) -> None:
        ledger._db.connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()

    await thread(limit, 1)
    many = [
        row(number, raw=random.Random(number).randbytes(900)) for number in range(90)
    ]
    meeting = asyncio.create_task(thread(meet, *many))
    async with asyncio.timeout(60):
        while thread.problem is None:
            await asyncio.sleep(0.01)
    assert "full" in thread.problem
    assert await thread(lambda ledger: ledger.queries.counts()) == {}
    await thread(limit, 1 << 30)
    met, _ = await meeting

    assert met.new == 90


async def test_patience_runs_out(tmp_path, monkeypatch):
    """A command for people does not wait for ever."""
    monkeypatch.setattr(writer, "_REPEAT_S", 0.01)
    thread = LedgerThread(Ledger.open(tmp_path), patience_s=0.05)

    def call(_: Ledger) -> None:
        raise sqlite3.OperationalError("database is locked")

    with pytest.raises(LedgerError, match="cannot be written: database is locked"):
        await thread(call)
    await thread.close()


async def test_a_damaged_ledger_is_not_retried(thread):
    """It is told at once."""
    tries = []

    def call(_: Ledger) -> None:
        tries.append(1)
        raise sqlite3.DatabaseError("database disk image is malformed")

    with pytest.raises(LedgerError, match="damaged"):
        await thread(call)
    assert len(tries) == 1


async def test_other_errors_reach_the_caller_and_change_nothing(thread):
    """A fault in a call is rolled back; the next call works."""

    def call(ledger: Ledger) -> None:
        with ledger._db.transaction() as connection:
            connection.execute(
                "INSERT INTO totals (source, event, total) VALUES ('a', 'b', 1)"
            )
            raise ValueError("planned")

    with pytest.raises(ValueError, match="planned"):
        await thread(call)
    assert await thread(lambda ledger: ledger.queries.totals("b")) == {}


async def test_calls_run_in_one_thread_in_order(thread):
    """The connection belongs to it."""
    order: list[int] = []
    owners: set[int] = set()

    def call(_: Ledger, number: int) -> None:
        time.sleep(0.001)
        order.append(number)
        owners.add(threading.get_ident())

    await asyncio.gather(*(thread(call, number) for number in range(30)))

    assert order == list(range(30))
    assert len(owners) == 1
    assert owners != {threading.get_ident()}


async def test_a_call_begun_ends_though_its_caller_is_cancelled(thread):
    """It is committed, and the ledger goes on for others."""
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def call(ledger: Ledger) -> None:
        loop.call_soon_threadsafe(begun.set)
        time.sleep(0.05)
        meet(ledger, row(1))

    calling = asyncio.create_task(thread(call))
    await begun.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling

    counts = await thread(lambda ledger: ledger.queries.counts())
    assert counts == {("hq", "ready"): 1}


async def test_a_caller_cancelled_while_the_disk_is_full_stops_waiting(thread):
    """A stop is not held up, and nothing is written afterwards."""
    tries = []

    def call(_: Ledger) -> None:
        tries.append(1)
        raise sqlite3.OperationalError("database or disk is full")

    calling = asyncio.create_task(thread(call))
    while not tries:
        await asyncio.sleep(0.005)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await asyncio.sleep(0.05)
    count = len(tries)
    await asyncio.sleep(0.05)

    assert len(tries) == count
    await thread(lambda ledger: ledger.ping())
    assert thread.problem is None


def count_event(ledger: Ledger, event: str) -> None:
    """Count one event."""
    with ledger._db.transaction() as connection:
        rows.add_total(connection, "hq", event, "")


async def gather(thread: LedgerThread, *calls: Callable[[Ledger], Any]) -> list[Any]:
    """Run calls that meet: the first holds the thread until all are there."""
    there = threading.Event()
    first = asyncio.ensure_future(thread(lambda _: there.wait(10)))
    await asyncio.sleep(0)
    meeting = asyncio.gather(*(map(thread, calls)), return_exceptions=True)
    await asyncio.sleep(0)
    there.set()
    await first
    return await meeting


async def test_calls_that_meet_share_a_commit(thread):
    """Each in a savepoint of its own; one that fails takes nothing with it."""
    before = await thread(commits)

    def fails(ledger: Ledger) -> None:
        count_event(ledger, "b")
        with ledger.together():
            count_event(ledger, "b")
            raise ValueError("planned")

    results = await gather(
        thread,
        lambda ledger: count_event(ledger, "a"),
        fails,
        lambda ledger: count_event(ledger, "a"),
        lambda ledger: ledger.queries.totals("a"),
    )

    assert isinstance(results[1], ValueError)
    assert results[3] == {("hq", ""): 2}
    assert await thread(lambda ledger: ledger.queries.totals("a")) == {("hq", ""): 2}
    assert await thread(lambda ledger: ledger.queries.totals("b")) == {("hq", ""): 1}
    assert await thread(commits) == before + 1


def commits(ledger: Ledger) -> int:
    """Return how many commits the ledger counts."""
    (number,) = ledger._db.connection.execute("SELECT number FROM commits").fetchone()
    return int(number)


async def test_no_call_has_its_result_before_the_commit(thread):
    """While calls that meet are not durable, nobody acts on them."""
    told: list[bool] = []
    calling: list[asyncio.Future[None]] = []

    def slow(ledger: Ledger) -> None:
        time.sleep(0.03)
        told.append(calling[0].done())
        count_event(ledger, "a")

    async with asyncio.TaskGroup() as group:
        held = threading.Event()
        group.create_task(thread(lambda _: held.wait(10)))
        await asyncio.sleep(0)
        calling.append(
            group.create_task(thread(lambda ledger: count_event(ledger, "a")))
        )
        group.create_task(thread(slow))
        await asyncio.sleep(0)
        held.set()

    assert told == [False]


async def test_an_error_that_undoes_all_fails_all_and_all_are_repeated(thread):
    """Some errors of SQLite roll back the whole transaction."""
    tries: list[int] = []

    def undoes(ledger: Ledger) -> None:
        tries.append(1)
        with ledger._db.transaction() as connection:
            rows.add_total(connection, "hq", "a", "")
            if len(tries) < 3:
                connection.execute("ROLLBACK")
                raise sqlite3.OperationalError("disk I/O error")

    await gather(
        thread,
        lambda ledger: count_event(ledger, "a"),
        undoes,
        lambda ledger: count_event(ledger, "a"),
    )

    assert len(tries) == 3
    assert await thread(lambda ledger: ledger.queries.totals("a")) == {("hq", ""): 3}


async def test_a_commit_that_fails_fails_all_and_all_are_repeated(thread, monkeypatch):
    """Nothing of a group is believed before it is durable."""
    commit, failures = Database._commit, [1, 1]

    def fails(database: Database) -> None:
        if failures:
            failures.pop()
            database._roll_back()
            raise sqlite3.OperationalError("database or disk is full")
        commit(database)

    monkeypatch.setattr(Database, "_commit", fails)
    await gather(thread, *[lambda ledger: count_event(ledger, "a")] * 5)

    assert await thread(lambda ledger: ledger.queries.totals("a")) == {("hq", ""): 5}


async def test_questions_alone_begin_no_write(thread):
    """A command that writes meanwhile is not kept waiting."""
    seen: list[bool] = []

    def ask(ledger: Ledger) -> None:
        ledger.queries.counts()
        seen.append(ledger._db.connection.in_transaction)

    await gather(thread, ask, ask)

    assert seen == [False, False]


async def test_a_call_cancelled_before_it_began_is_not_run(thread):
    """Its caller thinks that nothing was done."""
    held = threading.Event()
    first = asyncio.ensure_future(thread(lambda _: held.wait(10)))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(thread(lambda ledger: count_event(ledger, "a")))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    held.set()
    await first

    assert await thread(lambda ledger: ledger.queries.totals("a")) == {}
