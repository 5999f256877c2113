"""The ledger as the queue of publishes, one queue per target."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mirror.layout import path_key, whole_form
from mirror.ledger import rows
from mirror.ledger.walks import Slice
from mirror.lifecycle import copy
from mirror.model import KEPT_STATES, CopyState, State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from mirror.ledger.database import Database
    from mirror.model import Copy, Export

_WINDOW = 2000
"""One transaction looks at no more keys: others wait for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyToPublish:
    """One copy to be published.

    Attributes:
        item: The list item as received.
        siblings: Saved copies of the same export as (target, path).
        path: Where it shall lie, once that is fixed.
        taken: Where something else lies.
    """

    export: Export
    copy: Copy
    item: bytes
    siblings: tuple[tuple[str, str], ...]
    path: str | None = None
    taken: frozenset[str] = frozenset()


class Copies:
    """Claims and ends of publishes."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def fill(self, target: str, after: int = 0) -> Slice:
        """Owe a target exports we keep and it does not know of, some at a time."""
        last = after + _WINDOW
        with self._db.transaction() as connection:
            keys = connection.execute(
                "SELECT key FROM exports NOT INDEXED WHERE key > ? AND key <= ? "
                f"AND state IN {rows.KEPT} AND NOT EXISTS "
                "(SELECT 1 FROM copies WHERE export = key AND target = ?)",
                (after, last, target),
            ).fetchall()
            for (key,) in keys:
                rows.write_copy(connection, None, copy.owed(key, target))
        return Slice(len(keys), self._beyond(last))

    def claim(
        self,
        target: str,
        *,
        now_us: int,
        horizon_us: int,
        smallest: bool = False,
        most_bytes: int | None = None,
    ) -> CopyToPublish | None:
        """Claim the copy that has been due longest; None if no copy is due.

        Args:
            target: By name.
            now_us: Now.
            horizon_us: The longest wait there can be; a due time beyond it was set
                by another clock.
            smallest: Of those that have been due longest take the smallest, which
                fits most likely.
            most_bytes: Leave larger files alone.
        """
        size = "exports.size_bytes, " if smallest else ""
        with self._db.transaction() as connection:
            row = connection.execute(
                f"SELECT export, {rows.COPY_COLUMNS} FROM copies "
                "INDEXED BY copies_open CROSS JOIN exports ON key = export "
                "WHERE target = ? "
                f"AND copies.state IN {rows.OPEN} AND copies.state <> 'publishing' "
                f"AND exports.state IN {rows.KEPT} "
                "AND (copies.due_us <= ? OR copies.due_us > ?) "
                "AND (? IS NULL OR exports.size_bytes <= ?) "
                f"ORDER BY copies.due_us, {size}copies.export LIMIT 1",
                (target, now_us, now_us + horizon_us, most_bytes, most_bytes),
            ).fetchone()
            if row is None:
                return None
            known = rows.copy(row[1:])
            rows.write_copy(connection, known, copy.claimed(known))
            return CopyToPublish(
                export=rows.find(connection, row[0]),
                copy=known,
                item=rows.item(connection, row[0]),
                siblings=tuple(
                    (each.target, each.path)
                    for each in rows.copies(connection, row[0])
                    if each.state is CopyState.SAVED and each.path is not None
                ),
            )

    def owed(self, target: str, keys: Sequence[int]) -> set[int]:
        """Return which of these exports still need a copy on a target."""
        marks = ", ".join("?" * len(keys))
        cursor = self._db.connection.execute(
            "SELECT export FROM copies CROSS JOIN exports ON key = export "
            f"WHERE target = ? AND export IN ({marks}) AND copies.state IN {rows.OPEN} "
            f"AND exports.state IN {rows.KEPT}",
            (target, *keys),
        )
        return {key for (key,) in cursor}

    def fix_path(self, key: int, target: str, path: str) -> bool:
        """Fix the path of a copy, and reserve its base name with all its forms.

        Args:
            key: Of the export.
            target: Where the copy lies.
            path: Of the copy.

        Returns:
            False if another copy has the path, or an export of other footage the base.
        """
        own_key, base_key = path_key(path), path_key(whole_form(path))
        with self._db.transaction() as connection:
            taken = connection.execute(
                "SELECT 1 FROM copies JOIN exports AS other ON other.key = export "
                "JOIN exports AS own ON own.key = ? "
                "WHERE target = ? AND export <> own.key AND (path_key = ? OR "
                "base_key = ? AND (other.source, other.export_id, other.created_key, "
                "other.camera_id, other.footage_from, other.footage_to) IS NOT "
                "(own.source, own.export_id, own.created_key, "
                "own.camera_id, own.footage_from, own.footage_to))",
                (key, target, own_key, base_key),
            ).fetchone()
            if taken:
                return False
            known = self._find(key, target)
            rows.write_copy(connection, known, dataclasses.replace(known, path=path))
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
            known = self._find(key, target)
            proven = copy.saved(known, verified=verified, now_us=now_us)
            rows.write_copy(connection, known, proven)
            return self._maybe_saved(key, now_us, required)

    def failed(self, key: int, target: str, *, error: str, due_us: int) -> None:
        """Record that a publish failed and when it is tried again."""
        self._change(key, target, partial(copy.failed, error=error, due_us=due_us))

    def release(
        self, key: int, target: str, *, error: str | None = None, due_us: int = 0
    ) -> None:
        """Return a copy to the queue without counting the attempt against it."""
        self._change(key, target, partial(copy.released, error=error, due_us=due_us))

    def _change(self, key: int, target: str, decide: Callable[[Copy], Copy]) -> None:
        with self._db.transaction() as connection:
            known = self._find(key, target)
            rows.write_copy(connection, known, decide(known))

    def _find(self, key: int, target: str) -> Copy:
        known = rows.find_copy(self._db.connection, key, target)
        if known is None:
            raise LookupError(f"no copy of export {key} is owed to {target}")
        return known

    def is_spooled(self, export: Export) -> bool:
        """Tell whether the spool holds the same file of an export as it did then."""
        now = rows.find(self._db.connection, export.stored_key)
        same = (now.spool_dir, now.spooled_us) == (export.spool_dir, export.spooled_us)
        return same and now.state in KEPT_STATES

    def spool_lost(self, key: int, error: str) -> None:
        """Fetch anew an export whose spooled file is gone or damaged."""
        with self._db.transaction() as connection:
            rows.change_copies(
                connection, "WHERE export = ?", (key,), copy.without_spool_file
            )
            prior = rows.find(connection, key)
            rows.update(connection, prior, copy.spool_lost(prior, error))

    def settle_spooled(
        self, required: Collection[str], now_us: int, after: int = 0
    ) -> Slice:
        """Save spooled exports that the targets hold already, some at a time."""
        last = after + _WINDOW
        keys = self._db.connection.execute(
            "SELECT key FROM exports NOT INDEXED "
            "WHERE key > ? AND key <= ? AND state = 'spooled'",
            (after, last),
        ).fetchall()
        with self._db.transaction():
            done = sum(
                self._maybe_saved(key, now_us, required) is not None for (key,) in keys
            )
        return Slice(done, self._beyond(last))

    def _beyond(self, key: int) -> int | None:
        """Return where to go on after a key; None if there are no more exports."""
        newest = self._db.connection.execute("SELECT max(key) FROM exports").fetchone()
        return key if (newest[0] or 0) > key else None

    def freeable(self, targets: Collection[str]) -> list[Export]:
        """Return the exports whose spooled file no target waits for any more."""
        cursor = self._db.connection.execute(
            f"SELECT {rows.COLUMNS} FROM exports "
            "WHERE spool_dir IS NOT NULL AND state IN ('saved', 'doubtful')"
        )
        return [
            export for export in map(rows.export, cursor) if self._idle(export, targets)
        ]

    def ended(self) -> list[Export]:
        """Return the exports that ended with a partial still in the spool."""
        cursor = self._db.connection.execute(
            f"SELECT {rows.COLUMNS} FROM exports WHERE spool_dir IS NOT NULL "
            "AND state IN ('lost', 'unavailable', 'erased')"
        )
        return [rows.export(row) for row in cursor]

    def may_free(self, key: int, targets: Collection[str]) -> Export | None:
        """Return the export if its spooled file may go."""
        export = rows.find(self._db.connection, key)
        kept = export.state in {State.SAVED, State.DOUBTFUL}
        done = kept and export.spool_dir is not None
        return export if done and self._idle(export, targets) else None

    def freed(self, exports: Iterable[Export]) -> None:
        """Remember that the spooled files are gone on purpose."""
        with self._db.transaction() as connection:
            connection.executemany(
                "UPDATE exports SET spool_dir = NULL, part_bytes = 0, "
                "part_sha256 = NULL WHERE key = ?",
                [(export.stored_key,) for export in exports],
            )

    def next_due(self, targets: Iterable[str]) -> int | None:
        """Return when the next open copy on one of the targets falls due."""
        dues = [
            self._db.connection.execute(
                "SELECT min(copies.due_us) FROM copies INDEXED BY copies_open "
                "CROSS JOIN exports ON key = export "
                f"WHERE target = ? AND copies.state IN {rows.OPEN} "
                "AND copies.state <> 'publishing' "
                f"AND exports.state IN {rows.KEPT}",
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
        after = copy.export_saved(prior, self.of(key), required=required, now_us=now_us)
        return after if rows.update(connection, prior, after) else None

    def _idle(self, export: Export, targets: Collection[str]) -> bool:
        return all(
            known.state not in copy.OPEN
            for known in self.of(export.stored_key)
            if known.target in targets
        )

    def of(self, key: int) -> list[Copy]:
        """Return all copies of an export."""
        return rows.copies(self._db.connection, key)

    def hopeful(self, target: str, tries: int) -> int:
        """Return how many open copies were tried less than so often."""
        row = self._db.connection.execute(
            "SELECT count(*) FROM copies INDEXED BY copies_open "
            "CROSS JOIN exports ON key = export "
            f"WHERE target = ? AND copies.state IN {rows.OPEN} "
            "AND copies.attempts < ? "
            f"AND exports.state IN {rows.KEPT}",
            (target, tries),
        ).fetchone()
        return int(row[0])
