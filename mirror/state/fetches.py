"""The ledger as the queue of fetches."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror.model import State
from mirror.state import rows

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from mirror.model import Attempt, Export
    from mirror.state.database import Database

ATTEMPTS_KEPT = 200
_IDLE_STATES = (State.READY, State.PARKED, State.WAITING)
_IDLE = "('ready', 'parked', 'waiting')"
_IDLE_SHOWN = 500
_OWE = (
    "INSERT INTO copies (export, target, state) VALUES (?, ?, 'pending') "
    "ON CONFLICT DO UPDATE SET state = 'pending', due_us = 0, attempts = 0, "
    "verified_us = NULL WHERE state <> 'saved'"
)
OWE_ANEW = (
    "UPDATE copies SET state = 'pending', due_us = 0, attempts = 0, "
    "verified_us = NULL, saved_us = NULL WHERE export = ?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """What of a file lies durable in the spool.

    Attributes:
        sha256: Over its `size_bytes`.
        total_bytes: Of the whole file, if known.
    """

    spool_dir: str
    size_bytes: int
    sha256: str
    total_bytes: int | None
    etag: str | None
    last_modified: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolUse:
    """What lies in one folder of the spool.

    Attributes:
        kept_bytes: Of what is not being fetched, by source; whole files too.
        fetching: Exports that are being fetched, as of their last checkpoint.
        idle: Exports with a part there, the latest deadline first; not all if there
            are many.
        busy: Sources that have something to fetch.
    """

    kept_bytes: Mapping[str, int] = field(default_factory=dict)
    fetching: Sequence[Export] = ()
    idle: Sequence[Export] = ()
    busy: frozenset[str] = frozenset()


class Fetches:
    """Claims, partials, attempts."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def recover(self) -> int:
        """Return to the queue what a stopped service left claimed."""
        with self._db.transaction() as connection:
            fetching = connection.execute(
                "UPDATE exports SET state = ?, due_us = 0 WHERE state = ?",
                (State.READY, State.FETCHING),
            ).rowcount
            connection.execute(
                "UPDATE copies SET state = 'pending', due_us = 0 "
                "WHERE state = 'publishing'"
            )
        return fetching

    def claim(
        self,
        sources: Sequence[str],
        *,
        now_us: int,
        horizon_us: int,
        late: Collection[str] | None = None,
        but: Collection[int] = (),
    ) -> Export | None:
        """Take the due export with the nearest deadline, if there is one.

        Args:
            sources: That have room for one more.
            now_us: Now.
            horizon_us: The longest wait there can be; a due time beyond it was set
                before the clock was put back, and counts as now.
            late: Of these sources also what took too long at its last attempt; None
                means of all.
            but: Keys of exports that are left alone.
        """
        marks = ", ".join("?" * len(but))
        with self._db.transaction() as connection:
            best: tuple[int, int] | None = None
            for source in sources:
                row = connection.execute(
                    "SELECT order_us, key FROM exports WHERE state = 'ready' "
                    "AND source = ? AND (due_us <= ? OR due_us > ?) "
                    f"AND (timeouts = 0 OR ?) AND key NOT IN ({marks}) "
                    "ORDER BY order_us LIMIT 1",
                    (
                        source,
                        now_us,
                        now_us + horizon_us,
                        late is None or source in late,
                        *but,
                    ),
                ).fetchone()
                if row is not None and (best is None or row < best):
                    best = row
            if best is None:
                return None
            prior = rows.find(connection, best[1])
            claimed = dataclasses.replace(
                prior, state=State.FETCHING, attempts=prior.attempts + 1
            )
            rows.update(connection, prior, claimed)
            return claimed

    def sources_with_work(self, *, now_us: int, horizon_us: int) -> dict[str, bool]:
        """Return the sources that have an export due now.

        Returns:
            Whether one of them did not take too long at its last attempt, by source.
        """
        found = self._db.connection.execute(
            "SELECT source, min(timeouts) FROM exports WHERE state = 'ready' "
            "AND (due_us <= ? OR due_us > ?) GROUP BY source",
            (now_us, now_us + horizon_us),
        )
        return {source: least == 0 for source, least in found}

    def gave_way(self, key: int) -> None:
        """Remember that an export's attempt was ended because it brought nothing."""
        with self._db.transaction() as connection:
            connection.execute(
                "UPDATE exports SET timeouts = timeouts + 1 WHERE key = ?", (key,)
            )

    def unpark(self, *, now_us: int, horizon_us: int) -> int:
        """Return parked exports to the queue whose time has come."""
        parked = self._db.connection.execute(
            "SELECT 1 FROM exports WHERE state = 'parked' "
            "AND (due_us <= ? OR due_us > ?) LIMIT 1",
            (now_us, now_us + horizon_us),
        ).fetchone()
        if parked is None:
            return 0
        with self._db.transaction() as connection:
            return connection.execute(
                "UPDATE exports SET state = 'ready', due_us = 0 "
                "WHERE state = 'parked' AND (due_us <= ? OR due_us > ?)",
                (now_us, now_us + horizon_us),
            ).rowcount

    def next_due(self, but: Collection[str] = ()) -> int | None:
        """Return when the next ready or parked export falls due, of other sources."""
        marks = ", ".join("?" * len(but))
        row = self._db.connection.execute(
            "SELECT min(due_us) FROM exports WHERE state IN ('ready', 'parked') "
            f"AND source NOT IN ({marks})",
            tuple(but),
        ).fetchone()
        return None if row is None or row[0] is None else int(row[0])

    def spool_use(self, folder: str) -> SpoolUse:
        """Return what lies in a folder of the spool."""
        connection = self._db.connection
        kept = connection.execute(
            "SELECT source, sum(part_bytes) FROM exports INDEXED BY exports_spool "
            "WHERE spool_dir = ? AND state <> 'fetching' GROUP BY source",
            (folder,),
        ).fetchall()
        idle = connection.execute(
            f"SELECT {rows.COLUMNS} FROM exports WHERE spool_dir = ? "
            f"AND state IN {_IDLE} AND part_bytes > 0 "
            "ORDER BY order_us DESC LIMIT ?",
            (folder, _IDLE_SHOWN),
        ).fetchall()
        fetching = connection.execute(
            f"SELECT {rows.COLUMNS} FROM exports WHERE spool_dir = ? "
            "AND state = 'fetching'",
            (folder,),
        ).fetchall()
        busy = connection.execute(
            "SELECT DISTINCT source FROM exports WHERE state IN ('ready', 'fetching')"
        ).fetchall()
        return SpoolUse(
            kept_bytes=dict(kept),
            fetching=[rows.export(row) for row in fetching],
            idle=[rows.export(row) for row in idle],
            busy=frozenset(source for (source,) in busy),
        )

    def rate(self, key: int) -> float:
        """Return the bytes per second of the last attempt that brought any; or 0."""
        row = self._db.connection.execute(
            "SELECT held_bytes - offset_bytes, ended_us - started_us FROM attempts "
            "WHERE export = ? AND held_bytes > offset_bytes "
            "ORDER BY number DESC LIMIT 1",
            (key,),
        ).fetchone()
        return 0.0 if row is None else row[0] / max(1.0, row[1] / 1e6)

    def drop_part(self, key: int) -> Export | None:
        """Forget the part of an export that nobody works on.

        Returns:
            The export as it was, whose file is to be removed; None if it has no part,
            or is worked on.
        """
        with self._db.transaction() as connection:
            prior = rows.find(connection, key)
            if prior.state not in _IDLE_STATES or prior.spool_dir is None:
                return None
            after = dataclasses.replace(
                prior, spool_dir=None, part_bytes=0, part_sha256=None
            )
            rows.update(connection, prior, after)
            return prior

    def checkpoint(self, key: int, partial: Partial) -> None:
        """Remember how far a partial is durable, and of which version it is."""
        with self._db.transaction() as connection:
            connection.execute(
                "UPDATE exports SET spool_dir = ?, part_bytes = ?, part_sha256 = ?, "
                "part_total = ?, part_etag = ?, part_modified = ? WHERE key = ?",
                (
                    partial.spool_dir,
                    partial.size_bytes,
                    partial.sha256,
                    partial.total_bytes,
                    partial.etag,
                    partial.last_modified,
                    key,
                ),
            )

    def settle(
        self,
        key: int,
        decide: Callable[[Export], Export],
        attempt: Attempt,
        targets: Iterable[str] = (),
    ) -> Export:
        """End a fetch: apply the decision to the export as it stands now.

        Args:
            key: Of a fetching export.
            decide: Gives the export after the attempt.
            attempt: To be recorded; its number is given here.
            targets: Where copies are owed once it is spooled.
        """
        with self._db.transaction() as connection:
            prior = rows.find(connection, key)
            after = decide(prior)
            rows.update(connection, prior, after)
            self._record(key, attempt)
            if after.state is State.SPOOLED:
                if prior.sha256 not in {None, after.sha256}:
                    # Other bytes than before: what is kept of those is no copy now.
                    connection.execute(OWE_ANEW, (key,))
                for target in targets:
                    connection.execute(_OWE, (key, target))
        return after

    def _record(self, key: int, attempt: Attempt) -> None:
        """Write an attempt; one alike the last only adds to its `times`."""
        connection = self._db.connection
        last = connection.execute(
            "SELECT number, outcome, held_bytes, error FROM attempts "
            "WHERE export = ? ORDER BY number DESC LIMIT 1",
            (key,),
        ).fetchone()
        number = 1
        if last is not None:
            number = last[0] + 1
            if last[1:] == (attempt.outcome, attempt.held_bytes, attempt.error):
                connection.execute(
                    "UPDATE attempts SET times = times + 1, ended_us = ? "
                    "WHERE export = ? AND number = ?",
                    (attempt.ended_us, key, last[0]),
                )
                return
        connection.execute(
            "INSERT INTO attempts (export, number, started_us, ended_us, outcome, "
            "offset_bytes, held_bytes, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                key,
                number,
                attempt.started_us,
                attempt.ended_us,
                attempt.outcome,
                attempt.offset_bytes,
                attempt.held_bytes,
                attempt.error,
            ),
        )
        connection.execute(
            "DELETE FROM attempts WHERE export = ? AND number <= ? AND number > 1",
            (key, number - ATTEMPTS_KEPT),
        )
