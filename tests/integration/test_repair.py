"""Damaged copies repaired: from what, and what becomes of the damaged ones."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest

from mirror.app import lock
from mirror.disk import durable
from mirror.errors import LockedError, TargetError
from mirror.model import CopyState, State
from mirror.simulator import Vms
from mirror.targets.directory.place import Placement
from mirror.targets.directory.store import DirectoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


from tests.kept_site import HIDDEN, SIZE
from tests.verify_bench import (
    DAMAGES,
    SIDECARS,
    deadline_of,
    digest,
    flip,
    keep,
    snapshot,
    sql,
)


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as served:
        yield served


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
async def test_repair_brings_the_file_back_from_a_sibling(tmp_path, vms, damage):
    """At its own path, a file of its own; what lay there is kept aside as it was."""
    do, problem = damage
    kept = await keep(tmp_path, vms, 2, "usb")
    path, sibling = kept.path(0), kept.path(0, "usb")
    do(path)
    old = path.lstat() if problem != "missing" else None
    before = snapshot(kept.root("usb"))
    tally, found = await kept.verify(repair=True)

    assert (tally.exit_code, tally.damaged, tally.repaired) == (4, 1, 1)
    assert [(one.problem, one.repaired) for one in found] == [(problem, True)]
    assert "brought back from the copy on usb" in found[0].text
    assert digest(path) == kept.truth(0)
    assert path.stat().st_ino != sibling.stat().st_ino
    assert (path.stat().st_nlink, path.is_symlink()) == (1, False)
    assert snapshot(kept.root("usb")) == before
    aside = kept.root() / HIDDEN / "damaged" / "hq" / path.name
    if old is not None:
        assert aside.lstat().st_ino == old.st_ino
        assert aside.lstat().st_mtime_ns == old.st_mtime_ns
        assert f"{HIDDEN}/damaged/hq/{path.name}" in found[0].text
    assert kept.copy(0).state is CopyState.SAVED
    assert kept.copy(0).path == f"hq/{path.name}"
    assert list((kept.root() / HIDDEN / "tmp").iterdir()) == []
    tally, found = await kept.verify()
    assert (tally.exit_code, found) == (0, [])


async def test_what_is_moved_aside_never_replaces_what_was_moved_before(tmp_path, vms):
    """Each damaged file is kept."""
    kept = await keep(tmp_path, vms, 1, "usb")
    name = kept.path(0).name
    for content in (b"one", b"two", b"three"):
        kept.path(0).write_bytes(content)
        tally, _ = await kept.verify(repair=True)
        assert tally.repaired == 1
    aside = kept.root() / HIDDEN / "damaged" / "hq"

    assert {path.name: path.read_bytes() for path in aside.iterdir()} == {
        name: b"one",
        f"{name}~2": b"two",
        f"{name}~3": b"three",
    }


@pytest.mark.parametrize("damage", SIDECARS.values(), ids=SIDECARS.keys())
async def test_repair_writes_a_sidecar_anew(tmp_path, vms, damage):
    """As it was; the file is not touched, the wrong one is kept aside."""
    do, problem = damage
    kept = await keep(tmp_path, vms, 1)
    beside = kept.sidecar(0)
    right = json.loads(beside.read_bytes())
    do(beside)
    old = beside.lstat() if problem != "sidecar_missing" else None
    file = kept.path(0).stat()
    tally, found = await kept.verify(repair=True)

    assert (tally.damaged, tally.repaired) == (1, 1)
    assert "its sidecar was written anew" in found[0].text
    assert json.loads(beside.read_bytes()) == right
    now = kept.path(0).stat()
    assert (now.st_ino, now.st_mtime_ns) == (file.st_ino, file.st_mtime_ns)
    if old is not None:
        aside = kept.root() / HIDDEN / "damaged" / "hq" / beside.name
        assert aside.lstat().st_ino == old.st_ino
    assert kept.copy(0).last_error is None
    assert (await kept.verify())[0].exit_code == 0


@pytest.mark.parametrize("targets", [(), ("usb",)], ids=["alone", "sibling"])
async def test_a_sidecar_of_which_the_ledger_holds_no_item(tmp_path, vms, targets):
    """It is the sibling's, else it lacks the item."""
    kept = await keep(tmp_path, vms, 1, *targets)
    beside = kept.sidecar(0)
    right = json.loads(beside.read_bytes())
    sql(kept, "DELETE FROM items")
    beside.write_text(json.dumps(right | {"id": 1}))
    tally, _ = await kept.verify("nas", repair=True)

    assert (tally.damaged, tally.repaired) == (1, 1)
    written = json.loads(beside.read_bytes())
    if not targets:
        assert written.pop("item") is None and right.pop("item") is not None
        del written["item_sha256"], right["item_sha256"]
    assert written == right


async def test_file_and_sidecar_are_repaired_together(tmp_path, vms):
    """The sibling's record serves where the ledger holds no item any more."""
    kept = await keep(tmp_path, vms, 1, "usb")
    sql(kept, "DELETE FROM items")
    shutil.rmtree(kept.root() / "hq")
    tally, found = await kept.verify(repair=True)

    assert (tally.damaged, tally.repaired, len(found)) == (1, 1, 2)
    record = json.loads(kept.sidecar(0).read_bytes())
    sibling = json.loads(kept.sidecar(0, "usb").read_bytes())
    assert record == sibling | {"target": "nas"}
    assert digest(kept.path(0)) == kept.truth(0)


async def test_without_a_sibling_nothing_is_moved(tmp_path, vms):
    """Said plainly, with what the VMS has."""
    kept = await keep(tmp_path, vms, 1)
    flip(kept.path(0))
    before = snapshot(kept.root())
    code, out, _ = await kept.command("verify", "--repair")

    assert code == 4
    assert "not repaired: no good copy of it is known on another target" in out
    assert f"the VMS should list its file until {deadline_of(kept)}" in out
    assert out.endswith("checked 1, good 0, damaged 1, repaired 0, not checked 0\n")
    assert snapshot(kept.root()) == before


async def test_a_sibling_is_taken_only_after_it_was_read(tmp_path, vms):
    """Be it asked for or not: a rotten one repairs nothing, a good one does."""
    kept = await keep(tmp_path, vms, 1, "tape", "usb")
    for target in ("nas", "tape"):
        flip(kept.path(0, target))
    await kept.verify("tape")
    # The ledger believes in `usb` and in `nas`; only `usb` is good.
    tally, found = await kept.verify("nas", repair=True)
    assert tally.repaired == 1 and "from the copy on usb" in found[0].text
    for target in ("nas", "usb"):
        flip(kept.path(0, target))
    before = snapshot(kept.root())
    tally, found = await kept.verify("nas", repair=True)

    assert (tally.damaged, tally.repaired) == (1, 0)
    assert "no good copy of it is known" in found[0].text
    assert snapshot(kept.root()) == before


async def test_a_sibling_that_is_away_repairs_nothing(tmp_path, vms):
    """Its copy is not known to be good."""
    kept = await keep(tmp_path, vms, 1, "usb")
    flip(kept.path(0))
    kept.root("usb").rename(tmp_path / "away")
    before = snapshot(kept.root())
    tally, _ = await kept.verify("nas", repair=True)

    assert (tally.damaged, tally.repaired) == (1, 0)
    assert snapshot(kept.root()) == before
    assert kept.site.export(kept.served[0]).state is State.SAVED


async def test_a_file_that_reads_well_the_second_time_is_not_moved(
    tmp_path, vms, monkeypatch
):
    """A bad cable or memory: the file is looked at once more before it is moved."""
    kept = await keep(tmp_path, vms, 1, "usb")
    real, lies = durable.digest_on_disk, ["0" * 64]

    def digest_of(fd: int, came: Callable[[int], None]) -> str:
        return lies.pop() if lies else real(fd, came)

    monkeypatch.setattr(durable, "digest_on_disk", digest_of)
    before = snapshot(kept.root())
    tally, found = await kept.verify("nas", repair=True)

    assert (tally.damaged, tally.repaired) == (1, 1)
    assert "read a second time it is right" in found[0].text
    assert snapshot(kept.root()) == before
    assert kept.copy(0).state is CopyState.SAVED


class Cut(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (DirectoryStore, "set_aside"),
        (durable, "move_numbered"),
        (DirectoryStore, "publish"),
        (durable, "write_new"),
        (durable, "place"),
        (Placement, "run"),
        (os, "fsync"),
        (os, "link"),
        ("mirror.ledger.verification.Verification", "good"),
    ],
)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_an_interrupted_repair_is_repeated(
    tmp_path, vms, monkeypatch, where, name, after
):
    """Wherever it was cut, the next run ends it, and the old files are kept."""
    kept = await keep(tmp_path, vms, 1, "usb")
    path = kept.path(0)
    flip(path)
    kept.sidecar(0).write_text("{}")
    rotten = path.read_bytes()
    spot = f"{where}.{name}" if isinstance(where, str) else None
    real = _resolve(spot) if spot else getattr(where, name)

    def cut(*arguments: Any, **named: Any) -> Any:
        if after:
            real(*arguments, **named)
        raise Cut

    with monkeypatch.context() as patched:
        if spot:
            patched.setattr(spot, cut)
        else:
            patched.setattr(where, name, cut)
        with pytest.raises(BaseExceptionGroup):
            await kept.verify("nas", repair=True)
    aside = kept.root() / HIDDEN / "damaged" / "hq"
    await kept.verify(repair=True)
    tally, found = await kept.verify()

    assert (tally.exit_code, found) == (0, [])
    assert digest(path) == kept.truth(0)
    assert [one.read_bytes() for one in aside.glob("*.mp4")] == [rotten]
    assert [one.read_bytes() for one in aside.glob("*.json")] == [b"{}"]
    assert list((kept.root() / HIDDEN / "tmp").iterdir()) == []
    assert kept.copy(0).state is CopyState.SAVED


def _resolve(spot: str) -> Any:
    """Return the function of a dotted name."""
    module, holder, name = spot.rsplit(".", 2)
    return getattr(getattr(sys.modules[module], holder), name)


async def test_a_repair_that_fails_says_where_the_old_file_is(
    tmp_path, vms, monkeypatch
):
    """And the next run repairs what is then missing."""
    kept = await keep(tmp_path, vms, 1, "usb")
    flip(kept.path(0))

    def full(*_: Any, **__: Any) -> None:
        raise TargetError("no_space", "no space there")

    with monkeypatch.context() as patched:
        patched.setattr(Placement, "run", full)
        tally, found = await kept.verify(repair=True)
    assert (tally.damaged, tally.repaired) == (1, 0)
    assert "not repaired: no space there; what lay there is now at" in found[0].text
    assert not kept.path(0).exists()
    tally, found = await kept.verify(repair=True)

    assert [(one.problem, one.repaired) for one in found] == [("missing", True)]
    assert digest(kept.path(0)) == kept.truth(0)


async def test_repair_beside_a_running_service(tmp_path, vms):
    """Neither takes away the other's temporary files."""
    kept = await keep(tmp_path, vms, 2, "usb")
    leftover = kept.root() / HIDDEN / "tmp"
    async with kept.site.service():
        await kept.site.until_state(vms.add(size=SIZE), State.SAVED)
        node = sql(kept, "SELECT node_id FROM node")[0][0]
        (leftover / f"{node}-9-abcd.part").write_bytes(b"the service writes this")
        (leftover / f"{node}repair-9-abcd.part").write_bytes(b"of a killed repair")
        flip(kept.path(0))
        more = vms.add(size=300_000)
        code, out, _ = await kept.command("verify", "--repair")
        assert (code, "repaired wrong_bytes" in out) == (4, True)
        assert [one.name for one in leftover.iterdir()] == [f"{node}-9-abcd.part"]
        await kept.site.until_state(more, State.SAVED)
        code, out, _ = await kept.command("verify")

    assert (code, out.split(",")[0]) == (0, "checked 8")


async def test_two_repairs_at_once(tmp_path, vms):
    """The second one is refused: exit 75. Reading alone goes on."""
    kept = await keep(tmp_path, vms, 1)
    state_dir = kept.site.settings().state_dir
    with lock.repairing(state_dir):
        with pytest.raises(LockedError):
            await kept.verify(repair=True)
        code, _, err = await kept.command("verify", "--repair")
        reading_only = await kept.command("verify")

    assert (code, reading_only[0]) == (75, 0)
    assert "wait for its repair to end" in err
