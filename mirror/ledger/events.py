"""The queue of events for the `on_event` hook; triggers of the schema fill it."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.ledger import rows

if TYPE_CHECKING:
    from mirror.ledger.database import Database
    from mirror.model import Export


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


_WAITING = """
SELECT number, event NOT IN ('export.saved', 'export.doubtful') AS grave, CASE
    WHEN source IS NOT NULL THEN 'source ' || source
    ELSE substr(event, 1, instr(event, '.') - 1) || ' ' || events.name
END AS who
FROM events LEFT JOIN exports ON key = export
"""
"""A source's own events and those of its exports are one queue, a target's another."""


class Events:
    """The queues of events: sources take turns, losses go first.

    Of one source, losses go before what is kept, each kind in the order it happened.
    """

    def __init__(self, database: Database) -> None:
        self._db = database
        self._turn = 0
        self._told: dict[str, int] = {}

    def listen(self, *, on: bool) -> None:
        """Begin to record events, or stop and forget what was recorded."""
        with self._db.transaction() as connection:
            connection.execute("UPDATE node SET tells = ?", (on,))
            if not on:
                connection.execute("DELETE FROM events")

    def trim(self, most: int) -> int:
        """Forget what is too much; return how many were forgotten.

        Of the source with the most waiting the oldest go, what is kept before losses.
        """
        connection = self._db.connection
        waiting = connection.execute("SELECT count(*) FROM events").fetchone()[0]
        if waiting <= most:
            return 0
        with self._db.transaction():
            return connection.execute(
                "DELETE FROM events WHERE number IN (SELECT number FROM "
                "(SELECT number, row_number() OVER "
                "(PARTITION BY who ORDER BY grave DESC, number DESC) AS place "
                f"FROM ({_WAITING})) ORDER BY place DESC, number LIMIT ?)",
                (waiting - most,),
            ).rowcount

    def take(self, most: int) -> list[Event]:
        """Remove the next events from the queue, at most so many, and return them."""
        connection = self._db.connection
        chosen = self._choose(most)
        if not chosen:
            return []
        events = [self._read(number) for number in chosen]
        with self._db.transaction():
            connection.executemany(
                "DELETE FROM events WHERE number = ?", [(number,) for number in chosen]
            )
        return events

    def _choose(self, most: int) -> list[int]:
        """Return the next events: who waited longest goes first."""
        listed = self._db.connection.execute(
            "SELECT who, number, grave FROM (SELECT who, number, grave, row_number() "
            "OVER (PARTITION BY who ORDER BY grave DESC, number) AS place "
            f"FROM ({_WAITING})) WHERE place <= ? ORDER BY place",
            (most,),
        ).fetchall()
        queues: dict[str, deque[tuple[int, int]]] = defaultdict(deque)
        for who, number, grave in listed:
            queues[who].append((-grave, number))
        self._told = {who: turn for who, turn in self._told.items() if who in queues}
        chosen: list[int] = []
        while queues and len(chosen) < most:
            who = min(queues, key=lambda who: (self._told.get(who, 0), queues[who][0]))
            chosen.append(queues[who].popleft()[1])
            if not queues[who]:
                del queues[who]
            self._turn += 1
            self._told[who] = self._turn
        return chosen

    def _read(self, number: int) -> Event:
        connection = self._db.connection
        event, at_us, key, name, problem = connection.execute(
            "SELECT event, at_us, export, name, problem FROM events WHERE number = ?",
            (number,),
        ).fetchone()
        return Event(
            event=event,
            at_us=at_us,
            export=None if key is None else rows.find(connection, key),
            name=name,
            problem=problem,
        )
