"""A copy of the ledger, taken beside a running service."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mirror.disk import durable
from mirror.errors import DamagedLedgerError, LedgerError
from mirror.ledger import FAULTS, LEDGER_NAME, Ledger


def write(state_dir: Path, path: Path) -> int:
    """Write a whole, proven, durable copy of the ledger to a new file.

    Args:
        state_dir: Where the ledger lies.
        path: Of the new file, mode 0600; its folder must exist.

    Returns:
        Length of the copy in bytes.

    Raises:
        LedgerError: There is no ledger, or the copy cannot be made; the text says
            what to do. Nothing is left behind, and no file was replaced.
    """
    if not (state_dir / LEDGER_NAME).exists():
        raise LedgerError(f"there is no ledger in {state_dir} yet; nothing to copy")
    try:
        with tempfile.TemporaryDirectory(prefix=".backup-", dir=path.parent) as folder:
            Ledger.copy(state_dir, Path(folder))
            copy = Path(folder, LEDGER_NAME)
            _prove(Path(folder), state_dir)
            durable.flush(copy)
            path.hardlink_to(copy)
            durable.flush(path.parent)
            return path.stat().st_size
    except FileExistsError as exc:
        raise LedgerError(f"{path} is there already; name a new file") from exc
    except (OSError, *FAULTS) as exc:
        why = getattr(exc, "strerror", None) or exc
        raise LedgerError(
            f"the ledger cannot be copied to {path} ({why}); name a new file in a "
            "folder with room that you may write to"
        ) from exc


def _prove(folder: Path, state_dir: Path) -> None:
    try:
        Ledger.read(folder, check=True).close()
    except DamagedLedgerError as exc:
        path = state_dir / LEDGER_NAME
        raise DamagedLedgerError(
            str(exc).replace(str(folder / LEDGER_NAME), str(path))
        ) from exc
