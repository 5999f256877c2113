"""Row 15: whatever happens to the ledger is told, or does no harm; rebuild repairs it.

Harm is a claim that is not so, a kept file that changes, or footage that is called lost
while it lies on a target.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import stat
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from mirror.errors import LedgerError
from mirror.ledger import COMMITS_NAME, Ledger, checksums, rows
from mirror.ledger import database as databases
from mirror.simulator import Vms
from tests.proof.ledger_archive import REMEDY, SAVED, Archive, flip

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests.proof.figures import Figures


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with Vms(other_origin=False) as vms:
        yield await Archive.make(tmp_path, vms)


# --- bytes that changed -------------------------------------------------------


async def flips(
    archive: Archive, figures: Figures, rounds: Iterator[tuple[int, random.Random]]
) -> Counter[str]:
    """Flip a byte in each round; return what came of it, by verdict."""
    verdicts: Counter[str] = Counter()
    content = archive.ledger.read_bytes()
    for number, rng in rounds:
        where = f"seed {figures.seed}, round {number}"
        archive.ledger.write_bytes(flip(content, number, rng))
        verdict = await archive.met()
        verdicts[verdict] += 1
        if verdict == "harmful":
            verdicts[f"{where}: {archive.breaks[0]}"] += 1
        else:
            breaks = await archive.rebuilt(force=verdict == "harmless")
            assert breaks == [], where
        if verdict == "detected":
            archive.restore_state()
        else:
            archive.restore()
    return verdicts


@pytest.mark.timeout(600)
async def test_any_byte_of_the_ledger_may_change(archive: Archive, figures: Figures):
    verdicts = await flips(
        archive, figures, figures.rounds(short=60, long=1000, share=0.08)
    )

    assert verdicts["harmful"] == 0, verdicts
    assert verdicts["detected"] > verdicts["harmless"], verdicts
    figures.record(15, flips=verdicts.total(), **verdicts, rebuilt="100 %")


async def test_bytes_of_what_matters_may_change(archive: Archive, figures: Figures):
    """Digests, lengths, paths, states, times: SQLite gives them out as they read."""
    content = archive.ledger.read_bytes()
    rng = figures.round(0)
    saved = [one for one in archive.right.values() if one["state"] == "saved"]
    texts = [str(one["sha256"]) for one in saved] + [
        str(copy["path"]) for one in saved for copy in one["copies"]
    ]
    texts += [str(one["created_at"]) for one in saved]
    met: Counter[str] = Counter()
    most = len(texts) if figures.long else 20
    for text in rng.sample(texts, most):
        found = content.find(text.encode())
        assert found > 0, text
        offset = found + rng.randrange(len(text))
        damaged = bytearray(content)
        damaged[offset] = ord("0") if damaged[offset] != ord("0") else ord("1")
        archive.ledger.write_bytes(damaged)
        met[await archive.met()] += 1
        archive.restore_state()

    assert set(met) == {"detected"}, (met, archive.breaks)


def _see_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look neither at the whole ledger nor at a row that is read."""
    monkeypatch.setattr(checksums, "problem", lambda *_: None)
    monkeypatch.setattr(rows, "_sound", lambda row, _: row[1:])


def _see_structure_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask SQLite alone."""

    def problem(connection: sqlite3.Connection, _: sqlite3.Connection) -> str | None:
        said = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        return None if said == "ok" else said

    monkeypatch.setattr(checksums, "problem", problem)
    monkeypatch.setattr(rows, "_sound", lambda row, _: row[1:])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("plant", [_see_nothing, _see_structure_only])
async def test_a_planted_blindness_does_harm(
    archive: Archive, figures: Figures, monkeypatch: pytest.MonkeyPatch, plant: Any
):
    """The judgement above turns red when damage is not looked for."""
    content = archive.ledger.read_bytes()
    plant(monkeypatch)
    harmful = 0
    for number in range(400):
        rng = figures.round(number)
        archive.ledger.write_bytes(flip(content, 1, rng))
        with contextlib.suppress(Exception):
            harmful += await archive.met() == "harmful"
        archive.restore()
        if harmful:
            return
    raise AssertionError("no flip did harm")


# --- files that are cut, gone, or others --------------------------------------


def _lengths(size: int, rng: random.Random, number: int) -> list[int]:
    heads = [0, 1, 15, 16, 17, 50, 99, 100, 101, 511, 512, 513]
    pages = [page * 4096 + more for page in range(1, size // 4096) for more in (-1, 0)]
    return heads + rng.sample(pages, number) + rng.sample(range(size), number)


@pytest.mark.timeout(600)
async def test_the_ledger_may_be_cut_anywhere(archive: Archive, figures: Figures):
    """Cut to nothing it is as if there were none: told, and nothing wrong is said."""
    size = archive.ledger.stat().st_size
    met: Counter[str] = Counter()
    lengths = _lengths(size, figures.round(0), 60 if figures.long else 8)
    for length in lengths:
        os.truncate(archive.ledger, length)
        verdict = await archive.met(partly=not length)
        assert verdict == ("detected" if length else "harmless"), (
            length,
            archive.breaks,
        )
        met[verdict] += 1
        assert await archive.rebuilt(force=not length) == [], length
        archive.restore()
    figures.record(15, truncations=met.total(), **met, rebuilt="100 %")


def _no_database(archive: Archive) -> None:
    archive.ledger.write_bytes(b"this is no database\n" * 1000)


def _zeros(archive: Archive) -> None:
    archive.ledger.write_bytes(bytes(archive.ledger.stat().st_size))


def _one_page_of_zeros(archive: Archive) -> None:
    archive.ledger.write_bytes(bytes(4096))


def _of_another_program(archive: Archive) -> None:
    archive.ledger.unlink()
    with contextlib.closing(sqlite3.connect(archive.ledger)) as other:
        other.execute("CREATE TABLE exports (name TEXT)")


def _newer(archive: Archive) -> None:
    with contextlib.closing(sqlite3.connect(archive.ledger)) as ledger:
        ledger.execute("PRAGMA user_version = 99")


def _a_folder(archive: Archive) -> None:
    archive.ledger.unlink()
    archive.ledger.mkdir()


def _a_pipe(archive: Archive) -> None:
    archive.ledger.unlink()
    os.mkfifo(archive.ledger)


def _an_older_version_number(archive: Archive) -> None:
    with contextlib.closing(sqlite3.connect(archive.ledger)) as ledger:
        ledger.execute("PRAGMA user_version = 1")


_SPOILT = {
    _no_database: False,
    _zeros: False,
    _one_page_of_zeros: False,
    _of_another_program: False,
    _an_older_version_number: False,
    _newer: True,
    _a_folder: False,
    _a_pipe: False,
}
"""What is done to the ledger, and whether rebuild must be forced then."""


@pytest.mark.parametrize(
    ("spoil", "force"), _SPOILT.items(), ids=[one.__name__ for one in _SPOILT]
)
async def test_what_is_no_ledger_is_refused(
    archive: Archive, spoil: Callable[[Archive], None], force: bool
):
    """By the commands as people run them: exit 74, one line, no traceback."""
    spoil(archive)
    assert await archive.met() == "detected", archive.breaks
    for command in ("list", "once"):
        more = ["--json"] if command == "list" else []
        code, out, err = await by_command(archive, command, *more)
        assert (code, out) == (74, ""), (command, err)
        assert str(archive.ledger) in err and REMEDY in err, err
        assert "Traceback" not in err and err.count("\n") == 1, err
    assert await archive.rebuilt(force=force) == []
    assert await archive.met(partly=True) == "harmless", archive.breaks


async def by_command(archive: Archive, *options: str) -> tuple[int, str, str]:
    """Run the real command; return its exit code, stdout and stderr."""
    path = str(archive.site.folder / "archive-mirror.toml")
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mirror", "-c", path, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await running.communicate()
    return running.returncode or 0, out.decode(), err.decode()


async def test_a_ledger_that_is_gone_costs_nothing_that_is_kept(archive: Archive):
    """The mirror goes on, says so loudly, and calls nothing lost."""
    archive.ledger.unlink()
    code, _, err = await by_command(archive, "once", "--log-format", "json")
    told = {json.loads(line)["event"] for line in err.splitlines()}

    assert code == 3
    assert {"ledger.empty", "ledger.set_back"} <= told
    archive.restore_state()
    archive.ledger.unlink()
    assert await archive.met(partly=True) == "harmless", archive.breaks
    assert await archive.rebuilt(force=True) == []
    assert await archive.met(partly=True) == "harmless", archive.breaks


async def test_a_ledger_that_may_not_be_read_is_refused(archive: Archive):
    """As a user who may not; the text says whose it has to be."""
    archive.ledger.chmod(0)
    archive.remedy = "must belong to that user"
    with another_user(archive):
        assert await archive.met() == "detected", archive.breaks
        with pytest.raises(LedgerError, match="as the service's user"):
            Ledger.open(archive.ledger.parent)
        assert await archive.rebuilt(force=True) == []


@contextlib.contextmanager
def another_user(archive: Archive) -> Iterator[None]:
    """Work as somebody who owns all but the ledger, where we are root."""
    if os.geteuid() != 0:
        yield
        return
    nobody = 65534
    for folder in archive.folder.parents:
        with contextlib.suppress(PermissionError):
            if not stat.S_IMODE(folder.stat().st_mode) & 0o001:
                folder.chmod(0o711)
    for path in (archive.folder, *archive.folder.rglob("*")):
        if path != archive.ledger:
            os.chown(path, nobody, nobody)
    os.seteuid(nobody)
    try:
        yield
    finally:
        os.seteuid(0)


# --- a disk that is full ------------------------------------------------------


async def _do(*command: str | Path) -> None:
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
    _, said = await process.communicate()
    if process.returncode:
        raise OSError(f"{command[0]}: {said.decode()}")


@contextlib.asynccontextmanager
async def _small(path: Path, pages: int) -> AsyncIterator[None]:
    if os.geteuid() != 0:
        pytest.skip("needs root, for a file system of its own that is full")
    size = f"size={pages * 4096}"
    await _do("mount", "-t", "tmpfs", "-o", size, "none", path)
    try:
        yield
    finally:
        await _do("umount", path)


async def test_a_disk_full_in_a_migration_changes_nothing(
    archive: Archive, figures: Figures, monkeypatch: pytest.MonkeyPatch
):
    """At whichever page: told, and the ledger is as it was; with room it is done."""
    fill = "CREATE TABLE more (filler BLOB);\n"
    fill += "INSERT INTO more SELECT zeroblob(20000) FROM exports;\n"
    version = databases.newest() + 1
    scripts = [*databases.migrations(), (version, fill)]
    content = archive.ledger.read_bytes()
    state = archive.ledger.parent
    monkeypatch.setattr(databases, "migrations", lambda: scripts)
    met: Counter[str] = Counter()
    for pages in range(len(content) // 4096, 400, 2 if figures.long else 9):
        async with _small(state, pages):
            archive.ledger.write_bytes(content)
            with contextlib.suppress(OSError):
                (state / COMMITS_NAME).write_bytes(b"0\n")
            told = ""
            try:
                Ledger.open(state).close()
            except LedgerError as exc:
                told = str(exc)
            assert not told or ("full" in told and REMEDY in told), told
            met["detected" if told else "migrated"] += 1
            await _do("mount", "-o", f"remount,size={2000 * 4096}", "none", state)
            Ledger.open(state).close()
            with contextlib.closing(sqlite3.connect(archive.ledger)) as ledger:
                found = ledger.execute("PRAGMA user_version").fetchone()[0]
                saved = ledger.execute(
                    "SELECT count(*) FROM exports WHERE state = 'saved'"
                ).fetchone()[0]
            assert (found, saved) == (version, SAVED), pages
        if met["migrated"]:
            break
    assert met["detected"] > 3 and met["migrated"], met
    figures.record(15, disk_full_in_a_migration=met["detected"], harmful=0)
