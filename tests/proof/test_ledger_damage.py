"""Row 15: whatever happens to the ledger is told, or does no harm; rebuild repairs it.

Harm is a claim that is not so, a kept file that changes, or footage that is called lost
while it lies on a target.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mirror import sidecar
from mirror.app.rebuild import rebuild
from mirror.app.status import public_json
from mirror.errors import LedgerError
from mirror.ledger import COMMITS_NAME, LEDGER_NAME, Filter, Ledger, checksums, rows
from mirror.ledger import database as databases
from mirror.model import State
from mirror.pipeline.publish.already_kept import Recall
from mirror.simulator import Fault, Kind, Stage, Vms
from mirror.simulator.rows import stamp
from tests.proof.checker import Checker, Offered
from tests.proof.processes import Nursery
from tests.proof.processes import Stage as Theatre
from tests.proof.shim import Action, Shim, library
from tests.site import Site

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable, Iterator

    from mirror.simulator import Export as Served
    from tests.proof.figures import Effort

SIZE = 20_000
SAVED = 12
REMEDY = "archive-mirror rebuild"
_FACTS = (
    *("source", "id", "created_at", "state", "name", "camera_id", "stream_type"),
    *("footage_from", "footage_to", "first_seen", "deadline", "size_bytes", "sha256"),
)


@dataclass(slots=True)
class Archive:
    """A site whose ledger knows exports in many states, and what must come back.

    Attributes:
        right: What `list --json` shows of each export after one more run, by id.
        breaks: What harm was met, in words.
    """

    site: Site
    vms: Vms
    folder: Path
    checker: Checker
    right: dict[int, dict[str, Any]] = field(default_factory=dict)
    breaks: list[str] = field(default_factory=list)

    @property
    def ledger(self) -> Path:
        """Where the ledger lies."""
        return self.folder / "state" / LEDGER_NAME

    @property
    def _kept(self) -> Path:
        return self.folder.with_name("pristine")

    @classmethod
    async def make(cls, folder: Path, vms: Vms) -> Archive:
        """Let the real pipeline fill it; the VMS forgets half of what is saved."""
        home = folder / "home"
        home.mkdir()
        site = Site.make(home, vms)
        for target in ("nas", "usb"):
            site.tables["targets"][target] = {
                "type": "directory",
                "path": str(home / target),
                "layout": "{source}/{camera_id}/{id}",
            }
        checker = Checker({"nas": home / "nas", "usb": home / "usb"})
        made = cls(site, vms, home, checker)
        saved = [vms.add(size=SIZE, camera_id=n % 3) for n in range(SAVED)]
        vms.add(size=SIZE, stage=Stage.ASKED)
        lost = vms.add(size=SIZE)
        vms.script(lost, then=Fault(kind=Kind.STATUS, status=404))
        await site.once()
        for served in saved[::4]:
            vms.delete_file(served)
        for served in saved[1::4]:
            vms.remove_row(served)
        await site.once()
        for served in saved:
            checker.offer(offered(vms, served))
        shutil.copytree(home, made._kept)
        await site.once()
        made.right = {one["id"]: one for one in made.listed()}
        counts = Counter(one["state"] for one in made.right.values())
        assert counts == {"saved": SAVED, "waiting": 2}
        made.restore()
        return made

    def restore(self) -> None:
        """Put all back as it was, under the same paths."""
        shutil.rmtree(self.folder)
        shutil.copytree(self._kept, self.folder)

    def restore_state(self) -> None:
        """Put the ledger back."""
        shutil.rmtree(self.folder / "state")
        shutil.copytree(self._kept / "state", self.folder / "state")

    def listed(self) -> list[dict[str, Any]]:
        """Return what `list --json` shows."""
        state_dir = self.ledger.parent
        with Ledger.reading(state_dir, check=True) as ledger:
            return [
                public_json.export(*one) for one in ledger.queries.exports(Filter())
            ]

    def counts(self) -> dict[str, int]:
        """Return the counts that `status` shows, by state."""
        found: Counter[str] = Counter()
        with Ledger.reading(self.ledger.parent, check=True) as ledger:
            for (_, state), number in ledger.queries.counts().items():
                found[state] += number
        return dict(found)

    async def met(self, *, partly: bool = False) -> str:
        """Run `status`, `list`, `once`; return `detected`, `harmless` or `harmful`.

        Args:
            partly: The damage may take away what was done last, so that less is known;
                nothing wrong may be said all the same.
        """
        self.breaks, told = [], 0
        for ask in (self.counts, self.listed):
            try:
                ask()
            except LedgerError as exc:
                told += 1
                self._judge_text(str(exc))
        try:
            await self.site.once()
        except LedgerError as exc:
            self._judge_text(str(exc))
            # Before `once` a ledger of no length reads as an empty one, as it must.
            if told != 2:
                self.breaks.append("`once` refuses a ledger that `status` believes")
        else:
            if told:
                self.breaks.append("`once` takes a ledger that `status` refuses")
            self._judge_claims(partly=partly)
        self.checker.breaks.clear()
        self.checker.look()
        self.breaks += self.checker.breaks
        if self.breaks:
            return "harmful"
        return "detected" if told else "harmless"

    async def rebuilt(self, *, force: bool = False) -> list[str]:
        """Rebuild; return what of the saved exports did not come back as it was."""
        settings = self.site.settings()
        done = await rebuild.run(
            settings,
            targets=list(settings.targets),
            force=force,
            told=lambda _: None,
            watch=lambda _: None,
        )
        breaks = [] if done.aside is None or done.aside.exists() else ["not aside"]
        found = {one["id"]: one for one in self.listed()}
        for number, right in self.right.items():
            if right["state"] == "saved":
                breaks += _differences(right, found.get(number), fetched=True)
        self.checker.breaks.clear()
        self.checker.look()
        return breaks + self.checker.breaks

    def _judge_text(self, text: str) -> None:
        if str(self.ledger) not in text or REMEDY not in text:
            self.breaks.append(f"the text names not both file and remedy: {text}")

    def _judge_claims(self, *, partly: bool) -> None:
        found = {one["id"]: one for one in self.listed()}
        for number, right in self.right.items():
            now = found.pop(number, None)
            if not partly:
                self.breaks += _differences(right, now)
            elif now is not None and now["state"] == "saved":
                self.breaks += _differences(right, now, fetched=True)
            elif now is not None and now["state"] in {"lost", "damaged"}:
                self.breaks.append(f"hq/{number} is {now['state']}")
        self.breaks += [f"hq/{number} was never listed" for number in found]


def _differences(
    right: dict[str, Any], found: dict[str, Any] | None, *, fetched: bool = False
) -> list[str]:
    """Return which facts of an export are not as they should be.

    Args:
        right: As they should be.
        found: As they are.
        fetched: Only those that a fetch leaves the same if it is done once more.
    """
    label = f"hq/{right['id']}"
    if found is None:
        return [f"{label} is not known"]
    names = [n for n in _FACTS if not (fetched and n in {"first_seen", "deadline"})]
    wrong = [
        f"{label}: {name} is {found[name]!r}, not {right[name]!r}"
        for name in names
        if found[name] != right[name]
    ]
    places = [
        sorted((one["target"], one["state"], one["path"]) for one in row["copies"])
        for row in (right, found)
    ]
    if places[0] != places[1]:
        wrong.append(f"{label}: its copies are {places[1]}, not {places[0]}")
    return wrong


def offered(vms: Vms, served: Served) -> Offered:
    """Return what the checker is told of an export."""
    truth = vms.truth(served)
    return Offered(
        source="hq",
        export_id=served.export_id,
        created_at=stamp(served.created_at),
        hashes=frozenset(sha256 for _, sha256 in truth.versions),
    )


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with Vms(other_origin=False) as vms:
        yield await Archive.make(tmp_path, vms)


# --- bytes that changed -------------------------------------------------------


def flip(content: bytes, number: int, rng: random.Random) -> bytes:
    """Change one byte: any, or one that is not zero, which is likely in use."""
    found = bytearray(content)
    offset = rng.randrange(len(found))
    while number % 2 and not found[offset]:
        offset = rng.randrange(len(found))
    found[offset] ^= rng.randrange(1, 256) if number % 3 else 1 << rng.randrange(8)
    return bytes(found)


async def flips(
    archive: Archive, effort: Effort, rounds: Iterator[tuple[int, random.Random]]
) -> Counter[str]:
    """Flip a byte in each round; return what came of it, by verdict."""
    verdicts: Counter[str] = Counter()
    content = archive.ledger.read_bytes()
    for number, rng in rounds:
        where = f"seed {effort.seed}, round {number}"
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
async def test_any_byte_of_the_ledger_may_change(archive: Archive, effort: Effort):
    verdicts = await flips(
        archive, effort, effort.rounds(short=60, long=1000, share=0.08)
    )

    assert verdicts["harmful"] == 0, verdicts
    assert verdicts["detected"] > verdicts["harmless"], verdicts
    effort.record(15, flips=verdicts.total(), **verdicts, rebuilt="100 %")


async def test_bytes_of_what_matters_may_change(archive: Archive, effort: Effort):
    """Digests, lengths, paths, states, times: SQLite gives them out as they read."""
    content = archive.ledger.read_bytes()
    rng = effort.round(0)
    saved = [one for one in archive.right.values() if one["state"] == "saved"]
    texts = [str(one["sha256"]) for one in saved] + [
        str(copy["path"]) for one in saved for copy in one["copies"]
    ]
    texts += [str(one["created_at"]) for one in saved]
    met: Counter[str] = Counter()
    for text in rng.sample(texts, 60 if effort.long else 20):
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
    archive: Archive, effort: Effort, monkeypatch: pytest.MonkeyPatch, plant: Any
):
    """The judgement above turns red when damage is not looked for."""
    content = archive.ledger.read_bytes()
    plant(monkeypatch)
    harmful = 0
    for number in range(40):
        rng = effort.round(number)
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
async def test_the_ledger_may_be_cut_anywhere(archive: Archive, effort: Effort):
    """Cut to nothing it is as if there were none: told, and nothing wrong is said."""
    size = archive.ledger.stat().st_size
    met: Counter[str] = Counter()
    lengths = _lengths(size, effort.round(0), 60 if effort.long else 8)
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
    effort.record(15, truncations=met.total(), **met, rebuilt="100 %")


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
    archive: Archive, effort: Effort, monkeypatch: pytest.MonkeyPatch
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
    for pages in range(len(content) // 4096, 400, 2 if effort.long else 9):
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
    effort.record(15, disk_full_in_a_migration=met["detected"], harmful=0)


# --- commits that are gone ----------------------------------------------------


@dataclass(slots=True)
class SetBack:
    """A service that was killed with all it had just done in the -wal file.

    Attributes:
        known: Exports that the ledger itself knows as ready.
        unknown: Exports that only the -wal file knows of.
    """

    theatre: Theatre
    known: list[Served]
    unknown: list[Served]

    @property
    def ledger(self) -> Path:
        """Where the ledger lies."""
        return self.theatre.site.settings().state_dir / LEDGER_NAME

    @property
    def log(self) -> Path:
        """Where its -wal file lies."""
        return self.ledger.with_name(f"{LEDGER_NAME}-wal")

    @classmethod
    async def make(cls, folder: Path, vms: Vms, nursery: Nursery) -> SetBack:
        """Bring it about; all is saved, half of it is gone from the VMS then."""
        theatre = Theatre.make(folder, vms, nursery, file_lifetime="1s")
        theatre.add_target("vault")
        made = cls(theatre, [], [])
        for _ in range(4):
            made.known.append(theatre.offer(vms.add(size=SIZE)))
        async with theatre.site.engine() as engine:
            await engine.listers["hq"].once(1)
        for _ in range(4):
            made.unknown.append(theatre.offer(vms.add(size=SIZE)))
        child = await theatre.start("run")

        def saved() -> int:
            events = child.events() if child.err.exists() else []
            return sum(each["event"] == "export.saved" for each in events)

        await theatre.site.until(lambda: saved() == 8, 60)
        await child.kill()
        assert made.log.stat().st_size
        for served in (*made.known[:2], *made.unknown[:2]):
            vms.delete_file(served)
        for served in (made.known[2], made.unknown[2]):
            vms.remove_row(served)
        theatre.hear(child)
        return made

    async def walk_on(self) -> set[str]:
        """Let a service run for many walks; return the errors it told of."""
        asked = self.theatre.vms.journal.counters["requests"]
        child = await self.theatre.start("run")
        await self.theatre.site.until(
            lambda: self.theatre.vms.journal.counters["requests"] > asked + 25, 60
        )
        await child.stop()
        return {e["event"] for e in child.events() if e.get("level") == "error"}

    async def states(self) -> dict[int, str]:
        """Return the state of each export, by id."""
        return {one["id"]: one["state"] for one in await self.theatre.listed()}


async def test_a_log_that_is_deleted_after_a_kill_is_told(tmp_path, effort: Effort):
    """SQLite does not notice. Nothing kept is called lost, and rebuild finds all."""
    async with Vms(other_origin=False) as vms, Nursery.open() as nursery:
        made = await SetBack.make(tmp_path, vms, nursery)
        made.log.unlink()
        made.log.with_name(f"{LEDGER_NAME}-shm").unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(made.ledger)) as ledger:
            said = ledger.execute("PRAGMA integrity_check").fetchone()[0]
        told = await made.walk_on()
        states = await made.states()
        made.theatre.checker.look()

        assert said == "ok"
        assert "ledger.set_back" in told
        assert "export.lost" not in told
        assert {states[one.export_id] for one in made.known} == {"saved"}
        assert "lost" not in states.values()
        rebuilt = await made.theatre.run("rebuild", "--force")
        assert rebuilt.code.result() == 0, rebuilt.err.read_text()
        await made.theatre.settle()
        assert made.theatre.checker.breaks == []
    effort.record(15, log_deleted="told", called_lost=0, rebuilt="100 %")


async def test_a_byte_of_the_log_may_change(tmp_path, effort: Effort):
    """What SQLite drops of it is told; what it keeps is right."""
    async with Vms(other_origin=False) as vms, Nursery.open() as nursery:
        made = await SetBack.make(tmp_path, vms, nursery)
    log, state, met = made.log.read_bytes(), made.ledger.parent, Counter[str]()
    shutil.copytree(state, tmp_path / "kept")
    for number, rng in effort.rounds(short=40, long=1000, share=0.02):
        shutil.rmtree(state)
        shutil.copytree(tmp_path / "kept", state)
        made.log.write_bytes(flip(log, number, rng))
        with contextlib.closing(Ledger.open(state)) as ledger:
            saved = ledger.queries.counts().get(("hq", "saved"), 0)
            lost = ledger.lost_commits
        assert saved == 8 or lost, f"seed {effort.seed}, round {number}"
        met["told" if lost else "harmless"] += 1
    assert met["told"] > met["harmless"], met
    effort.record(15, flips_in_the_log=met.total(), **met)


async def test_without_a_look_at_the_targets_it_does_harm(tmp_path):
    """The judgement above turns red if what is kept is not looked for."""
    async with Vms(other_origin=False) as vms, Nursery.open() as nursery:
        made = await SetBack.make(tmp_path, vms, nursery)
        made.log.unlink()
        with pytest.MonkeyPatch.context() as patched:

            async def blind(_: Recall, __: str) -> None:
                """Find nothing."""

            patched.setattr(Recall, "vanishing", blind)
            async with made.theatre.site.service():
                await made.theatre.site.until_state(made.known[0], State.LOST)


@pytest.mark.parametrize(
    ("closer", "number"),
    [
        ([], "kept"),
        (["status"], "kept"),
        (["retry", "--state", "saved"], "kept"),
        ([], "gone"),
        ([], "old"),
        ([], "garbage"),
    ],
)
async def test_no_false_alarm_after_a_kill(tmp_path, closer, number):
    """Whoever closes the ledger last, whatever a power failure left of the number."""
    async with Vms(other_origin=False) as vms, Nursery.open() as nursery:
        made = await SetBack.make(tmp_path, vms, nursery)
        last = made.ledger.with_name(COMMITS_NAME)
        match number:
            case "gone":
                last.unlink()
            case "old":
                last.write_bytes(b"00000000000000000003\n")
            case "garbage":
                last.write_bytes(bytes(21))
        if closer:
            done = await made.theatre.run(*closer)
            assert done.code.result() == 0
            assert not made.log.exists() or not made.log.stat().st_size
        told = await made.walk_on()

        assert told == set()
        assert set((await made.states()).values()) == {"saved"}


# --- rebuild ------------------------------------------------------------------


@pytest.mark.timeout(600)
async def test_a_rebuild_may_be_killed_at_any_call(archive: Archive, effort: Effort):
    """There is the old ledger or the new one, and the next rebuild completes."""
    states = archive.ledger.parent
    shim = Shim(archive.folder.with_name("shim"), states)
    logs = archive.folder.with_name("logs")
    logs.mkdir()
    archive.site.settings()
    config = str(archive.site.folder / "archive-mirror.toml")
    met: Counter[str] = Counter()
    async with Nursery.open(preload=library()) as nursery:

        async def rebuild(at: int) -> bool:
            shim.set(Action.KILL_BEFORE, at=at)
            child = await nursery.run(
                *("rebuild", "--force", "-c", config),
                folder=logs,
                env={"PROOF_SHIM": str(shim.path)},
            )
            assert child.code.result() in {0, -9}, child.err.read_text()
            return child.code.result() == -9

        assert not await rebuild(1 << 40)
        calls = shim.count
        assert calls > 50
        tried = list(range(1, calls + 1))
        if not effort.long:
            tried = sorted({*effort.round(0).sample(tried, 6), *tried[-6:]})
        for at in tried:
            archive.restore_state()
            before = archive.listed()
            if not await rebuild(at):
                break
            after = archive.listed()
            met["old" if after == before else "new"] += 1
            wrong = [
                each
                for right, now in zip(before, after, strict=True)
                for each in _differences(right, now)
            ]
            assert wrong == [], f"seed {effort.seed}, killed before call {at}"
            assert await archive.rebuilt(force=True) == [], at
            assert not (states / "rebuilding").exists()
    assert met["old"] and met["new"], met
    effort.record(15, rebuild_killed_at=met.total(), **met)


async def test_a_rebuild_that_trusts_sidecars_is_caught(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
):
    """The judgement of claims turns red if files are not looked at."""
    gone = next(archive.checker.roots["nas"].rglob("*.mp4"))
    twin = archive.checker.roots["usb"] / gone.relative_to(archive.checker.roots["nas"])
    gone.unlink()
    twin.unlink()

    async def claimed() -> list[str]:
        archive.ledger.unlink(missing_ok=True)
        await archive.rebuilt()
        checker = Checker(archive.checker.roots)
        listed = archive.listed()
        for each in archive.checker._all():
            checker.offer(each)
        checker.settle([one for one in listed if one["state"] == "saved"])
        return [one for one in checker.breaks if "is called saved" in one]

    assert await claimed() == []
    monkeypatch.setattr(sidecar, "is_whole", lambda *_: True)
    assert await claimed() != []


async def test_a_rebuild_takes_little_memory(tmp_path, effort: Effort):
    """However many sidecars there are."""
    number = 100_000 if effort.long else 2000
    async with Vms(other_origin=False) as vms:
        site = Site.make(tmp_path, vms)
        site.tables["targets"]["nas"]["layout"] = "{source}/{id}"
        served = vms.add(size=SIZE)
        await site.once()
    media = site.archive / f"hq/{served.export_id}.mp4"
    record = json.loads(Path(f"{media}.json").read_bytes())
    config = site.folder / "archive-mirror.toml"
    peaks = []
    for first, last in ((10_000, 10_100), (20_000, 20_000 + number)):
        for one in range(first, last):
            folder = site.archive / f"more/{one // 1000}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{one}.mp4").write_bytes(b"x")
            (folder / f"{one}.mp4.json").write_text(
                json.dumps(record | {"id": one, "size_bytes": 1, "item": {"id": one}})
            )
        (site.settings().state_dir / LEDGER_NAME).unlink()
        peaks.append(await _peak_bytes("-c", str(config), "rebuild"))
        assert len(site.exports()) == 1 + 100 + (last - first) * (first > 10_000)

    assert peaks[1] - peaks[0] < 24 * 2**20
    effort.record(15, sidecars=number, memory_mib=round(peaks[1] / 2**20, 1))


async def _peak_bytes(*arguments: str) -> int:
    """Run a command; return the most memory that it ever had."""

    def run() -> int:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "mirror", *arguments],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
        )
        _, status, usage = os.wait4(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        return usage.ru_maxrss * 1024

    return await asyncio.to_thread(run)
