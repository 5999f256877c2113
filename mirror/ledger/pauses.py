"""Pauses of sources and targets."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirror.ledger.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """What is paused at one moment, by name."""

    sources: frozenset[str] = frozenset()
    targets: frozenset[str] = frozenset()


def until(from_us: int | None, until_us: int | None, now_us: int) -> int | None:
    """Return when a pause ends that is in force now; None if there is none.

    A clock put back to before its beginning ends it, rather than make it longer.
    """
    if from_us is None or until_us is None or not from_us <= now_us < until_us:
        return None
    return until_us


class Pauses:
    """Begins and ends pauses, and tells of them."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def pause_source(self, name: str, *, from_us: int, until_us: int) -> None:
        """Ask a source for nothing until then; replaces a pause there is."""
        names = {"name": name, "device_uuid": str(uuid.uuid4())}
        self._pause("sources", names, from_us, until_us)

    def pause_target(self, name: str, *, from_us: int, until_us: int) -> None:
        """Write nothing to a target until then; replaces a pause there is."""
        self._pause("targets", {"name": name}, from_us, until_us)

    def resume_source(self, name: str, now_us: int) -> bool:
        """End a source's pause; tell whether there was one."""
        return self._resume("sources", name, now_us)

    def resume_target(self, name: str, now_us: int) -> bool:
        """End a target's pause; tell whether there was one."""
        return self._resume("targets", name, now_us)

    def now(self, now_us: int) -> Paused:
        """Return what is paused now."""
        return Paused(
            sources=self._names("sources", now_us),
            targets=self._names("targets", now_us),
        )

    def endangered(self, source: str, until_us: int) -> list[tuple[int, int]]:
        """Return what is not fetched and is due by then, as (deadline, id), in order.

        Fetches under way are not among it: a pause lets them end.
        """
        return self._db.connection.execute(
            "SELECT deadline_us, export_id FROM exports WHERE source = ? "
            "AND state IN ('ready', 'parked', 'waiting') AND had_file = 1 "
            "AND deadline_us <= ? ORDER BY deadline_us, key",
            (source, until_us),
        ).fetchall()

    def received(self, since_us: int) -> int:
        """Return how many bytes of whole files were fetched since then."""
        row = self._db.connection.execute(
            "SELECT coalesce(sum(size_bytes), 0) FROM exports WHERE spooled_us >= ?",
            (since_us,),
        ).fetchone()
        return int(row[0])

    def _pause(
        self, table: str, names: dict[str, str], from_us: int, until_us: int
    ) -> None:
        with self._db.transaction() as connection:
            connection.execute(
                f"INSERT INTO {table} (paused_from_us, paused_until_us, "
                f"{', '.join(names)}) VALUES (?, ?{', ?' * len(names)}) "
                "ON CONFLICT DO UPDATE SET paused_from_us = excluded.paused_from_us, "
                "paused_until_us = excluded.paused_until_us",
                (from_us, until_us, *names.values()),
            )

    def _resume(self, table: str, name: str, now_us: int) -> bool:
        with self._db.transaction() as connection:
            ended = connection.execute(
                f"UPDATE {table} SET paused_from_us = NULL, paused_until_us = NULL "
                "WHERE name = ? AND paused_until_us > ?",
                (name, now_us),
            )
        return ended.rowcount > 0

    def _names(self, table: str, now_us: int) -> frozenset[str]:
        cursor = self._db.connection.execute(
            f"SELECT name FROM {table} "
            "WHERE paused_from_us <= ? AND paused_until_us > ?",
            (now_us, now_us),
        )
        return frozenset(name for (name,) in cursor)
