"""The hook: what the command of `on_event` is told, and that nothing waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from mirror.app.notify import hook
from mirror.ledger import Ledger, LedgerThread
from mirror.metrics import Metrics
from mirror.model import State
from mirror.simulator import Vms
from tests.afternoon import HandmadeSite
from tests.site import Site, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(hook, "LOOK_S", 0.05)


@pytest.fixture
async def vms():
    async with Vms() as vms:
        yield vms


def script(folder: Path, text: str) -> list[str]:
    """Return a command that is told of events and keeps notes in `folder`/told."""
    path = folder / "tell"
    path.write_text(f"#!/bin/sh\ncd {folder}\n{text}\n")
    path.chmod(0o755)
    return [str(path), "an argument; of two words"]


def noted(folder: Path) -> list[dict[str, Any]]:
    """Return what it was told."""
    return [json.loads(line) for line in (folder / "told").read_text().splitlines()]


async def test_each_change_is_told_once(tmp_path, vms):
    """Of exports, sources and targets; the command gets its words as they are."""
    notes = tmp_path / "notes"
    notes.mkdir()
    site = Site.make(tmp_path, vms, file_lifetime="1s")
    # Each line in one write: several commands run at once, and the last may be killed.
    words = 'echo "$1" > word.$$; printf "%s\\n" "$(cat)" >> told'
    site.tables["on_event"] = script(notes, words)
    async with site.service():
        kept = vms.add(size=20_000)
        await site.until_state(kept, State.SAVED)
        await site.lose_one(vms)
        vms.token = "another"
        await site.until(lambda: "source.lost" in (notes / "told").read_text())
        (tmp_path / "token").write_text("another")
        await site.until(lambda: len(noted(notes)) >= 4)
    told = noted(notes)

    assert sorted(one["event"] for one in told) == [
        "export.lost",
        "export.saved",
        "source.lost",
        "source.recovered",
    ]
    saved = next(one for one in told if one["event"] == "export.saved")
    assert saved["export"]["id"] == kept.export_id
    assert saved["export"]["state"] == "saved"
    assert saved["at"][:3] == "202"
    refused = next(one for one in told if one["event"] == "source.lost")
    assert refused["source"] == "hq"
    assert "token" in refused["problem"]
    given = {path.read_text() for path in notes.glob("word.*")}
    assert given == {"an argument; of two words\n"}


async def test_nothing_is_noted_that_nobody_wants(tmp_path, vms):
    site = Site.make(tmp_path, vms)
    async with site.service():
        await site.until_state(vms.add(size=20_000), State.SAVED)
        with Ledger.reading(site.settings().state_dir, check=False) as ledger:
            assert ledger.events.take(9) == []


@contextlib.asynccontextmanager
async def teller(
    folder: Path, command: list[str]
) -> AsyncIterator[tuple[LedgerThread, Callable[[str], float]]]:
    """Run a teller on a ledger of its own; give the ledger, and the counts."""
    site = HandmadeSite.make(folder)
    ledger = LedgerThread(site.ledger)
    metrics = Metrics(CollectorRegistry())
    await ledger(lambda opened: opened.node_id(1))
    running = asyncio.create_task(
        hook.EventHook(command, ledger=ledger, metrics=metrics).run()
    )

    def count(outcome: str) -> float:
        name = "archive_mirror_events_total"
        return metrics.registry.get_sample_value(name, {"outcome": outcome}) or 0

    try:
        await asyncio.sleep(0)  # it listens first
        yield ledger, count
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await ledger.close()


def happen(ledger: Ledger, times: int) -> None:
    """Have a target come and go."""
    for number in range(times):
        problem = None if number % 2 else "away"
        ledger.targets.checked(
            "nas", marker_id="m", free_bytes=1, problem=problem, now_us=number
        )


async def test_a_command_that_hangs_is_killed_with_all_it_started(
    tmp_path, monkeypatch
):
    """Few run at once, and at the time-out none is left."""
    monkeypatch.setattr(hook, "LIMIT_S", 3.0)
    command = script(tmp_path, "sleep 600 & echo $! >> children; sleep 600")

    def alive() -> list[str]:
        path = tmp_path / "children"
        pids = path.read_text().split() if path.exists() else []
        return [one for one in pids if _lives(int(one))]

    async with teller(tmp_path, command) as (ledger, count):
        with capture_logs() as logs:
            await ledger(happen, hook.AT_ONCE + 1)
            most = 0

            def ended() -> bool:
                nonlocal most
                now = len(alive())
                if not count("failed"):
                    most = max(most, now)
                return count("failed") == hook.AT_ONCE + 1

            await until(ended)
            assert most == hook.AT_ONCE
        await until(lambda: not alive())
    assert [one["event"] for one in logs].count("event.failed") == 1
    assert "killed" in logs[0]["error"]


async def test_a_stop_kills_what_runs(tmp_path):
    command = script(tmp_path, "echo $$ > pid; exec sleep 600")
    async with teller(tmp_path, command) as (ledger, _count):
        await ledger(happen, 1)
        await until((tmp_path / "pid").exists)
        await until(lambda: (tmp_path / "pid").read_text().strip())
        pid = int((tmp_path / "pid").read_text())
        assert _lives(pid)
    assert not _lives(pid)


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


async def test_what_is_too_much_is_dropped_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(hook, "WAITING", 5)
    command = script(tmp_path, "sleep 1; cat >> told")
    async with teller(tmp_path, command) as (ledger, count):
        with capture_logs() as logs:
            await ledger(happen, 30)
            await until(lambda: count("told") + count("dropped") == 30)
        assert count("dropped") > 15
        assert count("failed") == 0
    assert any(one["event"] == "events.dropped" for one in logs)


async def test_a_command_that_is_not_there_is_told_of_once(tmp_path):
    async with teller(tmp_path, [str(tmp_path / "nowhere")]) as (ledger, count):
        with capture_logs() as logs:
            await ledger(happen, 7)
            await until(lambda: count("failed") == 7)
    assert [one["event"] for one in logs] == ["event.failed"]
    assert "nowhere" in logs[0]["error"]
