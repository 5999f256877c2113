"""Row 15: commits that are gone are told; nothing kept is called lost."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from mirror.ledger import COMMITS_NAME, LEDGER_NAME, Ledger
from mirror.model import State
from mirror.pipeline.publish.already_kept import AlreadyKept
from mirror.simulator import Vms
from tests.proof.ledger_archive import SIZE, flip
from tests.proof.processes import CheckedMirror as Theatre
from tests.proof.processes import Processes

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.simulator import Export as Served
    from tests.proof.figures import Figures


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
    async def make(cls, folder: Path, vms: Vms, processes: Processes) -> SetBack:
        """Bring it about; all is saved, half of it is gone from the VMS then."""
        theatre = Theatre.make(folder, vms, processes, file_lifetime="1s")
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


async def test_a_log_that_is_deleted_after_a_kill_is_told(tmp_path, figures: Figures):
    """SQLite does not notice. Nothing kept is called lost, and rebuild finds all."""
    async with Vms(other_origin=False) as vms, Processes.open() as processes:
        made = await SetBack.make(tmp_path, vms, processes)
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
    figures.record(15, log_deleted="told", called_lost=0, rebuilt="100 %")


async def test_a_byte_of_the_log_may_change(tmp_path, figures: Figures):
    """What SQLite drops of it is told; what it keeps is right."""
    async with Vms(other_origin=False) as vms, Processes.open() as processes:
        made = await SetBack.make(tmp_path, vms, processes)
    log, state, met = made.log.read_bytes(), made.ledger.parent, Counter[str]()
    shutil.copytree(state, tmp_path / "kept")
    for number, rng in figures.rounds(short=40, long=1000, share=0.02):
        shutil.rmtree(state)
        shutil.copytree(tmp_path / "kept", state)
        made.log.write_bytes(flip(log, number, rng))
        with contextlib.closing(Ledger.open(state)) as ledger:
            saved = ledger.queries.counts().get(("hq", "saved"), 0)
            lost = ledger.lost_commits
        assert saved == 8 or lost, f"seed {figures.seed}, round {number}"
        met["told" if lost else "harmless"] += 1
    assert met["told"] > met["harmless"], met
    figures.record(15, flips_in_the_log=met.total(), **met)


async def test_without_a_look_at_the_targets_it_does_harm(tmp_path):
    """The judgement above turns red if what is kept is not looked for."""
    async with Vms(other_origin=False) as vms, Processes.open() as processes:
        made = await SetBack.make(tmp_path, vms, processes)
        made.log.unlink()
        with pytest.MonkeyPatch.context() as patched:

            async def blind(*_: object) -> None:
                """Find nothing."""

            patched.setattr(AlreadyKept, "_path_on", blind)
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
    async with Vms(other_origin=False) as vms, Processes.open() as processes:
        made = await SetBack.make(tmp_path, vms, processes)
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
