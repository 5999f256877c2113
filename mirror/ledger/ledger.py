"""The ledger as one object, and the thread that owns it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import structlog

from mirror.errors import LedgerError
from mirror.ledger import rows, salvage
from mirror.ledger.copies import Copies
from mirror.ledger.database import LEDGER_NAME, Database
from mirror.ledger.errors import FAULTS, damaged, is_damage, unusable
from mirror.ledger.events import Events
from mirror.ledger.fetches import Fetches
from mirror.ledger.inventory import Stock
from mirror.ledger.pauses import Pauses
from mirror.ledger.queries import Reads
from mirror.ledger.second_looks import Looks
from mirror.ledger.verification import Scrubs
from mirror.ledger.walks import Slice, Walks
from mirror.lifecycle import copy, retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mirror.model import Export, State

P = ParamSpec("P")
T = TypeVar("T")
_REPEAT_S = 1.0
_log = structlog.get_logger()


class Ledger:
    """The only truth. Synchronous; use it from one thread.

    Attributes:
        path: Of its file.
        lost_commits: Transactions that were durable once and are not in it.
        listing: What walks see.
        fetches: The queue of fetches.
        looks: The queue of second looks.
        copies: The queues of publishes.
        pauses: What is left alone for a while.
        events: What happened and is to be told.
        scrubs: What reading kept copies again found.
        stock: What the targets prove to be kept.
        reads: Questions.
    """

    def __init__(self, database: Database) -> None:
        self._db = database
        self.path = database.path
        self.lost_commits = database.lost_commits
        self.listing = Walks(database)
        self.fetches = Fetches(database)
        self.looks = Looks(database)
        self.copies = Copies(database)
        self.pauses = Pauses(database)
        self.events = Events(database)
        self.scrubs = Scrubs(database)
        self.stock = Stock(database)
        self.reads = Reads(database)

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
        """Hold it open for questions; arguments and errors as for `read`.

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
        """End what it is asked just now; may be called from any thread."""
        self._db.connection.interrupt()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Commit all calls within as one."""
        with self._db.transaction():
            yield

    def carry(self, old: Path, told: Callable[[int], None]) -> int:
        """Carry over what is sound in another ledger; see `salvage.carry`."""
        return salvage.carry(old, self._db, told)

    def count_on(self, state_dir: Path) -> None:
        """Count commits on from those of the ledger that this one replaces.

        An older copy that is put back later is known by its lower number.
        """
        self._db.count_on(state_dir)

    def node_id(self, now_us: int, wanted: str | None = None) -> str:
        """Return this node's id; made once, as wanted if that is given."""
        with self._db.transaction() as connection:
            node_id = self.known_node_id()
            if node_id is None:
                node_id = wanted or secrets.token_hex(4)
                connection.execute(
                    "INSERT INTO node (node_id, made_us) VALUES (?, ?)",
                    (node_id, now_us),
                )
            return node_id

    def known_node_id(self) -> str | None:
        """Return this node's id, if it has been made."""
        row = self._db.connection.execute("SELECT node_id FROM node").fetchone()
        return None if row is None else str(row[0])

    def marker(self, target: str) -> str | None:
        """Return the marker id remembered of a target."""
        row = self._db.connection.execute(
            "SELECT marker_id FROM targets WHERE name = ?", (target,)
        ).fetchone()
        return None if row is None else row[0]

    def target_checked(
        self,
        target: str,
        *,
        marker_id: str | None,
        free_bytes: int | None,
        problem: str | None,
        now_us: int,
        warning: str | None = None,
    ) -> None:
        """Remember how a target is; None keeps the marker and space known before."""
        with self._db.transaction() as connection:
            connection.execute(
                "INSERT INTO targets "
                "(name, marker_id, free_bytes, problem, warning, checked_us) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "marker_id = coalesce(excluded.marker_id, marker_id), "
                "free_bytes = coalesce(excluded.free_bytes, free_bytes), "
                "problem = excluded.problem, warning = excluded.warning, "
                "checked_us = excluded.checked_us",
                (target, marker_id, free_bytes, problem, warning, now_us),
            )

    def retry(self, exports: Sequence[Export], now_us: int) -> int:
        """Make exports due now, and their copies that are not saved.

        Returns:
            How many are due now that were not.
        """
        done = 0
        with self._db.transaction() as connection:
            for key in (export.stored_key for export in exports):
                prior = rows.find(connection, key)
                identity = (prior.source, prior.export_id, prior.created_key)
                newest = rows.newest(connection, *identity)
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
        """Take note of losses; one that was acknowledged before gets the new note.

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
        found = self._db.connection.execute(query, (state,))
        return [rows.export(row) for row in found]

    def ping(self) -> None:
        """Do nothing; whoever waits for it knows that the ledger answers."""

    def changed_elsewhere(self) -> int:
        """Return a number that differs once another process has written."""
        return self._db.changed_elsewhere()


class LedgerThread:
    """Runs calls on the ledger in the one thread that owns it, in order.

    A call that fails because the disk is full, or the file busy, has changed nothing;
    it is repeated until it succeeds.

    Args:
        ledger: To be owned.
        patience_s: After so long a failing call is given up; None never gives up.
    """

    def __init__(self, ledger: Ledger, *, patience_s: float | None = None) -> None:
        self._ledger = ledger
        self._patience_s = patience_s
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self.problem: str | None = None

    async def __call__(
        self,
        call: Callable[Concatenate[Ledger, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Return what `call` gives; once begun it ends, whatever we await.

        Raises:
            LedgerError: Patience ran out, or the ledger is damaged.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            try:
                result = await loop.run_in_executor(
                    self._pool, partial(call, self._ledger, *args, **kwargs)
                )
            except FAULTS as exc:
                if is_damage(exc):
                    raise damaged(self._ledger.path, exc) from exc
                if not isinstance(exc, sqlite3.OperationalError):
                    raise
                waited_s = loop.time() - began
                if self._patience_s is not None and waited_s > self._patience_s:
                    raise LedgerError(
                        f"the ledger cannot be written: {exc}; check its disk and the "
                        "space there"
                    ) from exc
                if self.problem is None:
                    _log.error("ledger.lost", error=str(exc))
                self.problem = str(exc)
                await asyncio.sleep(_REPEAT_S)
            else:
                if self.problem is not None:
                    _log.info("ledger.recovered")
                    self.problem = None
                return result

    async def close(self) -> None:
        """Wait for what was asked, then close the ledger."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._pool, self._ledger.close)
        self._pool.shutdown(wait=False)


async def in_slices(
    ledger: LedgerThread, change: Callable[[Ledger, int], Slice]
) -> None:
    """Change all there is to be changed, a slice at a time; others go between."""
    after: int | None = 0
    while after is not None:
        after = (await ledger(change, after)).after
