"""The real Prometheus and Alertmanager, watching the services of a test.

They run with the rules and settings of `deploy/prometheus/`, in a copy in which all
durations are 60 times shorter: a minute there is a second here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

DEPLOY = Path(__file__).parents[1] / "deploy"
FASTER = 60
_ALERTMANAGER = ("prometheus-alertmanager", "alertmanager")
_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(
    r"(?P<before>\[|\boffset |\bfor: |_(?:interval|wait): )"
    r"(?P<number>\d+)(?P<unit>[smhd])\b"
)


def need(*programs: str) -> str:
    """Return the path of the first program there is, or skip the test."""
    for program in programs:
        if path := shutil.which(program):
            return path
    pytest.skip(f"needs {programs[0]}: apt install prometheus prometheus-alertmanager")


def faster(text: str, *, pace: int = FASTER) -> str:
    """Return rules or settings with every duration so many times shorter."""

    def shorter(duration: re.Match[str]) -> str:
        whole_ms = int(duration["number"]) * _UNITS_MS[duration["unit"]]
        return f"{duration['before']}{whole_ms // pace}ms"

    return _DURATION.sub(shorter, text)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Monitors:
    """Both programs, and the messages that Alertmanager sends.

    Attributes:
        messages: What came to each receiver: (name, the webhook's JSON).
    """

    client: aiohttp.ClientSession
    prometheus: str
    alertmanager: str
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def alerts(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return what Alertmanager has, by (name, instance and what is meant)."""
        alerts = await self._get(f"{self.alertmanager}/api/v2/alerts")
        return {(each["labels"]["alertname"], _about(each)): each for each in alerts}

    async def rules(self) -> list[dict[str, Any]]:
        """Return all rules as Prometheus has them."""
        answer = await self._get(f"{self.prometheus}/api/v1/rules")
        return [rule for group in answer["data"]["groups"] for rule in group["rules"]]

    async def ask(self, expr: str, **more: str) -> list[dict[str, Any]]:
        """Return the series an expression gives, over a range if one is given."""
        path = "query_range" if "start" in more else "query"
        url = f"{self.prometheus}/api/v1/{path}"
        answer = await self._get(url, query=expr, **more)
        assert answer["status"] == "success", (expr, answer)
        return list(answer["data"]["result"])

    async def _get(self, url: str, **params: str) -> Any:
        async with self.client.get(url, params=params) as answer:
            return await answer.json()


def _about(alert: dict[str, Any]) -> str:
    labels = alert["labels"]
    parts = (labels.get(name) for name in ("instance", "source", "target"))
    return "/".join(part for part in parts if part)


@contextlib.asynccontextmanager
async def watching(
    folder: Path, addresses: Sequence[str], *, pace: int = FASTER
) -> AsyncIterator[Monitors]:
    """Run both programs, watching services at these addresses."""
    prometheus, alertmanager = need("prometheus"), need(*_ALERTMANAGER)
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(aiohttp.ClientSession())
        seen = Monitors(
            client,
            f"http://127.0.0.1:{free_port()}",
            f"http://127.0.0.1:{free_port()}",
        )
        hook = await stack.enter_async_context(_receiver(seen))
        (folder / "alertmanager.yml").write_text(_alertmanager(hook, pace))
        (folder / "prometheus.yml").write_text(
            _prometheus(folder, seen, addresses, pace)
        )
        await stack.enter_async_context(
            running(
                folder / "alertmanager.log",
                alertmanager,
                f"--config.file={folder / 'alertmanager.yml'}",
                f"--storage.path={folder / 'alertmanager'}",
                f"--web.listen-address={seen.alertmanager.removeprefix('http://')}",
                "--cluster.listen-address=",
            )
        )
        await stack.enter_async_context(
            running(
                folder / "prometheus.log",
                prometheus,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'prometheus'}",
                f"--web.listen-address={seen.prometheus.removeprefix('http://')}",
            )
        )
        yield seen


@contextlib.asynccontextmanager
async def running(log: Path, *argv: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program for as long as the block lasts; its output goes to a file."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(20):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def _receiver(seen: Monitors) -> AsyncIterator[str]:
    async def take(request: web.Request) -> web.Response:
        seen.messages.append((request.match_info["name"], await request.json()))
        return web.Response()

    app = web.Application()
    app.router.add_post("/{name}", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _alertmanager(hook: str, pace: int) -> str:
    text = (DEPLOY / "prometheus/alertmanager.yml").read_text()
    changed = faster(text, pace=pace).replace("http://127.0.0.1:9099", hook)
    assert hook in changed
    return changed


def _prometheus(
    folder: Path, seen: Monitors, addresses: Sequence[str], pace: int
) -> str:
    for name in ("recording.rules.yml", "alerts.rules.yml"):
        rules = (DEPLOY / "prometheus" / name).read_text()
        (folder / name).write_text(faster(rules, pace=pace))
    text = (DEPLOY / "prometheus/scrape.yml").read_text()
    for old, new in (
        ("15s", "1s"),
        ("/etc/prometheus/archive-mirror", str(folder)),
        ("127.0.0.1:9093", seen.alertmanager.removeprefix("http://")),
        ('["127.0.0.1:9533"]', json.dumps(list(addresses))),
    ):
        assert old in text
        text = text.replace(old, new)
    return text
