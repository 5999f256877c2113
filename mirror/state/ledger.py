"""The ledger as one object, and the thread that owns it."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import structlog

from mirror.errors import LedgerError
from mirror.state import rows
from mirror.state.copies import Copies
from mirror.state.database import LEDGER_NAME, Database
from mirror.state.fetches import Fetches
from mirror.state.listing import Listing
from mirror.state.reads import Reads
from mirror.state.scrubs import Scrubs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mirror.model import Export, State

P = ParamSpec("P")
T = TypeVar("T")
_REPEAT_S = 1.0
_log = structlog.get_logger()


class Ledger:
    """The only truth. Synchronous; use it from one thread.

    Attributes:
        listing: What walks see.
        fetches: The queue of fetches.
        copies: The queues of publishes.
        scrubs: What reading kept copies again found.
        reads: Questions.
    """

    def __init__(self, database: Database) -> None:
        self._db = database
        self.listing = Listing(database)
        self.fetches = Fetches(database)
        self.copies = Copies(database)
        self.scrubs = Scrubs(database)
        self.reads = Reads(database)

    @classmethod
    def open(cls, state_dir: Path) -> Ledger:
        """Open it for writing.

        Raises:
            LedgerError: It cannot be used.
        """
        return cls(Database.open(state_dir / LEDGER_NAME))

    @classmethod
    def read(cls, state_dir: Path) -> Ledger:
        """Open it beside a running service; an absent one reads as empty.

        Raises:
            LedgerError: It cannot be used.
        """
        return cls(Database.read(state_dir / LEDGER_NAME))

    @classmethod
    def copy(cls, state_dir: Path, folder: Path) -> None:
        """Copy the ledger as it is now into another folder."""
        database = Database.read(state_dir / LEDGER_NAME)
        try:
            database.copy_to(folder / LEDGER_NAME)
        finally:
            database.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def node_id(self, now_us: int) -> str:
        """Return this node's id, made once."""
        with self._db.transaction() as connection:
            row = connection.execute("SELECT node_id FROM node").fetchone()
            if row is not None:
                return str(row[0])
            node_id = secrets.token_hex(4)
            connection.execute("INSERT INTO node VALUES (?, ?)", (node_id, now_us))
            return node_id

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
    ) -> None:
        """Remember how a target is; None keeps the marker and space known before."""
        with self._db.transaction() as connection:
            connection.execute(
                "INSERT INTO targets "
                "(name, marker_id, free_bytes, problem, checked_us) "
                "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "marker_id = coalesce(excluded.marker_id, marker_id), "
                "free_bytes = coalesce(excluded.free_bytes, free_bytes), "
                "problem = excluded.problem, checked_us = excluded.checked_us",
                (target, marker_id, free_bytes, problem, now_us),
            )

    def retry(
        self,
        exports: Sequence[Export],
        renew: Callable[[Export], Export],
    ) -> int:
        """Make exports due now, and their copies that are not saved.

        Args:
            exports: To be tried.
            renew: Gives an ended or parked export as ready.

        Returns:
            How many are due now that were not.
        """
        done = 0
        with self._db.transaction() as connection:
            for stale in exports:
                if stale.key is None:
                    continue
                prior = rows.find(connection, stale.key)
                done += rows.update(connection, prior, renew(prior))
                done += (
                    connection.execute(
                        "UPDATE copies SET state = 'pending', due_us = 0 "
                        "WHERE export = ? AND state = 'failed'",
                        (stale.key,),
                    ).rowcount
                    > 0
                )
        return done

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
            except sqlite3.OperationalError as exc:
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
            except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
                raise
            except sqlite3.DatabaseError as exc:
                raise LedgerError(
                    f"the ledger is damaged: {exc}; keep the file, check its disk, "
                    "and go back to a backup"
                ) from exc
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
