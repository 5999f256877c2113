"""The shim tells the truth: strace sees the same calls, and its errors do the same."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirror.simulator import FAULTS, Vms
from tests.proof.processes import CheckedMirror, Processes
from tests.proof.shim import Action, Call, Shim, library

if TYPE_CHECKING:
    import random

    from tests.proof.figures import Figures

_LINE = re.compile(r"(?P<thread>\d+) +(?P<call>\w+)\((?P<rest>.*)")
_FD = re.compile(r"\d+<(?P<path>[^>]*)>")
_NAME = re.compile(r'(?:(?:AT_FDCWD|\d+)<(?P<folder>[^>]*)>, )?"(?P<name>[^"]*)"')
_WRITES = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC")
_KINDS = {
    **dict.fromkeys(["write", "writev", "pwrite64", "pwritev", "pwritev2"], Call.WRITE),
    **dict.fromkeys(["fsync", "fdatasync"], Call.FSYNC),
    **dict.fromkeys(["rename", "renameat", "renameat2"], Call.RENAME),
    **dict.fromkeys(["link", "linkat"], Call.LINK),
    **dict.fromkeys(["unlink", "unlinkat"], Call.UNLINK),
    **dict.fromkeys(["mkdir", "mkdirat"], Call.MKDIR),
    **dict.fromkeys(["ftruncate", "fallocate"], Call.TRUNCATE),
}
_HARMLESS = re.compile(
    r"execve|access|getcwd|\w*stat\w*|readlink\w*|p?read\d*|lseek|mmap|ioctl|fcntl|"
    r"flock|dup|getdents64|fadvise64|fchmod|fchown|close|openat"
)
_INJECTED = (
    "fsync",
    "fdatasync",
    "pwrite64",
    "pwritev2",
    "linkat",
    "mkdirat",
    "unlinkat",
)
"""Made on files of ours alone, so that their numbers need no path."""
_ERRORS = ("EIO", "ENOSPC", "EDQUOT", "ESTALE", "EROFS", "EMFILE")
_LEDGER_FAILED = 74


async def _traced(
    mirror: CheckedMirror, output: Path, *options: str
) -> tuple[int, str]:
    """Run `once` under strace; return its exit code and the trace.

    Skips where there is no strace.
    """
    if shutil.which("strace") is None:
        pytest.skip("needs strace, to see and to fail system calls")
    log = output.with_suffix(".log")
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *("strace", "-f", "-y", "-qq", "-s", "4096", "-o", str(output), *options),
            *(sys.executable, "-m", "mirror", "once", "-c", mirror.config()),
            stdout=file,
            stderr=file,
            cwd=Path(__file__).parents[2],
        )
        code = await process.wait()
    said = log.read_text()
    if code and "PTRACE" in said:
        pytest.skip("needs ptrace, to see and to fail system calls")
    assert code == 0 or "archive-mirror: the " in said, said[-2000:]
    return code, output.read_text("utf-8", "replace")


def _mirror(folder: Path, vms: Vms, processes: Processes) -> CheckedMirror:
    folder.mkdir()
    mirror = CheckedMirror.make(folder, vms, processes)
    mirror.add_target("vault")
    mirror.site.tables["spool_dir"] = str(mirror.site.folder / "spool")
    mirror.offer(vms.add(size=300_000, faults=[FAULTS["cut"]]))
    return mirror


def _seen(trace: str, home: str) -> tuple[Counter[tuple[str, str]], set[str]]:
    """Return the calls on paths below home by kind, and those of no known kind."""
    calls: Counter[tuple[str, str]] = Counter()
    others = set()
    for line in trace.splitlines():
        match = _LINE.match(line)
        if match is None or home not in line:
            continue
        name, rest = match["call"], match["rest"]
        by_fd = _FD.match(rest)
        names = list(_NAME.finditer(rest))
        if name in _KINDS and _KINDS[name] in Call.WRITE | Call.FSYNC | Call.TRUNCATE:
            assert by_fd is not None, line
            path = by_fd["path"]
        elif names and (name in _KINDS or name == "openat"):
            last = names[-1]
            path = last["name"]
            if not path.startswith("/"):
                path = f"{last['folder']}/{path}"
        else:
            path = ""
        kind = _KINDS.get(name)
        if name == "openat" and _WRITES.search(rest):
            kind = Call.OPEN
        if kind is not None and path.startswith(home):
            assert kind.name is not None
            calls[kind.name.lower(), path] += 1
        elif kind is None and not _HARMLESS.fullmatch(name):
            others.add(name)
    return calls, others


async def test_strace_sees_the_calls_that_the_shim_counts(tmp_path):
    """No call that changes a file of ours goes past the shim."""
    async with Vms(other_origin=False) as vms:
        mirror = _mirror(tmp_path / "one", vms, None)  # type: ignore[arg-type]
        home = mirror.site.folder
        shim = Shim(tmp_path / "shim", home).set(Action.NONE, log=True)
        code, trace = await _traced(
            mirror,
            tmp_path / "trace",
            *("-E", f"LD_PRELOAD={library()}", "-E", f"PROOF_SHIM={shim.path}"),
            *("-e", "trace=%file,%desc"),
        )
    assert code == 0
    calls, others = _seen(trace, str(home))
    lines = (line.removesuffix(" (deleted)") for line in shim.log())
    counted = Counter(tuple(line.split(" ", 1)) for line in lines)
    assert others == set()
    assert sum(counted.values()) > 300
    assert calls == counted


async def _failed(
    folder: Path, processes: Processes, counts: dict[str, int], rng: random.Random
) -> bool:
    """Fail one call of `once`, run again; tell whether that call was made.

    Each thread has its own count: it may be one call of each.
    """
    call = rng.choice(_INJECTED)
    when, error = rng.randint(1, counts[call]), rng.choice(_ERRORS)
    async with Vms(other_origin=False) as vms:
        mirror = _mirror(folder, vms, processes)
        inject = f"inject={call}:error={error}:when={when}"
        code, trace = await _traced(
            mirror, folder / "trace", "-e", f"trace={call}", "-e", inject
        )
        mirror.checker.look()
        assert code in {0, _LEDGER_FAILED}, inject
        if code == 0:
            mirror.checker.settle(await mirror.listed())
        await mirror.settle()
    assert mirror.checker.breaks == [], inject
    shutil.rmtree(folder)
    return "(INJECTED)" in trace


async def test_errors_that_strace_injects(tmp_path, figures: Figures):
    """They do no more harm than those of the shim: nothing is lost or wrong."""
    async with Vms(other_origin=False) as vms:
        mirror = _mirror(tmp_path / "sound", vms, None)  # type: ignore[arg-type]
        calls = f"trace={','.join(_INJECTED)}"
        code, trace = await _traced(mirror, tmp_path / "trace", "-e", calls)
    assert code == 0
    lines = map(_LINE.match, trace.splitlines())
    made = Counter((match["call"], match["thread"]) for match in lines if match)
    counts = {
        call: max(n for key, n in made.items() if call in key) for call, _ in made
    }
    async with Processes.open() as processes:

        async def work(number: int, rng: random.Random) -> bool:
            return await _failed(tmp_path / str(number), processes, counts, rng)

        met = await figures.side_by_side(work, 10, 200, share=0.02)
    assert sum(met) > 0.7 * len(met)
    figures.record(5, injected_by_strace=sum(met), breaks=0)
