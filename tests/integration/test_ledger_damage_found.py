"""Damage of the ledger is found, at the start and in use."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import TYPE_CHECKING

import pytest

from mirror.app import instance
from mirror.errors import LedgerError
from mirror.ledger import Filter, Ledger, Partial, checksums
from mirror.model import State
from mirror.simulator import Vms
from tests.kept_site import alter_ledger, keep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


PARTIAL = Partial(
    spool_dir="x",
    size_bytes=1,
    sha256="x",
    total_bytes=None,
    etag=None,
    last_modified=None,
)


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as served:
        yield served


async def test_a_running_service_reads_all_of_the_ledger(tmp_path, vms):
    """Beside its work, for that may take a minute; what nothing else reads, too."""
    kept = await keep(tmp_path, vms, 1)
    alter_ledger(kept, "UPDATE items SET item = x'00'")
    code, _, err = await kept.command("run")

    assert code == 74
    assert f"the ledger {kept.ledger} is damaged (1 rows of items" in err
    assert "`archive-mirror rebuild`" in err


async def test_a_stop_does_not_wait_for_the_ledger_to_be_read(
    tmp_path, vms, monkeypatch
):
    """However large it is."""
    kept = await keep(tmp_path, vms, 1)

    def endless(connection, made):
        count = "WITH RECURSIVE n AS (SELECT 1 UNION ALL SELECT 1 FROM n) SELECT 1 FROM"
        connection.execute(f"SELECT count(*) FROM ({count} n)").fetchone()

    monkeypatch.setattr(checksums, "problem", endless)
    async with (
        asyncio.timeout(30),
        instance.check_in_background(kept.ledger.parent) as reading,
    ):
        await asyncio.sleep(0.1)

        assert not reading.done()
    assert reading.done()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE exports SET sha256 = replace(sha256, 'a', 'b'), size_bytes = 1",
        "UPDATE exports SET deadline_us = deadline_us + 1",
        "UPDATE copies SET path = path || 'x'",
        "UPDATE targets SET marker_id = 'x'",
        "UPDATE items SET item = zeroblob(3)",
        "UPDATE totals SET total = total + 1",
        "UPDATE node SET node_id = 'x'",
        "UPDATE attempts SET held_bytes = 1",
        "UPDATE sources SET clock_offset_us = 5",
        "DROP INDEX exports_ready",
        "PRAGMA user_version = 0",
        "PRAGMA user_version = 2",
    ],
)
@pytest.mark.parametrize("how", [Ledger.open, None])
async def test_what_nobody_wrote_is_found(tmp_path, vms, statement, how):
    """A row that was changed past the program is as good as a flipped bit."""
    kept = await keep(tmp_path, vms, 1)
    with contextlib.closing(sqlite3.connect(kept.ledger)) as past:
        past.execute(statement)
        past.commit()
    with pytest.raises(LedgerError, match=r"is damaged.*archive-mirror rebuild"):
        if how is not None:
            how(kept.ledger.parent)
        else:
            Ledger.read(kept.ledger.parent, check=True)
    assert (await kept.rebuild()).exports == {"saved": 1}


@pytest.mark.parametrize(
    ("statement", "ask"),
    [
        ("UPDATE exports SET name = 'x'", lambda ledger: ledger.by_state(State.SAVED)),
        (
            "UPDATE copies SET path = 'x'",
            lambda ledger: list(ledger.queries.exports(Filter())),
        ),
        (
            "UPDATE exports SET order_us = 5",
            lambda ledger: ledger.fetches.checkpoint(1, PARTIAL),
        ),
        (
            "UPDATE copies SET attempts = 5",
            lambda ledger: ledger.copies.release(1, "nas"),
        ),
    ],
)
async def test_damage_is_met_in_use_too(tmp_path, vms, statement, ask):
    """It is neither given out as truth nor written over and so made true."""
    kept = await keep(tmp_path, vms, 1)
    with contextlib.closing(sqlite3.connect(kept.ledger)) as past:
        past.execute(statement)
        past.commit()
    with pytest.raises(LedgerError, match=r"is damaged.*archive-mirror rebuild"):
        with Ledger.reading(kept.ledger.parent, check=False) as ledger:
            ask(ledger)
