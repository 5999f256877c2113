"""Counts of exports are kept, not counted: right whatever happens to the ledger."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from mirror.errors import DamagedLedgerError
from mirror.ledger import LEDGER_NAME, Filter, Ledger
from mirror.ledger import database as databases
from mirror.lifecycle.list_row import plan
from mirror.model import Reason, State
from tests import builders

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REASONS = (None, Reason.FILE_GONE, Reason.NO_FILE_YET)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path)
    yield opened
    opened.close()


def add(ledger: Ledger, number: int, source: str = "hq") -> None:
    """Let a walk meet a new row."""
    walk = builders.walk(source=source)
    shows = number % 2 == 0
    row = builders.row(export_id=number, created_key=f"k{number}", has_file=shows)
    ledger.walks.meet(source, [row], lambda prior, row: plan(prior, row, walk))


def counted(ledger: Ledger) -> tuple[dict[tuple[str, str], int], int]:
    """Count all exports anew."""
    execute = ledger._db.connection.execute
    found = execute("SELECT source, state, count(*) FROM exports GROUP BY 1, 2")
    owed = execute(
        "SELECT count(*) FROM exports WHERE had_file = 1 AND "
        "(state IN ('ready', 'fetching', 'parked', 'spooled') "
        "OR (state = 'waiting' AND reason = 'file_gone'))"
    ).fetchone()[0]
    return {(source, state): number for source, state, number in found}, owed


def told(ledger: Ledger) -> tuple[dict[tuple[str, str], int], int]:
    """Return what the ledger says of it."""
    return ledger.queries.counts(), ledger.queries.owed()


def shuffle(ledger: Ledger, draw: random.Random) -> None:
    """Change some exports in any way, one by one or many in one statement."""
    values = (
        draw.choice(list(State)),
        draw.choice(REASONS),
        draw.randrange(2),
        draw.randrange(1, 40),
        draw.choice([0, 0, 20]),
    )
    with ledger._db.transaction() as connection:
        connection.execute(
            "UPDATE exports SET state = ?, reason = ?, had_file = ? "
            "WHERE key BETWEEN ?4 AND ?4 + ?5",
            values,
        )


def test_counts_are_right_whatever_changes(ledger):
    """Each state, reason and flag; also when a transaction is rolled back."""
    draw = random.Random(3)
    for number in range(40):
        add(ledger, number, draw.choice(["hq", "depot"]))
    for _ in range(300):
        shuffle(ledger, draw)
        assert told(ledger) == counted(ledger)
        with pytest.raises(KeyError), ledger._db.transaction():
            shuffle(ledger, draw)
            raise KeyError
        assert told(ledger) == counted(ledger)
    ledger.prove()


def test_counts_are_made_for_an_older_ledger(tmp_path, monkeypatch):
    """A migration counts what is there."""
    path, known = tmp_path / LEDGER_NAME, databases.migrations()
    monkeypatch.setattr(databases, "migrations", lambda: known[:5])
    older = databases.Database.open(path)
    with older.transaction() as connection:
        columns = connection.execute("PRAGMA table_info(exports)").fetchall()
        needed = {name: 1 for _, name, _, needed, *_ in columns if needed}
        for key, (state, reason) in enumerate(
            [("waiting", "file_gone"), ("waiting", "no_file_yet"), ("saved", None)]
        ):
            values = needed | {"export_id": key, "state": state, "reason": reason}
            values["row_sum"] = 0
            connection.execute(
                f"INSERT INTO exports ({', '.join(values)}) "
                f"VALUES ({', '.join('?' * len(values))})",
                [*values.values()],
            )
    older.close()
    monkeypatch.setattr(databases, "migrations", lambda: known)
    ledger = Ledger.open(tmp_path)

    assert told(ledger) == counted(ledger)
    assert told(ledger) == ({("1", "waiting"): 2, ("1", "saved"): 1}, 1)
    ledger.close()


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE counts SET number = number + 1",
        "UPDATE counts SET number = 5, row_sum = 1",
        "DELETE FROM counts",
    ],
)
def test_a_wrong_count_is_damage(ledger, tmp_path, harm):
    """It is found at the next start, as any row that is not as it was written."""
    add(ledger, 1)
    with ledger._db.transaction() as connection:
        connection.execute(harm)
    ledger.close()

    with pytest.raises(DamagedLedgerError):
        Ledger.open(tmp_path)


def test_a_rebuilt_ledger_has_its_counts(ledger, tmp_path):
    """They are made by what is carried over, not carried over."""
    for number in range(5):
        add(ledger, number)
    (tmp_path / "new").mkdir()
    made = Ledger.open(tmp_path / "new")
    made.carry(tmp_path / LEDGER_NAME, lambda _: None)

    assert told(made) == counted(made) == told(ledger)
    made.prove()
    made.close()


def test_no_question_of_a_status_reads_all_exports(ledger):
    """Each is answered from an index or a count, whatever there is of hostile rows."""
    for number in range(4):
        add(ledger, number)
    asked: list[str] = []
    connection = ledger._db.connection
    connection.set_trace_callback(asked.append)
    ledger.queries.counts()
    ledger.queries.backlog(builders.NOW)
    ledger.queries.urgency("hq", builders.NOW)
    ledger.queries.last_verified()
    ledger.queries.unfetched(["hq"], builders.NOW)
    ledger.queries.unfetched_by_source(builders.NOW)
    ledger.queries.newly_doubtful(builders.NOW)
    ledger.queries.lost()
    ledger.queries.urgent(5, builders.NOW)
    list(ledger.queries.exports(Filter(limit=5)))
    ledger.queries.losses(5)
    ledger.queries.unacknowledged()
    ledger.inventory.vanishing("hq")
    around = {"now_us": builders.NOW, "horizon_us": builders.HOUR}
    ledger.fetches.sources_with_work(**around)
    ledger.fetches.next_due()
    ledger.fetches.unpark(**around)
    ledger.fetches.claim(["hq"], **around)
    connection.set_trace_callback(None)
    plans = {
        step[3]: query
        for query in asked
        if query.startswith("SELECT")
        for step in connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
    }
    slow = {step: query for step, query in plans.items() if is_slow(step)}

    assert len(plans) > 10
    assert slow == {}


def is_slow(step: str) -> bool:
    """Tell whether a step of a plan reads, or sorts, all there is of exports."""
    if step.startswith("SCAN exports"):
        in_order = ("exports_created", "exports_unacknowledged")
        return not step.endswith(in_order)
    return step.startswith("USE TEMP B-TREE FOR ORDER BY") or (
        "exports_state" in step and "source=?" not in step
    )
