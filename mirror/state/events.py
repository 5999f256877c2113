"""What happened and nobody was told of yet; triggers of the schema write it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.state import rows

if TYPE_CHECKING:
    from mirror.model import Export
    from mirror.state.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One change of state.

    Attributes:
        event: Such as `export.lost`.
        export: As it stands by now; None for a source or target.
        name: Of the source or target.
        problem: What is wrong with it, if it is.
    """

    event: str
    at_us: int
    export: Export | None
    name: str | None
    problem: str | None


class Events:
    """The queue of what is to be told, oldest first."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def listen(self, *, wanted: bool) -> None:
        """Begin to note what happens, or stop and forget what was noted."""
        with self._db.transaction() as connection:
            connection.execute("UPDATE node SET tells = ?", (wanted,))
            if not wanted:
                connection.execute("DELETE FROM events")

    def trim(self, most: int) -> int:
        """Forget the oldest beyond so many; return how many those were."""
        connection = self._db.connection
        waiting = connection.execute("SELECT count(*) FROM events").fetchone()[0]
        if waiting <= most:
            return 0
        with self._db.transaction():
            return connection.execute(
                "DELETE FROM events WHERE number IN "
                "(SELECT number FROM events ORDER BY number LIMIT ?)",
                (waiting - most,),
            ).rowcount

    def take(self, most: int) -> list[Event]:
        """Return the oldest, so many at most; they are told once, by the caller."""
        connection = self._db.connection
        found = connection.execute(
            "SELECT number, event, at_us, export, name, problem FROM events "
            "ORDER BY number LIMIT ?",
            (most,),
        ).fetchall()
        if not found:
            return []
        with self._db.transaction():
            connection.execute("DELETE FROM events WHERE number <= ?", (found[-1][0],))
        return [
            Event(
                event=event,
                at_us=at_us,
                export=None if key is None else rows.find(connection, key),
                name=name,
                problem=problem,
            )
            for _, event, at_us, key, name, problem in found
        ]
