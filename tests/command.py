"""Run the commands as people and scripts do."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests import warm_command

if TYPE_CHECKING:
    from tests.site import Site

ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    "source": (str,),
    "id": (int,),
    "state": (str,),
    "reason": (str, type(None)),
    "name": (str, type(None)),
    "camera_id": (int, type(None)),
    "stream_type": (str, type(None)),
    "footage_from": (str, type(None)),
    "footage_to": (str, type(None)),
    "created_at": (str, type(None)),
    "first_seen": (str,),
    "version": (int,),
    "deadline": (str, type(None)),
    "size_bytes": (int, type(None)),
    "sha256": (str, type(None)),
    "proof": (str, type(None)),
    "doubt": (str, type(None)),
    "attempts": (int,),
    "last_error": (str, type(None)),
    "copies": (list,),
}
"""What an export is in `list --json`, with the types of each value."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its stdout as one JSON object a line."""
        return [json.loads(line) for line in self.out.splitlines()]


def environment(**more: str) -> dict[str, str]:
    """Return ours without what would configure the program."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ARCHIVE_MIRROR", "JOURNAL", "NOTIFY", "CREDENTIALS"))
    }
    return kept | {"PYTHONPATH": str(ROOT)} | more


def run(*arguments: str | Path, **env: str) -> Ran:
    """Run the real command to its end."""
    done = warm_command.run([*map(str, arguments)], env=environment(**env))
    ran = Ran(done.code, done.out.decode(), done.err.decode())
    assert "Traceback" not in ran.err + ran.out
    return ran


async def run_beside(*arguments: str | Path, **env: str) -> Ran:
    """Run it while the simulated VMS lives in this process."""
    return await asyncio.to_thread(lambda: run(*arguments, **env))


def on(site: Site) -> tuple[str, str]:
    """Return the options that name a site's configuration."""
    return "--config", str(site.folder / "archive-mirror.toml")


def tree(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """Return all there is in a folder, with modes and bytes."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() else None,
        )
        for path in sorted(folder.rglob("*"))
    }


def labels(ran: Ran) -> list[str]:
    """Return which exports `list --json` printed."""
    assert ran.code == 0, ran
    return [f"{one['source']}/{one['id']}" for one in ran.lines]
