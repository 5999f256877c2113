"""Open the ledger's SQLite file: pragmas, migrations, backup before each."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import sqlite3
import tempfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Iterator

LEDGER_NAME = "ledger.sqlite3"
_SHARED_BYTES = 8 * 32768
"""Kept allocated of the -shm file: the index of a log of 128 MiB."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_MIGRATION = re.compile(r"^(\d{4})\.sql$")


def migrations() -> list[tuple[int, str]]:
    """Return the numbered migrations as (version, SQL), lowest first."""
    folder = resources.files("mirror.state").joinpath("migrations")
    found = []
    for entry in folder.iterdir():
        match = _MIGRATION.match(entry.name)
        if match:
            found.append((int(match.group(1)), entry.read_text("utf-8")))
    return sorted(found)


class Database:
    """One connection to the ledger. Not safe to share between threads."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.connection = connection
        self.path = path
        self._depth = 0

    @classmethod
    def open(cls, path: Path) -> Database:
        """Open the ledger for writing; make it or migrate it where needed.

        Raises:
            LedgerError: Damaged, of a newer version, or not writable.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            os.close(fd)
            _look_for_room(path)
            connection = sqlite3.connect(
                path, isolation_level=None, timeout=10, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as exc:
            raise _unusable(path, exc) from exc
        database = cls(connection, path)
        try:
            database._prepare()
            _allocate_shared(path)
        except (OSError, sqlite3.Error) as exc:
            connection.close()
            raise _unusable(path, exc) from exc
        except BaseException:
            connection.close()
            raise
        return database

    @classmethod
    def read(cls, path: Path) -> Database:
        """Open the ledger beside a running service; an absent one reads as empty.

        Raises:
            LedgerError: Damaged, or of another version than this program.
        """
        if not path.exists():
            return cls._empty(path)
        try:
            if not _shared(path).exists():
                _look_for_room(path)
            connection = sqlite3.connect(
                path, isolation_level=None, timeout=10, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as exc:
            raise _unusable(path, exc) from exc
        database = cls(connection, path)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            version = database._version()
            _allocate_shared(path)
        except (OSError, sqlite3.Error) as exc:
            connection.close()
            raise _unusable(path, exc) from exc
        newest = migrations()[-1][0]
        if version == newest:
            return database
        connection.close()
        if version == 0:
            return cls._empty(path)
        raise LedgerError(
            f"the ledger {path} is of version {version}, this program's is {newest}: "
            "restart the service so that it is migrated, or use the program that "
            "wrote it"
        )

    @classmethod
    def _empty(cls, path: Path) -> Database:
        database = cls(_in_memory(), path)
        database._migrate(0)
        return database

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit all that happens within, or none of it. May be nested."""
        if self._depth:
            yield self.connection
            return
        self.connection.execute("BEGIN IMMEDIATE")
        self._depth += 1
        try:
            yield self.connection
        except BaseException:
            self._depth -= 1
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise
        self._depth -= 1
        try:
            self.connection.execute("COMMIT")
        except sqlite3.Error:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def changed_elsewhere(self) -> int:
        """Return a number that differs once another process has committed."""
        row = self.connection.execute("PRAGMA data_version").fetchone()
        return int(row[0])

    def copy_to(self, path: Path) -> None:
        """Write a whole copy of the ledger, as it is now, to a new file."""
        path.touch(mode=0o600)
        copy = sqlite3.connect(path)
        try:
            self.connection.backup(copy)
        finally:
            copy.close()

    def _prepare(self) -> None:
        execute = self.connection.execute
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA foreign_keys = ON")
        execute("PRAGMA temp_store = MEMORY")
        execute("PRAGMA cache_size = -8192")
        execute("PRAGMA journal_size_limit = 16777216")
        version = self._version()
        newest = migrations()[-1][0]
        if version > newest:
            raise LedgerError(
                f"the ledger {self.path} is of version {version}, newer than this "
                f"program's {newest}: install the newer archive-mirror again"
            )
        problem = execute("PRAGMA quick_check(1)").fetchone()[0] if version else "ok"
        if problem != "ok":
            raise LedgerError(
                f"the ledger {self.path} is damaged ({problem}). Keep the file, move "
                "it away together with its -wal file, and restore a backup"
            )
        self._migrate(version)

    def _version(self) -> int:
        row = self.connection.execute("PRAGMA user_version").fetchone()
        return int(row[0])

    def _migrate(self, version: int) -> None:
        wanted = [each for each in migrations() if each[0] > version]
        if not wanted:
            return
        if version:
            self._back_up(version)
        # All or none, so that no reader meets a version between.
        with self.transaction() as connection:
            for number, script in wanted:
                for statement in _statements(script):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {number}")

    def _back_up(self, version: int) -> None:
        """Copy the ledger beside itself before it is migrated."""
        copy = self.path.with_name(f"{self.path.stem}.v{version}.sqlite3")
        copy.unlink(missing_ok=True)
        self.copy_to(copy)


def _shared(path: Path) -> Path:
    return path.with_name(f"{path.name}-shm")


def _look_for_room(path: Path) -> None:
    """Make sure that SQLite will find room for the file that it maps into memory.

    Raises:
        OSError: There is none: touching the map would end the process by SIGBUS.
    """
    try:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            _allocate(file.fileno(), _SHARED_BYTES)
    except OSError as exc:
        if exc.errno in _FULL:
            raise


def _allocate_shared(path: Path) -> None:
    """Have the disk keep room for all of the file that SQLite maps.

    SQLite writes one byte to each 4 KiB of it; where blocks are smaller the rest are
    holes, and a full disk that cannot fill one ends the process by SIGBUS. Done by
    SQLite's own descriptor, as closing another one would drop SQLite's locks.

    Raises:
        OSError: There is no room.
    """
    try:
        shared = _shared(path).stat()
        descriptors = [int(each.name) for each in Path("/proc/self/fd").iterdir()]
    except FileNotFoundError:
        return
    for fd in descriptors:
        try:
            if os.path.samestat(shared, os.fstat(fd)):
                _allocate(fd, _SHARED_BYTES)
        except OSError as exc:
            if exc.errno in _FULL:
                raise


def _allocate(fd: int, size: int) -> None:
    """Allocate the first bytes of a file without a change to them (Linux).

    The C library's posix_fallocate writes to them where the file system cannot.

    Raises:
        OSError: It cannot be done.
    """
    call = ctypes.CDLL(None, use_errno=True).fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    if call(fd, 0, 0, size):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _statements(script: str) -> Iterator[str]:
    """Split a script where SQLite says that a statement is complete."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""


def _in_memory() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)


def _unusable(path: Path, exc: Exception) -> LedgerError:
    """Say what is wrong with a ledger that SQLite or the system refuses."""
    if isinstance(exc, sqlite3.DatabaseError) and not isinstance(
        exc, sqlite3.OperationalError
    ):
        return LedgerError(
            f"the ledger {path} is damaged ({exc}). Keep the file, move it away "
            "together with its -wal file, and restore a backup"
        )
    return LedgerError(
        f"the ledger {path} cannot be opened: {exc}. Check that the folder is on a "
        "local file system with free space, and run as the service's user or as root"
    )
