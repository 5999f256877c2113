"""The ledger's part in taking stock: what the sidecars on a target prove is kept."""

from __future__ import annotations

import dataclasses
import sqlite3
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from mirror.layout import path_key, whole_form
from mirror.ledger import rows
from mirror.model import CopyState, Export, State

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mirror.ledger.database import Database
    from mirror.model import Copy

SOUGHT = "saved before, not found by rebuild yet"
GONE = "rebuild found no file of the right length at its path"
_AT_ONCE = 100
_FACTS = (
    "size_bytes",
    "sha256",
    "proof",
    "doubt",
    "started_us",
    "spooled_us",
    "saved_us",
    "part_etag",
    "part_modified",
)
"""What an export takes over from the sidecar of the file that is kept."""


class Taken(StrEnum):
    """What a sidecar came to."""

    KEPT = "kept"
    DAMAGED = "damaged"
    KNOWN_DAMAGED = "known_damaged"
    SECOND = "second"
    PATH_TAKEN = "path_taken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bare:
    """A copy that the ledger knew as saved, and that no sidecar told of."""

    key: int
    path: str
    size_bytes: int | None


class Stock:
    """Takes up what lies on targets."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._claimed: dict[int, int] = {}

    def take(self, told: Export, *, target: str, path: str, whole: bool) -> Taken:
        """Take up one sidecar and the file beside it.

        Args:
            told: The version of an export as its sidecar tells, kept.
            target: Where it lies.
            path: Of the file, as it lies there now.
            whole: A file of the right length lies there.
        """
        with self._db.transaction():
            known = self._version(told)
            if known is not None and known.held_sha256 not in {None, told.sha256}:
                known = self._apart(known, whole=whole)
            if known is None:
                return self._new(told, target, path, whole=whole)
            return self._known(known, told, target, path, whole=whole)

    def _version(self, told: Export) -> Export | None:
        """Return the version that has these bytes, or one that has none yet."""
        found = self._db.connection.execute(
            f"SELECT {rows.COLUMNS} FROM exports "
            "WHERE source = ? AND export_id = ? AND created_key = ? "
            "AND (sha256 IS NULL OR sha256 = ?) "
            "ORDER BY sha256 IS NULL, version = ? DESC, version LIMIT 1",
            (
                told.source,
                told.export_id,
                told.created_key,
                told.sha256,
                told.version,
            ),
        ).fetchone()
        return None if found is None else rows.export(found)

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
        told: Export,
        *,
        target: str,
        path: str,
        others: Collection[str],
    ) -> bool:
        """Save an export that nobody works on, by a whole file found on a target.

        Args:
            key: Of the export.
            told: The same as the sidecar tells.
            target: Where the file lies.
            path: Of the file.
            others: All configured targets; they are owed a copy.

        Returns:
            It is saved now.
        """
        with self._db.transaction() as connection:
            known = rows.find(connection, key)
            if known.state not in {State.WAITING, State.READY, State.PARKED}:
                return False
            version = self._version(told)
            if version is None or version.key != key:
                return False
            if self.take(told, target=target, path=path, whole=True) is not Taken.KEPT:
                return False
            key = (self._version(told) or version).key or key
            for other in others:
                connection.execute(
                    "INSERT OR IGNORE INTO copies (export, target, state) "
                    "VALUES (?, ?, 'pending')",
                    (key, other),
                )
            return True

    def vanishing(self, source: str) -> list[Export]:
        """Return exports that a walk has missed or seen without their file.

        They may be lost some walks later; those whose deadline is nearest come first.
        """
        found = self._db.connection.execute(
            f"SELECT {rows.COLUMNS} FROM exports WHERE source = ? AND had_file = 1 "
            "AND state IN ('waiting', 'ready', 'parked') "
            "AND (without_walks > 0 OR absent_sweeps > 0) "
            "ORDER BY deadline_us LIMIT ?",
            (source, _AT_ONCE),
        )
        return [rows.export(row) for row in found]

    def is_empty(self) -> bool:
        """Tell whether no export is known at all."""
        found = self._db.connection.execute("SELECT 1 FROM exports LIMIT 1")
        return found.fetchone() is None

    def path_of(self, told: Export, target: str) -> str | None:
        """Return where the copy lies that was taken for what a sidecar tells of."""
        found = self._db.connection.execute(
            "SELECT path FROM copies JOIN exports ON key = export WHERE target = ? "
            "AND source = ? AND export_id = ? AND created_key = ? AND sha256 = ? "
            "AND copies.state = 'saved'",
            (target, told.source, told.export_id, told.created_key, told.sha256),
        ).fetchone()
        return None if found is None else str(found[0])

    def exchange(self, told: Export, *, target: str, path: str) -> None:
        """Take the copy at `path` for that of an export, in place of a damaged one."""
        with self._db.transaction():
            known = self._version(told)
            if known is not None and self._free(path, target, known.key):
                self._place(known.key or 0, told, target, path, whole=True)

    def doubt(self, target: str) -> None:
        """Take what was saved on a target for pending until it is found there."""
        with self._db.transaction() as connection:
            connection.execute(
                "UPDATE copies SET state = 'pending', attempts = 0, due_us = 0, "
                "verified_us = NULL, last_error = ? "
                "WHERE state = 'saved' AND target = ?",
                (SOUGHT, target),
            )

    def bare(self, target: str, after: int, limit: int) -> list[Bare]:
        """Return copies that were saved and no sidecar told of, by their exports.

        Args:
            target: Where they should lie.
            after: The key of the last one seen.
            limit: At most so many.
        """
        found = self._db.connection.execute(
            "SELECT export, path, size_bytes FROM copies JOIN exports ON key = export "
            "WHERE target = ? AND copies.last_error = ? AND copies.path IS NOT NULL "
            "AND export > ? ORDER BY export LIMIT ?",
            (target, SOUGHT, after, limit),
        )
        return [
            Bare(key=key, path=path, size_bytes=size_bytes)
            for key, path, size_bytes in found
        ]

    def judge_bare(self, bare: Sequence[Bare], target: str, good: set[int]) -> None:
        """Record of such copies which ones lie there all the same."""
        with self._db.transaction() as connection:
            connection.executemany(
                "UPDATE copies SET state = ?, last_error = ? "
                "WHERE export = ? AND target = ?",
                [
                    (CopyState.SAVED, None, one.key, target)
                    if one.key in good
                    else (CopyState.DAMAGED, GONE, one.key, target)
                    for one in bare
                ],
            )

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
                "AND state IN ('spooled', 'saved', 'doubtful'))"
            )
            orphans = connection.execute(
                f"SELECT {rows.COLUMNS} FROM exports "
                "WHERE state IN ('saved', 'doubtful') AND NOT EXISTS "
                "(SELECT 1 FROM copies WHERE export = key AND state = 'saved')"
            )
            for row in orphans.fetchall():
                known = rows.export(row)
                if _in_spool(known):
                    connection.execute(
                        "UPDATE copies SET state = 'pending', due_us = 0 "
                        "WHERE export = ?",
                        (known.key,),
                    )
                state = State.SPOOLED if _in_spool(known) else State.DAMAGED
                after = dataclasses.replace(known, state=state, last_error=GONE)
                rows.update(connection, known, after)
            connection.execute(
                "INSERT INTO totals (source, event, reason, total) "
                "SELECT source, iif(proof = 'doubtful', 'doubtful', 'saved'), '', "
                "count(*) FROM exports WHERE saved_us IS NOT NULL GROUP BY 1, 2 "
                "ON CONFLICT DO UPDATE SET total = max(total, excluded.total)"
            )

    def counts(self, target: str) -> dict[str, int]:
        """Return how many copies a target has, by state."""
        found = self._db.connection.execute(
            "SELECT state, count(*) FROM copies WHERE target = ? GROUP BY state",
            (target,),
        )
        return dict(found.fetchall())

    def _number(self) -> None:
        """Number versions anew where several sidecars claim one number."""
        connection = self._db.connection
        keys = "SELECT key, version, coalesce(spooled_us, 0) FROM exports AS other "
        found = connection.execute(
            "SELECT DISTINCT source, export_id, created_key FROM exports "
            "WHERE version > 1"
        ).fetchall()
        for identity in found:
            versions = connection.execute(
                f"{keys} WHERE source = ? AND export_id = ? AND created_key = ?",
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

    def _new(self, told: Export, target: str, path: str, *, whole: bool) -> Taken:
        connection = self._db.connection
        if not self._free(path, target, None):
            return Taken.PATH_TAKEN
        if not whole:
            told = dataclasses.replace(told, state=State.DAMAGED, last_error=GONE)
        newest = rows.newest(connection, told.source, told.export_id, told.created_key)
        claimed = told.version
        if newest is not None:
            told = dataclasses.replace(told, version=newest.version + 1)
        key = rows.insert(connection, told)
        self._claimed[key] = claimed
        self._place(key, told, target, path, whole=whole)
        return Taken.KEPT if whole else Taken.DAMAGED

    def _known(
        self, known: Export, told: Export, target: str, path: str, *, whole: bool
    ) -> Taken:
        connection, key = self._db.connection, known.key or 0
        found = connection.execute(
            f"SELECT {rows.COPY_COLUMNS} FROM copies WHERE export = ? AND target = ?",
            (key, target),
        ).fetchone()
        copy = None if found is None else rows.copy(found)
        verdict = _verdict(copy, path, whole=whole)
        if verdict not in {Taken.KEPT, Taken.DAMAGED}:
            return verdict
        if not self._free(path, target, key):
            return Taken.PATH_TAKEN
        self._place(key, told, target, path, whole=whole)
        if whole:
            rows.update(connection, known, _after(known, told))
        return verdict

    def _place(
        self, key: int, told: Export, target: str, path: str, *, whole: bool
    ) -> None:
        state = CopyState.SAVED if whole else CopyState.DAMAGED
        self._db.connection.execute(
            "INSERT INTO copies "
            "(export, target, state, path, path_key, base_key, saved_us, last_error) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "state = excluded.state, path = excluded.path, "
            "path_key = excluded.path_key, base_key = excluded.base_key, "
            "last_error = excluded.last_error, "
            "saved_us = coalesce(saved_us, excluded.saved_us), due_us = 0",
            (
                key,
                target,
                state,
                path,
                path_key(path),
                path_key(whole_form(path)),
                told.saved_us,
                None if whole else GONE,
            ),
        )

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


def _verdict(copy: Copy | None, path: str, *, whole: bool) -> Taken:
    """Decide what a sidecar means for the copy that the ledger has, if any."""
    fresh = Taken.KEPT if whole else Taken.DAMAGED
    if copy is None:
        return fresh
    same = copy.path == path
    match copy.state:
        case CopyState.DAMAGED if whole:
            # That its length is right was known when its bytes were found wrong.
            return Taken.KNOWN_DAMAGED if same else Taken.KEPT
        case CopyState.PENDING | CopyState.PUBLISHING | CopyState.FAILED:
            if copy.last_error == SOUGHT:
                return fresh if whole or same else Taken.SECOND
            if whole and same and copy.saved_us is not None:
                # It was saved once, and is owed again for a reason.
                return Taken.KNOWN_DAMAGED
            return Taken.KEPT if whole else Taken.SECOND
        case CopyState.SAVED if same and whole:
            return Taken.KEPT
        case _:
            return Taken.SECOND


def _after(known: Export, told: Export) -> Export:
    """Return the export of which a whole copy was found."""
    anew = known.sha256 != told.sha256
    facts = {
        name: getattr(told, name)
        for name in _FACTS
        if anew or getattr(known, name) is None
    }
    after = dataclasses.replace(known, had_file=True, **facts)
    if known.state is State.SPOOLED:
        return dataclasses.replace(after, saved_us=known.saved_us)
    return dataclasses.replace(
        after.without_held(),
        state=told.state,
        reason=told.reason,
        last_error=None,
        due_us=0,
    )


def _in_spool(export: Export) -> bool:
    """Tell whether the spool has the whole file still, as far as the ledger knows."""
    return (
        export.spool_dir is not None
        and export.part_bytes == export.size_bytes
        and export.part_sha256 == export.sha256
    )
