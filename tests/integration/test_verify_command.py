"""What `verify` prints, and with which exit code it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mirror.cli import progress
from mirror.model import State
from mirror.simulator import Vms
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


from tests.verify_bench import Kept, deadline_of, flip, keep

FINDING_KEYS = {
    "source",
    "id",
    "created_at",
    "target",
    "path",
    "problem",
    "text",
    "repaired",
}


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as served:
        yield served


async def test_progress_is_told(tmp_path, vms, monkeypatch, capsys):
    """A line now and then, on stderr."""
    kept = await keep(tmp_path, vms, 3)
    monkeypatch.setattr("mirror.cli.progress._LINE_S", 0.0)
    with progress.of_reads() as watch:
        await kept.verify(watch=watch)
    told = capsys.readouterr().err.splitlines()

    assert re.fullmatch(
        r"\d of \d files read, [\d.]+ (B|KiB), [\d.]+ \w+/s, 0 damaged", told[-1]
    )


async def test_bars_on_a_terminal(tmp_path, vms):
    """One for each target, on stderr; the results are on stdout alone."""
    kept = await keep(tmp_path, vms, 3, "usb")
    flip(kept.path(1))
    path = kept.site.folder / "archive-mirror.toml"
    arguments = [sys.executable, "-m", "mirror", "-c", str(path), "verify"]
    ours, theirs = os.openpty()
    running = await asyncio.create_subprocess_exec(
        *arguments, stdout=subprocess.PIPE, stderr=theirs, env=environ_of_a_terminal()
    )
    out, _ = await asyncio.wait_for(running.communicate(), 60)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(ours, 65536):
            shown += chunk
    os.close(ours)

    finding, sums = out.decode().splitlines()
    assert finding.startswith("wrong_bytes  hq/")
    assert sums.startswith("checked 6, good 5,")
    assert b"nas" in shown and b"usb" in shown
    assert b"3 of 3 files" in shown


def environ_of_a_terminal() -> dict[str, str]:
    """Return an environment in which bars have room."""
    return os.environ | {"TERM": "xterm", "COLUMNS": "200", "LINES": "40"}


async def test_json_is_one_object_with_the_promised_keys(tmp_path, vms):
    """A finding says where, what, and what helps."""
    kept = await keep(tmp_path, vms, 2, "usb")
    flip(kept.path(1))
    code, out, err = await kept.command("verify", "--json")
    shown = json.loads(out)

    assert (code, err) == (4, "")
    (finding,) = shown.pop("findings")
    assert shown == {
        "checked": 4,
        "good": 3,
        "damaged": 1,
        "repaired": 0,
        "not_checked": 0,
    }
    assert set(finding) == FINDING_KEYS
    export = kept.site.export(kept.served[1])
    text = finding.pop("text")
    assert (
        "`archive-mirror verify --repair` brings it back from the copy on usb" in text
    )
    assert finding == {
        "source": "hq",
        "id": export.export_id,
        "created_at": export.created_at,
        "target": "nas",
        "path": f"hq/{export.export_id}.mp4",
        "problem": "wrong_bytes",
        "repaired": False,
    }


async def test_a_line_per_finding_says_what_to_do(tmp_path, vms):
    """For people: which file, what is wrong, what helps; then the sums."""
    kept = await keep(tmp_path, vms, 2)
    kept.path(0).unlink()
    kept.sidecar(1).unlink()
    code, out, _ = await kept.command("verify")
    one, other = (each.export_id for each in kept.served)

    assert code == 4
    *lines, last = out.splitlines()
    missing, beside = sorted(lines)
    assert missing == (
        f"missing  hq/{one}  nas:hq/{one}.mp4: the file is gone; no good copy of it is "
        "known on another target; the VMS should list its file until "
        f"{deadline_of(kept)}: the service fetches it at its next walk"
    )
    assert beside == (
        f"sidecar_missing  hq/{other}  nas:hq/{other}.mp4: its sidecar is gone; "
        "`archive-mirror verify --repair` writes it anew"
    )
    assert last == "checked 2, good 0, damaged 2, repaired 0, not checked 0"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--target", "tape"], "there is no target tape"),
        (["--sample", "0"], "--sample takes a number above 0"),
        (["--sample", "-1"], "--sample takes a number above 0"),
        (["--sample", "many"], "--sample takes a number above 0"),
        (["--sample", "0%"], "--sample takes a number above 0"),
        (["--sample", "101%"], "--sample takes a number above 0"),
        (["--sample", "nan%"], "--sample takes a number above 0"),
    ],
)
async def test_wrong_usage_is_2(tmp_path, vms, options, told):
    """Said before anything is read."""
    kept = Kept(Site.make(tmp_path, vms), vms, [])
    code, out, err = await kept.command("verify", *options)

    assert (code, out) == (2, "")
    assert told in " ".join(err.replace("│", " ").split())


async def test_a_sample_of_any_size_is_taken(tmp_path, vms):
    """Larger than there are copies, or a small share."""
    kept = await keep(tmp_path, vms, 2)
    huge = await kept.command("verify", "--sample", "9" * 30)
    small = await kept.command("verify", "--sample", "0.5%", "--target", "nas")

    assert (huge[0], small[0]) == (0, 0)
    assert huge[1].startswith("checked 2,") and small[1].startswith("checked 1,")


async def test_without_a_ledger_there_is_nothing_to_verify(tmp_path, vms):
    """Exit 0, and nothing is made."""
    kept = Kept(Site.make(tmp_path, vms), vms, [])
    code, out, _ = await kept.command("verify")

    assert (code, out.split(",")[0]) == (0, "checked 0")
    assert not (tmp_path / "state").exists()


async def test_beside_a_running_service(tmp_path, vms):
    """Neither disturbs the other."""
    kept = await keep(tmp_path, vms, 3)
    async with kept.site.service():
        more = vms.add(size=300_000)
        code, _, _ = await kept.command("verify")
        await kept.site.until_state(more, State.SAVED)
        again, out, _ = await kept.command("verify")

    assert (code, again) == (0, 0)
    assert out.startswith("checked 4, good 4,")


async def test_an_emptied_disk_is_a_question_and_ten_examples(tmp_path, vms):
    """Not two lines for each copy; what is beside it is told all the same."""
    kept = await keep(tmp_path, vms, 14, "usb")
    for number in range(14):
        kept.path(number).unlink()
        kept.sidecar(number).unlink()
    kept.path(3, "usb").unlink()
    code, out, _ = await kept.command("verify")
    as_json = json.loads((await kept.command("verify", "--json"))[1])

    assert code == 4
    lines = out.splitlines()
    of_nas = [line for line in lines if "  nas:" in line]
    assert len([line for line in of_nas if line.startswith("missing  hq/")]) == 10
    assert lines[-3:] == [
        "missing  nas: 4 more; `archive-mirror verify --json` names them all",
        "all 14 copies on nas are gone: is that the right disk?",
        "checked 28, good 13, damaged 15, repaired 0, not checked 0",
    ]
    assert len(lines) == 10 + 1 + 3
    assert len(as_json["findings"]) == 14 + 14 + 1
