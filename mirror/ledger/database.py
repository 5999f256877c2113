"""Open the ledger's SQLite file: pragmas, migrations, backup before each."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING

from mirror.errors import LedgerError
from mirror.ledger import checksums, preallocation
from mirror.ledger.commit_counter import LastCommit
from mirror.ledger.errors import FAULTS, damaged, newer, unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    _Find = Callable[[sqlite3.Connection, sqlite3.Connection], str | None]

LEDGER_NAME = "ledger.sqlite3"
_LEAST_BYTES = 512
"""No SQLite file is shorter, but an empty one."""
_CACHE = "PRAGMA cache_size = -1024"
"""KiB; the system's own cache holds the rest, and a large ledger costs no memory."""
_MIGRATION = re.compile(r"^(\d{4})\.sql$")


def migrations() -> list[tuple[int, str]]:
    """Return the numbered migrations as (version, SQL), lowest first."""
    folder = resources.files("mirror.ledger").joinpath("migrations")
    scripts = []
    for entry in folder.iterdir():
        match = _MIGRATION.match(entry.name)
        if match:
            scripts.append((int(match.group(1)), entry.read_text("utf-8")))
    return sorted(scripts)


def newest() -> int:
    """Return the version of the ledger that this program makes."""
    return migrations()[-1][0]


class Database:
    """One connection to the ledger. Not safe to share between threads.

    Attributes:
        lost_commits: Transactions that were durable once and are not in the ledger:
            its -wal file is gone, or an older copy lies in its place.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.connection = connection
        self.path = path
        self.lost_commits = 0
        self._last: LastCommit | None = None
        self._depth = 0
        self._grouped = False
        self._begun = False
        self._changes = 0

    @classmethod
    def open(cls, path: Path, *, check: bool = True) -> Database:
        """Open the ledger for writing; make it or migrate it where needed.

        Args:
            path: Of the file.
            check: Read all of it, to find damage; else only its structure is looked at,
                and `prove` is to follow.

        Raises:
            DamagedLedgerError: It is not what was written.
            LedgerError: Of a newer version, or not writable.
        """
        try:
            _must_be_a_file(path)
            _keep_orphan(path)
            if not path.exists():
                # Made anew only, and not where a link may lead.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            preallocation.look_for_room(path)
            connection = connect(path)
        except (OSError, *FAULTS) as exc:
            raise unusable(path, exc) from exc
        database = cls(connection, path)
        try:
            database._prepare(check=check)
            preallocation.allocate_shared(path)
            database._count_commits()
        except (OSError, *FAULTS) as exc:
            database.close()
            raise unusable(path, exc) from exc
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def read(cls, path: Path, *, check: bool = False) -> Database:
        """Open the ledger beside a running service; an absent one reads as empty.

        Args:
            path: Of the file.
            check: Read all of it, to find damage.

        Raises:
            DamagedLedgerError: It is not what was written.
            LedgerError: Of another version than this program, or not readable.
        """
        try:
            _must_be_a_file(path)
            if not path.exists() or not path.stat().st_size:
                return cls._empty(path)
            if not preallocation.has_shared(path):
                preallocation.look_for_room(path)
            database = cls(connect(path), path)
        except (OSError, *FAULTS) as exc:
            raise unusable(path, exc) from exc
        try:
            version = database._prepare_to_read(check=check)
        except (OSError, *FAULTS) as exc:
            database.close()
            raise unusable(path, exc) from exc
        except BaseException:
            database.close()
            raise
        if version:
            return database
        database.close()
        return cls._empty(path)

    @classmethod
    def _empty(cls, path: Path, version: int | None = None) -> Database:
        """Return a ledger in memory, as this program or an older one makes it."""
        connection = connect(":memory:")
        database = cls(connection, path)
        database._migrate(0, version)
        checksums.install_triggers(connection)
        return database

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()
        if self._last is not None:
            self._last.close()
            self._last = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit all that happens within, or none of it. May be nested."""
        if self._depth:
            yield self.connection
        elif self._grouped:
            with self._member():
                yield self.connection
        else:
            self._begin()
            try:
                with self._nested():
                    yield self.connection
            except BaseException:
                self._roll_back()
                raise
            self._commit()

    @contextlib.contextmanager
    def group(self) -> Iterator[None]:
        """Commit the transactions within as one; each may fail without the others.

        The first of them begins it: questions alone begin none.

        Raises:
            sqlite3.Error: Nothing of them was kept.
        """
        self._grouped = True
        try:
            yield
        except BaseException:
            self._roll_back()
            raise
        finally:
            begun, self._grouped, self._begun = self._begun, False, False
        if begun:
            self._must_last()
            self._commit()

    @contextlib.contextmanager
    def _member(self) -> Iterator[None]:
        """Run a transaction of a group."""
        execute = self.connection.execute
        if not self._begun:
            self._begin()
            self._begun = True
        self._must_last()
        execute("SAVEPOINT member")
        try:
            with self._nested():
                yield
        except BaseException:
            if self.connection.in_transaction:
                execute("ROLLBACK TO member")
                execute("RELEASE member")
            raise
        execute("RELEASE member")

    @contextlib.contextmanager
    def _nested(self) -> Iterator[None]:
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def _begin(self) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        self._changes = self.connection.total_changes

    def _must_last(self) -> None:
        """Fail if an error has rolled back the whole group, as some do."""
        if not self.connection.in_transaction:
            raise sqlite3.OperationalError("what was written with it failed")

    def _roll_back(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def _commit(self) -> None:
        """Commit, and count it if anything was changed.

        Raises:
            sqlite3.Error: Nothing was kept.
        """
        number = None
        try:
            if self._last is not None and self.connection.total_changes > self._changes:
                count = "UPDATE commits SET number = number + 1 RETURNING number"
                (number,) = self.connection.execute(count).fetchone()
            self.connection.execute("COMMIT")
        except sqlite3.Error:
            self._roll_back()
            raise
        if self._last is not None and number is not None:
            self._last.remember(number)

    def count_on(self, folder: Path) -> None:
        """Count commits on from the number that is kept in another folder."""
        last = LastCommit(folder)
        last.close()
        with self.transaction() as connection:
            connection.execute(
                "UPDATE commits SET number = max(number, ?)", (last.number,)
            )

    def changed_elsewhere(self) -> int:
        """Return a number that differs once another process has committed."""
        row = self.connection.execute("PRAGMA data_version").fetchone()
        return int(row[0])

    def copy_to(self, path: Path) -> None:
        """Write a whole copy of the ledger, as it is now, to a new file."""
        path.touch(mode=0o600, exist_ok=False)
        copy = sqlite3.connect(path)
        try:
            self.connection.backup(copy)
        finally:
            copy.close()

    def _prepare(self, *, check: bool) -> None:
        execute = self.connection.execute
        version = self._known_version()
        if version > newest():
            raise newer(self.path, version, newest())
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA temp_store = MEMORY")
        execute(_CACHE)
        execute("PRAGMA journal_size_limit = 16777216")
        if version:
            # What is migrated gets new checksums, and would be believed.
            deep = check or version < newest()
            self._check(
                version, checksums.problem if deep else checksums.schema_problem
            )
        self._migrate(version)
        # Not before: a migration may replace a table that others refer to.
        execute("PRAGMA foreign_keys = ON")
        checksums.install_triggers(self.connection)

    def _prepare_to_read(self, *, check: bool) -> int:
        """Make ready to be asked; return the version, 0 if there is nothing in it."""
        version = self._known_version()
        preallocation.allocate_shared(self.path)
        if version > newest():
            raise newer(self.path, version, newest())
        if version and check:
            self._check(version, checksums.problem)
        if 0 < version < newest():
            raise LedgerError(
                f"the ledger {self.path} is of version {version}, this program's is "
                f"{newest()}: restart the service so that it is migrated"
            )
        self.connection.execute("PRAGMA synchronous = FULL")
        self.connection.execute(_CACHE)
        checksums.install_triggers(self.connection)
        return version

    def _known_version(self) -> int:
        """Return the version; 0 only of a ledger that has nothing in it."""
        version = self._version()
        if version == 0:
            made = "SELECT count(*) FROM sqlite_schema"
            if self.connection.execute(made).fetchone()[0]:
                raise damaged(self.path, "its version is gone")
        return version

    def prove(self) -> None:
        """Read all of the ledger, to find damage; for a connection of its own.

        Raises:
            DamagedLedgerError: It is not what was written.
            LedgerError: It cannot be read, or this was interrupted.
        """
        try:
            self._check(self._version(), checksums.problem)
        except FAULTS as exc:
            raise unusable(self.path, exc) from exc

    def _check(self, version: int, find: _Find) -> None:
        made = self._empty(self.path, version)
        try:
            problem = find(self.connection, made.connection)
        finally:
            made.close()
        if problem is not None:
            raise damaged(self.path, problem)

    def _version(self) -> int:
        row = self.connection.execute("PRAGMA user_version").fetchone()
        return int(row[0])

    def _count_commits(self) -> None:
        """Find out whether commits are lost, and count them from now on."""
        self._last = LastCommit(self.path.parent)
        row = self.connection.execute("SELECT number FROM commits").fetchone()
        self.lost_commits = max(0, self._last.number - int(row[0]))

    def _migrate(self, version: int, last: int | None = None) -> None:
        last = newest() if last is None else last
        scripts = [each for each in migrations() if version < each[0] <= last]
        if not scripts:
            return
        if version:
            self._back_up(version)
        # All or none, so that no reader meets a version between.
        with self.transaction() as connection:
            for number, script in scripts:
                for statement in _statements(script):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")
            checksums.recompute(connection)

    def _back_up(self, version: int) -> None:
        """Copy the ledger beside itself before it is migrated."""
        copy = self.path.with_name(f"{self.path.stem}.v{version}.sqlite3")
        copy.unlink(missing_ok=True)
        self.copy_to(copy)


def _statements(script: str) -> Iterator[str]:
    """Split a script where SQLite says that a statement is complete."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""


def connect(path: Path | str) -> sqlite3.Connection:
    """Connect to a ledger as it is, without a look at it."""
    connection = sqlite3.connect(
        path, isolation_level=None, timeout=10, check_same_thread=False
    )
    checksums.register(connection)
    return connection


def _must_be_a_file(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_file():
        raise damaged(path, "it is no file")
    if 0 < path.stat().st_size < _LEAST_BYTES:
        # SQLite takes it for an empty one.
        raise damaged(path, "it is cut short")


def _keep_orphan(path: Path) -> None:
    """Move aside the -wal file of a ledger that is gone; SQLite would delete it."""
    log = path.with_name(f"{path.name}-wal")
    gone = not path.exists() or (path.is_file() and not path.stat().st_size)
    if gone and log.exists() and log.stat().st_size:
        stamp = datetime.now(UTC)
        log.rename(log.with_name(f"{log.name}.left-{stamp:%Y%m%dT%H%M%S%fZ}"))
