"""Questions to the ledger: counts, lists, one export in full."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirror.ledger import pauses, rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mirror.ledger.database import Database
    from mirror.model import Attempt, Copy, Export, State

AT_RISK_US = 30 * 60 * 1_000_000
"""With less left before its deadline, an export not yet fetched is at risk."""
_MOST_DOUBTFUL = 1000
_MOST_FAILED = 5000
_UNFETCHED = (
    "state IN ('ready', 'fetching', 'parked') AND held_us IS NULL "
    "AND not_before_us <= ?"
)
"""No byte of these is ours; a file that changed is not due before its time."""


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
class _Status:
    name: str
    problem: str | None
    paused_from_us: int | None
    paused_until_us: int | None

    def paused_until(self, now_us: int) -> int | None:
        """Return until when it is paused; None if it is not."""
        return pauses.until(self.paused_from_us, self.paused_until_us, now_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatus(_Status):
    """How a source is doing.

    Attributes:
        left_out: Rows of its last walk that the ledger did not take in.
    """

    first_sweep_us: int | None
    last_success_us: int | None
    last_failure_us: int | None
    clock_offset_us: int
    bad_rows: int
    left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetStatus(_Status):
    """How a target is doing.

    Attributes:
        owed_files: Copies not yet saved there.
        owed_bytes: Their size.
        warning: What is not as it should be though it can be used.
        damaged_files: Copies that `verify` found damaged or gone.
    """

    marker_id: str | None
    checked_us: int | None
    warning: str | None
    free_bytes: int | None
    owed_files: int = 0
    owed_bytes: int = 0
    damaged_files: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What is still to be fetched, and how urgent it is."""

    owed: int
    at_risk: int
    oldest_ready_us: int | None
    earliest_deadline_us: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportDetails:
    """All that is known of one export.

    Attributes:
        versions: The others of the same export, oldest first.
    """

    export: Export
    versions: list[Export]
    copies: list[Copy]
    attempts: list[Attempt]
    item: bytes


class Queries:
    """Reads only; safe beside a running service."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def counts(self) -> dict[tuple[str, str], int]:
        """Return how many exports there are by (source, state)."""
        cursor = self._db.connection.execute(
            "SELECT source, state, sum(number) AS held FROM counts "
            "GROUP BY source, state HAVING held > 0"
        )
        return {(source, state): number for source, state, number in cursor}

    def totals(self, event: str) -> dict[tuple[str, str], int]:
        """Return the counts of `saved` or `lost` by (source, reason)."""
        cursor = self._db.connection.execute(
            "SELECT source, reason, total FROM totals WHERE event = ?", (event,)
        )
        return {(source, reason): total for source, reason, total in cursor}

    def backlog(self, now_us: int) -> Backlog:
        """Return what is owed and at risk now."""
        by_deadline = (
            "FROM exports INDEXED BY exports_deadline "
            f"WHERE {_UNFETCHED} AND deadline_us"
        )
        return Backlog(
            owed=self.owed(),
            at_risk=self._number(
                f"SELECT count(*) {by_deadline} < ?", now_us, now_us + AT_RISK_US
            ),
            oldest_ready_us=self._first(
                "SELECT min(walk_us) FROM exports INDEXED BY exports_walk "
                "WHERE state IN ('ready', 'fetching')"
            ),
            earliest_deadline_us=self._first(
                f"SELECT min(deadline_us) {by_deadline} IS NOT NULL", now_us
            ),
        )

    def urgency(self, source: str, now_us: int) -> tuple[int, int | None]:
        """Return how many exports of a source are at risk, and its nearest deadline."""
        by_deadline = (
            "FROM exports INDEXED BY exports_urgent "
            f"WHERE {_UNFETCHED} AND source = ? AND deadline_us"
        )
        return (
            self._number(
                f"SELECT count(*) {by_deadline} < ?",
                now_us,
                source,
                now_us + AT_RISK_US,
            ),
            self._first(
                f"SELECT min(deadline_us) {by_deadline} IS NOT NULL", now_us, source
            ),
        )

    def owed(self) -> int:
        """Return how many exports had a file and are not saved."""
        return self._number("SELECT sum(number) FROM counts WHERE owed")

    def not_yet_due(self, now_us: int, sources: Sequence[str]) -> int:
        """Return how many changed files of these sources are to be fetched later."""
        return sum(
            self._number(
                "SELECT count(*) FROM exports INDEXED BY exports_due "
                "WHERE state = 'ready' AND source = ? AND due_us > ? "
                "AND not_before_us > 0 AND held_us IS NULL",
                source,
                now_us,
            )
            for source in sources
        )

    def unfetched(self, sources: Sequence[str], now_us: int) -> tuple[int, int]:
        """Return how many exports of these sources are (ready, fetching).

        A changed file is not ready before its time.
        """
        counts = self.counts()
        ready, fetching = (
            sum(counts.get((source, state), 0) for source in sources)
            for state in ("ready", "fetching")
        )
        return ready - self.not_yet_due(now_us, sources), fetching

    def not_answering(self) -> dict[str, int]:
        """Return how many unfetched exports took too long twice in a row, by source."""
        return self._numbers(
            "SELECT source, count(*) FROM exports INDEXED BY exports_timeouts "
            "WHERE timeouts > 1 AND state IN ('ready', 'fetching', 'parked') "
            "GROUP BY source"
        )

    def without_room(self) -> int:
        """Return how many unfetched exports found no room when they were last tried."""
        return self._number(
            "SELECT count(*) FROM attempts AS last INDEXED BY attempts_without_room "
            "CROSS JOIN exports ON key = export WHERE outcome = 'spool_full' "
            "AND state IN ('ready', 'fetching', 'parked') AND NOT EXISTS "
            "(SELECT 1 FROM attempts WHERE export = key AND number > last.number)"
        )

    def largest(self) -> int:
        """Return the length of the largest file seen, 0 if none was."""
        return self._number(
            "SELECT max(max(coalesce(size_bytes, 0), coalesce(part_total, 0))) "
            "FROM exports"
        )

    def unfetched_by_source(self, now_us: int) -> dict[str, int]:
        """Return how many exports are to be fetched now and have no file that is ours.

        No changed file before its time, and none of which a body is held.
        """
        numbers: dict[str, int] = {}
        for (source, state), number in self.counts().items():
            if state in {"ready", "fetching", "parked"}:
                numbers[source] = numbers.get(source, 0) + number
        for source, number in self.held().items():
            numbers[source] = numbers.get(source, 0) - number
        for source in numbers:
            numbers[source] -= self._number(
                "SELECT count(*) FROM exports INDEXED BY exports_due "
                "WHERE state = 'ready' AND source = ? AND due_us > ? "
                "AND not_before_us > ? AND held_us IS NULL",
                source,
                now_us,
                now_us,
            )
        return numbers

    def held(self) -> dict[str, int]:
        """Return of how many exports a body is held to be confirmed, by source."""
        return self._numbers(
            "SELECT source, count(*) FROM exports INDEXED BY exports_held "
            "WHERE held_until_us IS NOT NULL "
            "AND state IN ('ready', 'fetching', 'parked') GROUP BY source"
        )

    def sizes(self) -> dict[str, int]:
        """Return how many rows each table has."""
        tables = self._db.connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
        ).fetchall()
        return {
            name: self._number(f"SELECT count(*) FROM {name}") for (name,) in tables
        }

    def lost(self) -> int:
        """Return how many exports are lost, ours or not."""
        return self._number("SELECT sum(number) FROM counts WHERE state = 'lost'")

    def unacknowledged(self) -> dict[str, int]:
        """Return how many of our losses are not acknowledged, by source."""
        return self._numbers(
            "SELECT source, count(*) FROM exports INDEXED BY exports_unacknowledged "
            "WHERE state = 'lost' AND counts_as_ours = 1 AND acknowledged_us IS NULL "
            "GROUP BY source"
        )

    def newly_doubtful(self, since_us: int) -> dict[str, int]:
        """Return how many files not proven whole were kept since then, by source.

        Not those of which a whole version is ours. Of each source only the exports
        discovered last are looked at.
        """
        numbers = {
            source.name: self._number(
                "SELECT count(*) FROM (SELECT source, export_id, created_key, saved_us "
                "FROM exports INDEXED BY exports_state "
                "WHERE state = 'doubtful' AND source = ? ORDER BY key DESC LIMIT ?) "
                "AS kept WHERE saved_us >= ? AND NOT EXISTS (SELECT 1 FROM exports "
                "AS other WHERE other.source = kept.source "
                "AND other.export_id = kept.export_id "
                "AND other.created_key = kept.created_key AND other.proof = 'whole' "
                "AND other.state IN ('spooled', 'saved'))",
                source.name,
                _MOST_DOUBTFUL,
                since_us,
            )
            for source in self.sources()
        }
        return {name: number for name, number in numbers.items() if number}

    def sources(self) -> list[SourceStatus]:
        """Return all sources ever seen."""
        return [SourceStatus(**kept) for kept in self._kept(SourceStatus, "sources")]

    def targets(self) -> list[TargetStatus]:
        """Return all targets ever seen."""
        owed, damaged = self.owed_copies(), self.damaged_copies()
        return [
            TargetStatus(
                **kept,
                owed_files=owed.get(kept["name"], (0, 0))[0],
                owed_bytes=owed.get(kept["name"], (0, 0))[1],
                damaged_files=damaged.get(kept["name"], 0),
            )
            for kept in self._kept(TargetStatus, "targets")
        ]

    def owed_copies(self) -> dict[str, tuple[int, int]]:
        """Return (files, bytes) not yet saved, by target."""
        cursor = self._db.connection.execute(
            "SELECT target, count(*), coalesce(sum(size_bytes), 0) "
            "FROM copies INDEXED BY copies_open CROSS JOIN exports ON key = export "
            f"WHERE copies.state IN {rows.OPEN} "
            f"AND exports.state IN {rows.KEPT} GROUP BY target"
        )
        return {target: (files, size) for target, files, size in cursor}

    def damaged_copies(self) -> dict[str, int]:
        """Return how many copies are damaged, by target."""
        return self._numbers(
            "SELECT target, count(*) FROM copies INDEXED BY copies_damaged "
            "WHERE state = 'damaged' GROUP BY target"
        )

    def last_verified(self) -> dict[str, int]:
        """Return when `verify` last read a copy, by target."""
        return dict(
            self._db.connection.execute(
                "SELECT name, at_us FROM (SELECT name, (SELECT max(checked_us) "
                "FROM copies INDEXED BY copies_checked WHERE target = name "
                "AND checked_us > 0) AS at_us FROM targets) WHERE at_us IS NOT NULL"
            ).fetchall()
        )

    def exports(self, chosen: Filter) -> Iterator[tuple[Export, list[Copy]]]:
        """Yield the exports that match, newest first, each with its copies."""
        where, values = _where(chosen)
        cursor = self._db.connection.execute(
            f"SELECT {rows.COLUMNS} FROM exports {where} "
            "ORDER BY created_us DESC, export_id LIMIT ?",
            [*values, -1 if chosen.limit is None else chosen.limit],
        )
        for row in cursor:
            export = rows.export(row)
            yield export, rows.copies(self._db.connection, export.stored_key)

    def urgent(self, limit: int, now_us: int) -> list[Export]:
        """Return what is not fetched yet, nearest deadline first."""
        exports: list[Export] = []
        # One after the other, each in the order of the index over deadlines.
        for known, order in (("NOT NULL", "deadline_us, key"), ("NULL", "key")):
            query = (
                f"SELECT {rows.COLUMNS} FROM exports INDEXED BY exports_deadline "
                f"WHERE {_UNFETCHED} AND deadline_us IS {known} "
                f"ORDER BY {order} LIMIT ?"
            )
            nearest = self._db.connection.execute(query, (now_us, limit - len(exports)))
            exports += map(rows.export, nearest)
        return exports

    def fetching(self, limit: int) -> list[Export]:
        """Return what is being fetched, as of its last checkpoint; the oldest first."""
        chosen = self._db.connection.execute(
            f"SELECT {rows.COLUMNS} FROM exports INDEXED BY exports_state "
            "WHERE state = 'fetching' ORDER BY started_us, key LIMIT ?",
            (limit,),
        )
        return list(map(rows.export, chosen))

    def causes(self, now_us: int) -> list[tuple[str, str, int]]:
        """Return (source, last error, how many unfetched exports), the most first.

        Of more than some thousand only those with the nearest deadlines are counted.
        """
        nearest = (
            "SELECT * FROM (SELECT source, last_error FROM exports "
            f"INDEXED BY exports_deadline WHERE {_UNFETCHED} "
            "AND deadline_us IS {} ORDER BY deadline_us LIMIT ?)"
        )
        return self._db.connection.execute(
            "SELECT source, last_error, count(*) AS number FROM "
            f"({nearest.format('NOT NULL')} UNION ALL {nearest.format('NULL')}) "
            "WHERE last_error IS NOT NULL "
            "GROUP BY source, last_error ORDER BY number DESC, source, last_error",
            (now_us, _MOST_FAILED) * 2,
        ).fetchall()

    def losses(self, limit: int) -> list[Export]:
        """Return exports that we lost, the latest deadline first.

        Of each source only those discovered last are looked at, which the index has
        in order.
        """
        connection = self._db.connection
        latest: list[tuple[int, int]] = []
        for source in self.sources():
            latest += connection.execute(
                "SELECT coalesce(deadline_us, 0), key FROM exports "
                "INDEXED BY exports_lost WHERE state = 'lost' AND source = ? "
                "AND counts_as_ours = 1 ORDER BY key DESC LIMIT ?",
                (source.name, limit),
            ).fetchall()
        latest.sort(reverse=True)
        return [rows.find(connection, key) for _, key in latest[:limit]]

    def find(
        self,
        export_id: int,
        *,
        source: str | None = None,
        created_at: str | None = None,
        version: int | None = None,
    ) -> list[Export]:
        """Return the exports of that id, newest first."""
        query = f"SELECT {rows.COLUMNS} FROM exports WHERE export_id = ?"
        values: list[Any] = [export_id]
        for column, value in (("source", source), ("version", version)):
            if value is not None:
                query += f" AND {column} = ?"
                values.append(value)
        if created_at is not None:
            query += " AND ? IN (created_at, created_key)"
            values.append(created_at)
        query += " ORDER BY coalesce(created_us, 0) DESC, version DESC, key DESC"
        return [rows.export(r) for r in self._db.connection.execute(query, values)]

    def details(self, export: Export) -> ExportDetails:
        """Return all that is known of one export."""
        key = export.stored_key
        cursor = self._db.connection.execute(
            "SELECT number, times, started_us, ended_us, outcome, offset_bytes, "
            "held_bytes, error FROM attempts WHERE export = ? ORDER BY number",
            (key,),
        )
        versions = self._db.connection.execute(
            f"SELECT {rows.COLUMNS} FROM exports WHERE source = ? AND export_id = ? "
            "AND created_key = ? AND key <> ? ORDER BY version",
            (*export.identity, key),
        )
        return ExportDetails(
            export=export,
            versions=[rows.export(row) for row in versions],
            copies=rows.copies(self._db.connection, key),
            attempts=[rows.attempt(row) for row in cursor],
            item=rows.item(self._db.connection, key),
        )

    def kept_on(self, target: str) -> int:
        """Return how many copies a target is believed to keep."""
        return self._number(
            "SELECT count(*) FROM copies WHERE target = ? AND state = 'saved'", target
        )

    def spooled_bytes(self) -> int:
        """Return what lies in the spool, complete or partial."""
        return self._number(
            "SELECT sum(part_bytes) FROM exports WHERE spool_dir IS NOT NULL"
        ) + self._number(
            "SELECT sum(held_bytes) FROM exports INDEXED BY exports_held "
            "WHERE held_until_us IS NOT NULL"
        )

    def _first(self, query: str, *values: object) -> int | None:
        value: int | None = self._db.connection.execute(query, values).fetchone()[0]
        return value

    def _number(self, query: str, *values: object) -> int:
        return self._first(query, *values) or 0

    def _numbers(self, query: str) -> dict[str, int]:
        return dict(self._db.connection.execute(query).fetchall())

    def _kept(self, kind: type[_Status], table: str) -> list[dict[str, Any]]:
        """Return of each row the fields that have no default, by name."""
        fields = dataclasses.fields(kind)
        names = [each.name for each in fields if each.default is dataclasses.MISSING]
        cursor = self._db.connection.execute(
            f"SELECT {', '.join(names)} FROM {table} ORDER BY name"
        )
        return [dict(zip(names, row, strict=True)) for row in cursor]


def _where(chosen: Filter) -> tuple[str, list[Any]]:
    clauses = {
        "source = ?": chosen.source,
        "camera_id = ?": chosen.camera_id,
        "created_us >= ?": chosen.since_us,
        "created_us < ?": chosen.until_us,
        "name GLOB ?": chosen.name,
    }
    used: dict[str, Any] = {
        clause: value for clause, value in clauses.items() if value is not None
    }
    if chosen.states:
        marks = ", ".join("?" * len(chosen.states))
        used[f"state IN ({marks})"] = chosen.states
    where = f"WHERE {' AND '.join(used)}" if used else ""
    values: list[Any] = []
    for value in used.values():
        values += value if isinstance(value, tuple) else [value]
    return where, values
