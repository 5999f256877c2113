"""What lies on a target is not called lost by a ledger that does not know it."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mirror.model import CopyState, State, to_us, utc_now
from mirror.pipeline.publish.already_kept import AlreadyKept
from mirror.simulator import Fault, Kind, Vms
from mirror.targets.directory import scan
from tests.kept_site import SIZE, alter, keep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mirror.simulator import Export as Served
    from tests.kept_site import Kept


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


async def save_and_set_back(kept: Kept, *served: Served) -> None:
    """Save exports, and put back the ledger that knows them as ready."""
    async with kept.site.engine() as engine:
        await engine.listers["hq"].once(1)
    old = kept.ledger.read_bytes()
    assert (await kept.site.once()).saved == len(served)
    kept.ledger.write_bytes(old)
    assert {kept.site.export(one).state for one in served} == {State.READY}


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
    await save_and_set_back(kept, served)
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


@pytest.mark.parametrize("vanished", ["file", "row", "url"])
async def test_nothing_is_lost_before_it_was_looked_for(
    tmp_path, vms, monkeypatch, vanished
):
    """However many walks and tries come first, side by side."""
    monkeypatch.setattr("mirror.pipeline.publish.already_kept.LONGEST_S", 0.05)
    kept = await keep(tmp_path, vms, 1, file_lifetime="1s")
    served = vms.add(size=SIZE)
    await save_and_set_back(kept, served)
    released, look_for = asyncio.Event(), AlreadyKept._look_for

    async def held_back(*given: Any) -> None:
        await released.wait()
        await look_for(*given)

    monkeypatch.setattr(AlreadyKept, "_look_for", held_back)
    if vanished == "file":
        vms.delete_file(served)
    else:
        vms.script(served, then="status_404")
    if vanished == "row":
        vms.remove_row(served)

    def would_be_lost() -> bool:
        export, now_us = kept.site.export(served), to_us(utc_now())
        seen = max(export.without_walks / 3, export.absent_sweeps / 2)
        return seen >= 1 and export.past_deadline(now_us - 1_200_000)

    async with kept.site.service():
        await kept.site.until(
            lambda: kept.site.export(served).state is State.LOST or would_be_lost()
        )
        asked = vms.journal.counters["requests"]
        await kept.site.until(lambda: vms.journal.counters["requests"] > asked + 12)
        assert kept.site.export(served).state is not State.LOST
        monkeypatch.setattr("mirror.pipeline.publish.already_kept.LONGEST_S", 10.0)
        released.set()
        await kept.site.until_state(served, State.SAVED)


async def test_what_a_fetcher_has_meanwhile_was_not_looked_for_in_vain(
    tmp_path, vms, monkeypatch
):
    """It lies on the target, and is taken up when it is idle again."""
    kept = await keep(tmp_path, vms, 1, file_lifetime="1s")
    served = vms.add(size=SIZE)
    await save_and_set_back(kept, served)
    vms.remove_row(served)
    path_on = AlreadyKept._path_on
    async with kept.site.engine() as engine:

        async def claimed_meanwhile(*given: Any) -> str | None:
            await engine.ledger(
                lambda ledger: ledger.fetches.claim(["hq"], now_us=2**62, horizon_us=1)
            )
            return await path_on(*given)

        await engine.prepare()
        with monkeypatch.context() as patched:
            patched.setattr(AlreadyKept, "_path_on", claimed_meanwhile)
            await engine.listers["hq"].walk(sweep=True)
        export = kept.site.export(served)
        assert (export.state, export.absent_sweeps) == (State.FETCHING, 1)
        assert not engine._recall.looked_for(export)
        await engine.ledger(lambda ledger: ledger.fetches.recover())
        await engine.listers["hq"].walk(sweep=True)
    assert kept.site.export(served).state is State.SAVED


async def test_what_was_looked_for_may_be_fetched_meanwhile(tmp_path, vms):
    """A walk that meets it so does not forget the look."""
    kept = await keep(tmp_path, vms, 1)
    served = vms.add(size=SIZE)
    async with kept.site.engine() as engine:
        await engine.prepare()
        lister = engine.listers["hq"]
        await lister.walk(sweep=True)
        vms.remove_row(served)
        await lister.walk(sweep=True)
        await engine.ledger(
            lambda ledger: ledger.fetches.claim(["hq"], now_us=2**62, horizon_us=1)
        )
        await lister.walk(sweep=False)
        export = kept.site.export(served)
        is_known = engine._recall.looked_for(export)

    assert (export.state, is_known) == (State.FETCHING, True)


async def test_what_one_round_does_not_reach_the_next_ones_do(
    tmp_path, vms, monkeypatch
):
    """Also where a target hangs, and what was looked for goes on to wait."""
    monkeypatch.setattr("mirror.pipeline.publish.already_kept.LONGEST_S", 0.2)
    kept = await keep(tmp_path, vms, 1)
    served = [vms.add(size=SIZE) for _ in range(4)]
    async with kept.site.engine() as engine:
        await engine.prepare()
        await engine.listers["hq"].once(1)
        for one in served:
            vms.delete_file(one)
        release = threading.Event()
        monkeypatch.setattr(scan, "find", lambda *_: release.wait(60) and None)

        def looked_for() -> int:
            exports = map(kept.site.export, served)
            return sum(map(engine._recall.looked_for, exports))

        await engine.listers["hq"].walk(sweep=False)
        reached = looked_for()
        async with asyncio.timeout(60):
            while looked_for() < len(served):
                await engine.listers["hq"].walk(sweep=False)
        release.set()

    assert reached < len(served)


async def test_once_after_once_tells_of_a_loss(tmp_path, vms):
    """Each run begins with a look of its own: it knows nothing of those before."""
    kept = await keep(tmp_path, vms, 1, file_lifetime="1s")
    served = vms.add(size=SIZE)
    async with kept.site.engine() as engine:
        await engine.listers["hq"].once(1)
    vms.delete_file(served)
    deadline_us = kept.site.export(served).deadline_us
    assert deadline_us is not None
    await kept.site.until(lambda: to_us(utc_now()) > deadline_us + 1_200_000)

    assert sum([(await kept.site.once()).lost for _ in range(3)]) == 1


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
