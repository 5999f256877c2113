"""Questions to the ledger: counts, lists, one export in full."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirror.state import pauses, rows
from mirror.state.copies import OPEN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mirror.model import Attempt, Copy, Export, State
    from mirror.state.database import Database

AT_RISK_US = 30 * 60 * 1_000_000
"""With less left before its deadline, an export not yet fetched is at risk."""
_UNFETCHED = "('ready', 'fetching', 'parked')"
_OWED = (
    "had_file = 1 AND (state IN ('ready', 'fetching', 'parked', 'spooled') "
    "OR (state = 'waiting' AND reason = 'file_gone'))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which exports a list shows; None leaves a property open.

    Attributes:
        since_us: Created at or after, by the VMS's clock.
        until_us: Created before.
        name: Glob over the name, case as given.
        limit: At most so many, the newest.
    """

    states: tuple[State, ...] = ()
    source: str | None = None
    camera_id: int | None = None
    since_us: int | None = None
    until_us: int | None = None
    name: str | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatus:
    """How a source is doing."""

    name: str
    first_sweep_us: int | None
    last_success_us: int | None
    last_failure_us: int | None
    problem: str | None
    clock_offset_us: int
    bad_rows: int
    paused_from_us: int | None
    paused_until_us: int | None

    def paused_until(self, now_us: int) -> int | None:
        """Return until when it is paused; None if it is not."""
        return pauses.until(self.paused_from_us, self.paused_until_us, now_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetStatus:
    """How a target is doing.

    Attributes:
        owed_files: Copies not yet saved there.
        owed_bytes: Their size.
        damaged_files: Copies that `verify` found damaged or gone.
    """

    name: str
    marker_id: str | None
    checked_us: int | None
    problem: str | None
    free_bytes: int | None
    owed_files: int
    owed_bytes: int
    damaged_files: int
    paused_from_us: int | None
    paused_until_us: int | None

    def paused_until(self, now_us: int) -> int | None:
        """Return until when it is paused; None if it is not."""
        return pauses.until(self.paused_from_us, self.paused_until_us, now_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What is still to be fetched, and how urgent it is."""

    owed: int
    at_risk: int
    oldest_ready_us: int | None
    earliest_deadline_us: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dossier:
    """All that is known of one export."""

    export: Export
    copies: list[Copy]
    attempts: list[Attempt]
    item: bytes


class Reads:
    """Reads only; safe beside a running service."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def counts(self) -> dict[tuple[str, str], int]:
        """Return how many exports there are by (source, state)."""
        found = self._db.connection.execute(
            "SELECT source, state, count(*) FROM exports GROUP BY state, source"
        )
        return {(source, state): number for source, state, number in found}

    def totals(self, event: str) -> dict[tuple[str, str], int]:
        """Return the counts of `saved` or `lost` by (source, reason)."""
        found = self._db.connection.execute(
            "SELECT source, reason, total FROM totals WHERE event = ?", (event,)
        )
        return {(source, reason): total for source, reason, total in found}

    def backlog(self, now_us: int) -> Backlog:
        """Return what is owed and at risk now."""
        one = self._db.connection.execute
        urgent = one(
            "SELECT count(*) FILTER (WHERE deadline_us - ? < ?), min(walk_us) "
            "FILTER (WHERE state <> 'parked'), min(deadline_us) "
            f"FROM exports WHERE state IN {_UNFETCHED}",
            (now_us, AT_RISK_US),
        ).fetchone()
        return Backlog(
            owed=self.owed(),
            at_risk=urgent[0],
            oldest_ready_us=urgent[1],
            earliest_deadline_us=urgent[2],
        )

    def owed(self) -> int:
        """Return how many exports had a file and are not saved."""
        query = (
            "SELECT count(*) FROM exports WHERE state IN "
            f"('ready', 'fetching', 'parked', 'spooled', 'waiting') AND {_OWED}"
        )
        return int(self._db.connection.execute(query).fetchone()[0])

    def unfetched(self, sources: Sequence[str]) -> tuple[int, int]:
        """Return how many exports of these sources are (ready, fetching)."""
        ready, fetching = (
            sum(
                self._db.connection.execute(
                    "SELECT count(*) FROM exports WHERE state = ? AND source = ?",
                    (state, source),
                ).fetchone()[0]
                for source in sources
            )
            for state in ("ready", "fetching")
        )
        return ready, fetching

    def not_answering(self) -> dict[str, int]:
        """Return how many unfetched exports took too long twice in a row, by source."""
        return dict(
            self._db.connection.execute(
                "SELECT source, count(*) FROM exports WHERE timeouts > 1 "
                f"AND state IN {_UNFETCHED} GROUP BY source"
            ).fetchall()
        )

    def without_room(self) -> int:
        """Return how many unfetched exports found no room when they were last tried."""
        row = self._db.connection.execute(
            "SELECT count(*) FROM exports WHERE attempts > 0 "
            f"AND state IN {_UNFETCHED} AND (SELECT outcome FROM attempts "
            "WHERE export = key ORDER BY number DESC LIMIT 1) = 'spool_full'"
        ).fetchone()
        return int(row[0])

    def largest(self) -> int:
        """Return the length of the largest file seen, 0 if none was."""
        row = self._db.connection.execute(
            "SELECT max(max(coalesce(size_bytes, 0), coalesce(part_total, 0))) "
            "FROM exports"
        ).fetchone()
        return int(row[0] or 0)

    def sizes(self) -> dict[str, int]:
        """Return how many rows each table has."""
        connection = self._db.connection
        tables = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
        ).fetchall()
        return {
            name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            for (name,) in tables
        }

    def lost(self) -> int:
        """Return how many exports are lost, ours or not."""
        query = "SELECT count(*) FROM exports WHERE state = 'lost'"
        return int(self._db.connection.execute(query).fetchone()[0])

    def unacknowledged(self) -> dict[str, int]:
        """Return how many exports we lost that nobody has taken note of, by source."""
        return dict(
            self._db.connection.execute(
                "SELECT source, count(*) FROM exports "
                "INDEXED BY exports_unacknowledged WHERE state = 'lost' "
                "AND ours = 1 AND acknowledged_us IS NULL "
                "GROUP BY source"
            ).fetchall()
        )

    def sources(self) -> list[SourceStatus]:
        """Return all sources ever seen."""
        return self._all(SourceStatus, "sources")

    def targets(self) -> list[TargetStatus]:
        """Return all targets ever seen."""
        found = self._db.connection.execute(
            "SELECT name, marker_id, checked_us, problem, free_bytes, paused_from_us, "
            "paused_until_us FROM targets ORDER BY name"
        ).fetchall()
        owed, damaged = self.owed_copies(), self.damaged_copies()
        return [
            TargetStatus(
                name=name,
                marker_id=marker,
                checked_us=checked,
                problem=problem,
                free_bytes=free,
                owed_files=owed.get(name, (0, 0))[0],
                owed_bytes=owed.get(name, (0, 0))[1],
                damaged_files=damaged.get(name, 0),
                paused_from_us=paused_from,
                paused_until_us=paused_until,
            )
            for name, marker, checked, problem, free, paused_from, paused_until in found
        ]

    def owed_copies(self) -> dict[str, tuple[int, int]]:
        """Return (files, bytes) not yet saved, by target."""
        found = self._db.connection.execute(
            "SELECT target, count(*), coalesce(sum(size_bytes), 0) "
            "FROM copies INDEXED BY copies_open CROSS JOIN exports ON key = export "
            f"WHERE copies.state IN {OPEN} "
            "AND exports.state IN ('spooled', 'saved') GROUP BY target"
        )
        return {target: (files, size) for target, files, size in found}

    def damaged_copies(self) -> dict[str, int]:
        """Return how many copies are damaged, by target."""
        return dict(
            self._db.connection.execute(
                "SELECT target, count(*) FROM copies INDEXED BY copies_damaged "
                "WHERE state = 'damaged' GROUP BY target"
            ).fetchall()
        )

    def exports(self, wanted: Filter) -> Iterator[tuple[Export, list[Copy]]]:
        """Yield the exports that match, newest first, each with its copies."""
        where, values = _where(wanted)
        found = self._db.connection.execute(
            f"SELECT {rows.COLUMNS} FROM exports {where} "
            "ORDER BY created_us DESC, export_id LIMIT ?",
            [*values, -1 if wanted.limit is None else wanted.limit],
        )
        for row in found:
            export = rows.export(row)
            yield export, self._copies(export.key)

    def urgent(self, limit: int) -> list[Export]:
        """Return what is not fetched yet, nearest deadline first."""
        found = self._db.connection.execute(
            f"SELECT {rows.COLUMNS} FROM exports WHERE state IN {_UNFETCHED} "
            "ORDER BY deadline_us IS NULL, deadline_us, key LIMIT ?",
            (limit,),
        )
        return [rows.export(row) for row in found]

    def losses(self, limit: int) -> list[Export]:
        """Return exports that we lost, the latest deadline first.

        Of each source only those discovered last are looked at, which the index has
        in order.
        """
        connection = self._db.connection
        found: list[tuple[int, int]] = []
        for source in self.sources():
            found += connection.execute(
                "SELECT coalesce(deadline_us, 0), key FROM exports "
                "INDEXED BY exports_state WHERE state = 'lost' AND source = ? "
                "AND ours = 1 ORDER BY key DESC LIMIT ?",
                (source.name, limit),
            ).fetchall()
        found.sort(reverse=True)
        return [rows.find(connection, key) for _, key in found[:limit]]

    def find(
        self,
        export_id: int,
        *,
        source: str | None = None,
        created_at: str | None = None,
    ) -> list[Export]:
        """Return the exports of that id, newest first."""
        query = f"SELECT {rows.COLUMNS} FROM exports WHERE export_id = ?"
        values: list[Any] = [export_id]
        for column, value in (("source", source),):
            if value is not None:
                query += f" AND {column} = ?"
                values.append(value)
        if created_at is not None:
            query += " AND ? IN (created_at, created_key)"
            values.append(created_at)
        query += " ORDER BY coalesce(created_us, 0) DESC, key DESC"
        return [rows.export(r) for r in self._db.connection.execute(query, values)]

    def dossier(self, export: Export) -> Dossier:
        """Return all that is known of one export."""
        if export.key is None:
            raise ValueError("the export is not from the ledger")
        found = self._db.connection.execute(
            "SELECT number, times, started_us, ended_us, outcome, offset_bytes, "
            "held_bytes, error FROM attempts WHERE export = ? ORDER BY number",
            (export.key,),
        )
        return Dossier(
            export=export,
            copies=self._copies(export.key),
            attempts=[rows.attempt(row) for row in found],
            item=rows.item(self._db.connection, export.key),
        )

    def kept_on(self, target: str) -> int:
        """Return how many copies a target is believed to keep."""
        row = self._db.connection.execute(
            "SELECT count(*) FROM copies WHERE target = ? AND state = 'saved'",
            (target,),
        ).fetchone()
        return int(row[0])

    def spooled_bytes(self) -> int:
        """Return what lies in the spool, whole or partial."""
        row = self._db.connection.execute(
            "SELECT coalesce(sum(part_bytes), 0) FROM exports "
            "WHERE spool_dir IS NOT NULL"
        ).fetchone()
        return int(row[0])

    def _copies(self, key: int | None) -> list[Copy]:
        found = self._db.connection.execute(
            f"SELECT {rows.COPY_COLUMNS} FROM copies WHERE export = ? ORDER BY target",
            (key,),
        )
        return [rows.copy(row) for row in found]

    def _all(self, kind: type[SourceStatus], table: str) -> list[SourceStatus]:
        names = [field.name for field in dataclasses.fields(kind)]
        found = self._db.connection.execute(
            f"SELECT {', '.join(names)} FROM {table} ORDER BY name"
        )
        return [kind(**dict(zip(names, row, strict=True))) for row in found]


def _where(wanted: Filter) -> tuple[str, list[Any]]:
    clauses = {
        "source = ?": wanted.source,
        "camera_id = ?": wanted.camera_id,
        "created_us >= ?": wanted.since_us,
        "created_us < ?": wanted.until_us,
        "name GLOB ?": wanted.name,
    }
    used: dict[str, Any] = {
        clause: value for clause, value in clauses.items() if value is not None
    }
    if wanted.states:
        marks = ", ".join("?" * len(wanted.states))
        used[f"state IN ({marks})"] = wanted.states
    where = f"WHERE {' AND '.join(used)}" if used else ""
    values: list[Any] = []
    for value in used.values():
        values += value if isinstance(value, tuple) else [value]
    return where, values
