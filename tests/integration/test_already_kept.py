"""What lies on a target is not called lost by a ledger that does not know it."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mirror.model import CopyState, State
from mirror.simulator import Fault, Kind, Vms
from mirror.targets.directory import scan
from tests.kept_site import SIZE, alter, keep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as served:
        yield served


async def test_an_empty_ledger_that_meets_an_archive_says_so(tmp_path, vms):
    """And goes on: a first run on a shared target is right, and footage comes first."""
    kept = await keep(tmp_path, vms, 2)
    kept.lose()
    vms.add(size=SIZE)
    code, _, err = await kept.command("once", "--log-format", "json")

    assert code == 0
    (event,) = [
        one for one in map(json.loads, err.splitlines()) if one["level"] == "error"
    ]
    assert event["event"] == "ledger.empty"
    assert "archive-mirror rebuild --force" in event["error"]
    assert (await kept.rebuild(force=True)).exports == {"saved": 3}


@pytest.mark.parametrize("how", ["first", "foreign"])
async def test_a_first_run_says_nothing_of_a_lost_ledger(tmp_path, vms, how):
    """On an empty target, or on one that holds files of other sources."""
    kept = await keep(tmp_path, vms, 1)
    kept.lose()
    if how == "first":
        shutil.rmtree(kept.root())
    else:
        alter(kept.sidecar(0), source="annex")
        kept.site.tables["targets"]["nas"]["layout"] = "{source}/new/{id}"
    code, _, err = await kept.command("once", "--log-format", "json")

    assert code == 0
    assert "ledger.empty" not in err


@pytest.mark.parametrize("vanished", ["file", "row"])
@pytest.mark.parametrize("place", ["path", "number"])
async def test_what_a_target_keeps_is_not_called_lost(tmp_path, vms, vanished, place):
    """An older ledger is put back; the VMS has deleted what was saved since."""
    kept = await keep(tmp_path, vms, 1, "usb", file_lifetime="1s")
    served = vms.add(size=SIZE)
    path = kept.root() / f"hq/{served.export_id}.mp4"
    if place == "number":
        path.write_bytes(b"of somebody else")
        path = path.with_name(f"{served.export_id}~2.mp4")
    async with kept.site.engine() as engine:
        await engine.listers["hq"].once(1)
    old = kept.ledger.read_bytes()
    assert (await kept.site.once()).saved == 1
    kept.ledger.write_bytes(old)
    assert kept.site.export(served).state is State.READY
    if vanished == "file":
        vms.delete_file(served)
    else:
        vms.remove_row(served)
        vms.script(served, then=Fault(kind=Kind.STATUS, status=503))
    async with kept.site.service():
        await kept.site.until_state(served, State.SAVED)
        await kept.site.until(
            lambda: (
                {one.target: one.state for one in kept.site.dossier(served).copies}
                == dict.fromkeys(("nas", "usb"), CopyState.SAVED)
            )
        )
        asked = vms.journal.counters["requests"]
        await kept.site.until(lambda: vms.journal.counters["requests"] > asked + 12, 60)

    assert kept.site.export(served).state is State.SAVED
    copies = {one.target: one for one in kept.site.dossier(served).copies}
    assert copies["nas"].path == str(path.relative_to(kept.root()))


@pytest.mark.parametrize("how", ["nothing", "other", "anew", "short", "garbage"])
async def test_what_no_target_keeps_is_lost_all_the_same(tmp_path, vms, how):
    """A file of another export at its path, or half of its own, saves nothing."""
    kept = await keep(tmp_path, vms, 1, file_lifetime="1s")
    served = vms.add(size=SIZE)
    async with kept.site.engine() as engine:
        await engine.listers["hq"].once(1)
    assert kept.site.export(served).state is State.READY
    vms.delete_file(served)
    path = kept.root() / f"hq/{served.export_id}.mp4"
    if how != "nothing":
        shutil.copy(kept.path(0), path)
        shutil.copy(kept.sidecar(0), f"{path}.json")
    match how:
        case "anew":
            alter(Path(f"{path}.json"), id=served.export_id, item=None)
        case "short":
            key = kept.site.export(served).created_key
            given = {"id": served.export_id, "created_key": key, "item": None}
            alter(Path(f"{path}.json"), **given)
            path.write_bytes(b"short")
        case "garbage":
            Path(f"{path}.json").write_bytes(b"\xff")
    async with kept.site.service():
        await kept.site.until_state(served, State.LOST)


async def test_a_target_that_hangs_does_not_hold_up_the_walks(
    tmp_path, vms, monkeypatch
):
    """What is looked for there is looked for at a later walk."""
    monkeypatch.setattr("mirror.pipeline.publish.already_kept.LONGEST_S", 0.1)
    kept = await keep(tmp_path, vms, 1, file_lifetime="1s")
    served = vms.add(size=SIZE)
    async with kept.site.engine() as engine:
        await engine.listers["hq"].once(1)
    vms.delete_file(served)
    release = threading.Event()

    def hang(*_: Any) -> None:
        release.wait(20)

    monkeypatch.setattr(scan, "find", hang)
    async with kept.site.service():
        await kept.site.until_state(served, State.LOST)
        release.set()
