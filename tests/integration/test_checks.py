"""What `check` finds of a source's token, certificate and files, and of the spool."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import time
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from mirror.app import checks
from mirror.metrics import Metrics
from mirror.simulator import Vms
from tests.harness import Site

_DAY_S = 86_400


async def findings(site: Site) -> dict[str, tuple[str, str]]:
    """Return what `check` finds: grade and words by name."""
    found = await checks.run(
        site.settings(),
        metrics=Metrics(CollectorRegistry()),
        secret=lambda _: None,
    )
    return {one.name: (one.grade.value, one.detail) for one in found}


def jwt(days: float) -> str:
    """Return a token that ends in so many days."""
    claims = json.dumps({"exp": time.time() + days * _DAY_S}).encode()
    return f"h.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.s"


@pytest.mark.parametrize(("days", "grade"), [(13, "warn"), (15, "pass")])
async def test_a_token_that_ends_soon_is_told(tmp_path, days, grade):
    """In time to make another one."""
    async with Vms(token=jwt(days)) as vms:
        found = await findings(Site.make(tmp_path, vms))

    told = found["token of source hq"]
    assert told[0] == grade
    assert ("`archive-mirror token set hq`" in told[1]) == (grade == "warn")


@pytest.mark.parametrize(("days", "grade"), [(13, "warn"), (15, "pass")])
async def test_a_certificate_that_ends_soon_is_told(tmp_path, days, grade):
    """Seen on a connection of its own."""
    key, certificate = tmp_path / "vms.key", tmp_path / "vms.pem"
    subprocess.run(  # noqa: ASYNC221 -- nothing else runs yet
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes",
         "-days", str(days), "-keyout", str(key), "-out", str(certificate),
         "-subj", "/CN=vms", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    async with Vms(ssl_context=context) as vms:
        site = Site.make(tmp_path, vms)
        site.tables["sources"]["hq"]["tls"] = {"ca_file": str(certificate)}
        found = await findings(site)

    told = found["certificate of source hq"]
    assert told[0] == grade
    assert ("renew it" in told[1]) == (grade == "warn")


@pytest.mark.parametrize(
    ("fault", "grade", "words"),
    [
        (None, "pass", "its first bytes come"),
        ("status_404", "warn", "has just deleted it"),
        ("status_500", "fail", "500"),
        ("redirect_other", "fail", "file_origins"),
        ("hang", "fail", "no answer"),
        ("empty", "fail", "empty"),
    ],
)
async def test_the_newest_file_is_asked_for(tmp_path, fault, grade, words):
    """A list that can be read says nothing of the files."""
    async with Vms() as vms:
        vms.add()
        newest = vms.add(size=3_000_000, then=fault)
        found = await findings(Site.make(tmp_path, vms))
        requests = vms.file_requests(newest)

    told = found["file of source hq"]
    assert told[0] == grade
    assert words in told[1] and str(newest.export_id) in told[1]
    assert len(requests) == 1
    assert not (tmp_path / "state").exists()


async def test_no_file_is_asked_for_where_the_list_cannot_be_read(tmp_path):
    """One cause, one failure."""
    async with Vms() as vms:
        vms.add()
        site = Site.make(tmp_path, vms)
        (tmp_path / "token").write_text("another")
        found = await findings(site)

    assert [name for name in found if "hq" in name] == ["source hq"]
    assert found["source hq"][0] == "fail"


async def test_room_for_less_than_half_a_day_is_told(tmp_path, monkeypatch):
    """By what came in on the last day."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        vms.add(size=1_000_000)
        await site.once()
        told = {}
        for free in (499_000, 501_000):
            monkeypatch.setattr(
                os,
                "statvfs",
                lambda _, free=free: SimpleNamespace(f_bavail=free, f_frsize=1),
            )
            told[free] = (await findings(site))["spool"]

    assert told[499_000][0] == "warn" and "spool_dir" in told[499_000][1]
    assert told[501_000][0] == "pass" and "12 h" in told[501_000][1]
