"""`once`: its exit codes; a dry run changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys

from mirror.model import State
from mirror.simulator import Fault, Kind, Stage, Vms
from tests.command import environment, on, run_beside, tree
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


async def test_bars_and_log_lines_share_a_terminal(tmp_path):
    """A log line stands above the bars, not behind one; the result is the last word."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        site.settings()
        for _ in range(4):
            slow = Fault(kind=Kind.RATE, rate=600_000)
            vms.add(size=500_000, faults=[slow])
        ours, theirs = os.openpty()
        running = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mirror", *on(site), "once"),
            stdout=theirs,
            stderr=theirs,
            env=environment(TERM="xterm", COLUMNS="100", LINES="40"),
        )
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):
            while chunk := await asyncio.to_thread(os.read, ours, 65536):
                shown += chunk
        os.close(ours)
        assert await running.wait() == 0

    pieces = re.split(r"[\r\n]", shown.decode())
    bar = "\N{BOX DRAWINGS HEAVY HORIZONTAL}"
    assert any(bar in piece for piece in pieces)
    assert sum("export.saved" in piece for piece in pieces) == 4
    assert not [one for one in pieces if bar in one and "export." in one]
    last = [one for one in pieces if one][-1]
    assert last.startswith("\x1b[1A\x1b[2Ksaved 4, owed 0"), last


async def test_a_run_that_is_stopped_says_what_it_came_to(tmp_path):
    """Ctrl-C is no reason to say nothing; what is under way is still owed."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        site.settings()
        quick = vms.add()
        vms.add(faults=["hang"])
        running = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mirror", *on(site), "once"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        ledger = tmp_path / "state" / "ledger.sqlite3"
        await site.until(ledger.exists)
        await site.until_state(quick, State.SAVED)
        running.send_signal(signal.SIGINT)
        out, _ = await asyncio.wait_for(running.communicate(), 60)

    assert running.returncode == 130
    assert out.decode().splitlines() == [
        "stopped before all was done; the next run goes on from here",
        "saved 1, owed 1, newly lost 0, newly doubtful 0, at risk 0",
    ]
