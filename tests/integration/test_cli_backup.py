"""`backup`: a whole copy of the ledger, or none."""

from __future__ import annotations

import asyncio
import shutil
import stat

import pytest

from mirror.ledger import LEDGER_NAME
from mirror.simulator import Vms
from tests.command import on, run
from tests.site import Site


@pytest.fixture
async def site(tmp_path):
    async with Vms() as vms:
        vms.add(size=20_000)
        vms.add(size=30_000)
        site = Site.make(tmp_path, vms)
        assert (await site.once()).saved == 2
        yield site


async def test_a_backup_is_the_whole_ledger(site, tmp_path):
    copy = tmp_path / "copy.sqlite3"
    async with site.service():
        done = await asyncio.to_thread(run, "backup", *on(site), copy)
    assert (done.code, str(copy) in done.out) == (0, True), done.err
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    before = run("list", "--json", *on(site)).lines
    for each in (site.folder / "state").glob("ledger*"):
        each.unlink()
    shutil.copy(copy, site.folder / "state" / LEDGER_NAME)
    assert run("list", "--json", *on(site)).lines == before
    assert len(before) == 2


async def test_a_backup_replaces_nothing_and_leaves_nothing(site, tmp_path):
    there = tmp_path / "there"
    there.write_text("mine")
    done = run("backup", *on(site), there)
    assert done.code == 74
    assert "name a new file" in done.err
    assert there.read_text() == "mine"
    done = run("backup", *on(site), tmp_path / "nowhere" / "copy")
    assert done.code == 74
    assert "No such file or directory" in done.err and "name a new file" in done.err
    assert not list(tmp_path.glob(".backup-*"))


async def test_no_ledger_yet_is_said(tmp_path):
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        site.settings()
        done = run("backup", *on(site), tmp_path / "copy")
    assert done.code == 74
    assert "no ledger" in done.err
    assert not (tmp_path / "copy").exists()


async def test_a_damaged_ledger_gives_no_backup(site, tmp_path):
    ledger = site.folder / "state" / LEDGER_NAME
    damaged = bytearray(ledger.read_bytes())
    for page in range(2, len(damaged) // 4096):
        damaged[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    ledger.write_bytes(damaged)
    assert run("backup", *on(site), tmp_path / "copy").code == 74
    assert not (tmp_path / "copy").exists()
