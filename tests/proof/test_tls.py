"""TLS that is not right is refused by default, and the text says what helps."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import pytest

from mirror.simulator import Vms
from tests.certificates import make_certificates
from tests.proof.strace_run import run
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.certificates import Certificates
    from tests.proof.figures import Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A VMS, and how its source is configured.

    Attributes:
        shows: The certificate it shows; none is plain http behind an https url.
        newest: The newest TLS it speaks, if that is old.
        silent: To whom it does not speak it says nothing.
        ca_file: Name of a certificate.
        pinned: Name of a certificate.
        told: What the refusal says; nothing if it is to be accepted.
        lists: The fault each list request meets.
        serves: The fault the file request meets.
    """

    shows: str | None = "good"
    newest: str = ""
    silent: bool = False
    ca_file: str = ""
    pinned: str = ""
    told: tuple[str, ...] = ()
    lists: str | None = None
    serves: str | None = None


_TO_TRUST = ("ca_file", "fingerprint")
CASES = {
    "expired": Case(shows="expired", ca_file="ca", told=("has expired", "clock")),
    "early": Case(shows="early", ca_file="ca", told=("not valid yet", "clock")),
    "wrong_name": Case(
        shows="wrong_name", ca_file="ca", told=("not for 127.0.0.1", "set url", "pin")
    ),
    "self_signed": Case(shows="self", told=("self-signed", *_TO_TRUST)),
    "unknown_ca": Case(told=("authority", *_TO_TRUST)),
    "other_ca": Case(ca_file="other_ca", told=("authority", *_TO_TRUST)),
    "wrong_pin": Case(
        pinned="second", told=("not the one that is pinned", "fingerprint")
    ),
    "old_pin": Case(
        shows="self",
        pinned="old_self",
        told=("not the one that is pinned", "fingerprint"),
    ),
    "tls_1_0": Case(newest="TLSv1", ca_file="ca", told=("TLS of version 1.2", "proxy")),
    "tls_1_1": Case(
        newest="TLSv1_1", ca_file="ca", told=("TLS of version 1.2", "proxy")
    ),
    "tls_1_1_pinned": Case(
        newest="TLSv1_1", pinned="good", told=("TLS of version 1.2", "proxy")
    ),
    "tls_silent": Case(
        newest="TLSv1_1",
        silent=True,
        ca_file="ca",
        told=("closed during", "TLS of version 1.2"),
    ),
    "no_tls": Case(shows=None, ca_file="ca", told=("does not speak TLS", "http://")),
    "list_to_http": Case(
        ca_file="ca", lists="redirect_http", told=("redirects (302)", "set url")
    ),
    "right_ca": Case(ca_file="ca"),
    "right_self": Case(shows="self", ca_file="self"),
    "right_pin": Case(pinned="good"),
    # A pin is our own word for this one certificate, and has no date.
    "expired_pin": Case(shows="old_self", pinned="old_self"),
    "file_to_http": Case(ca_file="ca", serves="redirect_http"),
}
_REFUSED = {name: case for name, case in CASES.items() if case.told}


class Old:
    """A server of old TLS that says so with an alert, which asyncio's do not."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.requests: list[bytes] = []
        self._context = context
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._answer(self._socket.accept()[0])

    def _answer(self, client: socket.socket) -> None:
        client.settimeout(5)
        with contextlib.suppress(OSError), client:
            with self._context.wrap_socket(client, server_side=True) as secure:
                self.requests.append(secure.recv(1000))


@dataclass(slots=True)
class TlsSources:
    """All cases at once, each a source of one mirror."""

    site: Site
    servers: dict[str, Vms | Old] = field(default_factory=dict)

    async def ask(self, *argv: str, planted: str = "") -> dict[str, Any]:
        """Run a command that prints one JSON object."""
        ended = await run(*argv, "--json", **self._config(), planted=planted)
        found: dict[str, Any] = json.loads(ended.out)
        return found

    async def once(self) -> list[dict[str, Any]]:
        """Run `once`; return its log."""
        ended = await run("once", "--log-format", "json", **self._config())
        return [json.loads(line) for line in ended.err.splitlines() if line[:1] == "{"]

    async def listed(self) -> dict[str, dict[str, Any]]:
        """Return the lines of `list --json` by source."""
        ended = await run("list", "--json", **self._config())
        return {row["source"]: row for row in map(json.loads, ended.out.splitlines())}

    def _config(self) -> dict[str, Any]:
        self.site.settings()
        return {"config": self.site.folder / "archive-mirror.toml"}


@contextlib.asynccontextmanager
async def tls_sources(
    folder: Path, certificates: Certificates, cases: dict[str, Case]
) -> AsyncIterator[TlsSources]:
    """Run a VMS for each case."""
    sources = TlsSources(Site.make(folder, Vms()))
    sources.site.tables["sources"].clear()
    async with contextlib.AsyncExitStack() as stack:
        for name, case in cases.items():
            context = _context(certificates, case)
            if context and case.newest and not case.silent:
                sources.servers[name] = stack.enter_context(Old(context))
            else:
                vms = await stack.enter_async_context(Vms(ssl_context=context))
                vms.script_list(then=case.lists)
                vms.add(then=case.serves)
                sources.servers[name] = vms
            sources.site.tables["sources"][name] = {
                "url": sources.servers[name].url.replace("http:", "https:"),
                "token_file": str(folder / "token"),
                "tls": _tls(certificates, case),
            }
        yield sources


def _context(certificates: Certificates, case: Case) -> ssl.SSLContext | None:
    if case.shows is None:
        return None
    context = certificates.context(case.shows)
    if case.newest:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion[case.newest]
        context.set_ciphers("DEFAULT@SECLEVEL=0")
    return context


def _tls(certificates: Certificates, case: Case) -> dict[str, str]:
    if case.ca_file:
        return {"ca_file": str(certificates.folder / f"{case.ca_file}.pem")}
    if case.pinned:
        return {"fingerprint": f"sha256:{certificates.fingerprint(case.pinned).hex()}"}
    return {}


def _accepted(sources: TlsSources, checked: dict[str, Any]) -> list[str]:
    """Return the cases whose list was had, and what servers heard that are refused."""
    passed = {one["name"] for one in checked["checks"] if one["result"] == "pass"}
    found = [name for name in sources.servers if f"source {name}" in passed]
    for name, case in _REFUSED.items():
        if (
            name in sources.servers
            and sources.servers[name].requests
            and not case.lists
        ):
            found.append(f"{name} was asked")
    return found


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Certificates:
    """Make the certificates."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


async def test_what_is_refused_and_how_it_is_told(
    tmp_path, certificates, figures: Figures
):
    """In `check`, `status` and the log alike; what is right is mirrored."""
    async with tls_sources(tmp_path, certificates, CASES) as sources:
        checked = await sources.ask("check")
        log = await sources.once()
        status = await sources.ask("status")
        listed = await sources.listed()
        accepted = _accepted(sources, checked)
        vms = sources.servers["file_to_http"]
        assert isinstance(vms, Vms)
        others = [each for each in vms.requests if each.host not in vms.url]

    assert accepted == [name for name in CASES if name not in _REFUSED]
    details = {one["name"]: one["detail"] for one in checked["checks"]}
    problems = {one["name"]: one["problem"] for one in status["sources"]}
    lost = {e["source"]: e["error"] for e in log if e.get("event") == "source.lost"}
    for name, case in _REFUSED.items():
        told = details[f"source {name}"]
        assert all(part in told for part in case.told), (name, told)
        assert problems[name] == told == lost[name]
    texts = {
        tuple(case.told): details[f"source {name}"] for name, case in _REFUSED.items()
    }
    assert len(set(texts.values())) == len(texts)
    assert certificates.fingerprint("good").hex() in details["source wrong_pin"]
    for name in ("right_ca", "right_self", "right_pin", "expired_pin"):
        assert listed[name]["state"] == "saved", listed[name]
    refused = listed["file_to_http"]
    assert (refused["state"], refused["reason"]) == ("parked", "origin_refused")
    assert "redirected, but http://127.0.0.1" in refused["last_error"]
    assert "file_origins" in refused["last_error"]
    assert vms.requests and not others
    figures.record(18, refused=len(_REFUSED) + 1, accepted=len(accepted) - 1)


async def test_the_old_servers_are_well_otherwise(tmp_path, certificates):
    """Who takes their TLS is answered: it is for that alone that they are refused."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(certificates.authority)
    client.set_ciphers("DEFAULT@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        client.minimum_version = ssl.TLSVersion.TLSv1
    for name, spoken in (("tls_1_0", "TLSv1"), ("tls_1_1", "TLSv1.1")):
        async with Vms(ssl_context=_context(certificates, CASES[name])) as vms:
            _, writer = await asyncio.open_connection(
                "127.0.0.1", vms.port, ssl=client, server_hostname="127.0.0.1"
            )
            assert writer.get_extra_info("ssl_object").version() == spoken
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def test_a_certificate_that_nobody_looks_at_shows(tmp_path, certificates):
    """Without our check those that are not right are accepted."""
    names = ("expired", "wrong_name", "self_signed", "unknown_ca", "wrong_pin")
    cases = {name: CASES[name] for name in names}
    async with tls_sources(tmp_path, certificates, cases) as sources:
        checked = await sources.ask("check", planted="any_certificate")
        accepted = _accepted(sources, checked)

    assert set(names) <= set(accepted)
