"""Take inventory for `rebuild`: record what the sidecars on a target prove."""

from __future__ import annotations

import dataclasses
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.layout import path_key
from mirror.ledger import rows
from mirror.lifecycle import copy, inventory
from mirror.lifecycle.inventory import SidecarVerdict
from mirror.model import State

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mirror.ledger.database import Database
    from mirror.model import Copy, Export

_IDLE = "('waiting', 'ready', 'parked')"
_VANISHING = "had_file = 1 AND (without_walks > 0 OR absent_sweeps > 0)"


@dataclass(frozen=True, slots=True, kw_only=True)
class WithoutSidecar:
    """A copy that the ledger had as saved, and for which no sidecar was found."""

    key: int
    path: str
    size_bytes: int | None


class Inventory:
    """Takes up what lies on targets."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._claimed: dict[int, int] = {}

    def take(
        self, kept: Export, *, target: str, path: str, whole: bool
    ) -> SidecarVerdict:
        """Record what a sidecar says of a version, and the file beside it at `path`.

        It is `whole` if it has the right length.
        """
        with self._db.transaction():
            known = self._version(kept)
            if known is not None and known.held_sha256 not in {None, kept.sha256}:
                known = self._apart(known, whole=whole)
            if known is None:
                return self._new(kept, target, path, whole=whole)
            return self._known(known, kept, target, path, whole=whole)

    def _version(self, kept: Export) -> Export | None:
        """Return the version that has these bytes, or one that has none yet."""
        row = self._db.connection.execute(
            f"SELECT {rows.COLUMNS} FROM exports "
            "WHERE source = ? AND export_id = ? AND created_key = ? "
            "AND (sha256 IS NULL OR sha256 = ?) "
            "ORDER BY sha256 IS NULL, version = ? DESC, version LIMIT 1",
            (*kept.identity, kept.sha256, kept.version),
        ).fetchone()
        return None if row is None else rows.export(row)

    def _apart(self, known: Export, *, whole: bool) -> Export | None:
        """Let a held body stay apart from what a sidecar tells of other bytes."""
        connection = self._db.connection
        if known.sha256 is None:
            rows.await_end(connection, known)
            return None
        return rows.set_apart(connection, known) if whole else known

    def recall(
        self,
        key: int,
        kept: Export,
        *,
        target: str,
        path: str,
        others: Collection[str],
    ) -> bool:
        """Save an idle export whose whole file was found on a target; tell if it is.

        `kept` is the same as the sidecar tells. All configured targets, `others`, are
        owed a copy.
        """
        with self._db.transaction() as connection:
            known = rows.find(connection, key)
            if known.state not in {State.WAITING, State.READY, State.PARKED}:
                return False
            version = self._version(kept)
            if version is None or version.key != key:
                return False
            verdict = self.take(kept, target=target, path=path, whole=True)
            if verdict is not SidecarVerdict.KEPT:
                return False
            key = (self._version(kept) or version).stored_key
            for other in others:
                if rows.find_copy(connection, key, other) is None:
                    rows.write_copy(connection, None, copy.owed(key, other))
            return True

    def vanishing(self, source: str) -> list[int]:
        """Return the keys of exports that a walk has missed or seen without their file.

        They may be lost some walks later; those whose deadline is nearest come first,
        and those that are being fetched last.
        """
        execute = self._db.connection.execute
        chosen = f"SELECT key FROM exports WHERE source = ? AND {_VANISHING} AND state"
        idle = execute(f"{chosen} IN {_IDLE} ORDER BY deadline_us", (source,))
        fetching = execute(f"{chosen} = 'fetching'", (source,))
        return [key for (key,) in (*idle, *fetching)]

    def idle(self, key: int) -> Export | None:
        """Return a vanishing export; None if it is fetched, or vanishes no more."""
        row = self._db.connection.execute(
            f"SELECT {rows.COLUMNS} FROM exports WHERE key = ? AND {_VANISHING} "
            f"AND state IN {_IDLE}",
            (key,),
        ).fetchone()
        return None if row is None else rows.export(row)

    def is_empty(self) -> bool:
        """Tell whether no export is known at all."""
        cursor = self._db.connection.execute("SELECT 1 FROM exports LIMIT 1")
        return cursor.fetchone() is None

    def path_of(self, kept: Export, target: str) -> str | None:
        """Return where the copy lies that was taken for what a sidecar tells of."""
        row = self._db.connection.execute(
            "SELECT path FROM copies JOIN exports ON key = export WHERE target = ? "
            "AND source = ? AND export_id = ? AND created_key = ? AND sha256 = ? "
            "AND copies.state = 'saved'",
            (target, *kept.identity, kept.sha256),
        ).fetchone()
        return None if row is None else str(row[0])

    def exchange(self, kept: Export, *, target: str, path: str) -> None:
        """Take the copy at `path` for that of an export, in place of a damaged one."""
        with self._db.transaction() as connection:
            known = self._version(kept)
            if known is not None and self._free(path, target, known.key):
                key = known.stored_key
                prior = rows.find_copy(connection, key, target)
                self._place(key, prior, kept, target, path, whole=True)

    def mark_unconfirmed(self, target: str) -> None:
        """Make the saved copies on a target pending until they are found there."""
        after: int | None = 0
        while after is not None:
            with self._db.transaction() as connection:
                changed = rows.change_copies(
                    connection,
                    "WHERE target = ? AND state = 'saved' AND export > ? "
                    "ORDER BY export LIMIT ?",
                    (target, after, rows.AT_ONCE),
                    inventory.unconfirmed,
                )
            after = changed[-1].export if changed else None

    def without_sidecar(
        self, target: str, after: int, limit: int
    ) -> list[WithoutSidecar]:
        """Return saved copies for which no sidecar was found, by their exports.

        At most so many, after the key of the last one seen.
        """
        cursor = self._db.connection.execute(
            "SELECT export, path, size_bytes FROM copies JOIN exports ON key = export "
            "WHERE target = ? AND copies.last_error = ? AND copies.path IS NOT NULL "
            "AND export > ? ORDER BY export LIMIT ?",
            (target, inventory.NOT_FOUND_YET, after, limit),
        )
        return [
            WithoutSidecar(key=key, path=path, size_bytes=size_bytes)
            for key, path, size_bytes in cursor
        ]

    def judge_without_sidecar(
        self, bare: Sequence[WithoutSidecar], target: str, good: set[int]
    ) -> None:
        """Record of such copies which ones lie there all the same."""
        with self._db.transaction() as connection:
            for each in bare:
                known = rows.find_copy(connection, each.key, target)
                if known is not None:
                    lies_there = each.key in good
                    after = inventory.without_sidecar(known, lies_there=lies_there)
                    rows.write_copy(connection, known, after)

    def settle(self) -> None:
        """Draw the conclusions, when all targets are read.

        What was kept and lies nowhere is damaged, or is published again where the
        spool has it still. Totals are never lower than what is kept.
        """
        with self._db.transaction() as connection:
            self._number()
            connection.execute(
                "UPDATE exports AS older INDEXED BY exports_look "
                "SET look_due_us = NULL "
                "WHERE look_due_us IS NOT NULL AND EXISTS (SELECT 1 FROM exports "
                "WHERE source = older.source AND export_id = older.export_id "
                "AND created_key = older.created_key AND version > older.version "
                f"AND state IN {rows.KEPT})"
            )
            orphans = connection.execute(
                f"SELECT {rows.COLUMNS} FROM exports "
                "WHERE state IN ('saved', 'doubtful') AND NOT EXISTS "
                "(SELECT 1 FROM copies WHERE export = key AND state = 'saved')"
            )
            for known in [rows.export(row) for row in orphans]:
                spooled = copy.has_spool_file(known)
                if spooled:
                    where, key = "WHERE export = ?", known.stored_key
                    rows.change_copies(connection, where, (key,), copy.pending)
                after = copy.after_bad(
                    known, spooled=spooled, others=False, error=inventory.GONE
                )
                rows.update(connection, known, after)
            connection.execute(
                "INSERT INTO totals (source, event, reason, total) "
                "SELECT source, iif(proof = 'doubtful', 'doubtful', 'saved'), '', "
                "count(*) FROM exports WHERE saved_us IS NOT NULL GROUP BY 1, 2 "
                "ON CONFLICT DO UPDATE SET total = max(total, excluded.total)"
            )

    def counts(self, target: str) -> dict[str, int]:
        """Return how many copies a target has, by state."""
        cursor = self._db.connection.execute(
            "SELECT state, count(*) FROM copies WHERE target = ? GROUP BY state",
            (target,),
        )
        return dict(cursor.fetchall())

    def _number(self) -> None:
        """Number versions anew where several sidecars claim one number."""
        connection = self._db.connection
        listed = connection.execute(
            "SELECT DISTINCT source, export_id, created_key FROM exports "
            "WHERE version > 1"
        ).fetchall()
        for identity in listed:
            versions = connection.execute(
                "SELECT key, version, coalesce(spooled_us, 0) FROM exports "
                "WHERE source = ? AND export_id = ? AND created_key = ?",
                identity,
            ).fetchall()
            versions.sort(key=lambda row: (self._claimed.get(row[0], row[1]), row[2]))
            number, numbers = 0, []
            for key, version, _ in versions:
                number = max(number + 1, self._claimed.get(key, version))
                numbers.append((number, key))
            if [row[1] for row in versions] != [number for number, _ in numbers]:
                # Out of the way of each other first.
                connection.executemany(
                    "UPDATE exports SET version = -key WHERE key = ?",
                    [(key,) for _, key in numbers],
                )
                connection.executemany(
                    "UPDATE exports SET version = ? WHERE key = ?", numbers
                )

    def _new(
        self, kept: Export, target: str, path: str, *, whole: bool
    ) -> SidecarVerdict:
        connection = self._db.connection
        if not self._free(path, target, None):
            return SidecarVerdict.PATH_TAKEN
        new = inventory.new(kept, whole=whole)
        newest = rows.newest(connection, new.identity)
        claimed = new.version
        if newest is not None:
            new = dataclasses.replace(new, version=newest.version + 1)
        key = rows.insert(connection, new)
        self._claimed[key] = claimed
        self._place(key, None, new, target, path, whole=whole)
        return SidecarVerdict.KEPT if whole else SidecarVerdict.DAMAGED

    def _known(
        self, known: Export, kept: Export, target: str, path: str, *, whole: bool
    ) -> SidecarVerdict:
        connection, key = self._db.connection, known.stored_key
        prior = rows.find_copy(connection, key, target)
        verdict = inventory.judge(prior, path, whole=whole)
        if verdict not in {SidecarVerdict.KEPT, SidecarVerdict.DAMAGED}:
            return verdict
        if not self._free(path, target, key):
            return SidecarVerdict.PATH_TAKEN
        self._place(key, prior, kept, target, path, whole=whole)
        if whole:
            rows.update(connection, known, inventory.confirmed(known, kept))
        return verdict

    def _place(
        self,
        key: int,
        prior: Copy | None,
        kept: Export,
        target: str,
        path: str,
        *,
        whole: bool,
    ) -> None:
        lies = inventory.found(
            prior or copy.owed(key, target), path, whole=whole, saved_us=kept.saved_us
        )
        rows.write_copy(self._db.connection, prior, lies)

    def _free(self, path: str, target: str, key: int | None) -> bool:
        """Make sure that no other export's copy has a path; False if one is there."""
        try:
            self._db.connection.execute(
                "UPDATE copies SET path = NULL, path_key = NULL, base_key = NULL "
                "WHERE target = ? AND path_key = ? AND export IS NOT ? "
                "AND state <> 'saved'",
                (target, path_key(path), key),
            )
        except sqlite3.IntegrityError:
            return False
        taken = self._db.connection.execute(
            "SELECT 1 FROM copies WHERE target = ? AND path_key = ? "
            "AND export IS NOT ?",
            (target, path_key(path), key),
        )
        return taken.fetchone() is None
