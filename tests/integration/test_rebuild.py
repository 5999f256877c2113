"""`rebuild`: what is saved comes back, and the command tells what it did."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest

from mirror.ledger import Ledger
from mirror.model import State
from mirror.simulator import Fault, Kind, Stage, Vms
from tests.kept_site import FACTS, SIZE, alter, keep, tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as served:
        yield served


async def test_all_that_is_saved_comes_back(tmp_path, vms):
    """Each fact of each export, each copy; nothing on a target is changed."""
    kept = await keep(tmp_path, vms, 5, "usb")
    before, held = kept.rows(), [tree(kept.root(one)) for one in ("nas", "usb")]
    kept.lose()
    done = await kept.rebuild()
    after = kept.rows()

    assert done.exports == {"saved": 5}
    assert done.aside is None
    assert after.keys() == before.keys()
    for key, row in after.items():
        for name in FACTS:
            assert row[name] == before[key][name], name
        told = [(one["target"], one["state"], one["path"]) for one in row["copies"]]
        wanted = [(o["target"], o["state"], o["path"]) for o in before[key]["copies"]]
        assert told == wanted
        # Lengths were compared, no bytes were read.
        assert [one["verified_at"] for one in row["copies"]] == [None, None]
    assert [tree(kept.root(one)) for one in ("nas", "usb")] == held
    assert kept.odd == []


async def test_what_is_saved_is_not_fetched_again_and_the_rest_is(tmp_path, vms):
    """A run after it goes on with what was not saved, and loses nothing."""
    kept = await keep(tmp_path, vms, 4)
    fresh = vms.add(size=SIZE)
    waiting = vms.add(size=SIZE, stage=Stage.ASKED)
    vms.delete_file(kept.served[0])
    vms.remove_row(kept.served[1])
    kept.lose()
    await kept.rebuild()
    report = await kept.site.once()

    assert (report.saved, report.lost) == (1, 0)
    assert [len(vms.file_requests(one)) for one in kept.served] == [1, 1, 1, 1]
    assert [kept.state(number) for number in range(4)] == ["saved"] * 4
    assert kept.site.export(fresh).state is State.SAVED
    assert kept.site.export(waiting).state is State.WAITING
    code, out, _ = await kept.command("verify")
    assert code == 0, out


async def test_a_service_goes_on_after_it(tmp_path, vms):
    """Walks and sweeps call nothing lost that is kept."""
    kept = await keep(tmp_path, vms, 3, file_lifetime="1s")
    vms.remove_row(kept.served[0])
    vms.delete_file(kept.served[1])
    kept.lose()
    await kept.rebuild()
    sweeps = vms.journal.counters["requests"]
    async with kept.site.service():
        await kept.site.until(
            lambda: vms.journal.counters["requests"] >= sweeps + 12, 60
        )

    assert [kept.state(number) for number in range(3)] == ["saved"] * 3


async def test_the_node_the_devices_and_the_markers_are_kept(tmp_path, vms):
    """They are read from the old ledger; the marker else from the target."""
    kept = await keep(tmp_path, vms, 1)

    def facts() -> tuple[object, ...]:
        with contextlib.closing(Ledger.open(kept.ledger.parent)) as ledger:
            return (
                ledger.node_id(0),
                ledger.walks.source("hq").device_uuid,
                ledger.targets.marker("nas"),
            )

    node, device, marker = facts()
    await kept.rebuild(force=True)
    assert facts() == (node, device, marker)
    kept.lose()
    await kept.rebuild()
    found = facts()

    assert found[2] == marker
    assert found[0] != node
    assert found[1] != device


async def test_the_old_ledger_is_moved_aside_whole(tmp_path, vms):
    """Never deleted; and what is sound in it is carried over."""
    kept = await keep(tmp_path, vms, 2)
    lost = vms.add(size=SIZE)
    vms.script(lost, then=Fault(kind=Kind.STATUS, status=404))
    await kept.site.once()
    history = kept.site.dossier(lost).attempts
    assert history
    done = await kept.rebuild(force=True)

    assert done.aside is not None
    assert done.carried == 3
    with contextlib.closing(sqlite3.connect(done.aside)) as old:
        assert old.execute("SELECT count(*) FROM exports").fetchone() == (3,)
    assert kept.site.dossier(lost).attempts == history
    assert kept.site.export(lost).reason == "file_gone"
    assert done.aside.stat().st_mode & 0o777 == 0o600
    assert kept.ledger.stat().st_mode & 0o777 == 0o600
    assert not list(kept.ledger.parent.glob("rebuilding*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it gives files away")
async def test_what_root_rebuilds_belongs_to_the_service(tmp_path, vms):
    """It could not start else."""
    kept = await keep(tmp_path, vms, 1)
    os.chown(kept.ledger.parent, 65534, 65534)
    await kept.rebuild(force=True)
    about = kept.ledger.stat()

    assert (about.st_uid, about.st_gid) == (65534, 65534)


async def test_totals_do_not_begin_below_what_is_kept(tmp_path, vms):
    """Neither without an old ledger, nor beside one that has counted more."""
    kept = await keep(tmp_path, vms, 3)

    def saved() -> dict[tuple[str, str], int]:
        with contextlib.closing(Ledger.open(kept.ledger.parent)) as ledger:
            return ledger.queries.totals("saved")

    with contextlib.closing(Ledger.open(kept.ledger.parent)) as ledger:
        with ledger._db.transaction() as connection:
            connection.execute("UPDATE totals SET total = 40")
    await kept.rebuild(force=True)
    assert saved() == {("hq", ""): 40}
    kept.lose()
    await kept.rebuild()

    assert saved() == {("hq", ""): 3}


async def test_the_command_says_what_it_found(tmp_path, vms):
    """Per target; and that `verify` proves the bytes."""
    kept = await keep(tmp_path, vms, 3, "usb")
    kept.path(0, "usb").unlink()
    kept.sidecar(1, "usb").write_text("?")
    kept.ledger.write_bytes(b"no database" * 1000)
    code, _, err = await kept.command("once")
    assert code == 74
    assert "archive-mirror rebuild" in err
    code, out, err = await kept.command("rebuild")

    assert code == 0, err
    assert "target nas: 3 sidecars read; copies: saved 3" in out
    assert "target usb: 3 sidecars read; copies: damaged 1, saved 1; not taken" in out
    assert f"damaged  usb:hq/{kept.path(0).name}" in out
    assert "the new ledger holds: saved 3" in out
    assert "archive-mirror verify" in out
    (aside,) = kept.ledger.parent.glob("*.replaced-*")
    assert str(aside) in out
    assert aside.read_bytes() == b"no database" * 1000


async def test_a_flood_of_oddities_is_counted_and_named_in_part(tmp_path, vms):
    """A shared target may hold a million files of another source."""
    kept = await keep(tmp_path, vms, 1)
    for number in range(150):
        shutil.copy(kept.sidecar(0), kept.root() / f"{number}.mp4.json")
        alter(kept.root() / f"{number}.mp4.json", source="annex")
    kept.lose()
    code, out, _ = await kept.command("rebuild")

    assert code == 0
    assert out.count("foreign  ") == 100
    assert "foreign 150" in out
