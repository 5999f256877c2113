"""The queue of second looks: which are due, and what they showed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.ledger import rows
from mirror.lifecycle.second_look import Empty

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mirror.ledger.database import Database
    from mirror.model import Export


@dataclass(frozen=True, slots=True, kw_only=True)
class LookDue:
    """A file to be looked at.

    Attributes:
        export: The newest version that is ours.
        listed: The newest version, which tells where the file is.
    """

    export: Export
    listed: Export


class LookQueue:
    """Chooses files to be looked at again, and records what was seen."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def empty(self, source: str) -> Empty:
        """Return which validators of a source say nothing."""
        row = self._db.connection.execute(
            "SELECT etag_empty, modified_empty FROM sources WHERE name = ?", (source,)
        ).fetchone()
        return Empty() if row is None else Empty(etag=row[0] > 0, modified=row[1] > 0)

    def due(self, sources: Collection[str], now_us: int) -> LookDue | None:
        """Return the file of these sources whose look has been due longest."""
        connection = self._db.connection
        row = connection.execute(
            f"SELECT {rows.COLUMNS} FROM exports INDEXED BY exports_look "
            "WHERE look_due_us IS NOT NULL AND look_due_us <= ? "
            f"AND state IN {rows.KEPT} AND source IN ({', '.join('?' * len(sources))}) "
            "ORDER BY look_due_us LIMIT 1",
            (now_us, *sources),
        ).fetchone()
        if row is None:
            return None
        export = rows.export(row)
        listed = rows.newest(connection, export.identity)
        return LookDue(export=export, listed=listed or export)

    def next_due(self, sources: Collection[str]) -> int | None:
        """Return when the next look at a file of these sources is due."""
        if not sources:
            return None  # SQLite finds no use of the index for an empty list.
        row = self._db.connection.execute(
            "SELECT min(look_due_us) FROM exports INDEXED BY exports_look "
            f"WHERE look_due_us IS NOT NULL AND state IN {rows.KEPT} "
            f"AND source IN ({', '.join('?' * len(sources))})",
            tuple(sources),
        ).fetchone()
        due_us: int | None = row[0]
        return due_us

    def settle(
        self, key: int, decide: Callable[[Export, Export], tuple[Export, Export]]
    ) -> tuple[Export, Export]:
        """Record a look; return both versions as they are now.

        `decide`, given the one that was looked at and the newest, gives them as they
        are now; the second without a key is a further version.
        """
        with self._db.transaction() as connection:
            prior = rows.find(connection, key)
            newest = rows.newest(connection, prior.identity) or prior
            after, further = decide(prior, newest)
            rows.update(connection, prior, after)
            if further.key is None:
                rows.insert_version(connection, newest, further)
            elif further.key != prior.key:
                rows.update(connection, newest, further)
        return after, further
