"""Who is answered: a web page that rebinds its name to this machine is not."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC

import pytest
from prometheus_client import CollectorRegistry

from mirror.web import HttpServer, status_page

PATHS = ("/", "/status.json", "/metrics", "/healthz", "/readyz", "/nowhere")


@pytest.fixture(autouse=True)
def _short_page(monkeypatch):
    monkeypatch.setattr(status_page, "render", lambda *_: "<p>footage</p>")


@asynccontextmanager
async def serving(listen="127.0.0.1", hosts=()):
    """Serve all pages; yield the port."""

    async def nothing():
        return []

    async def unchanged():
        return None

    async def status():
        return {"secret": "footage"}

    server = HttpServer(
        CollectorRegistry(),
        healthy=nothing,
        ready=nothing,
        refresh=unchanged,
        status=status,
        pages=("metrics", "health", "status"),
        zone=UTC,
        hosts=hosts,
    )
    port = await server.start(listen, 0)
    try:
        yield port
    finally:
        await server.stop()


async def answer(
    port, *headers: str, target="/status.json", version="1.1", to="127.0.0.1"
):
    """Return the status, the headers and the body of one answer."""
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(to, port)
        lines = [f"GET {target} HTTP/{version}", *headers, "Connection: close", "", ""]
        writer.write("\r\n".join(lines).encode("latin-1"))
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    first, *rest = head.decode("latin-1").split("\r\n")
    told = dict(line.lower().split(": ", 1) for line in rest)
    return int(first.split()[1]), told, body


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:9533", "LocalHost", "localhost.", "localhost.:80",
        "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:9533", "[0:0:0:0:0:0:0:1]",
        "mirror.example", "MIRROR.example.:443", "192.0.2.7:80", "[2001:db8::7]",
    ],
)  # fmt: skip
async def test_names_of_this_machine_and_of_the_configuration_are_answered(host):
    """Whatever the port: a tunnel or a proxy has its own."""
    hosts = ("mirror.example", "192.0.2.7", "2001:DB8::7")
    async with serving(hosts=hosts) as port:
        status, _, body = await answer(port, f"Host: {host}")

    assert (status, body) == (200, b'{"secret": "footage"}')


@pytest.mark.parametrize(
    "headers",
    [
        ["Host: evil.example"],
        ["Host: evil.example:9533"],
        ["Host: localhost.evil.example"],
        ["Host: 127.0.0.1.evil.example"],
        ["Host: evil.example@localhost"],
        ["Host: localhost@evil.example"],
        ["Host: localhost:9533@evil.example"],
        ["Host: evil.example#localhost"],
        ["Host: localhost/evil.example"],
        ["Host: localhost, evil.example"],
        ["Host: localhost.."],
        ["Host: sub.localhost"],
        ["Host: 127.0.0.2"],
        ["Host: 192.0.2.7"],
        ["Host: 0.0.0.0"],
        ["Host: [::]"],
        ["Host: [::1"],
        ["Host: ::1]"],
        ["Host: *"],
        ["Host: l\xf6calhost"],
        ["Host: "],
        ["Host: evil.example", "X-Forwarded-Host: localhost"],
        ["Host: localhost", "Host: evil.example"],
        ["Host: evil.example", "Host: localhost"],
        ["Host: localhost", "Host: localhost"],
        [],
    ],
    ids=" ".join,
)
async def test_no_other_name_is_answered(headers):
    """Nor a request with none, or with two of which another may be meant."""
    async with serving() as port:
        for target in PATHS:
            status, _, body = await answer(port, *headers, target=target)
            assert status in {400, 421}, (target, status)
            assert b"footage" not in body


async def test_without_a_name_http_1_0_is_not_answered_either():
    async with serving() as port:
        status, _, _ = await answer(port, version="1.0")
        named, _, _ = await answer(port, "Host: localhost", version="1.0")

    assert (status, named) == (421, 200)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://localhost:9533/status.json", 200),
        ("http://evil.example/status.json", 421),
        ("http://evil.example:80/status.json", 421),
        ("http://localhost@evil.example/status.json", 421),
        ("http:///status.json", 400),
        ("//evil.example/status.json", 404),
    ],
)
async def test_a_whole_url_is_asked_for_by_its_own_name(target, status):
    async with serving() as port:
        found, _, body = await answer(port, "Host: localhost", target=target)
        other, _, _ = await answer(port, "Host: evil.example", target=target)

    assert found == status or (status == 400 and found == 421)
    assert (b"footage" in body) == (status == 200)
    assert other in {400, 421}


async def test_the_refusal_names_the_key_and_repeats_nothing():
    async with serving() as port:
        status, _, body = await answer(port, "Host: evil.example")

    assert status == 421
    assert b"hosts" in body and b"[http]" in body
    assert b"evil" not in body


async def test_the_address_listened_on_is_one_of_its_names():
    """127.0.0.2 is nobody's but this machine's."""
    async with serving("127.0.0.2") as port:
        found = [
            (await answer(port, f"Host: {host}", to="127.0.0.2"))[0]
            for host in ("127.0.0.2:1", "127.0.0.1", "evil.example")
        ]

    assert found == [200, 200, 421]


@pytest.mark.parametrize(
    ("hosts", "statuses"),
    [((), [200, 200, 200]), (("mirror.example",), [200, 421, 200])],
)
async def test_elsewhere_any_name_is_answered_unless_some_are_given(hosts, statuses):
    """A machine on a network cannot know by which names it is reached."""
    async with serving("0.0.0.0", hosts) as port:
        found = [
            (await answer(port, f"Host: {host}"))[0]
            for host in ("mirror.example:9533", "192.0.2.7", "127.0.0.1")
        ]

    assert found == statuses


@pytest.mark.parametrize("target", PATHS)
async def test_no_other_site_may_use_what_is_answered(target):
    """No CORS header; not framed, not embedded, not guessed to be a script."""
    async with serving() as port:
        for host in ("localhost", "evil.example"):
            _, told, _ = await answer(
                port, f"Host: {host}", "Origin: http://evil.example", target=target
            )
            assert not [name for name in told if name.startswith("access-control-")]
            assert told["cross-origin-resource-policy"] == "same-origin"
            assert told["x-content-type-options"] == "nosniff"
            assert told["x-frame-options"] == "deny"
