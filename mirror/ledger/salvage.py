"""Carry over from a ledger that may be damaged each row that is as it was written."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from mirror.ledger import checksums
from mirror.ledger.database import connect, newest
from mirror.ledger.errors import FAULTS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

    from mirror.ledger.database import Database

_SMALL = ("node", "sources", "targets", "totals")
_OF_EXPORTS = ("items", "copies", "attempts")
_GROUP = 1000
_LEAST_BYTES = 64
"""No export's row takes less of the file."""


def carry(path: Path, into: Database, progress: Callable[[int], None]) -> int:
    """Copy all rows that can be read and proven; return how many exports cannot.

    The old file, at `path`, is only read; its -wal file is worked in, as at any start.
    The new one is empty. `progress` is called with the number of exports so far.
    """
    carried = 0
    try:
        old = connect(path)
    except FAULTS:
        return 0
    with contextlib.closing(old):
        groups = _groups(old)
        with into.transaction():
            for table in _SMALL:
                _copy(old, into, table)
        for keys in groups:
            with into.transaction():
                carried += sum(_carry_export(old, into, key) for key in keys)
            progress(carried)
        with contextlib.suppress(*FAULTS):
            old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    # Keys are counted up, and nothing is deleted but versions that were dropped.
    (dropped,) = into.connection.execute(
        "SELECT coalesce(sum(total), 0) FROM totals WHERE event = 'dropped'"
    ).fetchone()
    return max(0, sum(map(len, groups)) - carried - int(dropped))


def _groups(old: sqlite3.Connection) -> list[range]:
    """Return all keys there may be, in groups; none if this is no ledger of ours."""
    try:
        (version,) = old.execute("PRAGMA user_version").fetchone()
        (pages,) = old.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = old.execute("PRAGMA page_size").fetchone()
    except FAULTS:
        return []
    if version != newest():
        return []
    last = 0
    asked = (f"SELECT max(export) FROM {table}" for table in _OF_EXPORTS)
    for query in ("SELECT max(key) FROM exports", *asked):
        with contextlib.suppress(*FAULTS):
            last = max(last, old.execute(query).fetchone()[0] or 0)
    # Damage may give any number.
    last = min(last, pages * page_bytes // _LEAST_BYTES)
    return [
        range(first, min(first + _GROUP, last + 1))
        for first in range(1, last + 1, _GROUP)
    ]


def _carry_export(old: sqlite3.Connection, into: Database, key: int) -> bool:
    if not _copy(old, into, "exports", "key = ?", (key,)):
        return False
    for table in _OF_EXPORTS:
        _copy(old, into, table, "export = ?", (key,))
    return True


def _copy(
    old: sqlite3.Connection,
    into: Database,
    table: str,
    where: str = "1",
    values: tuple[int, ...] = (),
) -> int:
    """Copy the sound rows of a table, as far as they can be read."""
    names = checksums.columns(into.connection, table)
    read = (
        f"SELECT row_sum IS {checksums.row_sum(names, table)}, {', '.join(names)} "
        f"FROM {table} WHERE {where}"
    )
    sound = []
    with contextlib.suppress(*FAULTS):
        for is_sound, *row in old.execute(read, values):
            if is_sound:
                sound.append(row)
    into.connection.executemany(
        f"INSERT OR IGNORE INTO {table} ({', '.join(names)}) "
        f"VALUES ({', '.join('?' * len(names))})",
        sound,
    )
    return len(sound)
