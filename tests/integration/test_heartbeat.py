"""The heartbeat: whom it asks, when, what it tells, and that nothing waits for it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from mirror.app.notify import heartbeat
from mirror.ledger import LedgerThread
from mirror.model import State
from mirror.simulator import Vms
from tests.afternoon import MINUTE, HandmadeSite
from tests.site import Site, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.1)


@pytest.fixture
async def vms():
    async with Vms() as vms:
        yield vms


async def still(count: Callable[[], int]) -> None:
    """Wait until a count stays as it is for many beats."""
    async with asyncio.timeout(60):
        while True:
            seen = count()
            await asyncio.sleep(0.6)
            if count() == seen:
                return


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
                await site.lose_one(vms)
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
    site = HandmadeSite.make(tmp_path)
    reader = LedgerThread(site.ledger)
    async with watcher.served() as url:
        path = tmp_path / "archive-mirror.toml"
        path.write_text(f'heartbeat_url = "{url}/all"\n{path.read_text()}')
        settings = site.settings.__class__.model_validate(
            {**dict(site.settings), "heartbeat_url": f"{url}/all"}
        )
        watcher.status = 503
        beats = heartbeat.Heartbeats(settings, reader=reader, secret=lambda _: None)
        running = asyncio.create_task(beats.run())
        await asyncio.sleep(0)  # it asks for the losses first
        await reader(
            lambda _: site.add("hq", State.LOST, made_us=5 * MINUTE, reason="expired")
        )
        await until(lambda: watcher.asked.count("/all/fail") > 2)
        watcher.status = 200
        await still(lambda: watcher.asked.count("/all/fail"))
        assert set(watcher.asked) == {"/all/fail"}
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    await reader.close()
