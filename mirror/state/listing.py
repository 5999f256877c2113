"""The ledger's part in a walk: meet rows, notice absence, remember the walk."""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.model import KEPT_STATES, Reason, State
from mirror.state import rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mirror.model import Export, Row
    from mirror.ports import BadRow
    from mirror.state.database import Database

BAD_ROWS_KEPT = 1000
TOLD_TWICE = "two rows of one walk speak of it, with different footage"
_RAW_KEPT = 16384
_ABSENTABLE = "('waiting', 'ready', 'parked')"
_UNDECIDED = "('waiting', 'ready', 'fetching', 'parked')"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """What a page changed.

    Attributes:
        further: Versions that were made.
        refused: Exports of which a row says something that does not count.
    """

    new: int
    changed: int
    lost: tuple[Export, ...]
    further: tuple[Export, ...]
    refused: tuple[Export, ...]


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


class Listing:
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

    def put_back(self, source: str, now_us: int) -> int:
        """Correct what was reckoned by a clock that was put back since.

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
                "UPDATE exports SET order_us = order_us - :back, "
                "deadline_us = deadline_us - :back, without_us = without_us - :back "
                f"WHERE source = :source AND state IN {_UNDECIDED}",
                {"back": back_us, "source": source},
            )
            connection.execute(
                "UPDATE sources SET poll_us = poll_us - :back, "
                "sweep_us = sweep_us - :back, "
                "last_success_us = min(last_success_us, :now), "
                "last_failure_us = min(last_failure_us, :now) WHERE name = :source",
                {"back": back_us, "now": now_us, "source": source},
            )
            return back_us

    def meet(
        self,
        source: str,
        listed: Sequence[Row],
        decide: Callable[[Export | None, Row], Export],
        before: KeySet | None = None,
    ) -> tuple[Met, set[int]]:
        """Apply the rows of one page, all or none of them.

        Args:
            source: Whose rows they are.
            listed: In the server's order.
            decide: Gives the export as it stands after its row, from its newest
                version; without a key it is new, or a further version.
            before: What this walk has met; of rows that say different things of one
                export the first counts. What is met now is added.

        Returns:
            What changed, and the keys of the exports met.
        """
        new = changed = 0
        keys: set[int] = set()
        lost: list[Export] = []
        further: list[Export] = []
        refused: list[Export] = []
        before = KeySet() if before is None else before
        with self._db.transaction() as connection:
            for row in listed:
                prior = rows.newest(connection, source, row.export_id, row.created_key)
                if prior is None:
                    key = rows.insert(connection, after := decide(None, row))
                    rows.keep_item(connection, key, row.raw, after)
                    keys.add(key)
                    new += 1
                    continue
                again = prior.key in keys or prior.key in before
                if again and prior.shows_other_footage(row):
                    refused.append(dataclasses.replace(prior, last_error=TOLD_TWICE))
                    continue
                after = decide(prior, row)
                if after.key is None:
                    key = rows.insert(connection, after)
                    rows.keep_item(connection, key, row.raw, after)
                    keys.add(key)
                    further.append(after)
                    continue
                keys.add(after.key)
                if not rows.update(connection, prior, after):
                    continue
                changed += 1
                if after.state is State.LOST is not prior.state:
                    lost.append(after)
                if after.state not in KEPT_STATES:
                    rows.keep_item(connection, after.key, row.raw, after)
                elif after.last_error != prior.last_error:
                    refused.append(after)
        before.update(keys)
        met = Met(
            new=new,
            changed=changed,
            lost=tuple(lost),
            further=tuple(further),
            refused=tuple(refused),
        )
        return met, keys

    def expected(self, source: str, since_us: int, until_us: int) -> set[int]:
        """Return the keys a complete sweep of that window should meet.

        Also of those that were without their file when last met and are older than any
        sweep to come: none would ever tell more of them.
        """
        query = (
            "SELECT key FROM exports WHERE source = ? AND had_file = 1 "
            f"AND state IN {_ABSENTABLE} AND (created_us BETWEEN ? AND ? "
            "OR state = 'waiting' AND has_file = 0 AND coalesce(created_us, 0) < ?)"
        )
        values = (source, since_us, until_us, since_us)
        found = self._db.connection.execute(query, values)
        return {row[0] for row in found}

    def absent(
        self, keys: Iterable[int], decide: Callable[[Export], Export]
    ) -> list[Export]:
        """Apply that a complete sweep did not show these; return the lost ones."""
        lost = []
        with self._db.transaction() as connection:
            for key in keys:
                prior = rows.find(connection, key)
                if prior.state not in {State.WAITING, State.READY, State.PARKED}:
                    continue
                after = decide(prior)
                rows.update(connection, prior, after)
                if after.state is State.LOST:
                    lost.append(after)
        return lost

    def give_up(self, source: str, *, born_before_us: int, offset_us: int) -> int:
        """End the rows that never had a file and were not met for too long.

        Args:
            source: Whose rows.
            born_before_us: Older than this, by our clock, is too old.
            offset_us: The VMS's clock less ours.

        Returns:
            How many ended.
        """
        with self._db.transaction() as connection:
            cursor = connection.execute(
                "UPDATE exports SET state = ?, reason = ? WHERE state = ? "
                "AND source = ? AND had_file = 0 AND has_file = 0 "
                "AND coalesce(created_us - ?, first_seen_us) < ?",
                (
                    State.UNAVAILABLE,
                    Reason.NEVER_HAD_A_FILE,
                    State.WAITING,
                    source,
                    offset_us,
                    born_before_us,
                ),
            )
            return cursor.rowcount

    def rouse(
        self,
        source: str,
        *,
        before_us: int,
        at_us: int,
        horizon_us: int,
        folders: bool,
    ) -> int:
        """Try again what waits for its file and is older than the sweeps look.

        Args:
            source: Whose rows.
            before_us: The lower bound of the sweep, by the VMS's clock.
            at_us: When the sweep began.
            horizon_us: The longest wait there can be; a due time beyond it was set
                before the clock was put back, and counts as now.
            folders: Urls that end in a folder are tried too.

        Returns:
            How many became ready.
        """
        with self._db.transaction() as connection:
            return connection.execute(
                "UPDATE exports SET state = ?, walk_us = ? WHERE state = ? "
                "AND source = ? AND has_file = 1 AND url IS NOT NULL "
                "AND coalesce(created_us, 0) < ? AND (due_us <= ? OR due_us > ?) "
                "AND (reason = ? OR (? AND reason = ?))",
                (
                    State.READY,
                    at_us,
                    State.WAITING,
                    source,
                    before_us,
                    at_us,
                    at_us + horizon_us,
                    Reason.FILE_GONE,
                    folders,
                    Reason.URL_WITHOUT_FILE,
                ),
            ).rowcount

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
    ) -> None:
        """Remember a walk that read its pages to the end.

        If the clock was put back meanwhile, it counts as begun just now.
        """
        with self._db.transaction() as connection:
            self.put_back(source, now_us)
            connection.execute(
                "UPDATE sources SET last_success_us = ?, problem = NULL, "
                "clock_offset_us = ? WHERE name = ?",
                (now_us, offset_us, source),
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
            self.put_back(source, now_us)
            connection.execute(
                "UPDATE sources SET last_failure_us = ?, last_failure = ?, problem = ? "
                "WHERE name = ?",
                (now_us, problem, problem, source),
            )

    def bad_row(self, source: str, bad: BadRow, now_us: int) -> bool:
        """Keep a row that cannot be used; tell whether it is new to us."""
        digest = hashlib.sha256(bad.raw.encode("utf-8", "replace")).hexdigest()
        with self._db.transaction() as connection:
            known = connection.execute(
                "UPDATE bad_rows SET last_us = ?, times = times + 1 "
                "WHERE source = ? AND digest = ?",
                (now_us, source, digest),
            ).rowcount
            if known:
                return False
            held = connection.execute(
                "SELECT count(*) FROM bad_rows WHERE source = ?", (source,)
            ).fetchone()[0]
            if held >= BAD_ROWS_KEPT:
                return False
            raw = bad.raw[:_RAW_KEPT].encode("utf-8", "replace").decode()
            connection.execute(
                "INSERT INTO bad_rows "
                "(source, digest, first_us, last_us, times, error, raw) "
                "VALUES (?, ?, ?, ?, 1, ?, ?)",
                (source, digest, now_us, now_us, bad.error, raw),
            )
            connection.execute(
                "UPDATE sources SET bad_rows = bad_rows + 1 WHERE name = ?", (source,)
            )
            return True
