"""What a walk writes to the ledger: its rows, absences, and the walk itself."""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mirror.ledger import rows
from mirror.lifecycle import loss, retry
from mirror.model import KEPT_STATES, Reason, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from sqlite3 import Connection

    from mirror.ledger.database import Database
    from mirror.lifecycle.walk import Walk
    from mirror.model import Export, Row
    from mirror.ports import BadRow

BAD_ROWS_KEPT = 1000
TOLD_TWICE = "two rows of one walk speak of it, with different footage"
UNDECIDED_KEPT = 100_000
"""With more undecided exports a source's new rows without a file are left out."""
FILELESS_KEPT = 1_000_000
"""With more exports that ended without a file, too."""
_RAW_KEPT = 16384
_ABSENTABLE = (State.WAITING, State.READY, State.PARKED)
_UNDECIDED = (State.WAITING, State.READY, State.FETCHING, State.PARKED)
_FILELESS = (State.UNAVAILABLE, State.EXCLUDED)
_CLOCK_NOISE_US = 5_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecord:
    """What the ledger remembers of a source.

    Attributes:
        device_uuid: Made once, sent as X-UUID.
        first_sweep_us: When the first complete sweep ended; None before.
        previous: Complete walks as (began, window's lower bound), newest first.
        problem: What is wrong with it now, if anything.
    """

    device_uuid: str
    first_sweep_us: int | None
    previous: tuple[tuple[int, int], ...]
    clock_offset_us: int
    last_success_us: int | None
    problem: str | None


@dataclass(slots=True)
class PageResult:
    """What a page changed.

    Attributes:
        left_out: Rows that were not taken in.
        further: Versions that were made.
        refused: Exports of which a row says something that does not count.
    """

    new: int = 0
    changed: int = 0
    left_out: int = 0
    lost: list[Export] = field(default_factory=list)
    further: list[Export] = field(default_factory=list)
    refused: list[Export] = field(default_factory=list)


class KeySet:
    """Keys of exports, a bit each."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def __contains__(self, key: int | None) -> bool:
        if key is None:
            return False
        byte, bit = divmod(key, 8)
        return byte < len(self._bits) and bool(self._bits[byte] >> bit & 1)

    def update(self, keys: Iterable[int]) -> None:
        """Add keys."""
        for key in keys:
            byte, bit = divmod(key, 8)
            if byte >= len(self._bits):
                self._bits.extend(bytes(byte + 1024 - len(self._bits)))
            self._bits[byte] |= 1 << bit


class Slice(NamedTuple):
    """What was done to some of a source's exports.

    Attributes:
        done: How many were changed.
        after: Where to go on; None if there are no more.
    """

    done: int
    after: int | None


class Walks:
    """Records what walks see."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def source(self, name: str) -> SourceRecord:
        """Return what is remembered of a source, making its record if new."""
        with self._db.transaction() as connection:
            connection.execute(
                "INSERT INTO sources (name, device_uuid) VALUES (?, ?) "
                "ON CONFLICT DO NOTHING",
                (name, str(uuid.uuid4())),
            )
            row = connection.execute(
                "SELECT device_uuid, first_sweep_us, poll_us, poll_from_us, sweep_us, "
                "sweep_from_us, clock_offset_us, last_success_us, problem "
                "FROM sources WHERE name = ?",
                (name,),
            ).fetchone()
        device, first, poll, poll_from, sweep, sweep_from, offset, success, bad = row
        walks = [(poll, poll_from), (sweep, sweep_from)]
        return SourceRecord(
            device_uuid=device,
            first_sweep_us=first,
            previous=tuple(sorted((w for w in walks if w[0]), reverse=True)),
            clock_offset_us=offset,
            last_success_us=success,
            problem=bad,
        )

    def correct_clock(self, source: str, now_us: int) -> int:
        """Begin to correct what was reckoned by a clock that was put back since.

        `follow_clock` goes on with it.

        Deadlines reckoned while it was ahead lie too late by as much, behind those
        of newer exports. If it was ahead for a short time only, older ones become too
        early, which keeps their order.

        Returns:
            By how much at least the clock was put back since the last walk, in
            microseconds; 0 if it was not.
        """
        with self._db.transaction() as connection:
            row = connection.execute(
                "SELECT max(coalesce(last_success_us, 0), coalesce(last_failure_us, 0))"
                " FROM sources WHERE name = ?",
                (source,),
            ).fetchone()
            back_us: int = 0 if row is None else row[0] - now_us
            if back_us <= _CLOCK_NOISE_US:
                return 0
            connection.execute(
                "UPDATE exports INDEXED BY exports_look "
                "SET look_due_us = look_due_us - :back, looked_us = looked_us - :back, "
                "deadline_us = deadline_us - :back "
                "WHERE look_due_us IS NOT NULL AND source = :source",
                {"back": back_us, "source": source},
            )
            while self.follow_clock(source):
                pass  # The time before, if not all follow that yet.
            connection.execute(
                "UPDATE sources SET poll_us = poll_us - :back, "
                "sweep_us = sweep_us - :back, "
                "last_success_us = min(last_success_us, :now), "
                "last_failure_us = min(last_failure_us, :now), "
                "shift_us = :back, shift_next = 0, shift_last = "
                "(SELECT coalesce(max(key), 0) FROM exports) WHERE name = :source",
                {"back": back_us, "now": now_us, "source": source},
            )
            self.follow_clock(source)
            return back_us

    def follow_clock(self, source: str) -> bool:
        """Correct some more exports for a clock that was put back.

        Returns:
            There are others still that do not.
        """
        row = self._db.connection.execute(
            "SELECT shift_us, shift_next, shift_last FROM sources "
            "WHERE name = ? AND shift_us > 0",
            (source,),
        ).fetchone()
        if row is None:
            return False
        back_us, after, last = row
        with self._db.transaction() as connection:
            keys = self._some(source, _UNDECIDED, after)
            connection.executemany(
                "UPDATE exports SET order_us = order_us - ?1, "
                "deadline_us = deadline_us - ?1, without_us = without_us - ?1, "
                "held_until_us = max(0, held_until_us - ?1), "
                "due_us = iif(not_before_us, max(1, due_us - ?1), due_us), "
                "not_before_us = iif(not_before_us, max(1, not_before_us - ?1), 0) "
                "WHERE key = ?2",
                [(back_us, key) for key in keys if key <= last],
            )
            more = bool(keys) and keys[-1] < last
            connection.execute(
                "UPDATE sources SET shift_next = ?, shift_us = ? WHERE name = ?",
                (keys[-1] if more else 0, back_us if more else 0, source),
            )
        return more

    def room(self, source: str) -> int:
        """Return how many rows without a file may be taken in; see `UNDECIDED_KEPT`."""
        cursor = self._db.connection.execute(
            "SELECT state, sum(number) FROM counts WHERE source = ? GROUP BY state",
            (source,),
        )
        counts: dict[str, int] = dict(cursor.fetchall())
        undecided, fileless = (
            sum(counts.get(state, 0) for state in states)
            for states in (_UNDECIDED, _FILELESS)
        )
        return max(0, min(UNDECIDED_KEPT - undecided, FILELESS_KEPT - fileless))

    def meet(
        self,
        source: str,
        listed: Sequence[Row],
        decide: Callable[[Export | None, Row], Export | None],
        before: KeySet | None = None,
    ) -> tuple[PageResult, set[int]]:
        """Apply some rows of one page, in the server's order; all or none of them.

        `decide` gives the export as it stands after its row, from its newest version;
        without a key it is new, or a further version. None leaves the row out.

        `before` is what this walk has met; of rows that say different things of one
        export the first counts. What is met now is added.

        Returns:
            What changed, and the keys of the exports met.
        """
        result, keys = PageResult(), set[int]()
        before = KeySet() if before is None else before
        with self._db.transaction() as connection:
            for row in listed:
                prior = rows.newest(
                    connection, (source, row.export_id, row.created_key)
                )
                again = prior is not None and (prior.key in keys or prior.key in before)
                if prior is not None and again and prior.shows_other_footage(row):
                    told_twice = dataclasses.replace(prior, last_error=TOLD_TWICE)
                    result.refused.append(told_twice)
                    continue
                after = decide(prior, row)
                if after is None:
                    result.left_out += 1
                    continue
                if prior is None or after.key is None:
                    key = rows.insert(connection, after)
                    rows.keep_item(connection, key, row.raw, after)
                    keys.add(key)
                    if prior is None:
                        result.new += 1
                    else:
                        result.further.append(after)
                        shown = dataclasses.replace(prior, has_file=row.shows_file)
                        rows.update(connection, prior, shown)
                    continue
                keys.add(after.key)
                if not rows.update(connection, prior, after):
                    continue
                result.changed += 1
                if after.state is State.LOST is not prior.state:
                    result.lost.append(after)
                if after.state not in KEPT_STATES:
                    rows.keep_item(connection, after.key, row.raw, after)
                elif after.last_error != prior.last_error:
                    result.refused.append(after)
        before.update(keys)
        return result, keys

    def expected(
        self, source: str, since_us: int, until_us: int, after: int = 0
    ) -> tuple[list[int], int | None]:
        """Return keys that a complete sweep of that window should meet, some at a time.

        Also of those that were without their file when last met and are older than any
        sweep to come: none would ever tell more of them.

        Returns:
            The keys, in order, and where to go on; None if there are no more.
        """
        keys = self._some(source, _ABSENTABLE, after)
        cursor = self._db.connection.execute(
            f"SELECT key FROM exports WHERE key IN ({', '.join('?' * len(keys))}) "
            "AND had_file = 1 AND (created_us BETWEEN ? AND ? OR state = 'waiting' "
            "AND has_file = 0 AND coalesce(created_us, 0) < ?) ORDER BY key",
            (*keys, since_us, until_us, since_us),
        )
        return [key for (key,) in cursor], keys[-1] if keys else None

    def absent(
        self, keys: Iterable[int], decide: Callable[[Export], Export]
    ) -> list[Export]:
        """Apply that a complete sweep did not show these; return the lost ones."""
        lost = []
        with self._db.transaction() as connection:
            for key in keys:
                prior = rows.find(connection, key)
                after = decide(prior)
                rows.update(connection, prior, after)
                if after.state is State.LOST is not prior.state:
                    lost.append(after)
        return lost

    def mark_unavailable(self, walk: Walk, after: int = 0) -> Slice:
        """End the rows that never had a file and were not met for too long."""
        return self._change(
            walk.source,
            after,
            "had_file = 0 AND has_file = 0 "
            "AND coalesce(created_us - ?, first_seen_us) < ?",
            (walk.clock_offset_us, walk.at_us - walk.waiting_limit_us),
            lambda export: loss.overdue(export, walk),
        )

    def requeue_old(self, walk: Walk, since_us: int, after: int = 0) -> Slice:
        """Try again what waits for its file and is older than the sweeps look.

        That is what was created before `since_us`, the sweep's lower bound by the VMS's
        clock.
        """
        # A due time beyond the longest wait was set before the clock was put back.
        longest_us = max(retry.RARELY_US, walk.retry_max_us)
        return self._change(
            walk.source,
            after,
            "has_file = 1 AND url IS NOT NULL "
            "AND coalesce(created_us, 0) < ? AND (due_us <= ? OR due_us > ?) "
            "AND (reason = ? OR (? AND reason = ?))",
            (
                since_us,
                walk.at_us,
                walk.at_us + longest_us,
                Reason.FILE_GONE,
                walk.try_folders,
                Reason.URL_WITHOUT_FILE,
            ),
            lambda export: retry.waited(export, walk.at_us),
        )

    def _change(
        self,
        source: str,
        after: int,
        where: str,
        values: tuple[object, ...],
        decide: Callable[[Export], Export],
    ) -> Slice:
        """Change some waiting exports, so that others need not wait long."""
        keys = self._some(source, (State.WAITING,), after)
        if not keys:
            return Slice(0, None)
        with self._db.transaction() as connection:
            chosen = f"WHERE key IN ({', '.join('?' * len(keys))}) AND {where}"
            done = rows.change(connection, chosen, (*keys, *values), decide)
        return Slice(done, keys[-1])

    def _some(self, source: str, states: Sequence[State], after: int) -> list[int]:
        """Return the next keys of exports in these states, in order."""
        keys = [
            key
            for state in states
            for (key,) in self._db.connection.execute(
                "SELECT key FROM exports INDEXED BY exports_state "
                "WHERE state = ? AND source = ? AND key > ? ORDER BY key LIMIT ?",
                (state, source, after, rows.AT_ONCE),
            )
        ]
        return sorted(keys)[: rows.AT_ONCE]

    def walked(
        self,
        source: str,
        *,
        sweep: bool,
        complete: bool,
        began_us: int,
        since_us: int,
        offset_us: int,
        now_us: int,
        left_out: int = 0,
    ) -> None:
        """Remember a walk that read its pages to the end, and what it left out.

        If the clock was put back meanwhile, it counts as begun just now.
        """
        with self._db.transaction() as connection:
            self.correct_clock(source, now_us)
            connection.execute(
                "UPDATE sources SET last_success_us = ?, problem = NULL, "
                "clock_offset_us = ?, left_out = ? WHERE name = ?",
                (now_us, offset_us, left_out, source),
            )
            if not complete:
                return
            kind = "sweep" if sweep else "poll"
            connection.execute(
                f"UPDATE sources SET {kind}_us = ?, {kind}_from_us = ? WHERE name = ?",
                (min(began_us, now_us), since_us, source),
            )
            if sweep:
                connection.execute(
                    "UPDATE sources SET first_sweep_us = coalesce(first_sweep_us, ?) "
                    "WHERE name = ?",
                    (now_us, source),
                )

    def walk_failed(self, source: str, problem: str, now_us: int) -> None:
        """Remember a walk that failed, and why."""
        with self._db.transaction() as connection:
            self.correct_clock(source, now_us)
            connection.execute(
                "UPDATE sources SET last_failure_us = ?, last_failure = ?, problem = ? "
                "WHERE name = ?",
                (now_us, problem, problem, source),
            )

    def bad_rows(
        self, source: str, refused: Sequence[BadRow], now_us: int
    ) -> list[BadRow]:
        """Keep rows that cannot be used, not without end; return those new to us."""
        if not refused:
            return []
        with self._db.transaction() as connection:
            (held,) = connection.execute(
                "SELECT count(*) FROM bad_rows WHERE source = ?", (source,)
            ).fetchone()
            new: list[BadRow] = []
            for bad in refused:
                room = held + len(new) < BAD_ROWS_KEPT
                if _keep_bad(connection, source, bad, now_us, room=room):
                    new.append(bad)
            if new:
                connection.execute(
                    "UPDATE sources SET bad_rows = bad_rows + ? WHERE name = ?",
                    (len(new), source),
                )
            return new


def _keep_bad(
    connection: Connection, source: str, bad: BadRow, now_us: int, *, room: bool
) -> bool:
    """Count a row that cannot be used, or keep it; tell whether it was kept."""
    digest = hashlib.sha256(bad.raw.encode("utf-8", "replace")).hexdigest()
    known = connection.execute(
        "UPDATE bad_rows SET last_us = ?, times = times + 1 "
        "WHERE source = ? AND digest = ?",
        (now_us, source, digest),
    ).rowcount
    if known or not room:
        return False
    raw = bad.raw[:_RAW_KEPT].encode("utf-8", "replace").decode()
    connection.execute(
        "INSERT INTO bad_rows (source, digest, first_us, last_us, times, error, raw) "
        "VALUES (?, ?, ?, ?, 1, ?, ?)",
        (source, digest, now_us, now_us, bad.error, raw),
    )
    return True
