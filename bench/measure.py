"""One run of one command, as the operating system accounts for it."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run took.

    Attributes:
        cpu_s: User and system time of the command and all it started.
        peak_bytes: The most memory that one process of it held.
        carried_bytes: What a slow link brought meanwhile.
        whole_files: How many files were there at the end, each of the right length.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int
    carried_bytes: int = 0
    whole_files: int = 0


def run(command: str, log: Path) -> Run:
    """Run a shell command to its end.

    Raises:
        RuntimeError: It failed.
    """
    began = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command], stdout=subprocess.DEVNULL, stderr=file
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.monotonic() - began
    if process.returncode:
        said = log.read_text("utf-8", "replace")[-2000:]
        raise RuntimeError(f"exit {process.returncode}: {command}\n{said}")
    return Run(
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_bytes=usage.ru_maxrss * 1024,
    )


def whole(folder: Path, size_bytes: int) -> int:
    """Return how many mp4 files of this length lie below a folder."""
    return sum(path.stat().st_size == size_bytes for path in folder.rglob("*.mp4"))
