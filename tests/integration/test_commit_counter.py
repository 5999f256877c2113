"""A ledger that was set back, and what tells it."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import pytest

from mirror.errors import MirrorError
from mirror.ledger import LEDGER_NAME, Ledger
from mirror.simulator import Vms
from tests.kept_site import SIZE, Kept, keep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as served:
        yield served


async def test_the_log_of_a_ledger_that_is_gone_is_kept(tmp_path, vms):
    """SQLite would delete it."""
    kept = await keep(tmp_path, vms, 1)
    log = kept.ledger.with_name(f"{LEDGER_NAME}-wal")
    kept.ledger.unlink()
    log.write_bytes(b"of the old ledger")
    await kept.site.once()

    (left,) = log.parent.glob("*-wal.left-*")
    assert left.read_bytes() == b"of the old ledger"


@pytest.mark.parametrize("closer", [None, "status", "retry"])
async def test_commits_that_are_missing_are_told(tmp_path, vms, caplog, closer):
    """Whoever closed the ledger last; once, loudly, with the remedy."""
    kept = await keep(tmp_path, vms, 1)
    old = kept.ledger.read_bytes()
    vms.add(size=SIZE)
    await kept.site.once()
    if closer == "status":
        assert (await kept.command("status"))[0] == 0
    if closer == "retry":
        assert (await kept.command("retry", "--state", "saved"))[0] == 0
    assert _lost_commits(kept) == 0
    kept.ledger.write_bytes(old)
    assert _lost_commits(kept) > 0
    code, _, err = await kept.command("once", "--log-format", "json")

    assert code == 0
    (event,) = [
        one for one in map(json.loads, err.splitlines()) if one["level"] == "error"
    ]
    assert event["event"] == "ledger.set_back"
    assert event["path"] == str(kept.ledger)
    assert "archive-mirror rebuild --force" in event["error"]
    assert _lost_commits(kept) == 0


def _lost_commits(kept: Kept) -> int:
    with contextlib.closing(Ledger.open(kept.ledger.parent)) as ledger:
        return ledger.lost_commits


async def test_a_ledger_set_back_is_rebuilt_without_force(tmp_path, vms):
    """It does not know all that it knew."""
    kept = await keep(tmp_path, vms, 1)
    old = kept.ledger.read_bytes()
    kept.served.append(vms.add(size=SIZE))
    await kept.site.once()
    kept.ledger.write_bytes(old)
    assert (await kept.rebuild()).exports == {"saved": 2}
    assert _lost_commits(kept) == 0
    with pytest.raises(MirrorError, match="is sound"):
        await kept.rebuild()


async def test_a_backup_from_before_a_rebuild_is_known_to_be_older(tmp_path, vms):
    """The new ledger counts on from where the old one was."""
    kept = await keep(tmp_path, vms, 1)
    old = kept.ledger.read_bytes()
    kept.served.append(vms.add(size=SIZE))
    await kept.site.once()
    await kept.rebuild(force=True)
    assert _lost_commits(kept) == 0
    kept.ledger.write_bytes(old)
    assert _lost_commits(kept) > 0
    assert (await kept.rebuild()).exports == {"saved": 2}
