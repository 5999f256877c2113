"""A ledger of an older program: all that it holds is there afterwards."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from typing import Any

import pytest

from mirror.errors import LedgerError
from mirror.ledger import LEDGER_NAME, Ledger
from mirror.ledger import database as databases
from mirror.model import State
from tests.ledger_bench import (
    meet,
    row,
)

FIRST = databases.migrations()
SCRIPT = """\
-- A new column; with a semicolon in the comment.
ALTER TABLE exports ADD COLUMN extra TEXT;
UPDATE exports SET extra = 'a;b';
"""
NEWEST = FIRST[-1][0]
NEXT = (NEWEST + 1, SCRIPT)


def test_a_migration_keeps_all_and_a_backup(ledger, tmp_path, monkeypatch):
    """The backup is whole, of the old version, and for its owner alone."""
    meet(ledger, row(1), row(2))
    ledger.close()
    monkeypatch.setattr(databases, "migrations", lambda: [*FIRST, NEXT])
    migrated = Ledger.open(tmp_path)
    connection = migrated._db.connection
    assert connection.execute("SELECT extra FROM exports").fetchall() == [("a;b",)] * 2
    assert connection.execute("PRAGMA user_version").fetchone() == (NEXT[0],)
    assert migrated.queries.counts() == {("hq", "ready"): 2}
    migrated.close()

    backup = tmp_path / f"ledger.v{NEWEST}.sqlite3"
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    with contextlib.closing(sqlite3.connect(backup)) as old:
        assert old.execute("PRAGMA user_version").fetchone() == (NEWEST,)
        assert old.execute("SELECT count(*) FROM exports").fetchone() == (2,)
        columns = [one[1] for one in old.execute("PRAGMA table_info(exports)")]
    assert "extra" not in columns


def test_a_migration_that_fails_changes_nothing(ledger, tmp_path, monkeypatch):
    """All of a script or none; the old program still reads the ledger."""
    meet(ledger, row(1))
    ledger.close()
    broken = (NEXT[0], f"{SCRIPT}INSERT INTO nowhere VALUES (1);\n")
    monkeypatch.setattr(databases, "migrations", lambda: [*FIRST, broken])
    with pytest.raises(LedgerError, match="nowhere"):
        Ledger.open(tmp_path)
    monkeypatch.setattr(databases, "migrations", lambda: FIRST)
    again = Ledger.open(tmp_path)
    found = again._db.connection.execute("PRAGMA table_info(exports)")

    assert "extra" not in [one[1] for one in found]
    assert again.queries.counts() == {("hq", "ready"): 1}
    again.close()


def test_a_reader_meets_no_version_between(tmp_path, monkeypatch):
    """A new ledger is there with all its migrations, or reads as an empty one."""
    broken = (NEXT[0], "INSERT INTO nowhere VALUES (1);\n")
    monkeypatch.setattr(databases, "migrations", lambda: [*FIRST, broken])
    with pytest.raises(LedgerError, match="nowhere"):
        Ledger.open(tmp_path)
    monkeypatch.setattr(databases, "migrations", lambda: [*FIRST, NEXT])
    reader = Ledger.read(tmp_path)

    assert reader.queries.counts() == {}
    reader.close()


def test_a_reader_does_not_migrate(ledger, tmp_path, monkeypatch):
    """It says that the service must be restarted."""
    ledger.close()
    monkeypatch.setattr(databases, "migrations", lambda: [*FIRST, NEXT])
    with pytest.raises(LedgerError, match="restart the service"):
        Ledger.read(tmp_path)

    assert [path.name for path in tmp_path.glob("*.v*.*")] == []


def test_renamed_columns_keep_what_they_hold(tmp_path, monkeypatch):
    """Version 11 renames columns: values, checksums, indexes, triggers stay right."""
    known = databases.migrations()
    monkeypatch.setattr(databases, "migrations", lambda: known[:10])
    older = databases.Database.open(tmp_path / LEDGER_NAME)
    with older.transaction() as connection:
        columns = connection.execute("PRAGMA table_info(exports)").fetchall()
        values: dict[str, Any] = {
            name: 0
            for _, name, kind, needed, default, _ in columns
            if needed and default is None and kind == "INTEGER"
        }
        values |= {
            "source": "hq",
            "created_key": "k1",
            "state": "ready",
            "ours": 1,
            "barren": 3,
            "misses": 4,
            "part_plain": 1,
        }
        connection.execute(
            f"INSERT INTO exports ({', '.join(values)}) "
            f"VALUES ({', '.join('?' * len(values))})",
            [*values.values()],
        )
        connection.execute("INSERT INTO node (node_id, made_us) VALUES ('n', 0)")
    older.close()
    monkeypatch.setattr(databases, "migrations", lambda: known)
    ledger = Ledger.open(tmp_path)
    ledger.prove()
    (export,) = ledger.by_state(State.READY)

    assert export.counts_as_ours is True
    assert (export.attempts_without_gain, export.tries_without_file) == (3, 4)
    assert export.ask_without_range is True
    ledger.events.listen(on=True)
    with ledger._db.transaction() as connection:
        connection.execute("UPDATE exports SET state = 'lost'")
    assert [event.event for event in ledger.events.take(9)] == ["export.lost"]
    assert ledger.queries.unacknowledged() == {"hq": 1}
    ledger.close()
