"""Turn ledger rows into values and back."""

from __future__ import annotations

import dataclasses
import zlib
from typing import TYPE_CHECKING, Any

from mirror.model import Attempt, Copy, CopyState, Export, State

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

FIELDS = tuple(field.name for field in dataclasses.fields(Export))
COLUMNS = ", ".join(f"exports.{name}" for name in FIELDS)
_FLAGS = ("has_file", "ours", "had_file", "part_plain")
COPY_COLUMNS = (
    "copies.target, copies.state, copies.path, copies.verified_us, copies.saved_us, "
    "copies.attempts, copies.due_us, copies.last_error"
)
NEEDS_ITEM = frozenset(State) - {State.EXCLUDED, State.UNAVAILABLE}


def export(row: Sequence[Any]) -> Export:
    """Return the export of a row selected with `COLUMNS`."""
    values = dict(zip(FIELDS, row, strict=True))
    values["state"] = State(values["state"])
    for name in _FLAGS:
        values[name] = bool(values[name])
    return Export(**values)


def copy(row: Sequence[Any]) -> Copy:
    """Return the copy of a row selected with `COPY_COLUMNS`."""
    target, state, path, verified_us, saved_us, attempts, due_us, last_error = row
    return Copy(
        target=target,
        state=CopyState(state),
        path=path,
        verified_us=verified_us,
        saved_us=saved_us,
        attempts=attempts,
        due_us=due_us,
        last_error=last_error,
    )


def attempt(row: Sequence[Any]) -> Attempt:
    """Return the attempt of a whole row of `attempts` less its export."""
    names = [field.name for field in dataclasses.fields(Attempt)]
    return Attempt(**dict(zip(names, row, strict=True)))


def find(connection: sqlite3.Connection, key: int) -> Export:
    """Return the export of that key."""
    query = f"SELECT {COLUMNS} FROM exports WHERE key = ?"
    return export(connection.execute(query, (key,)).fetchone())


def insert(connection: sqlite3.Connection, new: Export) -> int:
    """Write a new export and return its key."""
    marks = ", ".join("?" * len(FIELDS))
    names = ", ".join(FIELDS)
    cursor = connection.execute(
        f"INSERT INTO exports ({names}) VALUES ({marks})",
        [getattr(new, name) for name in FIELDS],
    )
    if cursor.lastrowid is None:
        raise RuntimeError("SQLite gave no key")
    return cursor.lastrowid


def update(connection: sqlite3.Connection, prior: Export, new: Export) -> bool:
    """Write what differs; tell whether anything did."""
    if new is prior:
        return False
    changes = {
        name: getattr(new, name)
        for name in FIELDS
        if getattr(new, name) != getattr(prior, name)
    }
    if not changes:
        return False
    assignments = ", ".join(f"{name} = ?" for name in changes)
    connection.execute(
        f"UPDATE exports SET {assignments} WHERE key = ?",
        [*changes.values(), prior.key],
    )
    if new.state is not prior.state:
        _count(connection, new)
    return True


def keep_item(connection: sqlite3.Connection, key: int, raw: bytes) -> None:
    """Keep the list item as received."""
    connection.execute(
        "INSERT INTO items (export, item) VALUES (?, ?) "
        "ON CONFLICT (export) DO UPDATE SET item = excluded.item",
        (key, zlib.compress(raw, 1)),
    )


def item(connection: sqlite3.Connection, key: int) -> bytes:
    """Return the list item as received; `{}` if none was kept."""
    row = connection.execute("SELECT item FROM items WHERE export = ?", (key,))
    found = row.fetchone()
    return zlib.decompress(found[0]) if found else b"{}"


def _count(connection: sqlite3.Connection, new: Export) -> None:
    """Add to the totals that must never fall."""
    if new.state is State.SAVED:
        add_total(connection, new.source, "saved", "")
    elif new.state is State.LOST and new.ours:
        add_total(connection, new.source, "lost", new.reason or "")


def add_total(
    connection: sqlite3.Connection, source: str, event: str, reason: str
) -> None:
    """Count one event."""
    connection.execute(
        "INSERT INTO totals (source, event, reason, total) VALUES (?, ?, ?, 1) "
        "ON CONFLICT DO UPDATE SET total = total + 1",
        (source, event, reason),
    )
