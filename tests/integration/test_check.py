"""What `check` finds of a source's token, certificate and files, and of the spool."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import subprocess
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import AsyncMock

import pytest

from mirror.app import check
from mirror.app.check import finding, places
from mirror.simulator import Vms
from mirror.targets.directory.store import DirectoryStore
from tests.certificates import make_certificates
from tests.site import IMPATIENT, Site

_DAY_S = 86_400


async def findings(site: Site) -> dict[str, tuple[str, str]]:
    """Return what `check` finds: grade and words by name."""
    found = await check.run(
        site.settings(),
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
        ("status_404", "warn", "open a file on the VMS's own page"),
        ("status_500", "fail", "500"),
        ("status_500", "fail", "`archive-mirror probe hq`"),
        ("redirect_other", "fail", "file_origins"),
        ("hang", "fail", "no answer"),
        ("empty", "fail", "does it open on the VMS's own page?"),
    ],
)
async def test_the_newest_file_is_asked_for(tmp_path, fault, grade, words):
    """A list that can be read says nothing of the files."""
    async with Vms() as vms:
        vms.add()
        newest = vms.add(size=3_000_000, then=fault)
        site = Site.make(tmp_path, vms)
        if fault == "hang":
            site.tables["transfer"] |= IMPATIENT
        found = await findings(site)
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
        (tmp_path / "token").chmod(0o600)
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
                lambda _, free=free: SimpleNamespace(
                    f_blocks=free, f_bavail=free, f_frsize=1
                ),
            )
            told[free] = (await findings(site))["spool"]

    assert told[499_000][0] == "warn" and "spool_dir" in told[499_000][1]
    assert told[501_000][0] == "pass" and "12 h" in told[501_000][1]


@pytest.mark.parametrize(
    ("free", "grade", "words"),
    [
        (1_000_000, "warn", "cannot be fetched"),
        (2_000_000, "warn", "wait for room"),
        (4_500_000, "pass", "are free above the reserve"),
    ],
)
async def test_room_for_as_many_as_are_fetched_at_once_is_told(
    tmp_path, monkeypatch, free, grade, words
):
    """By the largest file seen; the reserve is more where the ledger lies too."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        vms.add(size=1_000_000)
        none = await findings(site)
        await site.once()
        monkeypatch.setattr(
            os,
            "statvfs",
            lambda _: SimpleNamespace(f_blocks=free, f_bavail=free, f_frsize=1),
        )
        found = (await findings(site))["room in the spool"]

    assert "room in the spool" not in none
    assert found[0] == grade
    assert words in found[1]


async def test_a_certificate_that_is_not_verified_is_told(tmp_path):
    """As such, and not as a failure to see it."""
    certificates = make_certificates(tmp_path)
    async with Vms(ssl_context=certificates.context("self")) as vms:
        site = Site.make(tmp_path, vms, tls={"verify": False})
        found = await findings(site)

    assert found["source hq"][0] == "pass"
    assert found["certificate of source hq"][0] == "warn"
    assert "tls.fingerprint" in found["certificate of source hq"][1]


async def test_rows_that_cannot_be_understood_are_told(tmp_path):
    """All of them is no list; some of them are exports that nobody sees."""
    told = []
    async with Vms() as vms:
        for literal in ({"name": "no id"}, None):
            vms.add().literal = literal
            told.append((await findings(Site.make(tmp_path, vms)))["source hq"])

    assert [grade for grade, _ in told] == ["fail", "warn"]
    assert "no id" in told[0][1] and "1 rows" in told[1][1]


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o640, False)])
async def test_a_token_that_anybody_may_read_is_told(tmp_path, mode, warned):
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        (tmp_path / "token").chmod(mode)
        found = await findings(site)

    told = found.get("token of source hq", ("", ""))
    assert (told[0] == "warn" and "chmod 0600" in told[1]) == warned


@pytest.mark.parametrize(
    ("hangs", "name"),
    [
        ("state", "state_dir"),
        ("token", "token of source hq"),
        ("spool", "spool"),
        ("archive", "target nas"),
        ("archive and its spool", "target nas"),
        ("marker", "target nas"),
    ],
)
async def test_what_hangs_holds_up_nothing(tmp_path, monkeypatch, hangs, name):
    """It fails alone; only without the state directory nothing can be judged."""
    ends = threading.Event()

    def stuck(known, path, **more):
        if Path(path) == tmp_path / hangs.partition(" ")[0]:
            ends.wait(60)
        return known(path, **more)

    monkeypatch.setattr(finding, "FILES_S", 1.0)
    monkeypatch.setattr(places, "_TARGET_S", 2.0)
    monkeypatch.setattr("mirror.targets.directory.target.PROBE_S", 1.0)
    if hangs == "marker":
        monkeypatch.setattr(DirectoryStore, "probe", lambda *_, **__: ends.wait(60))
    try:
        async with Vms() as vms:
            vms.add()
            site = Site.make(tmp_path, vms)
            (tmp_path / "token").chmod(0o600)
            (tmp_path / "archive").mkdir()
            (tmp_path / "spool").mkdir()
            if "its spool" not in hangs:
                site.tables["spool_dir"] = str(tmp_path / "spool")
            settings = site.settings()
            with monkeypatch.context() as patched:
                patched.setattr(os, "stat", partial(stuck, os.stat))
                patched.setattr(os, "readlink", partial(stuck, os.readlink))
                async with asyncio.timeout(60):
                    found = await check.run(
                        settings,
                        secret=lambda _: None,
                    )
    finally:
        ends.set()

    failed = [one.name for one in found if one.grade is check.Grade.FAIL]
    assert failed == [name]
    assert (len(found) > 1) == (hangs != "state")


async def test_a_full_target_fails_and_a_small_one_is_told(tmp_path, monkeypatch):
    """Full is what leaves less than min_free; small, what a day would fill."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        vms.add(size=1_000_000)
        await site.once()
        large = (await findings(site))["target nas"]
        site.tables["targets"]["nas"]["min_free"] = 2**60
        full = (await findings(site))["target nas"]
        site.tables["targets"]["nas"]["min_free"] = 0
        day = AsyncMock(return_value=2**60)
        monkeypatch.setattr(places, "_of_a_day", day)
        small = (await findings(site))["target nas"]

    assert large[0] == "pass"
    assert full[0] == "fail" and "min_free" in full[1]
    assert small[0] == "warn" and "free some" in small[1]


async def test_a_folder_that_can_be_made_is_told_from_one_that_cannot(tmp_path):
    """At first use; afterwards nothing is made."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        path = tmp_path / "new"
        site.tables["targets"]["nas"]["path"] = str(path)
        soon = (await findings(site))["target nas"]
        site.tables["targets"]["nas"]["path"] = str(path / "deeper")
        never = (await findings(site))["target nas"]

    assert soon[0] == "warn" and "made at the first run" in soon[1]
    assert never[0] == "fail" and "`install -d -o " in never[1]
    assert not path.exists()


async def test_a_ledger_of_another_user_fails(tmp_path, monkeypatch):
    """As after a command that was run as somebody else."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        await site.once()
        access = os.access
        monkeypatch.setattr(
            os,
            "access",
            lambda path, mode: Path(path).suffix != ".sqlite3" and access(path, mode),
        )
        found = await findings(site)

    assert found["state_dir"][0] == "fail"
    assert "ledger.sqlite3" in found["state_dir"][1]
