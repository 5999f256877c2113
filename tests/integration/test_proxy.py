"""A source behind a proxy: its list, its files, and what `check` says of it."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest
import structlog

from mirror.app import check
from mirror.app.notify import heartbeat
from mirror.model import State
from mirror.simulator import Vms
from tests.certificates import make_certificates
from tests.proxy import Proxy
from tests.site import Site

LOGIN = "mirror:p-4ssw0rd-of-the-proxy"


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """An environment that names no proxy."""
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def found(site: Site) -> dict[str, tuple[str, str]]:
    """Return what `check` finds, by name."""
    findings = await check.run(site.settings(), secret=lambda _: None)
    return {one.name: (one.grade.value, one.detail) for one in findings}


async def test_list_and_files_go_by_it(tmp_path):
    """Not one request goes around it, and the VMS never sees its password."""
    async with Vms() as vms, Proxy(login=LOGIN) as proxy:
        site = Site.make(tmp_path, vms, proxy=proxy.url)
        served = vms.add(size=200_000)
        with structlog.testing.capture_logs() as logs:
            await site.once()

    assert site.export(served).state is State.SAVED
    assert len(proxy.asked) == len(vms.requests)
    assert all(one.target.startswith(vms.url) for one in proxy.asked)
    assert not [
        r for r in vms.requests if "proxy-authorization" in str(r.headers).lower()
    ]
    assert "p-4ssw0rd" not in str(logs) + str(site.dossier(served))


@pytest.mark.parametrize("trust", ["ca_file", "fingerprint"])
async def test_tls_goes_through_it(tmp_path, trust):
    """By CONNECT, with the VMS's own certificate; it sees neither token nor path."""
    certificates = make_certificates(tmp_path)
    pin = f"sha256:{certificates.fingerprint('good').hex()}"
    tls = {"ca_file": str(certificates.authority), "fingerprint": pin}
    async with (
        Vms(ssl_context=certificates.context("good")) as vms,
        Proxy(login=LOGIN) as proxy,
    ):
        site = Site.make(tmp_path, vms, proxy=proxy.url, tls={trust: tls[trust]})
        served = vms.add(size=200_000)
        await site.once()
        told = await found(site)

    assert site.export(served).state is State.SAVED
    assert {one.method for one in proxy.asked} == {"CONNECT"}
    assert {one.target for one in proxy.asked} == {urlsplit(vms.url).netloc}
    assert vms.token not in str(proxy.asked)
    assert told["source hq"][0] == "pass"
    assert ("certificate of source hq" in told) == (trust == "ca_file")


async def test_a_certificate_that_is_not_trusted_is_refused_behind_it(tmp_path):
    certificates = make_certificates(tmp_path)
    pin = f"sha256:{certificates.fingerprint('second').hex()}"
    async with (
        Vms(ssl_context=certificates.context("good")) as vms,
        Proxy() as proxy,
    ):
        site = Site.make(tmp_path, vms, proxy=proxy.url, tls={"fingerprint": pin})
        grade, detail = (await found(site))["source hq"]

    assert grade == "fail" and "not the one that is pinned" in detail
    assert not vms.requests


async def test_it_gets_no_token_for_another_origin(tmp_path):
    """Nor is a redirect elsewhere followed because there is a proxy."""
    async with Vms() as vms, Proxy() as proxy:
        site = Site.make(tmp_path, vms, proxy=proxy.url, send_token_to_files=True)
        refused = vms.add(size=100_000, then="redirect_other")
        await site.once()
        assert site.export(refused).state is State.PARKED
        site.tables["sources"]["hq"]["file_origins"] = [vms.other_url]
        site.tables["transfer"]["retry_max"] = "50ms"
        moved = vms.add(size=100_000, then="redirect_other")
        await site.once()

    assert site.export(moved).state is State.SAVED
    elsewhere = [one for one in proxy.asked if one.target.startswith(vms.other_url)]
    assert elsewhere and vms.token not in str(elsewhere)


async def test_the_environment_is_followed_if_that_is_said(tmp_path, monkeypatch):
    """And not otherwise, which `check` tells."""
    async with Vms() as vms, Proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        site = Site.make(tmp_path, vms)
        vms.add(size=100_000)
        unused = await found(site)
        monkeypatch.setenv("http_proxy", proxy.url)
        lower = await found(site)
        monkeypatch.delenv("http_proxy")
        assert not proxy.asked
        site.tables["sources"]["hq"]["proxy"] = "environment"
        used = await found(site)
        assert proxy.asked
        asked = len(proxy.asked)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        direct = await found(site)

    assert len(proxy.asked) == asked
    assert unused["source hq"][0] == direct["source hq"][0] == "pass"
    assert "http_proxy in the environment" in lower["proxy of source hq"][1]
    grade, detail = unused["proxy of source hq"]
    assert grade == "warn" and "HTTP_PROXY" in detail
    assert 'proxy = "environment"' in detail and proxy.url not in detail
    assert "proxy of source hq" not in used
    assert "proxy of source hq" not in direct


DOWN = ("no connection to the proxy 127.0.0.1", "is proxy right")
ASKS = ("(407)", "USER:PASSWORD")


@pytest.mark.parametrize(
    ("case", "secure", "words"),
    [
        ("password", False, ASKS),
        ("password", True, ASKS),
        # Without TLS it cannot be told from what the VMS says itself.
        ("refused", True, ("proxy refuses", "(502)")),
        ("down", False, DOWN),
        ("down", True, DOWN),
    ],
)
async def test_a_proxy_that_refuses_is_told_as_such(tmp_path, case, words, secure):
    """With the remedy, and no word of the password that it was given."""
    context = make_certificates(tmp_path).context("good") if secure else None
    proxy = Proxy(login=LOGIN, refuses=502 if case == "refused" else 0)
    async with Vms(ssl_context=context) as vms:
        async with proxy:
            given = f"http://mirror:wr0ng-password@127.0.0.1:{proxy.port}"
            site = Site.make(tmp_path, vms, proxy=given)
            told = await found(site) if case != "down" else {}
        told = told or await found(site)

    grade, detail = told["source hq"]
    assert grade == "fail"
    assert all(word in detail for word in words), detail
    assert "wr0ng" not in detail


async def test_a_sources_heartbeat_goes_by_its_proxy(tmp_path, monkeypatch):
    """That of all sources does not: it belongs to none."""
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.05)
    async with Vms() as vms, Proxy() as proxy:
        site = Site.make(
            tmp_path, vms, proxy=proxy.url, heartbeat_url=f"{vms.other_url}/of-hq"
        )
        site.tables["heartbeat_url"] = f"{vms.other_url}/of-all"
        async with site.service():
            await vms.until(
                lambda: {"/of-hq", "/of-all"} <= {one.target for one in vms.requests}
            )

    beats = {one.target for one in proxy.asked if "/of-" in one.target}
    assert beats == {f"{vms.other_url}/of-hq"}


async def test_a_proxy_that_never_answers_holds_nothing_up(tmp_path, monkeypatch):
    """The way to the VMS has a bound of its own."""
    monkeypatch.setattr("mirror.vms.sessions.CONNECT_S", 0.3)

    async def say_nothing(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    context = make_certificates(tmp_path).context("good")
    async with Vms(ssl_context=context) as vms:
        site = Site.make(tmp_path, vms, proxy=f"http://127.0.0.1:{port}")
        grade, detail = (await found(site))["source hq"]
    silent.close()

    assert grade == "fail" and "no connection for too long" in detail
