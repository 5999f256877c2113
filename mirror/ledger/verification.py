"""Choose the kept copies to read again, and record what reading them proved."""

from __future__ import annotations

import dataclasses
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror.ledger import rows
from mirror.lifecycle import copy
from mirror.model import CopyState

if TYPE_CHECKING:
    from collections.abc import Collection

    from mirror.ledger.database import Database
    from mirror.model import Copy, Export

KEPT = (CopyState.SAVED, CopyState.DAMAGED)
"""Copies in these states were once whole under their path."""
_KEPT = "('saved', 'damaged')"


@dataclass(slots=True)
class Selection:
    """The copies to be read on one target, the one not read for longest first.

    Attributes:
        keys: Of their exports.
        size_bytes: Of all of them.
    """

    keys: array[int] = field(default_factory=lambda: array("q"))
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyToRead:
    """One copy to be read, and what else is known of its export.

    Attributes:
        path: Where the copy was kept.
        spooled: The whole file lies in the spool still.
        others: The export's copies on other targets that were once whole.
    """

    export: Export
    copy: Copy
    path: str
    spooled: bool
    others: tuple[Copy, ...]


class Verification:
    """Chooses copies to be read again, and records what was found."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def total(self, targets: Collection[str]) -> int:
        """Return how many copies there are to be read on these targets."""
        row = self._db.connection.execute(
            f"SELECT count(*) FROM copies WHERE state IN {_KEPT} "
            f"AND target IN ({', '.join('?' * len(targets))})",
            tuple(targets),
        ).fetchone()
        return int(row[0])

    def choose(
        self, targets: Collection[str], limit: int | None
    ) -> dict[str, Selection]:
        """Return which copies to read, by target, for each of these targets.

        At most `limit` over all of them; None is all.
        """
        chosen = {target: Selection() for target in targets}
        cursor = self._db.connection.execute(
            "SELECT target, export, size_bytes FROM copies "
            "JOIN exports ON key = export "
            f"WHERE copies.state IN {_KEPT} "
            f"AND target IN ({', '.join('?' * len(targets))}) "
            "ORDER BY max(checked_us, coalesce(verified_us, 0)), export, target "
            "LIMIT ?",
            (*targets, -1 if limit is None else limit),
        )
        for target, key, size_bytes in cursor:
            chosen[target].keys.append(key)
            chosen[target].size_bytes += size_bytes or 0
        return chosen

    def copy_to_read(self, key: int, target: str) -> CopyToRead | None:
        """Return a copy as it is now; None if it is not to be read."""
        connection = self._db.connection
        export = rows.find(connection, key)
        kept = {
            each.target: each
            for each in rows.copies(connection, key)
            if each.state in KEPT and each.path is not None
        }
        chosen = kept.pop(target, None)
        if chosen is None or chosen.path is None or export.sha256 is None:
            return None
        return CopyToRead(
            export=export,
            copy=chosen,
            path=chosen.path,
            spooled=copy.has_spool_file(export),
            others=tuple(kept.values()),
        )

    def item(self, key: int) -> bytes | None:
        """Return the list item as received; None if the ledger does not hold it."""
        connection = self._db.connection
        held = connection.execute("SELECT 1 FROM items WHERE export = ?", (key,))
        return rows.item(connection, key) if held.fetchone() else None

    def unread(self, read: CopyToRead, now_us: int) -> None:
        """Record that reading a copy was tried and failed; not the reason."""
        with self._db.transaction() as connection:
            prior = rows.find_copy(connection, read.export.stored_key, read.copy.target)
            if prior is not None:
                tried = dataclasses.replace(prior, checked_us=now_us)
                rows.write_copy(connection, prior, tried)

    def good(self, read: CopyToRead, *, note: str | None, now_us: int) -> bool:
        """Record that a copy was read and is good; tell whether it still counts.

        `note` is what is wrong beside the file, if anything.
        """
        with self._db.transaction() as connection:
            now = self._same(read)
            if now is None:
                return False
            after = copy.good(now.copy, now.export, note=note, now_us=now_us)
            rows.write_copy(connection, now.copy, after)
            if after.state is CopyState.SAVED:
                prior, kept = now.export, copy.after_good(now.export)
                if prior.held_sha256 not in {None, prior.sha256} and not kept.held:
                    prior = rows.set_apart(connection, prior)
                    kept = copy.after_good(prior)
                rows.update(connection, prior, kept)
        return True

    def bad(
        self, read: CopyToRead, *, error: str, targets: Collection[str], now_us: int
    ) -> bool:
        """Record that a copy was read and is not good; tell whether it still counts.

        A copy whose file is in the spool still is owed again. Others count on the
        configured targets only.
        """
        with self._db.transaction() as connection:
            now = self._same(read)
            if now is None:
                return False
            after = copy.bad(now.copy, spooled=now.spooled, error=error, now_us=now_us)
            rows.write_copy(connection, now.copy, after)
            others = any(
                each.state is CopyState.SAVED and each.target in targets
                for each in rows.copies(connection, now.export.stored_key)
            )
            export = copy.after_bad(
                now.export, spooled=now.spooled, others=others, error=error
            )
            rows.update(connection, now.export, export)
        return True

    def _same(self, read: CopyToRead) -> CopyToRead | None:
        """Return the copy as it is now; None if it changed since it was read."""
        now = self.copy_to_read(read.export.stored_key, read.copy.target)
        if (
            now is None
            or now.path != read.path
            or now.export.sha256 != read.export.sha256
        ):
            return None
        return now
