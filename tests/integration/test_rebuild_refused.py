"""When `rebuild` leaves the old ledger as it is."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from mirror.app import lock
from mirror.disk import durable
from mirror.errors import LedgerError, LockedError, TargetError
from mirror.ledger import Ledger
from mirror.simulator import Vms
from mirror.targets.directory import scan
from tests.kept_site import HIDDEN, keep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as served:
        yield served


async def test_a_sound_ledger_is_refused_and_the_text_says_why(tmp_path, vms):
    """It is as it was; exit 1."""
    kept = await keep(tmp_path, vms, 2)
    before = kept.rows()
    code, out, err = await kept.command("rebuild")

    assert (code, out) == (1, "")
    assert "is sound and holds 2 exports" in err
    assert "--force" in err
    assert "Traceback" not in err
    assert kept.rows() == before
    assert not list(kept.ledger.parent.glob("*.replaced-*"))


async def test_beside_a_running_service_it_is_refused(tmp_path, vms):
    """Exit 75."""
    kept = await keep(tmp_path, vms, 1)
    with lock.held(kept.ledger.parent):
        with pytest.raises(LockedError):
            await kept.rebuild(force=True)
        assert (await kept.command("rebuild", "--force"))[0] == 75


@pytest.mark.parametrize("how", ["away", "empty", "other", "unmounted", "marker"])
@pytest.mark.parametrize("known", [False, True])
async def test_a_target_that_is_not_there_is_refused(tmp_path, vms, how, known):
    """Nothing is concluded from an empty tree; the old ledger stays."""
    kept = await keep(tmp_path, vms, 1, "usb")
    if not known:
        kept.lose()
    root = kept.root("usb")
    match how:
        case "away":
            root.rename(tmp_path / "elsewhere")
        case "empty":
            root.rename(tmp_path / "elsewhere")
            root.mkdir()
        case "other":
            marker = root / HIDDEN / "target.json"
            marker.write_text('{"target_id": "another"}')
        case "unmounted":
            kept.site.tables["targets"]["usb"]["mount"] = True
        case "marker":
            (root / HIDDEN / "target.json").write_text("?")
    before = kept.ledger.read_bytes() if known else None
    if how == "other" and not known:
        # Without a ledger, the marker that is found is taken for the right one.
        assert (await kept.rebuild()).exports == {"saved": 1}
        return
    with pytest.raises(TargetError, match="usb"):
        await kept.rebuild(force=True)

    assert (kept.ledger.read_bytes() if known else None) == before
    assert (await kept.rebuild("nas", force=True)).exports == {"saved": 1}
    # What is known of a target that was not read is carried over as it was.
    assert kept.copies(0).get("usb", ("", ""))[0] == ("saved" if known else "")


async def test_a_target_that_is_not_configured_is_a_usage_error(tmp_path, vms):
    """Exit 2."""
    kept = await keep(tmp_path, vms, 1)

    assert (await kept.command("rebuild", "--target", "nowhere"))[0] == 2


async def test_a_target_that_goes_away_meanwhile_leaves_the_old_ledger(
    tmp_path, vms, monkeypatch
):
    """Half of a tree proves nothing of the other half."""
    kept = await keep(tmp_path, vms, 2)
    before = kept.rows()
    monkeypatch.setattr(scan, "scan", _stale)
    with pytest.raises(TargetError, match="away"):
        await kept.rebuild(force=True)

    assert kept.rows() == before
    assert not list(kept.ledger.parent.glob("rebuilding*"))


@pytest.mark.parametrize(("of", "call"), [(durable, "flush"), (Ledger, "count_on")])
async def test_a_full_disk_leaves_the_old_ledger(tmp_path, vms, monkeypatch, of, call):
    """Be it full for the new ledger's rows or for its last flush: told what to do."""
    kept = await keep(tmp_path, vms, 1)
    before = kept.rows()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(of, call, full)
        with pytest.raises(LedgerError, match="free some space"):
            await kept.rebuild(force=True)

    assert kept.rows() == before
    assert not list(kept.ledger.parent.glob("rebuilding*"))
    assert (await kept.rebuild(force=True)).exports == {"saved": 1}


def _stale(_: int) -> Any:
    yield from ()
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


async def test_a_target_that_hangs_is_given_up(tmp_path, vms, monkeypatch):
    """With the target's name; a mount that answers never must not hold it for ever."""
    kept = await keep(tmp_path, vms, 1)
    monkeypatch.setattr("mirror.targets.directory.target.READ_S", 0.2)
    release = threading.Event()

    def hang(_: int) -> Any:
        release.wait(20)
        yield from ()

    monkeypatch.setattr(scan, "scan", hang)
    with pytest.raises(TargetError, match="hangs"):
        await kept.rebuild(force=True)
    release.set()
