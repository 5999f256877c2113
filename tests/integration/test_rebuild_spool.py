"""What `rebuild` does with files in the spool."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirror.model import State
from mirror.simulator import Vms
from tests.kept_site import SIZE, Kept, alter_ledger, keep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mirror.simulator import Export as Served


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as served:
        yield served


async def test_what_waits_in_the_spool_is_not_forgotten(tmp_path, vms):
    """Its target was away, and the VMS has deleted the file meanwhile."""
    kept = await keep(tmp_path, vms, 1, "usb")
    away = kept.root("usb").rename(tmp_path / "away")
    served = vms.add(size=SIZE)
    await kept.site.once()
    assert kept.site.export(served).state is State.SPOOLED
    vms.delete_file(served)
    away.rename(kept.root("usb"))
    await kept.rebuild(force=True)
    report = await kept.site.once()

    assert (report.saved, report.owed, report.lost) == (1, 0, 0)
    assert len(vms.file_requests(served)) == 1
    assert kept.site.export(served).state is State.SAVED


def spooled(kept: Kept) -> list[Path]:
    """Return what lies in the spool."""
    return sorted((kept.ledger.parent / "spool").iterdir())


async def wait(kept: Kept, vms: Vms) -> Served:
    """Let one export wait in the spool while its targets are away."""
    roots = [kept.root(name) for name in kept.site.tables["targets"]]
    away = [root.rename(f"{root}-away") for root in roots]
    served = vms.add(size=SIZE)
    await kept.site.once()
    assert kept.site.export(served).state is State.SPOOLED
    for root, one in zip(roots, away, strict=True):
        one.rename(root)
    return served


async def test_what_waits_in_the_spool_keeps_its_node(tmp_path, vms):
    """The node's id is part of its name; the row that holds it may be the damaged."""
    kept = await keep(tmp_path, vms, 1, "usb")
    served = await wait(kept, vms)
    vms.delete_file(served)
    alter_ledger(kept, "UPDATE node SET node_id = 'ffffffff'")
    progress = await kept.rebuild()
    report = await kept.site.once()

    assert progress.unclaimed == []
    assert (report.saved, report.owed, report.lost) == (1, 0, 0)
    assert kept.site.export(served).state is State.SAVED
    assert spooled(kept) == []


@pytest.mark.parametrize("how", ["lost", "its row is damaged", "on a target"])
async def test_what_nobody_knows_in_the_spool_is_kept_and_named(tmp_path, vms, how):
    """No fetch empties it, no tidying removes it; it may be all that is left."""
    kept = await keep(tmp_path, vms, 1, "usb")
    served = await wait(kept, vms)
    (before,) = spooled(kept)
    body = before.read_bytes()
    if how == "on a target":
        hidden = kept.root() / ".archive-mirror/spool"
        hidden.mkdir(exist_ok=True)
        before = before.rename(hidden / before.name)
    if how == "its row is damaged":
        change = "UPDATE exports SET order_us = order_us + 1 WHERE export_id = "
        alter_ledger(kept, f"{change}{served.export_id}")
    else:
        kept.lose()
    code, out, _ = await kept.command("rebuild")
    (path,) = before.parent.iterdir()
    await kept.site.once()

    assert code == 0
    assert f"unclaimed  {path}: of hq/{served.export_id}, {SIZE} bytes" in out
    assert ("1 exports in it cannot be read" in out) == (how == "its row is damaged")
    assert kept.site.export(served).state is State.SAVED
    assert path.read_bytes() == body


async def test_what_other_machines_have_spooled_is_not_ours(tmp_path, vms):
    """They may share the target; as long as we know our own node's id."""
    kept = await keep(tmp_path, vms, 1)
    hidden = kept.root() / ".archive-mirror/spool"
    hidden.mkdir(exist_ok=True)
    other = hidden / "hq-7-0123abcd.deadbeef.part"
    other.write_bytes(b"theirs")
    progress = await kept.rebuild(force=True)

    assert progress.unclaimed == []
    assert other.read_bytes() == b"theirs"
