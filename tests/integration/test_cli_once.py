"""`once`: its exit codes; a dry run changes nothing."""

from __future__ import annotations

import json
import re

from mirror.simulator import Stage, Vms
from tests.command import on, run_beside, tree
from tests.filled_site import EVIL
from tests.site import Site

RAW_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


async def test_once_is_0_when_all_is_kept(tmp_path):
    """The result is on stdout, logs are on stderr, one JSON object a line."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        site.settings()
        served = vms.add()
        vms.add(stage=Stage.ASKED)
        ran = await run_beside(*on(site), "once")

        assert ran.code == 0
        assert ran.out == "saved 1, owed 0, newly lost 0, newly doubtful 0, at risk 0\n"
        assert [json.loads(line)["event"] for line in ran.err.splitlines()]
        assert vms.token not in ran.out + ran.err
        assert "/storage/" not in ran.out + ran.err
        assert list(site.media().values()) == [vms.truth(served).sha256]


async def test_once_is_3_when_something_is_owed(tmp_path):
    """A parked export is still owed; the rest is saved."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        site.settings()
        vms.add()
        vms.add(then="redirect_other")
        ran = await run_beside(*on(site), "once")

        assert ran.code == 3
        assert ran.out.startswith("saved 1, owed 1, newly lost 0")


async def test_once_is_1_when_a_list_cannot_be_read(tmp_path):
    """Named on stdout; it comes before 3, and the other source is mirrored."""
    async with Vms() as vms, Vms() as dark:
        site = Site.make(tmp_path, vms)
        site.tables["sources"]["dark"] = {
            "url": dark.url,
            "token_file": str(tmp_path / "token"),
        }
        site.settings()
        dark.script_list(then="status_500")
        served = vms.add()
        vms.add(then="redirect_other")
        ran = await run_beside(*on(site), "once")

        assert ran.code == 1
        assert "dark" in ran.out and "saved 1, owed 1" in ran.out
        assert dark.journal.counters["list"] == 3
        assert vms.truth(served).sha256 in site.media().values()


async def test_once_beside_a_running_service_is_75(tmp_path):
    """So is a second `run`; the asking commands work beside it."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        async with site.service():
            await site.until((tmp_path / "state" / "ledger.sqlite3").exists)
            for command in ("once", "run"):
                ran = await run_beside(*on(site), command)
                assert (ran.code, ran.out) == (75, "")
                assert "archive-mirror: " in ran.err
            for command in ("list", "status", "check"):
                assert (await run_beside(*on(site), command)).code == 0
            assert (await run_beside(*on(site), "once", "--dry-run")).code == 0


async def test_a_dry_run_changes_nothing_on_disk(tmp_path):
    """Before the first run and after it; it says what would be fetched."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        site.settings()
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        vms.add(name=EVIL.replace("\n", ""))
        for already in (0, 1):
            before = tree(tmp_path)
            ran = await run_beside(*on(site), "once", "--dry-run", TMPDIR=str(scratch))
            after = tree(tmp_path)
            for name in ("state/ledger.sqlite3-shm", "state/ledger.sqlite3-wal"):
                before.pop(name, None)
                after.pop(name, None)
            assert after == before
            assert ran.code == 0
            assert "would fetch 1 files" in ran.out
            assert not RAW_CONTROL.search(ran.out + ran.err)
            assert vms.journal.counters["file"] == already
            if not already:
                await site.once()
                vms.add(name="Late.mp4")
        vms.script_list(then="status_500")
        ran = await run_beside(*on(site), "once", "--dry-run")
        assert ran.code == 1 and "hq" in ran.out
