"""What the ledger remembers of each target: its marker, its space, its problem."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirror.ledger.database import Database


class Targets:
    """Remembers how targets are."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def marker(self, target: str) -> str | None:
        """Return the marker id remembered of a target."""
        row = self._db.connection.execute(
            "SELECT marker_id FROM targets WHERE name = ?", (target,)
        ).fetchone()
        return None if row is None else row[0]

    def checked(
        self,
        target: str,
        *,
        marker_id: str | None,
        free_bytes: int | None,
        problem: str | None,
        now_us: int,
        warning: str | None = None,
    ) -> None:
        """Remember how a target is; None keeps the marker and space known before."""
        with self._db.transaction() as connection:
            connection.execute(
                "INSERT INTO targets "
                "(name, marker_id, free_bytes, problem, warning, checked_us) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "marker_id = coalesce(excluded.marker_id, marker_id), "
                "free_bytes = coalesce(excluded.free_bytes, free_bytes), "
                "problem = excluded.problem, warning = excluded.warning, "
                "checked_us = excluded.checked_us",
                (target, marker_id, free_bytes, problem, warning, now_us),
            )
