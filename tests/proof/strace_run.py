"""Run the real command under strace, and tell which files and addresses it touched."""

from __future__ import annotations

import asyncio
import codecs
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROJECT = Path(__file__).parents[2]
_OPENING = "openat openat2 open creat"
_CHANGING = (
    "mkdir mkdirat mknod mknodat rename renameat renameat2 link linkat symlink "
    "symlinkat unlink unlinkat rmdir truncate chmod fchmodat chown lchown fchownat "
    "utime utimes utimensat futimesat setxattr lsetxattr removexattr mount"
)
_REACHING = "connect sendto sendmsg sendmmsg bind"
_WRITES = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC|TMPFILE|APPEND)\b")
_CALL = re.compile(r"\d+ +(\w+)\((.*)")
_TEXT = r'(?:[^"\\]|\\.)*'
_PLACE = re.compile(rf'(?:AT_FDCWD|\d+)<((?:[^>\\]|\\.)*)>|"({_TEXT})"')
_ADDRESS = re.compile(
    r"\{sa_family=(AF_\w+)(?:, sin6?_port=htons\((\d+)\))?"
    rf'(?:[^"}}]*"({_TEXT})")?'
)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class TracedRun:
    """What one run did, as the kernel saw it.

    Attributes:
        changed: Every path that a call would create, write, rename, link or remove,
            whether or not it did.
        reached: Every address that a call would connect or send to, or bind:
            `address:port`, or the family and the address.
    """

    ended: Ended
    changed: frozenset[Path]
    reached: frozenset[str]

    def outside(self, *roots: Path) -> list[Path]:
        """Return what it would change that is not at or below one of the roots."""
        real = [root.resolve() for root in roots]
        return sorted(
            path
            for path in self.changed
            if not any(path == root or root in path.parents for root in real)
            and path != Path(os.devnull)
        )


def command(*argv: str, config: Path, planted: str = "") -> list[str]:
    """Return the real command line of `archive-mirror` with these arguments.

    Args:
        config: The configuration file.
        planted: Bugs to plant in it, with commas between.
    """
    program = ["mirror"]
    if planted:
        program = ["tests.proof.planted_bugs.plant", planted]
    return [sys.executable, "-m", *program, *argv, "-c", str(config)]


def environment(**more: str) -> dict[str, str]:
    """Return the environment for such a command."""
    return os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | more


async def run(
    *argv: str,
    config: Path,
    planted: str = "",
    tracer: Sequence[str] = (),
    given: bytes = b"",
) -> Ended:
    """Run `archive-mirror` to its end; see `command`.

    Args:
        argv: Command and arguments.
        config: The configuration file.
        planted: As `command`.
        tracer: What to put before the command line.
        given: On its standard input.
    """
    process = await asyncio.create_subprocess_exec(
        *tracer,
        *command(*argv, config=config, planted=planted),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=PROJECT,
        env=environment(),
    )
    try:
        out, err = await process.communicate(given)
    finally:
        if process.returncode is None:
            process.kill()
    return Ended(process.returncode or 0, out.decode(), err.decode("utf-8", "replace"))


async def run_traced(
    *argv: str, config: Path, trace: Path, planted: str = ""
) -> TracedRun:
    """Run `archive-mirror` under strace; see `run`.

    Args:
        argv: Command and arguments.
        config: The configuration file.
        trace: Takes the trace.
        planted: As `command`.
    """
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace, to see what files and addresses a process touches")
    calls = ",".join(
        f"?{call}" for call in f"{_OPENING} {_CHANGING} {_REACHING}".split()
    )
    tracer = [strace, "-f", "-qq", "--seccomp-bpf", "-y", "-e", f"trace={calls}"]
    tracer += ["-e", "signal=none", "-o", str(trace)]
    ended = await run(*argv, config=config, planted=planted, tracer=tracer)
    changed, reached = _read(trace.read_text("utf-8", "replace"))
    return TracedRun(ended, changed, reached)


def _read(trace: str) -> tuple[frozenset[Path], frozenset[str]]:
    changed: set[Path] = set()
    reached: set[str] = set()
    for line in trace.splitlines():
        match = _CALL.match(line)
        if match is None:
            continue
        call, rest = match.groups()
        arguments = rest.rpartition(") = ")[0] or rest
        if call in _REACHING.split():
            reached.update(_addresses(arguments))
        elif call not in _OPENING.split() or _WRITES.search(arguments):
            changed.update(_paths(arguments))
    return frozenset(changed), frozenset(reached)


def _paths(arguments: str) -> Iterator[Path]:
    """Yield each path, taken from the folder whose descriptor stands before it."""
    base = str(PROJECT)
    for folder, name in _PLACE.findall(arguments):
        if folder:
            base = _plain(folder)
            continue
        path = os.path.normpath(os.path.join(base, _plain(name)))  # noqa: PTH118 -- text
        if not path.startswith("/proc/self/fd/"):
            yield Path(path)
        base = str(PROJECT)


def _addresses(arguments: str) -> Iterator[str]:
    for family, port, address in _ADDRESS.findall(arguments):
        yield f"{address}:{port}" if port else f"{family} {address}"


def _plain(text: str) -> str:
    """Undo the escapes of strace."""
    decoded, _ = codecs.escape_decode(text.encode())
    return os.fsdecode(decoded)


def snapshot(folder: Path, *but: Path) -> dict[Path, tuple[int, int, bytes]]:
    """Return all below a folder, except some: inode, time of change, content."""
    entries = {}
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if Path(here, name) not in but]
        for name in [*folders, *files]:
            path = Path(here, name)
            about = path.lstat()
            content = path.read_bytes() if name in files else b""
            entries[path] = (about.st_ino, about.st_mtime_ns, content)
    return entries
