"""The order of durability, read off a trace of the system calls."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirror.simulator import Vms
from tests.proof.processes import CheckedMirror

if TYPE_CHECKING:
    from tests.proof.figures import Figures

_TRACED = (
    "openat,open,creat,close,dup,dup2,write,pwrite64,writev,pwritev,pwritev2,fsync,"
    "fdatasync,link,linkat,rename,renameat,renameat2,copy_file_range,sendfile"
)
_LINE = re.compile(r"(?P<thread>\d+) +(?P<call>\w+)\((?P<rest>.*)")
_RESUMED = re.compile(r"(?P<thread>\d+) +<\.\.\. (?P<call>\w+) resumed>(?P<rest>.*)")
_AT = re.compile(
    r'(?:(?:AT_FDCWD|\d+)<(?P<folder>[^>]*)>, )?"(?P<name>(?:[^"\\]|\\.)*)"'
)
_FD = re.compile(r"\d+<(?P<path>[^>]*)>")
_FD_NAME = re.compile(r"/proc/self/fd/(\d+)")


@dataclass(frozen=True, slots=True)
class Call:
    """One successful call.

    Attributes:
        begun: Line of the trace where it began.
        ended: Line where it had ended.
        text: Arguments and result, descriptors with their paths.
    """

    name: str
    begun: int
    ended: int
    text: str


@dataclass(slots=True)
class Trace:
    """Who did what to which file, by path, as line numbers of the trace.

    Attributes:
        linked: The final path, the file it was made from, and the call.
        written: Lines where a write to a file began.
        flushed: (begun, ended) of each flush of a file or folder.
        said: The line where the program said that an export is saved, by its id.
    """

    linked: dict[str, tuple[str, Call]] = field(default_factory=dict)
    written: dict[str, list[int]] = field(default_factory=dict)
    flushed: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    said: dict[int, int] = field(default_factory=dict)

    def flushes(self, path: str, *, after: int, before: int) -> bool:
        """Tell whether a file or folder was flushed in between, wholly."""
        found = self.flushed.get(path, [])
        return any(after < begun and ended < before for begun, ended in found)


def _calls(lines: list[str]) -> list[Call]:
    begun: dict[str, tuple[int, str]] = {}
    found = []
    for number, line in enumerate(lines):
        if resumed := _RESUMED.match(line):
            first, rest = begun.pop(resumed["thread"])
            call = Call(resumed["call"], first, number, rest + resumed["rest"])
        elif match := _LINE.match(line):
            if match["rest"].endswith("<unfinished ...>"):
                cut = match["rest"].removesuffix("<unfinished ...>")
                begun[match["thread"]] = (number, cut)
                continue
            call = Call(match["call"], number, number, match["rest"])
        else:
            continue
        if not re.search(r"= -1 E\w+", call.text):
            found.append(call)
    return found


def _read(lines: list[str]) -> Trace:
    trace, paths = Trace(), {}
    for call in sorted(_calls(lines), key=lambda each: each.begun):
        fd = _FD.match(call.text)
        if call.name == "openat":
            opened = re.search(r"= (\d+)<([^>]*)>", call.text)
            if opened:
                paths[opened[1]] = opened[2]
        elif call.name in {"fsync", "fdatasync"} and fd:
            spans = trace.flushed.setdefault(fd["path"], [])
            spans.append((call.begun, call.ended))
        elif "write" in call.name and fd:
            trace.written.setdefault(fd["path"], []).append(call.begun)
            if saved := re.search(r'"event\\": \\"export.saved.*?', call.text):
                export = re.search(r"hq/(\d+)", call.text[saved.start() :])
                export = export or re.search(r"hq/(\d+)", call.text)
                assert export is not None, call.text
                trace.said[int(export[1])] = call.begun
        elif call.name.startswith(("link", "rename")):
            (old_folder, old), (folder, new) = (
                (match["folder"], match["name"]) for match in _AT.finditer(call.text)
            )
            by_fd = _FD_NAME.fullmatch(old)
            origin = paths[by_fd[1]] if by_fd else f"{old_folder}/{old}"
            trace.linked[f"{folder}/{new}"] = (origin, call)
    return trace


def _faults(trace: Trace, root: Path, state: Path) -> tuple[int, list[str]]:
    """Return how many files were judged, and what was out of order."""
    faults, judged = [], 0
    for final, (origin, call) in trace.linked.items():
        if not final.startswith(f"{root}/hq/"):
            continue
        judged += 1
        name = Path(final).name
        said = trace.said.get(int(name.split("-")[0]), -1)
        last = max(trace.written.get(origin, [-1]))
        if not trace.flushes(origin, after=last, before=call.begun):
            faults.append(f"{name}: not flushed between its last write and its name")
        folder = str(Path(final).parent)
        named = [
            (begun, ended)
            for begun, ended in trace.flushed.get(folder, [])
            if begun > call.ended
        ]
        if not named:
            faults.append(f"{name}: its folder was not flushed after it was named")
            continue
        wal = f"{state}/ledger.sqlite3-wal"
        if not trace.flushes(wal, after=min(e for _, e in named), before=said):
            faults.append(f"{name}: called saved before the ledger was flushed")
    return judged, faults


async def _traced(folder: Path, files: int, plant: str = "") -> tuple[int, list[str]]:
    """Run `once` under strace; return what was judged and what was out of order."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace, for the order of system calls")
    async with Vms(other_origin=False) as vms:
        mirror = CheckedMirror.make(folder, vms, None)  # type: ignore[arg-type]
        for _ in range(files):
            mirror.offer(vms.add(size=20_000))
        output = folder / "trace"
        with (folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *("strace", "-f", "-y", "-s", "400", "-e", f"trace={_TRACED}"),
                *("-o", output, sys.executable, "-m"),
                *("tests.proof.planted_bugs.plant", plant, "once"),
                *("-c", mirror.config(), "--log-format", "json"),
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[2],
            )
            code = await process.wait()
    said = (folder / "log").read_text()
    if code and "PTRACE" in said:
        pytest.skip("needs ptrace, for the order of system calls")
    assert code == 0, said[-2000:]
    lines = output.read_text("utf-8", "replace").splitlines()
    home = mirror.site.folder
    return _faults(_read(lines), mirror.site.archive, home / "state")


async def test_order_of_durability(tmp_path, figures: Figures):
    """File flushed, then named, then folder flushed, then ledger, then called saved."""
    files = 50
    judged, faults = await _traced(tmp_path, files)
    assert faults == []
    assert judged == 2 * files  # the files and their sidecars
    figures.record(4, files=files, renames_judged=judged, out_of_order=0)


@pytest.mark.parametrize(
    "plant", ["no_fsync", "no_folder_fsync", "no_ledger_fsync", "saved_first"]
)
async def test_a_planted_bug_shows_in_the_trace(tmp_path, plant):
    """A flush that is missing or late is out of order."""
    judged, faults = await _traced(tmp_path, 3, plant)
    assert judged
    assert faults
