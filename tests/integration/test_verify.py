"""Kept copies read again: what is found, and what is said of it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mirror.app.status import metrics_snapshot
from mirror.disk import durable
from mirror.ledger import Ledger
from mirror.model import CopyState, State
from mirror.pipeline.verify.scrub import Sample
from mirror.simulator import Vms
from mirror.targets.directory import target as directory
from mirror.targets.directory.root import Root
from mirror.targets.directory.store import DirectoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mirror.metrics import LedgerSnapshot
    from tests.kept_site import Kept

from tests.kept_site import HIDDEN, SIZE
from tests.verify_bench import (
    DAMAGES,
    SIDECARS,
    flip,
    keep,
    problems,
    snapshot,
    sql,
)


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as served:
        yield served


async def test_good_copies_are_proven_and_nothing_is_touched(tmp_path, vms):
    """Exit 0; each copy carries the time it was read, also one moved by rename."""
    kept = await keep(tmp_path, vms, 3)
    assert kept.copy(0).verified_us is None
    before = snapshot(kept.root())
    code, out, err = await kept.command("verify")

    assert (code, err) == (0, "")
    assert out == "checked 3, good 3, damaged 0, repaired 0, not checked 0\n"
    assert snapshot(kept.root()) == before
    assert all(kept.copy(n).verified_us is not None for n in range(3))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
async def test_damage_is_found_and_nothing_is_touched(tmp_path, vms, damage):
    """Exit 4; the copy and, as it was the last good one, the export are damaged."""
    do, problem = damage
    kept = await keep(tmp_path, vms, 2)
    do(kept.path(0))
    before = snapshot(kept.root())
    tally, found = await kept.verify()

    assert (tally.checked, tally.good, tally.damaged) == (2, 1, 1)
    assert tally.exit_code == 4
    assert problems(found) == [(kept.served[0].export_id, "nas", problem)]
    assert snapshot(kept.root()) == before
    copy = kept.copy(0)
    assert (copy.state, copy.last_error is None) == (CopyState.DAMAGED, False)
    assert kept.site.export(kept.served[0]).state is State.DAMAGED
    assert kept.site.export(kept.served[1]).state is State.SAVED


def taken(kept: Kept) -> LedgerSnapshot:
    """Return what the metrics show of its ledger."""
    ledger = Ledger.read(kept.site.settings().state_dir)
    with contextlib.closing(ledger):
        return metrics_snapshot.take(ledger, 0)


async def test_status_and_metrics_tell_of_damaged_copies(tmp_path, vms):
    """Damage that nobody repaired is not forgotten once `verify` has ended."""
    kept = await keep(tmp_path, vms, 3)
    flip(kept.path(0))
    kept.path(1).unlink()
    await kept.verify()
    _, out, _ = await kept.command("status")
    _, told, _ = await kept.command("status", "--json")
    assert "Target nas: 2 copies are damaged or gone." in out
    assert json.loads(told)["targets"][0]["damaged_files"] == 2
    assert taken(kept).target_damaged_files == {"nas": 2}


@pytest.mark.parametrize("damage", SIDECARS.values(), ids=SIDECARS.keys())
async def test_a_sidecar_that_is_wrong_is_damage(tmp_path, vms, damage):
    """Exit 4, named; the file is good and stays saved."""
    do, problem = damage
    kept = await keep(tmp_path, vms, 1)
    do(kept.sidecar(0))
    before = snapshot(kept.root())
    tally, found = await kept.verify()

    assert tally.exit_code == 4
    assert problems(found) == [(kept.served[0].export_id, "nas", problem)]
    assert snapshot(kept.root()) == before
    copy = kept.copy(0)
    assert (copy.state, copy.verified_us is None) == (CopyState.SAVED, False)
    assert "sidecar" in str(copy.last_error)
    assert kept.site.export(kept.served[0]).state is State.SAVED


async def test_a_folder_that_is_gone_is_all_its_files(tmp_path, vms):
    """File and sidecar are told of, one by one."""
    kept = await keep(tmp_path, vms, 2)
    shutil.rmtree(kept.root() / "hq")
    tally, found = await kept.verify()

    assert (tally.damaged, tally.not_checked) == (2, 0)
    assert sum(one.problem == "missing" for one in found) == 2
    assert len(found) == 4


async def test_a_sibling_keeps_the_export_saved(tmp_path, vms):
    """Damaged is an export only when no good copy is left on any target."""
    kept = await keep(tmp_path, vms, 1, "usb")
    flip(kept.path(0, "nas"))
    await kept.verify()
    assert kept.site.export(kept.served[0]).state is State.SAVED
    assert kept.copy(0, "nas").state is CopyState.DAMAGED
    flip(kept.path(0, "usb"))
    await kept.verify()

    export = kept.site.export(kept.served[0])
    assert export.state is State.DAMAGED
    assert "bytes are not those" in str(export.last_error)


async def test_a_copy_on_a_target_that_is_configured_no_more_is_no_comfort(
    tmp_path, vms
):
    """Nobody can read it."""
    kept = await keep(tmp_path, vms, 1, "usb")
    del kept.site.tables["targets"]["usb"]
    flip(kept.path(0))
    tally, _ = await kept.verify()

    assert (tally.checked, tally.damaged) == (1, 1)
    assert kept.site.export(kept.served[0]).state is State.DAMAGED


async def test_a_copy_proven_good_again_saves_its_export_again(tmp_path, vms):
    """Whatever became of the export meanwhile."""
    kept = await keep(tmp_path, vms, 1)
    path = kept.path(0)
    good = path.read_bytes()
    flip(path)
    await kept.verify()
    assert kept.site.export(kept.served[0]).state is State.DAMAGED
    path.write_bytes(good)
    tally, found = await kept.verify()

    assert (tally.exit_code, found) == (0, [])
    export = kept.site.export(kept.served[0])
    assert (export.state, export.last_error) == (State.SAVED, None)
    copy = kept.copy(0)
    assert (copy.state, copy.last_error) == (CopyState.SAVED, None)


def _away(root: Path) -> None:
    root.rename(root.with_name("away"))


def _bare(root: Path) -> None:
    _away(root)
    root.mkdir()


def _other_disk(root: Path) -> None:
    marker = root / HIDDEN / "target.json"
    marker.write_text('{"target_id": "another"}')


@pytest.mark.parametrize(
    ("vanish", "told"),
    [
        (_away, "is missing: its disk is away"),
        (_bare, "its disk is not mounted there, or was emptied"),
        (_other_disk, "is that of another target"),
    ],
)
async def test_a_target_that_is_away_is_not_damaged(tmp_path, vms, vanish, told):
    """Exit 1 with the reason, once; the other target is read to its end."""
    kept = await keep(tmp_path, vms, 3, "usb")
    vanish(kept.root())
    code, out, err = await kept.command("verify")

    assert (code, err) == (1, "")
    first, last = out.splitlines()
    assert first.startswith("not_checked  target nas: ") and told in first
    assert "3 copies there were not checked" in first
    assert last == "checked 3, good 3, damaged 0, repaired 0, not checked 3"
    for number in range(3):
        assert kept.copy(number).state is CopyState.SAVED
        assert kept.site.export(kept.served[number]).state is State.SAVED


async def test_damage_outweighs_a_target_that_is_away(tmp_path, vms):
    """Exit 4: it is what must be acted upon."""
    kept = await keep(tmp_path, vms, 1, "usb")
    kept.root().rename(tmp_path / "away")
    (kept.root("usb") / "hq" / f"{kept.served[0].export_id}.mp4").unlink()
    tally, found = await kept.verify()

    assert (tally.exit_code, tally.not_checked, tally.damaged) == (4, 1, 1)
    assert len(found) == 2
    # The copy that cannot be read just now is not known to be bad.
    assert kept.site.export(kept.served[0]).state is State.SAVED


async def test_a_target_that_goes_away_while_it_is_read(tmp_path, vms, monkeypatch):
    """What was read counts, the rest was not checked."""
    kept = await keep(tmp_path, vms, 4)
    real, calls = DirectoryStore.examine, []

    def vanish(store: DirectoryStore, path: str, **named: Any):
        calls.append(path)
        if len(calls) == 3:
            kept.root().rename(tmp_path / "away")
        return real(store, path, **named)

    monkeypatch.setattr(DirectoryStore, "examine", vanish)
    tally, found = await kept.verify()

    assert (tally.checked, tally.good, tally.not_checked) == (2, 2, 2)
    assert (tally.exit_code, len(found), found[0].path) == (1, 1, None)


@pytest.fixture
def unreadable(monkeypatch) -> dict[str, int]:
    """Let the reading of files fail: each name with its error number."""
    failing: dict[str, int] = {}
    real = durable.chunks_of

    def chunks(fd: int):
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        for chunk in real(fd):
            if name in failing:
                raise OSError(failing[name], os.strerror(failing[name]))
            yield chunk

    monkeypatch.setattr(durable, "chunks_of", chunks)
    return failing


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("suffix", ["", ".json"])
async def test_a_file_that_cannot_be_read_is_not_damaged(
    tmp_path, vms, unreadable, code, suffix
):
    """Exit 1, named, with the reason; all others are read."""
    kept = await keep(tmp_path, vms, 3)
    unreadable[f"{kept.path(1).name}{suffix}"] = code
    tally, found = await kept.verify()

    assert (tally.good, tally.not_checked, tally.exit_code) == (2, 1, 1)
    assert problems(found) == [(kept.served[1].export_id, "nas", "not_checked")]
    assert errno.errorcode[code] in found[0].text
    assert kept.copy(1).state is CopyState.SAVED


async def test_a_file_without_permission_is_not_damaged(tmp_path, vms, monkeypatch):
    """Whoever may not read it knows nothing of it."""
    kept = await keep(tmp_path, vms, 1)
    name, real = kept.path(0).name, durable.open_file

    def refuse(asked: str, *, within: int) -> int:
        if asked == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(asked, within=within)

    monkeypatch.setattr(durable, "open_file", refuse)
    tally, found = await kept.verify()

    assert (tally.exit_code, tally.damaged) == (1, 0)
    assert "give it to the service's user" in found[0].text


async def test_a_link_in_place_of_a_folder_is_not_followed(tmp_path, vms):
    """What lies behind it is not known; it is not called damaged either."""
    kept = await keep(tmp_path, vms, 1)
    (kept.root() / "hq").rename(tmp_path / "hq")
    (kept.root() / "hq").symlink_to(tmp_path / "hq")
    tally, found = await kept.verify()

    assert (tally.exit_code, tally.not_checked) == (1, 1)
    assert "a link or file lies where a folder belongs" in found[0].text


async def test_a_mount_that_hangs_is_given_up(tmp_path, vms, monkeypatch):
    """The other target is read to its end, and the command ends."""
    kept = await keep(tmp_path, vms, 2, "usb")
    monkeypatch.setattr(directory, "READ_S", 0.3)
    monkeypatch.setitem(
        directory.DirectoryTarget.probe.__kwdefaults__, "patience_s", 0.3
    )
    awake, real = threading.Event(), Root.opened

    def opened(root: Root) -> Any:
        if root.target == "nas":
            awake.wait(30)
        return real(root)

    monkeypatch.setattr(Root, "opened", opened)
    try:
        tally, found = await kept.verify()
    finally:
        awake.set()

    assert (tally.good, tally.not_checked, tally.exit_code) == (2, 2, 1)
    assert "hangs" in found[0].text


async def test_a_slow_read_is_no_hung_one(tmp_path, vms, monkeypatch):
    """As long as bytes come, it is waited for."""
    kept = await keep(tmp_path, vms, 1)
    monkeypatch.setattr(directory, "READ_S", 0.4)
    monkeypatch.setattr(durable, "READ_BYTES", SIZE // 10)
    real, pause = durable.chunks_of, threading.Event()

    def slowly(fd: int):
        for chunk in real(fd):
            pause.wait(0.1)
            yield chunk

    monkeypatch.setattr(durable, "chunks_of", slowly)
    tally, _ = await kept.verify()

    assert (tally.good, tally.exit_code) == (1, 0)


async def test_a_target_that_the_ledger_does_not_know(tmp_path, vms):
    """Its marker cannot be compared: nothing is concluded."""
    kept = await keep(tmp_path, vms, 1)
    sql(kept, "UPDATE targets SET marker_id = NULL")
    tally, found = await kept.verify()

    assert (tally.exit_code, tally.not_checked) == (1, 1)
    assert "check --adopt nas" in found[0].text


async def test_samples_come_round_to_everything(tmp_path, vms, unreadable):
    """Also to what is good, past what is damaged or cannot be read."""
    kept = await keep(tmp_path, vms, 7, "usb")
    flip(kept.path(0))
    unreadable[kept.path(1).name] = errno.EIO
    read = []
    for _ in range(5):
        before = sql(kept, "SELECT export, target, checked_us FROM copies")
        await kept.verify(sample=Sample(count=3))
        after = sql(kept, "SELECT export, target, checked_us FROM copies")
        read.append({new[:2] for new in after if new not in before})

    assert [len(one) for one in read] == [3, 3, 3, 3, 3]
    assert len(set().union(*read)) == 14
    # The fifth began anew with what was read longest ago, the damaged included.
    assert len(read[4] & read[0]) == 1


async def test_a_share_of_one_target(tmp_path, vms):
    """The share is of that target's copies, rounded up."""
    kept = await keep(tmp_path, vms, 5, "usb")
    tally, _ = await kept.verify("usb", sample=Sample(percent=41))

    assert tally.checked == 3
    assert len(sql(kept, "SELECT 1 FROM copies WHERE checked_us > 0")) == 3
    assert (
        sql(kept, "SELECT 1 FROM copies WHERE checked_us > 0 AND target = 'nas'") == []
    )
    (latest,) = sql(kept, "SELECT max(checked_us) FROM copies")
    assert taken(kept).target_last_verified_us == {"usb": latest[0]}


async def test_a_copy_read_back_when_it_was_published_comes_last(tmp_path, vms):
    """One moved by rename was never read: it comes first."""
    kept = await keep(tmp_path, vms, 2, "usb")
    linked = sql(kept, "SELECT target FROM copies WHERE verified_us IS NULL")
    assert len({one[0] for one in linked}) == 1
    await kept.verify(sample=Sample(count=2))

    assert sql(kept, "SELECT 1 FROM copies WHERE verified_us IS NULL") == []
