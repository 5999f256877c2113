"""Rows of the ledger as records, and back; all that writes a state."""

from __future__ import annotations

import dataclasses
import sqlite3
import zlib
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from mirror.layout import path_key, whole_form
from mirror.ledger import checksums
from mirror.lifecycle import held_body
from mirror.model import Attempt, Copy, CopyState, EtagUse, Export, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

AT_ONCE = 500
"""No transaction changes more exports: others wait for it."""
FIELDS = tuple(field.name for field in dataclasses.fields(Export))
_values = attrgetter(*FIELDS)
COLUMNS = f"exports.row_sum IS {checksums.row_sum(FIELDS, 'exports')}, " + ", ".join(
    f"exports.{name}" for name in FIELDS
)
"""Whether the row is as it was written, then its fields."""
OPEN = "('pending', 'publishing', 'failed')"
"""Written in each query as in the index over open copies, else it is not used."""
KEPT = "('spooled', 'saved', 'doubtful')"
_FLAGS = ("has_file", "counts_as_ours", "had_file", "ask_without_range", "part_firm")
_COPY_FIELDS = tuple(field.name for field in dataclasses.fields(Copy))
_COPY_KEYS = ("path_key", "base_key")
"""What of a path must be unique; derived from it."""
_copy_values = attrgetter(*_COPY_FIELDS)
COPY_COLUMNS = (
    f"copies.row_sum IS {checksums.row_sum(_COPY_FIELDS + _COPY_KEYS, 'copies')}, "
    + ", ".join(f"copies.{name}" for name in _COPY_FIELDS)
)
"""Whether the row is as it was written, then its fields."""
_INSERT = (
    f"INSERT INTO exports ({', '.join(FIELDS)}, row_sum) "
    f"VALUES ({', '.join('?' * len(FIELDS))}, {checksums.given_sum(FIELDS)})"
)
_KEEP_ITEM = (
    "INSERT INTO items (export, item, row_sum) "
    f"VALUES (?, ?, {checksums.given_sum(('export', 'item'))}) "
    "ON CONFLICT (export) DO UPDATE SET item = excluded.item, "
    "row_sum = excluded.row_sum"
)
_NEEDS_ITEM = frozenset(State) - {State.EXCLUDED, State.UNAVAILABLE}


def export(row: Sequence[Any]) -> Export:
    """Return the export of a row selected with `COLUMNS`.

    Raises:
        sqlite3.DatabaseError: The row is damaged.
    """
    values = dict(zip(FIELDS, _sound(row, "an export"), strict=True))
    values["state"] = State(values["state"])
    values["etag_use"] = EtagUse(values["etag_use"])
    for name in _FLAGS:
        values[name] = bool(values[name])
    return Export(**values)


def copy(row: Sequence[Any]) -> Copy:
    """Return the copy of a row selected with `COPY_COLUMNS`.

    Raises:
        sqlite3.DatabaseError: The row is damaged.
    """
    values = dict(zip(_COPY_FIELDS, _sound(row, "a copy"), strict=True))
    values["state"] = CopyState(values["state"])
    return Copy(**values)


def _sound(row: Sequence[Any], what: str) -> Sequence[Any]:
    if not row[0]:
        raise sqlite3.DatabaseError(f"the row of {what} is not as it was written")
    return row[1:]


def attempt(row: Sequence[Any]) -> Attempt:
    """Return the attempt of a whole row of `attempts` less its export."""
    names = [field.name for field in dataclasses.fields(Attempt)]
    return Attempt(**dict(zip(names, row, strict=True)))


def newest(
    connection: sqlite3.Connection, identity: tuple[str, int, str]
) -> Export | None:
    """Return the newest version of an export; None if it is not known."""
    row = connection.execute(
        f"SELECT {COLUMNS} FROM exports WHERE source = ? AND export_id = ? "
        "AND created_key = ? ORDER BY version DESC LIMIT 1",
        identity,
    ).fetchone()
    return None if row is None else export(row)


def find(connection: sqlite3.Connection, key: int) -> Export:
    """Return the export of that key."""
    query = f"SELECT {COLUMNS} FROM exports WHERE key = ?"
    return export(connection.execute(query, (key,)).fetchone())


def insert(connection: sqlite3.Connection, new: Export) -> int:
    """Write a new export and return its key."""
    next_key = "SELECT coalesce(max(key), 0) + 1 FROM exports"
    key = int(connection.execute(next_key).fetchone()[0])
    values = [*_values(new)]
    values[FIELDS.index("key")] = key
    connection.execute(_INSERT, values)
    return key


def insert_version(connection: sqlite3.Connection, prior: Export, new: Export) -> int:
    """Write a further version of an export, with its list item; return its key."""
    key = insert(connection, new)
    connection.execute(
        "INSERT INTO items (export, item) SELECT ?, item FROM items WHERE export = ?",
        (key, prior.key),
    )
    return key


def set_apart(connection: sqlite3.Connection, prior: Export) -> Export:
    """Make what is kept of an export a version of its own, with its copies.

    The export keeps its held body, whose file bears its name, and is not asked for
    again: nothing that came whole is thrown away because a good copy turned up.

    Returns:
        The version, in the state of `prior`.
    """
    last = newest(connection, prior.identity)
    kept = held_body.set_apart(prior, (last or prior).version + 1)
    key = insert_version(connection, prior, kept)
    connection.execute(
        "UPDATE copies SET export = ? WHERE export = ?", (key, prior.key)
    )
    await_end(connection, prior)
    return dataclasses.replace(kept, key=key)


def await_end(connection: sqlite3.Connection, prior: Export) -> None:
    """Let an export wait for nothing but to be kept by its held body."""
    update(connection, prior, held_body.alone(prior))


def update(connection: sqlite3.Connection, prior: Export, new: Export) -> bool:
    """Write what differs of an export; tell whether anything did.

    Its state is written nowhere else.
    """
    changes = {} if new is prior else _changes(FIELDS, _values(prior), _values(new))
    if not changes:
        return False
    connection.execute(
        f"UPDATE exports SET {_assignments(changes)} WHERE key = ?",
        (*changes.values(), prior.key),
    )
    if new.state is not prior.state:
        _count(connection, new)
    return True


def change(
    connection: sqlite3.Connection,
    where: str,
    values: Sequence[object],
    decide: Callable[[Export], Export],
) -> int:
    """Write some exports as they are by a decision; return how many it changed.

    Args:
        connection: In a transaction.
        where: SQL that chooses them; what follows it is in order.
        values: Of the marks in it.
        decide: Gives the new record; a function of `mirror.lifecycle`.
    """
    query = f"SELECT {COLUMNS} FROM exports {where}"
    chosen = [export(row) for row in connection.execute(query, values)]
    return sum(update(connection, prior, decide(prior)) for prior in chosen)


def copies(connection: sqlite3.Connection, key: int) -> list[Copy]:
    """Return all copies of an export, by target."""
    return _copies(connection, "WHERE export = ? ORDER BY target", (key,))


def find_copy(connection: sqlite3.Connection, key: int, target: str) -> Copy | None:
    """Return the copy of an export on a target; None if there is none."""
    chosen = _copies(connection, "WHERE export = ? AND target = ?", (key, target))
    return chosen[0] if chosen else None


def write_copy(connection: sqlite3.Connection, prior: Copy | None, new: Copy) -> bool:
    """Write what differs of a copy, or a new one; tell whether anything did.

    Its state is written nowhere else.

    Raises:
        sqlite3.IntegrityError: Another copy has its path.
    """
    written = _copy_values(new)
    before = None if prior is None else _copy_values(prior)
    values = (
        dict(zip(_COPY_FIELDS, written, strict=True))
        if before is None
        else _changes(_COPY_FIELDS, before, written)
    )
    if new.path is not None and "path" in values:
        values["path_key"] = path_key(new.path)
        values["base_key"] = path_key(whole_form(new.path))
    if not values:
        return False
    if prior is None:
        connection.execute(
            f"INSERT INTO copies ({', '.join(values)}) "
            f"VALUES ({', '.join('?' * len(values))})",
            (*values.values(),),
        )
    else:
        connection.execute(
            f"UPDATE copies SET {_assignments(values)} WHERE export = ? AND target = ?",
            (*values.values(), prior.export, prior.target),
        )
    return True


def change_copies(
    connection: sqlite3.Connection,
    where: str,
    values: Sequence[object],
    decide: Callable[[Copy], Copy],
) -> list[Copy]:
    """Write some copies as they are by a decision; arguments as for `change`.

    Returns:
        Those that it changed, as they were.
    """
    return [
        prior
        for prior in _copies(connection, where, values)
        if write_copy(connection, prior, decide(prior))
    ]


def _copies(
    connection: sqlite3.Connection, where: str, values: Sequence[object]
) -> list[Copy]:
    query = f"SELECT {COPY_COLUMNS} FROM copies {where}"
    return [copy(row) for row in connection.execute(query, values)]


def _changes(
    names: Sequence[str], before: Sequence[object], after: Sequence[object]
) -> dict[str, object]:
    return {
        name: new
        for name, old, new in zip(names, before, after, strict=True)
        if new != old
    }


def _assignments(names: Iterable[str]) -> str:
    return ", ".join(f"{name} = ?" for name in names)


def remove(connection: sqlite3.Connection, export: Export) -> None:
    """Forget an export and all that belongs to it."""
    for table in ("attempts", "copies", "items"):
        connection.execute(f"DELETE FROM {table} WHERE export = ?", (export.key,))
    connection.execute("DELETE FROM exports WHERE key = ?", (export.key,))


def keep_item(
    connection: sqlite3.Connection, key: int, raw: bytes, export: Export
) -> None:
    """Keep the list item as received, if it may be needed beside a file."""
    if export.state in _NEEDS_ITEM:
        connection.execute(_KEEP_ITEM, (key, zlib.compress(raw, 1)))


def item(connection: sqlite3.Connection, key: int) -> bytes:
    """Return the list item as received; `{}` if none was kept."""
    row = connection.execute("SELECT item FROM items WHERE export = ?", (key,))
    stored = row.fetchone()
    return zlib.decompress(stored[0]) if stored else b"{}"


def _count(connection: sqlite3.Connection, new: Export) -> None:
    """Add to the totals that must never fall."""
    if new.state in {State.SAVED, State.DOUBTFUL}:
        add_total(connection, new.source, new.state, "")
    elif new.state is State.LOST and new.counts_as_ours:
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
