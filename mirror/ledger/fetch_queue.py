"""The ledger as the queue of fetches."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror.ledger import rows
from mirror.lifecycle import attempt as attempts
from mirror.lifecycle import copy, retry, version
from mirror.model import Reason, State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from mirror.ledger.database import Database
    from mirror.model import Attempt, Export

ATTEMPTS_KEPT = 200
AT_ONCE = 100
_IDLE_STATES = (State.READY, State.PARKED, State.WAITING)
_IDLE = "('ready', 'parked', 'waiting')"
_IDLE_SHOWN = 500
_READY = (
    "SELECT 1 FROM exports INDEXED BY exports_due "
    "WHERE state = 'ready' AND exports.source = counts.source"
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
    firm: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchResult:
    """How a fetch left its export.

    Attributes:
        dropped: It was a further version whose bytes are kept already; its row is gone.
    """

    after: Export
    dropped: bool = False


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


class FetchQueue:
    """Claims, partials, attempts."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def recover(self) -> int:
        """Return to the queue what a stopped service left claimed."""
        with self._db.transaction() as connection:
            rows.change_copies(
                connection,
                f"WHERE state IN {rows.OPEN} AND state = 'publishing'",
                (),
                copy.interrupted,
            )
            return rows.change(
                connection, "WHERE state = 'fetching'", (), attempts.interrupted
            )

    def claim(
        self,
        sources: Sequence[str],
        *,
        now_us: int,
        horizon_us: int,
        late: Collection[str] | None = None,
        but: Collection[int] = (),
    ) -> Export | None:
        """Claim the due export with the nearest deadline; None if none is due.

        What is asked for again, while a body of it is held, goes last.

        Args:
            sources: That have room for one more.
            now_us: Now.
            horizon_us: The longest wait there can be; a due time beyond it was set
                before the clock was put back, and counts as now.
            late: Of these sources also what took too long at its last attempt; None
                means of all.
            but: Keys of exports that are left alone.
        """
        with self._db.transaction() as connection:
            nearest = (
                self._nearest(
                    sources,
                    now_us,
                    horizon_us,
                    held=held,
                    late=sources if late is None else late,
                    but=but,
                )
                for held in (False, True)
            )
            key = next((key for key in nearest if key is not None), None)
            if key is None:
                return None
            prior = rows.find(connection, key)
            claimed = attempts.claimed(prior)
            rows.update(connection, prior, claimed)
            return claimed

    def _nearest(
        self,
        sources: Sequence[str],
        now_us: int,
        horizon_us: int,
        *,
        held: bool,
        late: Collection[str],
        but: Collection[int],
    ) -> int | None:
        """Return the due export with the nearest deadline, with a body held or none."""
        marks = ", ".join("?" * len(but))
        body = "held_us IS NULL"
        if held:
            body = f"held_us IS NOT NULL AND held_until_us > {now_us}"
        best: tuple[int, int] | None = None
        for source in sources:
            row = self._db.connection.execute(
                "SELECT order_us, key FROM exports WHERE state = 'ready' "
                "AND source = ? AND (due_us <= ? OR due_us > ? AND not_before_us = 0) "
                f"AND {body} AND (timeouts = 0 OR ?) AND key NOT IN ({marks}) "
                "ORDER BY order_us LIMIT 1",
                (source, now_us, now_us + horizon_us, source in late, *but),
            ).fetchone()
            if row is not None and (best is None or row < best):
                best = row
        return None if best is None else best[1]

    def sources_with_work(self, *, now_us: int, horizon_us: int) -> dict[str, bool]:
        """Return the sources that have an export due now.

        Returns:
            Whether one of them did not take too long at its last attempt, by source.
        """
        due = (
            f"EXISTS ({_READY} AND due_us <= :now {{0}}) "
            f"OR EXISTS ({_READY} AND due_us > :horizon AND not_before_us = 0 {{0}})"
        )
        cursor = self._db.connection.execute(
            f"SELECT DISTINCT source, {due.format('AND timeouts = 0')} FROM counts "
            f"WHERE state = 'ready' AND number > 0 AND ({due.format('')})",
            {"now": now_us, "horizon": now_us + horizon_us},
        )
        return {source: untried > 0 for source, untried in cursor}

    def is_claimed(self, key: int) -> bool:
        """Tell whether an export is being fetched."""
        row = self._db.connection.execute(
            "SELECT 1 FROM exports WHERE key = ? AND state = 'fetching'", (key,)
        ).fetchone()
        return row is not None

    def gave_way(self, key: int) -> None:
        """Remember that an export's attempt was ended because it brought nothing."""
        with self._db.transaction() as connection:
            connection.execute(
                "UPDATE exports SET timeouts = timeouts + 1 WHERE key = ?", (key,)
            )

    def has_due(self, sources: Iterable[str], *, now_us: int) -> bool:
        """Tell whether an export of these sources is due that holds no body."""
        return any(
            self._db.connection.execute(
                "SELECT 1 FROM exports WHERE state = 'ready' AND source = ? "
                "AND due_us <= ? AND held_us IS NULL LIMIT 1",
                (source, now_us),
            ).fetchone()
            for source in sources
        )

    def unpark(self, *, now_us: int, horizon_us: int) -> int:
        """Return parked exports to the queue whose time has come, some at a time."""
        parked = (
            "SELECT key FROM exports INDEXED BY exports_parked WHERE state = 'parked'"
        )
        keys = self._db.connection.execute(
            f"{parked} AND due_us <= ? UNION ALL {parked} AND due_us > ? LIMIT ?",
            (now_us, now_us + horizon_us, rows.AT_ONCE),
        ).fetchall()
        if not keys:
            return 0
        with self._db.transaction() as connection:
            where = f"WHERE key IN ({', '.join('?' * len(keys))})"
            chosen = [key for (key,) in keys]
            return rows.change(connection, where, chosen, retry.unparked)

    def ask_again(self) -> None:
        """Make due what is held and waits to be asked for again."""
        with self._db.transaction() as connection:
            connection.execute(
                "UPDATE exports SET not_before_us = 0, due_us = 0 "
                "WHERE state = 'ready' AND held_us IS NOT NULL"
            )

    def next_due(self, but: Collection[str] = ()) -> int | None:
        """Return when the next ready or parked export falls due, of other sources."""
        marks = ", ".join("?" * len(but))
        others = f"source NOT IN ({marks})"
        row = self._db.connection.execute(
            "SELECT min(due_us) FROM (SELECT (SELECT min(due_us) FROM exports "
            "INDEXED BY exports_due WHERE state = 'ready' "
            "AND exports.source = counts.source) AS due_us "
            f"FROM counts WHERE state = 'ready' AND {others} UNION ALL "
            "SELECT min(due_us) FROM exports INDEXED BY exports_parked "
            f"WHERE state = 'parked' AND {others})",
            (*but, *but),
        ).fetchone()
        return None if row[0] is None else int(row[0])

    def spool_use(self, folder: str) -> SpoolUse:
        """Return what lies in a folder of the spool."""
        connection = self._db.connection
        kept_bytes: dict[str, int] = dict(
            connection.execute(
                "SELECT source, sum(part_bytes) FROM exports INDEXED BY exports_spool "
                "WHERE spool_dir = ? AND state <> 'fetching' GROUP BY source",
                (folder,),
            ).fetchall()
        )
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
        for source, held in connection.execute(
            "SELECT source, sum(held_bytes) FROM exports INDEXED BY exports_held "
            "WHERE held_until_us IS NOT NULL AND held_dir = ? GROUP BY source",
            (folder,),
        ):
            kept_bytes[source] = kept_bytes.get(source, 0) + held
        return SpoolUse(
            kept_bytes=kept_bytes,
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
        """Forget the partial file of an idle export.

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
        """Record how far a partial is durable, and its validators."""
        with self._db.transaction() as connection:
            connection.execute(
                "UPDATE exports SET spool_dir = ?, part_bytes = ?, part_sha256 = ?, "
                "part_total = ?, part_etag = ?, part_modified = ?, part_firm = ? "
                "WHERE key = ?",
                (
                    partial.spool_dir,
                    partial.size_bytes,
                    partial.sha256,
                    partial.total_bytes,
                    partial.etag,
                    partial.last_modified,
                    partial.firm,
                    key,
                ),
            )

    def settle(
        self,
        key: int,
        decide: Callable[[Export], Export],
        attempt: Attempt,
        targets: Iterable[str] = (),
    ) -> FetchResult:
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
            if self._drop(prior, after):
                gone = dataclasses.replace(after, spool_dir=None, held_dir=None)
                return FetchResult(after=gone, dropped=True)
            rows.update(connection, prior, after)
            self._record(key, attempt)
            if after.state is State.SPOOLED:
                self._spooled(prior, after, targets)
        return FetchResult(after=after)

    def end_held(
        self,
        decide: Callable[[Export], Export],
        *,
        targets: Iterable[str],
        now_us: int,
    ) -> list[tuple[Export, Export]]:
        """Spool the held bodies that wait no longer, as the files of their exports.

        Args:
            decide: Gives the export whose file the held body is.
            targets: Where copies are owed then.
            now_us: Now.

        Returns:
            Each export as it was and as it is; at most `AT_ONCE`.
        """
        listed = self._db.connection.execute(
            f"SELECT {rows.COLUMNS} FROM exports INDEXED BY exports_held "
            "WHERE held_until_us IS NOT NULL AND held_until_us <= ? "
            "AND state IN ('ready', 'parked', 'waiting') LIMIT ?",
            (now_us, AT_ONCE),
        ).fetchall()
        ended = []
        with self._db.transaction() as connection:
            for prior in map(rows.export, listed):
                after = decide(prior)
                rows.update(connection, prior, after)
                self._spooled(prior, after, targets)
                ended.append((prior, after))
        return ended

    def release_held(self) -> None:
        """End the wait of all held bodies: their room in the spool is needed."""
        with self._db.transaction() as connection:
            connection.execute(
                "UPDATE exports INDEXED BY exports_held SET held_until_us = 0 "
                "WHERE held_until_us IS NOT NULL AND state <> 'fetching'"
            )

    def held_until(self) -> int | None:
        """Return when the next held body waits no longer; None if none is held."""
        row = self._db.connection.execute(
            "SELECT min(held_until_us) FROM exports INDEXED BY exports_held "
            "WHERE held_until_us IS NOT NULL "
            "AND state IN ('ready', 'parked', 'waiting')"
        ).fetchone()
        return None if row[0] is None else int(row[0])

    def _spooled(self, prior: Export, after: Export, targets: Iterable[str]) -> None:
        """Owe the targets a file that is complete in the spool now."""
        connection, key = self._db.connection, after.stored_key
        if prior.sha256 not in {None, after.sha256}:
            # Other bytes than before: what is kept of those is no copy now.
            rows.change_copies(
                connection, "WHERE export = ?", (key,), copy.of_other_bytes
            )
        for target in targets:
            known = rows.find_copy(connection, key, target)
            owed = copy.owed(key, target) if known is None else copy.owed_again(known)
            rows.write_copy(connection, known, owed)
        # Looks are taken at the newest version that is ours.
        connection.execute(
            "UPDATE exports SET look_due_us = NULL WHERE source = ? AND export_id = ? "
            "AND created_key = ? AND version < ? AND look_due_us IS NOT NULL",
            (*after.identity, after.version),
        )
        # What was asked for by hand and is kept has the drops of the others.
        connection.execute(
            "UPDATE exports SET drops = (SELECT max(drops) FROM exports "
            "WHERE source = ?1 AND export_id = ?2 AND created_key = ?3) "
            "WHERE key = ?4 AND version > 1",
            (*after.identity, key),
        )

    def _drop(self, prior: Export, after: Export) -> bool:
        """Forget a further version whose bytes are kept already; False if it is none.

        A validator that differed though the bytes are the same says nothing: it counts
        no more for that source.
        """
        sha256 = version.new_digest(prior, after)
        if sha256 is None:
            return False
        connection = self._db.connection
        row = connection.execute(
            f"SELECT {rows.COLUMNS} FROM exports WHERE source = ? AND export_id = ? "
            "AND created_key = ? AND key <> ? AND sha256 = ? "
            f"AND state IN {rows.KEPT} ORDER BY version DESC",
            (*prior.identity, prior.key, sha256),
        ).fetchone()
        if row is None:
            return False
        kept = rows.export(row)
        same = version.same_bytes(kept, after)
        if prior.reason == Reason.CHANGED:
            connection.execute(
                "UPDATE sources SET modified_empty = modified_empty OR ?, "
                "etag_empty = etag_empty OR ? WHERE name = ?",
                (
                    same.part_modified != kept.part_modified,
                    same.part_modified == kept.part_modified
                    and same.part_etag != kept.part_etag,
                    prior.source,
                ),
            )
        rows.update(connection, kept, same)
        connection.execute(
            "UPDATE exports SET drops = ? WHERE source = ? AND export_id = ? "
            "AND created_key = ?",
            (prior.drops + 1, *prior.identity),
        )
        rows.remove(connection, prior)
        rows.add_total(connection, prior.source, "dropped", "")
        return True

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
