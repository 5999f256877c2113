"""The ledger's part in reading kept copies again: which ones, and what it meant."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mirror.ledger import rows
from mirror.model import KEPT_STATES, CopyState, State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mirror.ledger.database import Database
    from mirror.model import Copy, Export

KEPT = (CopyState.SAVED, CopyState.DAMAGED)
"""Copies in these states were once whole under their path."""
_KEPT = "('saved', 'damaged')"


@dataclass(slots=True)
class Chosen:
    """The copies to be read on one target, the one not read for longest first.

    Attributes:
        keys: Of their exports.
        size_bytes: Of all of them.
    """

    keys: array[int] = field(default_factory=lambda: array("q"))
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
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


class Scrubs:
    """Chooses copies to be read again, and records what was found."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def total(self, targets: Collection[str]) -> int:
        """Return how many copies there are to be read on these targets."""
        row = self._db.connection.execute(
            f"SELECT count(*) FROM copies WHERE state IN {_KEPT} "
            f"AND target IN ({_marks(targets)})",
            tuple(targets),
        ).fetchone()
        return int(row[0])

    def choose(self, targets: Collection[str], limit: int | None) -> dict[str, Chosen]:
        """Return which copies to read, by target, for each of these targets.

        Args:
            targets: Names.
            limit: At most so many over all of them; None is all.
        """
        chosen = {target: Chosen() for target in targets}
        found = self._db.connection.execute(
            "SELECT target, export, size_bytes FROM copies "
            "JOIN exports ON key = export "
            f"WHERE copies.state IN {_KEPT} AND target IN ({_marks(targets)}) "
            "ORDER BY max(checked_us, coalesce(verified_us, 0)), export, target "
            "LIMIT ?",
            (*targets, -1 if limit is None else limit),
        )
        for target, key, size_bytes in found:
            chosen[target].keys.append(key)
            chosen[target].size_bytes += size_bytes or 0
        return chosen

    def subject(self, key: int, target: str) -> Subject | None:
        """Return a copy as it stands now; None if it is none to be read."""
        connection = self._db.connection
        export = rows.find(connection, key)
        found = connection.execute(
            f"SELECT {rows.COPY_COLUMNS} FROM copies "
            f"WHERE export = ? AND state IN {_KEPT} AND path IS NOT NULL "
            "ORDER BY target",
            (key,),
        )
        copies = {copy.target: copy for copy in map(rows.copy, found)}
        copy = copies.pop(target, None)
        if copy is None or copy.path is None or export.sha256 is None:
            return None
        return Subject(
            export=export,
            copy=copy,
            path=copy.path,
            spooled=_spooled(export),
            others=tuple(copies.values()),
        )

    def item(self, key: int) -> bytes | None:
        """Return the list item as received; None if the ledger does not hold it."""
        connection = self._db.connection
        held = connection.execute("SELECT 1 FROM items WHERE export = ?", (key,))
        return rows.item(connection, key) if held.fetchone() else None

    def unread(self, subject: Subject, now_us: int) -> None:
        """Remember that it was tried to read a copy, and why does not matter."""
        with self._db.transaction() as connection:
            connection.execute(
                "UPDATE copies SET checked_us = ? WHERE export = ? AND target = ?",
                (now_us, subject.export.key, subject.copy.target),
            )

    def good(
        self,
        subject: Subject,
        decide: Callable[[Export], Export],
        *,
        note: str | None,
        now_us: int,
    ) -> bool:
        """Record that a copy was read and is good; tell whether it still counts.

        Args:
            subject: As it was when it was read.
            decide: Gives the export that has a good copy.
            note: What is wrong beside the file, if anything.
            now_us: When it was read.
        """
        with self._db.transaction() as connection:
            now = self._same(subject)
            if now is None:
                return False
            state = CopyState.SAVED
            if now.state is State.FETCHING:
                # The fetch under way owes the copies that are not good; it would be
                # told of one more that is when nothing waits for it any more.
                state = subject.copy.state
            connection.execute(
                "UPDATE copies SET state = ?, verified_us = ?, checked_us = ?, "
                "last_error = ? WHERE export = ? AND target = ?",
                (state, now_us, now_us, note, now.key, subject.copy.target),
            )
            if state is CopyState.SAVED:
                after = decide(now)
                if now.held_sha256 not in {None, now.sha256} and not after.held:
                    now = rows.set_apart(connection, now)
                    after = decide(now)
                rows.update(connection, now, after)
        return True

    def bad(
        self,
        subject: Subject,
        decide: Callable[[Export, bool, bool], Export],
        *,
        error: str,
        targets: Collection[str],
        now_us: int,
    ) -> bool:
        """Record that a copy was read and is not good; tell whether it still counts.

        A copy whose file is in the spool still is owed again.

        Args:
            subject: As it was when it was read.
            decide: Gives the export, told whether the spool holds its file and
                whether there is a good copy on another target.
            error: What is wrong.
            targets: All configured targets.
            now_us: When it was read.
        """
        with self._db.transaction() as connection:
            now = self._same(subject)
            if now is None:
                return False
            spooled = _spooled(now)
            state = CopyState.PENDING if spooled else CopyState.DAMAGED
            connection.execute(
                "UPDATE copies SET state = ?, checked_us = ?, last_error = ?, "
                "due_us = 0 WHERE export = ? AND target = ?",
                (state, now_us, error, now.key, subject.copy.target),
            )
            others = connection.execute(
                "SELECT 1 FROM copies WHERE export = ? AND state = 'saved' "
                f"AND target IN ({_marks(targets)})",
                (now.key, *targets),
            ).fetchone()
            rows.update(connection, now, decide(now, spooled, others is not None))
        return True

    def _same(self, subject: Subject) -> Export | None:
        """Return the export unless the copy became another since it was read."""
        key, target = subject.export.key or 0, subject.copy.target
        now = self.subject(key, target)
        if (
            now is None
            or now.path != subject.path
            or now.export.sha256 != subject.export.sha256
        ):
            return None
        return now.export


def _spooled(export: Export) -> bool:
    """Tell whether the whole file lies in the spool, as far as the ledger knows."""
    return (
        export.state in KEPT_STATES
        and export.spool_dir is not None
        and export.part_bytes == export.size_bytes
        and export.part_sha256 == export.sha256
    )


def _marks(values: Collection[str]) -> str:
    return ", ".join("?" * len(values))
