"""Error texts of a ledger that cannot be used, each with the remedy."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING

from mirror.errors import DamagedLedgerError, LedgerError

if TYPE_CHECKING:
    from pathlib import Path

SQLITE_VERSION = sqlite3.sqlite_version
FAULTS = (sqlite3.Error, UnicodeDecodeError)
"""What sqlite3 raises; the second where damage gets into the text of an error."""
_NO_TEXT = "Could not decode to UTF-8"


def damaged(path: Path, problem: object) -> DamagedLedgerError:
    """Return the error of a ledger that does not hold what was written."""
    return DamagedLedgerError(
        f"the ledger {path} is damaged ({problem}). Stop the service and run "
        "`archive-mirror rebuild`: it makes a new one from what the targets hold and "
        "what is sound in this one, which it moves aside. Footage is not touched; of "
        "damaged rows, attempts and losses do not come back"
    )


def newer(path: Path, version: int, ours: int) -> LedgerError:
    """Return the error of a ledger that a newer program has migrated."""
    return LedgerError(
        f"the ledger {path} is of version {version}, newer than this program's {ours}: "
        "install the newer archive-mirror again; or, to go on with this one from what "
        "the targets hold, run `archive-mirror rebuild --force`"
    )


def unusable(path: Path, exc: Exception) -> LedgerError:
    """Say what is wrong with a ledger that SQLite or the system refuses."""
    if isinstance(exc, FAULTS) and is_damage(exc):
        return damaged(path, exc)
    if _is_denied(path, exc):
        return LedgerError(
            f"the ledger {path} cannot be opened: {exc}. Run this as root or as the "
            f"service's user; all in {path.parent} must belong to that user"
        )
    return LedgerError(
        f"the ledger {path} cannot be opened: {exc}. Check that the folder is on a "
        "local file system with free space. "
        "If the file itself is beyond help, `archive-mirror rebuild --force` makes a "
        "new one from what the targets hold"
    )


def _is_denied(path: Path, exc: Exception) -> bool:
    """Tell whether we may not use the ledger, which SQLite says in several ways."""
    if not isinstance(exc, sqlite3.OperationalError):
        return isinstance(exc, PermissionError)
    files, usable = [path.parent, *path.parent.glob(f"{path.name}*")], os.R_OK | os.W_OK
    return not all(os.access(file, usable, effective_ids=True) for file in files)


def is_damage(exc: sqlite3.Error | UnicodeDecodeError) -> bool:
    """Tell whether an error means that the ledger is not what was written."""
    if isinstance(exc, UnicodeDecodeError):
        return True
    code = getattr(exc, "sqlite_errorcode", None)
    if isinstance(exc, sqlite3.IntegrityError):
        return code == sqlite3.SQLITE_CONSTRAINT_TRIGGER
    if isinstance(exc, sqlite3.OperationalError):
        # A table or function that is not there; a text that is no text.
        return code == sqlite3.SQLITE_ERROR or str(exc).startswith(_NO_TEXT)
    return isinstance(exc, sqlite3.DatabaseError) and not isinstance(
        exc, sqlite3.ProgrammingError
    )
