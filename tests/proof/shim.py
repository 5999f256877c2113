"""Build the shim that counts durability calls, and steer it while a process runs."""

from __future__ import annotations

import enum
import functools
import mmap
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import pytest

_LAYOUT = struct.Struct("<qqqqiiIi256s")
_SOURCE = Path(__file__).with_name("shim.c")
FOR_EVER = 1 << 60


class Action(enum.IntEnum):
    """What a call meets; LOSE fails it, and an fsync loses the bytes it was for."""

    NONE = 0
    KILL_BEFORE = 1
    FAIL = 2
    SHORT_WRITE = 3
    LOSE = 4


class Call(enum.IntFlag):
    """Kinds of calls; OPEN is for writing, READ opens for reading only."""

    OPEN = 1
    WRITE = 2
    FSYNC = 4
    CLOSE = 8
    RENAME = 16
    LINK = 32
    UNLINK = 64
    MKDIR = 128
    TRUNCATE = 256
    READ = 512


DURABLE = ~(Call.CLOSE | Call.READ)
"""All that changes a disk."""


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that goes with this process."""
    return tempfile.TemporaryDirectory(prefix="proof-shim-")


@functools.cache
def library() -> Path:
    """Return the compiled shim; skips where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler, for the shim that counts system calls")
    made = Path(_folder().name, "shim.so")
    subprocess.run(
        [compiler, "-O1", "-fPIC", "-shared", "-o", str(made), str(_SOURCE), "-ldl"],
        check=True,
        capture_output=True,
    )
    return made


class Shim:
    """The control block of one process.

    Attributes:
        path: The value of `$PROOF_SHIM` for that process.
    """

    def __init__(self, path: Path, below: Path) -> None:
        self.path = path
        self._below = str(below).encode()
        self._log = Path(f"{path}.log")
        path.write_bytes(bytes(_LAYOUT.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _LAYOUT.size)
        self.set(Action.NONE)

    def set(
        self,
        action: Action,
        *,
        at: int = 1,
        times: int = 1,
        error: int = 0,
        calls: Call = DURABLE,
        log: bool = False,
    ) -> Self:
        """Begin to count anew, and say what the calls meet from the `at`-th on."""
        self._log.unlink(missing_ok=True)
        self._map[:] = _LAYOUT.pack(
            0, at, times, 0, action, error, calls & 0xFFFF, log, self._below
        )
        return self

    def heal(self) -> None:
        """Let no call meet anything any more."""
        self._map[32:36] = struct.pack("<i", Action.NONE)

    @property
    def count(self) -> int:
        """Calls counted so far."""
        return int(_LAYOUT.unpack(self._map[:])[0])

    @property
    def met(self) -> int:
        """Calls that met the action."""
        return int(_LAYOUT.unpack(self._map[:])[3])

    def log(self) -> list[str]:
        """Return the calls counted, `kind path` each, if that was asked for."""
        return self._log.read_text().splitlines() if self._log.exists() else []
