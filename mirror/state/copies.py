"""The ledger as the queue of publishes, one queue per target."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.model import CopyState, Reason, State
from mirror.state import rows

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from mirror.model import Copy, Export
    from mirror.state.database import Database


OPEN = "('pending', 'publishing', 'failed')"
"""Written in each query as in the index over open copies, else it is not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """One copy to be published.

    Attributes:
        item: The list item as received.
        siblings: Saved copies of the same export as (target, path).
    """

    export: Export
    copy: Copy
    item: bytes
    siblings: tuple[tuple[str, str], ...]


class Copies:
    """Claims and ends of publishes."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def fill(self, target: str) -> int:
        """Owe a target each export we keep and it does not know of."""
        with self._db.transaction() as connection:
            return connection.execute(
                "INSERT INTO copies (export, target, state) "
                "SELECT key, ?, 'pending' FROM exports "
                "WHERE state IN ('spooled', 'saved') AND NOT EXISTS "
                "(SELECT 1 FROM copies WHERE export = key AND target = ?)",
                (target, target),
            ).rowcount

    def claim(
        self,
        target: str,
        *,
        now_us: int,
        horizon_us: int,
        smallest: bool = False,
    ) -> Duty | None:
        """Take the copy that has been due longest, if there is one.

        Args:
            target: By name.
            now_us: Now.
            horizon_us: The longest wait there can be; a due time beyond it was set
                by another clock.
            smallest: Of those that have been due longest take the smallest, which
                fits most likely.
        """
        size = "exports.size_bytes, " if smallest else ""
        with self._db.transaction() as connection:
            row = connection.execute(
                f"SELECT export, {rows.COPY_COLUMNS} FROM copies "
                "INDEXED BY copies_open CROSS JOIN exports ON key = export "
                "WHERE target = ? "
                f"AND copies.state IN {OPEN} AND copies.state <> 'publishing' "
                "AND exports.state IN ('spooled', 'saved') "
                "AND (copies.due_us <= ? OR copies.due_us > ?) "
                f"ORDER BY copies.due_us, {size}copies.export LIMIT 1",
                (target, now_us, now_us + horizon_us),
            ).fetchone()
            if row is None:
                return None
            connection.execute(
                "UPDATE copies SET state = 'publishing', attempts = attempts + 1 "
                "WHERE export = ? AND target = ?",
                (row[0], target),
            )
            siblings = connection.execute(
                "SELECT target, path FROM copies WHERE export = ? "
                "AND target <> ? AND state = 'saved'",
                (row[0], target),
            ).fetchall()
            return Duty(
                export=rows.find(connection, row[0]),
                copy=rows.copy(row[1:]),
                item=rows.item(connection, row[0]),
                siblings=tuple(siblings),
            )

    def owed(self, target: str, keys: Sequence[int]) -> set[int]:
        """Return those of these exports of which a copy is still to be made there."""
        marks = ", ".join("?" * len(keys))
        found = self._db.connection.execute(
            "SELECT export FROM copies CROSS JOIN exports ON key = export "
            f"WHERE target = ? AND export IN ({marks}) AND copies.state IN {OPEN} "
            "AND exports.state IN ('spooled', 'saved')",
            (target, *keys),
        )
        return {key for (key,) in found}

    def fix_path(self, key: int, target: str, path: str, path_key: str) -> bool:
        """Give a copy its path for ever; False if another copy has that one."""
        with self._db.transaction() as connection:
            taken = connection.execute(
                "SELECT 1 FROM copies WHERE target = ? AND path_key = ? "
                "AND export <> ?",
                (target, path_key, key),
            ).fetchone()
            if taken:
                return False
            connection.execute(
                "UPDATE copies SET path = ?, path_key = ? "
                "WHERE export = ? AND target = ?",
                (path, path_key, key, target),
            )
            return True

    def saved(
        self,
        key: int,
        target: str,
        *,
        verified: bool,
        now_us: int,
        required: Collection[str],
    ) -> Export | None:
        """Record a proven copy; return the export if that saved it."""
        with self._db.transaction() as connection:
            connection.execute(
                "UPDATE copies SET state = 'saved', saved_us = ?, verified_us = ?, "
                "last_error = NULL, due_us = 0 WHERE export = ? AND target = ?",
                (now_us, now_us if verified else None, key, target),
            )
            return self._maybe_saved(key, now_us, required)

    def failed(self, key: int, target: str, *, error: str, due_us: int) -> None:
        """Record that a publish failed and when it is tried again."""
        with self._db.transaction() as connection:
            connection.execute(
                "UPDATE copies SET state = 'failed', last_error = ?, due_us = ? "
                "WHERE export = ? AND target = ?",
                (error, due_us, key, target),
            )

    def release(
        self, key: int, target: str, *, error: str | None = None, due_us: int = 0
    ) -> None:
        """Return a copy to the queue without counting the attempt against it."""
        with self._db.transaction() as connection:
            connection.execute(
                "UPDATE copies SET state = 'pending', due_us = ?, "
                "last_error = coalesce(?, last_error), attempts = attempts - 1 "
                "WHERE export = ? AND target = ?",
                (due_us, error, key, target),
            )

    def is_spooled(self, export: Export) -> bool:
        """Tell whether the spool holds the same file of an export as it did then."""
        now = rows.find(self._db.connection, export.key or 0)
        same = (now.spool_dir, now.spooled_us) == (export.spool_dir, export.spooled_us)
        return same and now.state in {State.SPOOLED, State.SAVED}

    def spool_lost(self, key: int, error: str) -> None:
        """Fetch anew an export whose spooled file is gone or damaged."""
        with self._db.transaction() as connection:
            connection.execute(
                "UPDATE copies SET state = 'pending', due_us = 0 "
                "WHERE export = ? AND state IN ('publishing', 'failed')",
                (key,),
            )
            prior = rows.find(connection, key)
            after = dataclasses.replace(
                prior, spool_dir=None, part_bytes=0, part_sha256=None, last_error=error
            )
            if prior.state is State.SPOOLED:
                after = dataclasses.replace(
                    after,
                    state=State.READY,
                    reason=Reason.SPOOL_LOST,
                    due_us=0,
                    barren=0,
                    best_bytes=0,
                )
            rows.update(connection, prior, after)

    def settle_spooled(self, required: Collection[str], now_us: int) -> int:
        """Save the spooled exports that the configured targets hold already."""
        keys = self._db.connection.execute(
            "SELECT key FROM exports WHERE state = 'spooled'"
        ).fetchall()
        with self._db.transaction():
            return sum(
                self._maybe_saved(key, now_us, required) is not None for (key,) in keys
            )

    def freeable(self, targets: Collection[str]) -> list[Export]:
        """Return the exports whose spooled file no target waits for any more."""
        found = self._db.connection.execute(
            f"SELECT {rows.COLUMNS} FROM exports "
            "WHERE spool_dir IS NOT NULL AND state = 'saved'"
        )
        return [
            export for export in map(rows.export, found) if self._idle(export, targets)
        ]

    def ended(self) -> list[Export]:
        """Return the exports that ended with a partial still in the spool."""
        found = self._db.connection.execute(
            f"SELECT {rows.COLUMNS} FROM exports WHERE spool_dir IS NOT NULL "
            "AND state IN ('lost', 'unavailable', 'erased')"
        )
        return [rows.export(row) for row in found]

    def saved_as(self, source: str, export_id: int) -> list[Export]:
        """Return the saved exports that bear this id."""
        found = self._db.connection.execute(
            f"SELECT {rows.COLUMNS} FROM exports "
            "WHERE source = ? AND export_id = ? AND state = 'saved'",
            (source, export_id),
        )
        return [rows.export(row) for row in found]

    def may_free(self, key: int, targets: Collection[str]) -> Export | None:
        """Return the export if its spooled file may go."""
        export = rows.find(self._db.connection, key)
        done = export.state is State.SAVED and export.spool_dir is not None
        return export if done and self._idle(export, targets) else None

    def freed(self, key: int) -> None:
        """Remember that the spooled file is gone on purpose."""
        with self._db.transaction() as connection:
            connection.execute(
                "UPDATE exports SET spool_dir = NULL, part_bytes = 0, "
                "part_sha256 = NULL WHERE key = ?",
                (key,),
            )

    def next_due(self, targets: Iterable[str]) -> int | None:
        """Return when the next open copy on one of the targets falls due."""
        dues = [
            self._db.connection.execute(
                "SELECT min(copies.due_us) FROM copies INDEXED BY copies_open "
                "CROSS JOIN exports ON key = export "
                f"WHERE target = ? AND copies.state IN {OPEN} "
                "AND copies.state <> 'publishing' "
                "AND exports.state IN ('spooled', 'saved')",
                (target,),
            ).fetchone()[0]
            for target in targets
        ]
        return min((due for due in dues if due is not None), default=None)

    def _maybe_saved(
        self, key: int, now_us: int, required: Collection[str]
    ) -> Export | None:
        connection = self._db.connection
        prior = rows.find(connection, key)
        if prior.state is not State.SPOOLED:
            return None
        held = {copy.target for copy in self.of(key) if copy.state is CopyState.SAVED}
        if not (held if not required else held >= set(required)):
            return None
        after = dataclasses.replace(
            prior, state=State.SAVED, reason=None, saved_us=now_us
        )
        rows.update(connection, prior, after)
        return after

    def _idle(self, export: Export, targets: Collection[str]) -> bool:
        if export.key is None:
            return False
        return all(
            copy.state in {CopyState.SAVED, CopyState.DAMAGED, CopyState.ERASED}
            for copy in self.of(export.key)
            if copy.target in targets
        )

    def of(self, key: int) -> list[Copy]:
        """Return all copies of an export."""
        found = self._db.connection.execute(
            f"SELECT {rows.COPY_COLUMNS} FROM copies WHERE export = ? ORDER BY target",
            (key,),
        )
        return [rows.copy(row) for row in found]

    def hopeful(self, target: str, tries: int) -> int:
        """Return how many open copies were tried less than so often."""
        row = self._db.connection.execute(
            "SELECT count(*) FROM copies INDEXED BY copies_open "
            "CROSS JOIN exports ON key = export "
            f"WHERE target = ? AND copies.state IN {OPEN} "
            "AND copies.attempts < ? AND exports.state IN ('spooled', 'saved')",
            (target, tries),
        ).fetchone()
        return int(row[0])
