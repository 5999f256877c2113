"""The locks on the state directory: one service, one repair."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from typing import TYPE_CHECKING, Final

from mirror.config import permissions
from mirror.disk import mounts
from mirror.errors import ConfigError, LedgerError, LockedError
from mirror.ledger import LEDGER_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NAME = "lock"
_REPAIR_NAME = "repair.lock"
_NO_LINK = os.O_CLOEXEC | os.O_NOFOLLOW
_TRIES = 10
_TRY_S = 0.01
_PASSING: Final = frozenset(
    {
        errno.EIO,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.ESTALE,
        errno.EINTR,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENODEV,
        errno.ENXIO,
    }
)
"""The disk or the machine has a problem, not the configuration: systemd tries again."""


@contextlib.contextmanager
def held(state_dir: Path) -> Iterator[None]:
    """Make the state directory and lock it for this process.

    Raises:
        ConfigError: It cannot be made, others may write to it, or it lies on a network
            file system.
        LedgerError: Its disk cannot be used now.
        LockedError: Another process has the lock.
    """
    if mounts.is_network(state_dir):
        problem = f"state_dir: {state_dir} lies on a network file system, where the "
        problem += "ledger is not safe; put it on a local one"
        raise ConfigError([problem])
    with _locked(state_dir, _NAME, "stop it first, or give this one its own state_dir"):
        yield


def is_held(state_dir: Path) -> bool:
    """Tell whether a service has the lock now."""
    try:
        fd = os.open(state_dir / _NAME, os.O_RDWR | _NO_LINK)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


@contextlib.contextmanager
def repairing(state_dir: Path) -> Iterator[None]:
    """Lock out other repairs; a running service goes on.

    Raises:
        ConfigError: The state directory cannot be used.
        LedgerError: Its disk cannot be used now.
        LockedError: Another process repairs.
    """
    with _locked(state_dir, _REPAIR_NAME, "wait for its repair to end"):
        yield


@contextlib.contextmanager
def _locked(state_dir: Path, name: str, remedy: str) -> Iterator[None]:
    try:
        _make(state_dir)
        if faults := open_to_others(state_dir):
            raise ConfigError([f"state_dir: {fault}" for fault in faults])
        fd = os.open(state_dir / name, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o600)
    except OSError as exc:
        if os.path.islink(state_dir / name):  # noqa: PTH114 -- does not raise
            raise _not_a_file(state_dir / name) from exc
        raise _refused(state_dir, exc) from exc
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise _not_a_file(state_dir / name)
        try:
            _take(fd)
        except BlockingIOError as exc:
            owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            raise LockedError(
                f"another archive-mirror (process {owner or 'unknown'}) holds "
                f"{state_dir / name}; {remedy}"
            ) from exc
        except OSError as exc:
            raise _refused(state_dir, exc) from exc
        with contextlib.suppress(OSError):  # a full disk cannot store the owner
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)


def open_to_others(state_dir: Path) -> list[str]:
    """Return how others could change what lies there, each with its remedy."""
    trusted = permissions.trusted(state_dir)
    problems = [*permissions.problems(state_dir, trusted, closed=True)]
    for file in sorted(state_dir.glob(f"{LEDGER_NAME}*")):
        problems += permissions.problems(file, trusted)
    return list(dict.fromkeys(problems))


def _make(folder: Path) -> None:
    """Make a private folder; whatever the umask, others cannot write above it."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        for above in reversed(folder.parents):
            above.mkdir(mode=0o755, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)


def _not_a_file(path: Path) -> ConfigError:
    problem = f"state_dir: {path} is a link or no plain file, which this program "
    return ConfigError([f"{problem}never makes; `rm {path}`"])


def _refused(state_dir: Path, exc: OSError) -> ConfigError | LedgerError:
    if exc.errno in _PASSING:
        return LedgerError(
            f"the state directory {state_dir} cannot be used now ({exc.strerror}); "
            "check its disk and the space there, then start again"
        )
    problem = f"state_dir: {state_dir} cannot be written ({exc.strerror}); make "
    return ConfigError([f"{problem}it belong to the user that runs the service"])


def _take(fd: int) -> None:
    """Lock a file; try again, for `is_held` locks it for a moment too."""
    for _ in range(_TRIES):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(_TRY_S)
    return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
