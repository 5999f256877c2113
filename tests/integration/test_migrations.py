"""A ledger of an older program: all that it holds is there afterwards."""

from __future__ import annotations

from typing import Any

from mirror.ledger import LEDGER_NAME, Ledger
from mirror.ledger import database as databases
from mirror.model import State


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
    ledger.events.listen(wanted=True)
    with ledger._db.transaction() as connection:
        connection.execute("UPDATE exports SET state = 'lost'")
    assert [event.event for event in ledger.events.take(9)] == ["export.lost"]
    assert ledger.queries.unacknowledged() == {"hq": 1}
    ledger.close()
