"""The ledger as one object."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING

import structlog

from mirror.ledger import rows, salvage
from mirror.ledger.copies import Copies
from mirror.ledger.database import LEDGER_NAME, Database
from mirror.ledger.errors import FAULTS, unusable
from mirror.ledger.events import Events
from mirror.ledger.fetch_queue import FetchQueue
from mirror.ledger.inventory import Inventory
from mirror.ledger.pauses import Pauses
from mirror.ledger.queries import Queries
from mirror.ledger.second_looks import LookQueue
from mirror.ledger.targets import Targets
from mirror.ledger.verification import Verification
from mirror.ledger.walks import Walks
from mirror.lifecycle import copy, retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mirror.model import Export, State

_log = structlog.get_logger()


class Ledger:
    """The only truth. Synchronous; use it from one thread.

    Attributes:
        path: Of its file.
        lost_commits: Transactions that were durable once and are not in it.
        walks: What walks see.
        fetches: The queue of fetches.
        second_looks: The queue of second looks.
        copies: The queues of publishes.
        pauses: Of sources and targets.
        events: For the hook.
        verification: Kept copies that are read again.
        inventory: What `rebuild` finds on the targets.
        targets: What is known of each target.
        queries: Questions.
    """

    def __init__(self, database: Database) -> None:
        self._db = database
        self.path = database.path
        self.lost_commits = database.lost_commits
        self.walks = Walks(database)
        self.fetches = FetchQueue(database)
        self.second_looks = LookQueue(database)
        self.copies = Copies(database)
        self.pauses = Pauses(database)
        self.events = Events(database)
        self.verification = Verification(database)
        self.inventory = Inventory(database)
        self.targets = Targets(database)
        self.queries = Queries(database)

    @classmethod
    def open(cls, state_dir: Path, *, check: bool = True) -> Ledger:
        """Open it for writing; arguments and errors as for `Database.open`."""
        database = Database.open(state_dir / LEDGER_NAME, check=check)
        if database.lost_commits:
            _log.error(
                "ledger.set_back",
                path=str(database.path),
                lost_commits=database.lost_commits,
                error="it is older than it was: its -wal file was removed or damaged, "
                "or an older copy lies in its place. What was saved since is not known "
                "to it; the files lie on the targets. Stop the service and run "
                "`archive-mirror rebuild --force` to take them up again",
            )
        return cls(database)

    @classmethod
    def read(cls, state_dir: Path, *, check: bool = False) -> Ledger:
        """Open it beside a running service; an absent one reads as empty.

        Args:
            state_dir: Where it lies.
            check: Read all of it, to find damage; a running service has done so.

        Raises:
            LedgerError: It cannot be used.
        """
        return cls(Database.read(state_dir / LEDGER_NAME, check=check))

    @classmethod
    @contextlib.contextmanager
    def reading(cls, state_dir: Path, *, check: bool) -> Iterator[Ledger]:
        """Open it for reading; arguments and errors as for `read`.

        Damage that a question meets is told as such.
        """
        ledger = cls.read(state_dir, check=check)
        try:
            yield ledger
        except FAULTS as exc:
            raise unusable(ledger.path, exc) from exc
        finally:
            ledger.close()

    @classmethod
    def copy(cls, state_dir: Path, folder: Path) -> None:
        """Copy the ledger as it is now into another folder."""
        database = Database.read(state_dir / LEDGER_NAME)
        try:
            database.copy_to(folder / LEDGER_NAME)
        finally:
            database.close()

    def prove(self) -> None:
        """Read all of it, to find damage; errors as for `Database.prove`."""
        self._db.prove()

    def interrupt(self) -> None:
        """Interrupt the query that runs; may be called from any thread."""
        self._db.connection.interrupt()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def group(self) -> contextlib.AbstractContextManager[None]:
        """Commit the calls within as one; see `Database.group`."""
        return self._db.group()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Commit all calls within as one."""
        with self._db.transaction():
            yield

    def carry(self, old: Path, progress: Callable[[int], None]) -> int:
        """Carry over what is sound in another ledger; see `salvage.carry`."""
        return salvage.carry(old, self._db, progress)

    def count_on(self, state_dir: Path) -> None:
        """Count commits on from those of the ledger that this one replaces.

        An older copy that is put back later is known by its lower number.
        """
        self._db.count_on(state_dir)

    def node_id(self, now_us: int, preferred: str | None = None) -> str:
        """Return this node's id; made once, as preferred if that is given."""
        with self._db.transaction() as connection:
            node_id = self.known_node_id()
            if node_id is None:
                node_id = preferred or secrets.token_hex(4)
                connection.execute(
                    "INSERT INTO node (node_id, made_us) VALUES (?, ?)",
                    (node_id, now_us),
                )
            return node_id

    def known_node_id(self) -> str | None:
        """Return this node's id, if it has been made."""
        row = self._db.connection.execute("SELECT node_id FROM node").fetchone()
        return None if row is None else str(row[0])

    def retry(self, exports: Sequence[Export], now_us: int) -> int:
        """Make exports due now, and their copies that are not saved.

        Returns:
            How many are due now that were not.
        """
        done = 0
        with self._db.transaction() as connection:
            for key in (export.stored_key for export in exports):
                prior = rows.find(connection, key)
                newest = rows.newest(connection, prior.identity)
                # The VMS has the file of the newest version alone.
                if newest is not None and newest.key == key:
                    after = retry.due_now(prior, now_us)
                    if after.key is None:
                        rows.insert_version(connection, prior, after)
                        done += 1
                        continue
                    done += rows.update(connection, prior, after)
                where = "WHERE export = ? AND state = 'failed'"
                failed = rows.change_copies(connection, where, (key,), copy.due_now)
                done += bool(failed)
        return done

    def acknowledge(self, exports: Sequence[Export], note: str, now_us: int) -> int:
        """Acknowledge losses; one that was acknowledged before gets the new note.

        Returns:
            How many are lost; the others are left as they are.
        """
        with self._db.transaction() as connection:
            return sum(
                connection.execute(
                    "UPDATE exports SET acknowledged_us = ?, note = ? "
                    "WHERE key = ? AND state = 'lost'",
                    (now_us, note, export.key),
                ).rowcount
                for export in exports
            )

    def by_state(self, state: State) -> list[Export]:
        """Return all exports in a state."""
        query = f"SELECT {rows.COLUMNS} FROM exports WHERE state = ?"
        cursor = self._db.connection.execute(query, (state,))
        return [rows.export(row) for row in cursor]

    def ping(self) -> None:
        """Do nothing: the caller learns that the ledger answers."""

    def changed_elsewhere(self) -> int:
        """Return a number that differs once another process has written."""
        return self._db.changed_elsewhere()
