"""What the service makes of a copy that was found damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mirror.ledger import Ledger
from mirror.model import CopyState, State
from mirror.simulator import Fault, Kind, Vms
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


from tests.kept_site import SIZE
from tests.verify_bench import Kept, digest, flip, keep, snapshot, sql


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as served:
        yield served


async def test_a_damaged_export_is_fetched_again_beside_the_damaged_file(tmp_path, vms):
    """The VMS lists it still: the new file lies at ~2, the old one is not touched."""
    kept = await keep(tmp_path, vms, 1)
    path = kept.path(0)
    flip(path)
    before = snapshot(kept.root() / "hq")
    async with kept.site.service():
        code, _, _ = await kept.command("verify")
        assert code == 4
        await kept.site.until_state(kept.served[0], State.SAVED)

    after = snapshot(kept.root() / "hq")
    # The folder itself has changed: something new lies in it.
    assert {k: v for k, v in after.items() if k in before and k != "."} == {
        k: v for k, v in before.items() if k != "."
    }
    new = kept.path(0)
    assert new.name == f"{kept.served[0].export_id}~2.mp4"
    assert digest(new) == kept.truth(0)
    tally, _ = await kept.verify()
    assert (tally.checked, tally.good) == (1, 1)


async def test_retry_fetches_a_damaged_export(tmp_path, vms):
    """Though no walk shows its row any more, if the VMS has the file still."""
    kept = await keep(tmp_path, vms, 1)
    kept.path(0).unlink()
    vms.script_list(then=Fault(kind=Kind.STATUS, status=500))
    assert (await kept.command("verify"))[0] == 4
    code, out, _ = await kept.command("retry", f"hq/{kept.served[0].export_id}")
    assert (code, out) == (0, "1 of 1 exports are due now\n")
    export = kept.site.export(kept.served[0])
    assert (export.state, export.reason) == (State.READY, "made_again")
    await kept.site.once()

    assert kept.site.export(kept.served[0]).state is State.SAVED
    assert digest(kept.path(0)) == kept.truth(0)


async def test_a_damaged_export_whose_file_the_vms_has_no_more_is_lost(tmp_path, vms):
    """Told as what it is; proven good again, it is saved again."""
    kept = await keep(tmp_path, vms, 1, file_lifetime="1s")
    path = kept.path(0)
    good = path.read_bytes()
    flip(path)
    await kept.verify()
    vms.script(kept.served[0], then=Fault(kind=Kind.STATUS, status=404))
    async with kept.site.service():
        await kept.site.until_state(kept.served[0], State.LOST)
        path.write_bytes(good)
        assert (await kept.command("verify"))[0] == 0
        export = kept.site.export(kept.served[0])

    assert (export.state, export.reason) == (State.SAVED, None)
    assert kept.copy(0).state is CopyState.SAVED


async def _half_kept(folder: Path, vms: Vms) -> Kept:
    """Keep one export on `nas`, which it needs; `usb` waits for the spooled file."""
    site = Site.make(folder, vms)
    for name in ("nas", "usb"):
        path = site.tables["targets"]["nas"]["path"] if name == "nas" else folder / name
        site.tables["targets"][name] = {
            "type": "directory",
            "path": str(path),
            "layout": "{source}/{id}",
            "required": name == "nas",
        }
    (folder / "usb").write_text("a file where the target should be")
    kept = Kept(site, vms, [vms.add(size=SIZE)])
    await site.once()
    assert site.export(kept.served[0]).state is State.SAVED
    return kept


async def test_a_copy_whose_file_is_in_the_spool_is_published_again(tmp_path, vms):
    """Not from the VMS: from the spool, beside the damaged file."""
    kept = await _half_kept(tmp_path, vms)
    path = kept.path(0)
    own = path.read_bytes()
    path.unlink()
    path.write_bytes(own[:-1] + b"x")
    tally, found = await kept.verify(repair=True)
    assert (tally.damaged, tally.repaired) == (1, 0)
    assert "the spool holds its file still" in found[0].text
    export = kept.site.export(kept.served[0])
    assert (export.state, kept.copy(0).state) == (State.SPOOLED, CopyState.PENDING)
    requests = len(vms.file_requests(kept.served[0]))
    async with kept.site.service():
        await kept.site.until_state(kept.served[0], State.SAVED)

    assert len(vms.file_requests(kept.served[0])) == requests
    assert path.read_bytes() == own[:-1] + b"x"
    assert digest(kept.path(0)) == kept.truth(0)
    assert kept.path(0) != path


async def test_a_kept_file_that_is_the_spooled_one_rots_with_it(tmp_path, vms):
    """Linked on one file system: both are bad, so it is fetched anew."""
    kept = await _half_kept(tmp_path, vms)
    path = kept.path(0)
    assert path.stat().st_nlink == 2
    flip(path)
    rotten = digest(path)
    await kept.verify()
    async with kept.site.service():
        await kept.site.until_state(kept.served[0], State.SAVED)

    assert digest(kept.path(0)) == kept.truth(0)
    assert (digest(path), kept.path(0) == path) == (rotten, False)
    (tmp_path / "usb").unlink()
    await kept.site.once()
    assert digest(kept.path(0, "usb")) == kept.truth(0)


async def test_a_result_that_came_too_late_changes_nothing(tmp_path, vms):
    """The copy became another one while it was read."""
    kept = await keep(tmp_path, vms, 1)
    ledger = Ledger.read(kept.site.settings().state_dir)
    key = kept.site.export(kept.served[0]).stored_key
    subject = ledger.verification.copy_to_read(key, "nas")
    assert subject is not None
    given: dict[str, Any] = {"error": "gone", "targets": ["nas"], "now_us": 5}
    for change in ("state = 'pending'", "path = 'hq/other.mp4'"):
        before = sql(kept, "SELECT state, path FROM copies")[0]
        sql(kept, f"UPDATE copies SET {change}")
        assert not ledger.verification.bad(subject, **given)
        assert not ledger.verification.good(subject, note=None, now_us=5)
        sql(kept, "UPDATE copies SET state = ?, path = ?", *before)
    sql(kept, "UPDATE exports SET sha256 = 'ab'")
    assert not ledger.verification.bad(subject, **given)
    ledger.close()

    assert sql(kept, "SELECT state, checked_us FROM copies") == [("saved", 0)]


async def test_a_good_copy_does_not_end_a_fetch_under_way(tmp_path, vms):
    """The fetch owes the copy anew, and takes what lies there for it."""
    kept = await keep(tmp_path, vms, 1)
    good = kept.path(0).read_bytes()
    kept.path(0).write_bytes(b"x")
    await kept.verify()
    kept.path(0).write_bytes(good)
    sql(kept, "UPDATE exports SET state = 'fetching'")
    tally, _ = await kept.verify()
    assert (tally.good, kept.copy(0).state) == (1, CopyState.DAMAGED)
    await kept.site.once()

    assert kept.site.export(kept.served[0]).state is State.SAVED
    assert (kept.copy(0).state, kept.path(0).name) == (
        CopyState.SAVED,
        f"{kept.served[0].export_id}.mp4",
    )


async def test_a_partial_of_a_saved_export_does_not_stay_in_the_spool(tmp_path, vms):
    """Made again and begun, then proven good: no copy waits for the rest of it."""
    kept = await keep(tmp_path, vms, 1, "usb")
    good = kept.path(0).read_bytes()
    for target in ("nas", "usb"):
        flip(kept.path(0, target))
    await kept.verify()
    sql(kept, "UPDATE exports SET state = 'ready', spool_dir = '/s', part_bytes = 9")
    kept.path(0).write_bytes(good)
    await kept.verify()
    ledger = Ledger.read(kept.site.settings().state_dir)
    free = ledger.copies.freeable(["nas", "usb"])
    ledger.close()

    assert kept.copy(0, "usb").state is CopyState.DAMAGED
    assert [one.state for one in free] == [State.SAVED]
