"""The number of the ledger's last commit, kept beside it.

Without its -wal file a ledger opens without complaint, as it was some time before. The
number tells that commits are gone.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from mirror.errors import LedgerError

if TYPE_CHECKING:
    from pathlib import Path

COMMITS_NAME = "ledger.commits"


class LastCommit:
    """The file that holds the number.

    It need not be durable: after a power failure the number may be too low, which
    raises no false alarm.

    Args:
        folder: Of the ledger.

    Attributes:
        number: As it was found; 0 if there is none.

    Raises:
        LedgerError: What lies there is no plain file: the number would be written to
            somebody else's.
        OSError: It cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / COMMITS_NAME
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(path, flags, 0o600)
        except OSError as exc:
            if path.is_symlink():
                raise _no_file(path) from exc
            raise
        facts = os.fstat(self._fd)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
            self.close()
            raise _no_file(path)
        if os.geteuid() == 0:
            # The service's user must be able to write it too.
            owner = folder.stat()
            os.fchown(self._fd, owner.st_uid, owner.st_gid)
        text = os.pread(self._fd, 64, 0).strip()
        self.number = int(text) if text.isdigit() else 0

    def remember(self, number: int) -> None:
        """Keep the number of a commit that is durable."""
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, b"%020d\n" % number, 0)

    def close(self) -> None:
        """Close the file; it need not be whole."""
        with contextlib.suppress(OSError):
            os.close(self._fd)


def _no_file(path: Path) -> LedgerError:
    return LedgerError(
        f"{path} is a link or no plain file, which this program never makes; "
        f"`rm {path}`"
    )
