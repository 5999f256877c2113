"""Checksums of rows: does the ledger hold what was written to it?

SQLite finds damage only where it breaks the structure of a page: a flipped bit in a
digest, a path or a deadline it gives back as if it had been written so. Therefore each
row carries a checksum over its other columns. Triggers of the connection keep it, and
refuse to change a row that does not fit its own.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

_pack = msgspec.msgpack.Encoder().encode
_GROUP = 10_000
_SCHEMA = (
    "SELECT CAST(type AS BLOB), CAST(name AS BLOB), CAST(tbl_name AS BLOB), "
    "CAST(sql AS BLOB) FROM sqlite_schema"
)
"""As bytes: what is damaged may be no text."""
# Triggers keep these counts.
_MISCOUNTED = """
SELECT state FROM (
  SELECT source, state, owed, number FROM counts
  UNION ALL
  SELECT source, state, had_file = 1 AND (
    state IN ('ready', 'fetching', 'parked', 'spooled')
    OR (state = 'waiting' AND reason IS 'file_gone')
  ) AS owed, -count(*) FROM exports GROUP BY source, state, owed
) GROUP BY source, state, owed HAVING sum(number) <> 0 LIMIT 1
"""
_TRIGGERS = """
CREATE TEMP TRIGGER {table}_added AFTER INSERT ON main.{table}
WHEN NEW.row_sum IS 0 BEGIN
  UPDATE {table} SET row_sum = {of_new} WHERE {this};
END;
CREATE TEMP TRIGGER {table}_changed AFTER UPDATE ON main.{table}
WHEN NEW.row_sum IS OLD.row_sum BEGIN
  SELECT RAISE(ABORT, 'a row of {table} is not as it was written')
  WHERE OLD.row_sum IS NOT {of_old};
  UPDATE {table} SET row_sum = {of_new} WHERE {this};
END;
"""


def row_sum(names: Iterable[str], of: str) -> str:
    """Return SQL for the checksum that a row should carry.

    Args:
        names: Of its columns but the checksum's own, in any order.
        of: What the row is called in the statement.
    """
    named = (f"{of}.{name}" for name in sorted(names))
    return f"row_sum({', '.join(named)})"


def given_sum(names: Sequence[str]) -> str:
    """Return SQL for the checksum of a row whose values are given in this order."""
    marks = (f"?{names.index(name) + 1}" for name in sorted(names))
    return f"row_sum({', '.join(marks)})"


def register(connection: sqlite3.Connection) -> None:
    """Give a connection the SQL function that computes a checksum."""
    connection.create_function("row_sum", -1, _sum, deterministic=True)


def install_triggers(connection: sqlite3.Connection) -> None:
    """Install the triggers that keep the checksums of what a connection writes."""
    for table in _tables(connection):
        names = columns(connection, table)
        connection.executescript(
            _TRIGGERS.format(
                table=table,
                this=_this(connection, table),
                of_new=row_sum(names, "NEW"),
                of_old=row_sum(names, "OLD"),
            )
        )


def recompute(connection: sqlite3.Connection) -> None:
    """Write all checksums anew, for a schema that has just changed.

    Some rows at a time, for SQLite keeps in memory what one statement changes.
    """
    for table in _tables(connection):
        right = row_sum(columns(connection, table), table)
        change = f"UPDATE {table} SET row_sum = {right}"
        key = connection.execute(
            "SELECT name FROM pragma_table_info(?) WHERE pk = 1 AND type = 'INTEGER'",
            (table,),
        ).fetchone()
        if key is None:
            connection.execute(change)
            continue
        newest = connection.execute(f"SELECT max({key[0]}) FROM {table}").fetchone()[0]
        for first in range(0, (newest or 0) + 1, _GROUP):
            last = first + _GROUP - 1
            within = f"{change} WHERE {key[0]} BETWEEN ? AND ?"
            connection.execute(within, (first, last))


def schema_problem(
    connection: sqlite3.Connection,
    made: sqlite3.Connection,
    look: str = "quick_check",
) -> str | None:
    """Return what is wrong with the structure of a ledger; arguments as `problem`."""
    wanted, found = (set(each.execute(_SCHEMA)) for each in (made, connection))
    if not wanted <= found:
        return "its schema is not as it was written"
    said = str(connection.execute(f"PRAGMA {look}(1)").fetchone()[0])
    return None if said == "ok" else said


def problem(connection: sqlite3.Connection, made: sqlite3.Connection) -> str | None:
    """Return what is wrong with a ledger, if anything; reads all of it.

    Args:
        connection: With the checksum function; see `register`.
        made: An empty ledger of the same version.
    """
    amiss = schema_problem(connection, made, "integrity_check")
    if amiss is not None:
        return amiss
    tables = _tables(connection)
    for table in tables:
        right = row_sum(columns(connection, table), table)
        wrong = connection.execute(
            f"SELECT count(*) FROM {table} WHERE row_sum IS NOT {right}"
        ).fetchone()[0]
        if wrong:
            return f"{wrong} rows of {table} are not as they were written"
    if "counts" not in tables:
        return None
    wrong = connection.execute(_MISCOUNTED).fetchone()
    return None if wrong is None else f"its count of {wrong[0]} exports is not right"


def columns(connection: sqlite3.Connection, table: str) -> list[str]:
    """Return the columns of a table that its checksum is over."""
    cursor = connection.execute(
        "SELECT name FROM pragma_table_info(?) WHERE name <> 'row_sum'", (table,)
    )
    return [name for (name,) in cursor]


def _sum(*values: object) -> int:
    return zlib.crc32(_pack(values))


def _tables(connection: sqlite3.Connection) -> list[str]:
    """Return the tables whose rows carry a checksum."""
    cursor = connection.execute(
        "SELECT t.name FROM main.sqlite_schema AS t, pragma_table_info(t.name) AS c "
        "WHERE t.type = 'table' AND c.name = 'row_sum'"
    )
    return [name for (name,) in cursor]


def _this(connection: sqlite3.Connection, table: str) -> str:
    """Return SQL that finds the row a trigger is about."""
    cursor = connection.execute(
        "SELECT name FROM pragma_table_info(?) WHERE pk", (table,)
    )
    keys = [name for (name,) in cursor] or ["rowid"]
    return " AND ".join(f"{name} = NEW.{name}" for name in keys)
