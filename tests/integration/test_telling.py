"""`on_event` and `heartbeat_url`: what is told, when, and that nothing waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from mirror.app.notify import heartbeat, hook
from mirror.ledger import LedgerThread
from mirror.metrics import Metrics
from mirror.model import State
from mirror.simulator import Vms
from tests.afternoon import MINUTE, Scene
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mirror.ledger import Ledger


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(hook, "LOOK_S", 0.05)
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.1)


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


async def lose(site: Site, vms: Vms) -> None:
    await site.until(site.swept)
    gone = vms.add(then="status_404")
    await site.until(lambda: bool(vms.file_requests(gone)))
    vms.delete_file(gone)
    await site.until_state(gone, State.LOST)


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
        await lose(site, vms)
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
    async with site.service() as service:
        await site.until_state(vms.add(size=20_000), State.SAVED)
        assert service._ground is not None
        assert await service._ground.ledger(lambda ledger: ledger.events.take(9)) == []


@contextlib.asynccontextmanager
async def teller(
    folder: Path, command: list[str]
) -> AsyncIterator[tuple[LedgerThread, Callable[[str], float]]]:
    """Run a teller on a ledger of its own; give the ledger, and the counts."""
    scene = Scene.make(folder)
    ledger = LedgerThread(scene.ledger)
    metrics = Metrics(CollectorRegistry())
    await ledger(lambda opened: opened.node_id(1))
    running = asyncio.create_task(
        hook.Teller(command, ledger=ledger, metrics=metrics).run()
    )

    def count(outcome: str) -> float:
        name = "archive_mirror_events_total"
        return metrics.registry.get_sample_value(name, {"outcome": outcome}) or 0

    try:
        await asyncio.sleep(0.2)
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


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


async def still(count: Callable[[], int]) -> None:
    """Wait until a count stays as it is for many beats."""
    async with asyncio.timeout(60):
        while True:
            seen = count()
            await asyncio.sleep(0.6)
            if count() == seen:
                return


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
            await until(lambda: len(alive()) == hook.AT_ONCE)
            await asyncio.sleep(0.5)
            assert len(alive()) == hook.AT_ONCE
            await until(lambda: count("failed") == hook.AT_ONCE + 1)
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


class Watcher:
    """A service that waits for heartbeats."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.status = 200
        self.hangs = False

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        self.asked.append(request.path_qs)
        if self.hangs:
            await asyncio.sleep(60)
        return web.Response(status=self.status)

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        server = web.Server(self)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


async def test_a_heartbeat_while_fresh_and_fail_once_on_a_loss(tmp_path, vms):
    watcher = Watcher()
    async with watcher.served() as url:
        site = Site.make(
            tmp_path, vms, file_lifetime="1s", heartbeat_url=f"{url}/secret-hq?k=v"
        )
        site.tables["heartbeat_url"] = f"{url}/secret-all"
        with capture_logs() as logs:
            async with site.service():
                await site.until(lambda: len(set(watcher.asked)) == 2)
                await lose(site, vms)
                await site.until(lambda: len(set(watcher.asked)) == 4)
                before = len(watcher.asked)
                await site.until(lambda: len(watcher.asked) > before + 12)
                assert watcher.asked.count("/secret-hq/fail?k=v") == 1
                assert watcher.asked.count("/secret-all/fail") == 1

                vms.token = "another"
                await site.until(lambda: any("source.lost" in str(x) for x in logs))
                await still(lambda: len(watcher.asked))
    assert "secret" not in str(logs)


async def test_a_watcher_that_hangs_or_fails_delays_nothing(tmp_path, vms):
    watcher = Watcher()
    watcher.hangs = True
    async with watcher.served() as url:
        site = Site.make(tmp_path, vms)
        site.tables["heartbeat_url"] = f"{url}/secret"
        async with site.service():
            await site.until(lambda: bool(watcher.asked))
            await site.until_state(vms.add(size=20_000), State.SAVED)
        watcher.hangs, watcher.status = False, 500
        watcher.asked.clear()
        with capture_logs() as logs:
            async with site.service():
                await site.until(lambda: len(watcher.asked) > 5)
                watcher.status = 200
                await site.until(
                    lambda: any(one["event"] == "heartbeat.recovered" for one in logs)
                )
    failed = [one for one in logs if one["event"] == "heartbeat.failed"]
    assert [one["error"] for one in failed] == ["it answers 500"]
    assert "secret" not in str(logs)


async def test_a_fail_that_is_not_heard_is_said_again(tmp_path):
    watcher = Watcher()
    scene = Scene.make(tmp_path)
    reader = LedgerThread(scene.ledger)
    async with watcher.served() as url:
        path = tmp_path / "archive-mirror.toml"
        path.write_text(f'heartbeat_url = "{url}/all"\n{path.read_text()}')
        settings = scene.settings.__class__.model_validate(
            {**dict(scene.settings), "heartbeat_url": f"{url}/all"}
        )
        watcher.status = 503
        beats = heartbeat.Heartbeats(settings, reader=reader, secret=lambda _: None)
        running = asyncio.create_task(beats.run())
        await asyncio.sleep(0.3)
        await reader(
            lambda _: scene.add("hq", State.LOST, made_us=5 * MINUTE, reason="expired")
        )
        await until(lambda: watcher.asked.count("/all/fail") > 2)
        watcher.status = 200
        await still(lambda: watcher.asked.count("/all/fail"))
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    await reader.close()
