"""Metrics and health over real HTTP."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC
from pathlib import Path

import aiohttp
import pytest
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from mirror.errors import ConfigError, MirrorError, TransientError
from mirror.metrics import Metrics
from mirror.web import HttpServer
from mirror.web import server as http


class Reasons:
    """What is wrong, as the test says."""

    def __init__(self) -> None:
        self.ill: list[str] = []
        self.unready: list[str] = []
        self.refreshed = 0

    async def healthy(self):
        return self.ill

    async def ready(self):
        return self.unready

    async def refresh(self):
        self.refreshed += 1

    async def status(self):
        return {}


def server_of(said, *, refresh=None, registry=None, pages=("metrics", "health")):
    return HttpServer(
        registry or CollectorRegistry(),
        healthy=said.healthy,
        ready=said.ready,
        refresh=refresh or said.refresh,
        status=said.status,
        pages=pages,
        zone=UTC,
    )


@asynccontextmanager
async def serving(said, *, refresh=None, registry=None):
    """Serve on a free port; yield a client for it."""
    server = server_of(said, refresh=refresh, registry=registry)
    port = await server.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        await server.stop()


async def read(client, path):
    """Return the status and the text of an answer."""
    async with client.get(path) as answer:
        return answer.status, await answer.text()


@pytest.fixture
def said():
    return Reasons()


async def test_health_is_told_with_its_reasons(said):
    """200 and ok; 503 and why; health and readiness are apart."""
    async with serving(said) as client:
        async with client.get("/healthz") as fine:
            assert (fine.status, await fine.json()) == (200, {"status": "ok"})
        said.unready = ["source hq has not been asked yet"]
        async with client.get("/readyz") as waiting:
            assert waiting.status == 503
            assert (await waiting.json())["reasons"] == said.unready
        async with client.get("/healthz") as fine:
            assert fine.status == 200
        said.ill = ["the ledger does not answer"]
        async with client.get("/healthz") as ill:
            assert ill.status == 503


async def test_connections_that_ask_for_nothing_take_few_descriptors(said):
    """And whoever does ask is answered."""
    descriptors = Path("/proc/self/fd")
    async with serving(said) as client, AsyncExitStack() as held:
        before = len(list(descriptors.iterdir()))
        port = client._base_url.port
        ours = 0
        for _ in range(30):
            for _ in range(10):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                held.callback(writer.close)
                writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nSlow: ")
                ours += 1
            assert (await read(client, "/healthz"))[0] == 200
            theirs = len(list(descriptors.iterdir())) - before - ours
            assert theirs <= 70
        assert ours == 300


async def test_metrics_come_as_text_that_parses(said):
    """Also to Prometheus, which would rather have OpenMetrics but takes this."""
    metrics = Metrics(CollectorRegistry())
    metrics.declare(["hq"], ["nas"])
    metrics.poll_ended("hq", "ok")
    accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    async with serving(said, registry=metrics.registry) as client:
        async with client.get("/metrics", headers=accept) as answer:
            text = await answer.text()

    assert (answer.status, answer.content_type) == (200, "text/plain")
    samples = [
        s for family in text_string_to_metric_families(text) for s in family.samples
    ]
    (up,) = [one for one in samples if one.name == "archive_mirror_source_up"]
    assert (up.labels, up.value) == ({"source": "hq"}, 1.0)
    assert {"process_cpu_seconds_total", "python_gc_collections_total"} <= {
        one.name for one in samples
    }


async def test_many_scrapes_cost_one_refresh(said):
    """The ledger is asked at most once a second."""
    async with serving(said) as client:
        found = await asyncio.gather(*(read(client, "/metrics") for _ in range(5)))

    assert [status for status, _ in found] == [200] * 5
    assert said.refreshed == 1


async def test_a_ledger_that_hangs_fails_the_scrape_and_nothing_else(said, monkeypatch):
    """Old numbers would look like a service at rest; health still answers."""
    monkeypatch.setattr(http, "REFRESH_S", 0.2)
    entered = asyncio.Event()

    async def hang():
        entered.set()
        await asyncio.Event().wait()

    async with serving(said, refresh=hang) as client:
        scrape = asyncio.create_task(read(client, "/metrics"))
        await entered.wait()
        async with client.get("/healthz") as fine:
            assert fine.status == 200
        async with asyncio.timeout(60):
            status, text = await scrape

    assert status == 503
    assert "ledger" in text


async def test_a_ledger_that_fails_fails_the_scrape(said):
    """An error of ours becomes 503; the next scrape asks anew."""
    failures = [MirrorError("broken")]

    async def refresh():
        if failures:
            raise failures.pop()

    async with serving(said, refresh=refresh) as client:
        async with client.get("/metrics") as first:
            assert first.status == 503
        async with client.get("/metrics") as second:
            assert second.status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/status.json", 404),
        ("GET", "/metrics/", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/healthz", 405),
    ],
)
async def test_nothing_else_is_served(said, method, path, status):
    """GET only, and only what is asked for."""
    async with (
        serving(said) as client,
        client.request(method, path) as answer,
    ):
        assert answer.status == status


async def test_an_address_in_use_names_the_key(said):
    """The text says what to do; it is no fault that keeps systemd from a restart."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        server = server_of(said)
        with pytest.raises(TransientError) as caught:
            await server.start("127.0.0.1", port)
        await server.stop()

    assert not isinstance(caught.value, ConfigError)
    assert str(caught.value) == (
        f"http.listen: 127.0.0.1:{port} cannot be listened on (Address already in "
        "use); free it, or choose another address or port"
    )


async def test_the_port_is_logged(said):
    """With port 0 the log is the only place that tells it."""
    with structlog.testing.capture_logs() as events:
        async with serving(said) as client:
            async with client.get("/healthz") as answer:
                port = answer.url.port

    (listening,) = [one for one in events if one["event"] == "http.listening"]
    assert (listening["host"], listening["port"]) == ("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "pages", "page"),
    [
        ("", ("status",), "http://localhost:{port}"),
        ("::1", ("status",), "http://[::1]:{port}"),
        ("127.0.0.1", ("metrics", "status"), "http://127.0.0.1:{port}"),
        ("127.0.0.1", ("metrics",), None),
    ],
)
async def test_the_log_says_what_to_open(said, host, pages, page):
    """Where there is a page, by a name that this machine's browser knows."""
    server = server_of(said, pages=pages)
    with structlog.testing.capture_logs() as events:
        port = await server.start(host, 0)
    await server.stop()

    assert events[0]["page"] == (page and page.format(port=port))


async def test_a_scrape_that_hangs_does_not_hold_up_the_end(said):
    """Closing takes moments, whoever is still connected."""
    entered = asyncio.Event()

    async def hang():
        entered.set()
        await asyncio.Event().wait()

    server = server_of(said, refresh=hang)
    port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await entered.wait()
    async with asyncio.timeout(60):
        await server.stop()

    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
