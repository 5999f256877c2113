"""Look at whom this machine lets change what the service trusts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mirror.app import lock
from mirror.app.check.finding import Finding, Grade
from mirror.config import permissions

if TYPE_CHECKING:
    from mirror.config import Settings


def state_dir(folder: Path) -> list[Finding]:
    """Judge whether others could change the ledger; nothing if they cannot."""
    return [
        Finding(
            name="state_dir", grade=Grade.FAIL, detail=f"the ledger is not safe: {one}"
        )
        for one in lock.open_to_others(folder)
    ]


def on_event(settings: Settings) -> list[Finding]:
    """Judge whether others could change the command that the service runs."""
    command = Path(*settings.on_event[:1])
    if not command.is_absolute():
        return []
    trusted = permissions.trusted(settings.state_dir)
    return [
        Finding(
            name="on_event", grade=Grade.FAIL, detail=f"the command is not safe: {one}"
        )
        for one in permissions.problems(command, trusted)
    ]
