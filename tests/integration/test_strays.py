"""Files left in the spool: what is of no use goes at the start, nothing else."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

import pytest

from mirror.model import State
from mirror.pipeline.spool.part import PartName
from mirror.simulator import Vms
from tests.site import Site

if TYPE_CHECKING:
    from pathlib import Path

DAYS_AGO = 1_000_000_000


async def left(
    tmp_path: Path, *, version: int, same: bool, known: bool = False
) -> bool:
    """Leave a file of a version in the spool; tell whether the next start leaves it."""
    async with Vms() as vms:
        served = vms.add(size=200_000)
        site = Site.make(tmp_path, vms)
        await site.once()
        kept = site.export(served)
        assert kept.state is State.SAVED
        async with site.engine() as engine:
            await engine.prepare()
            folder = engine.places.now()[0].path
            further = dataclasses.replace(kept, key=None, version=version)
            name = PartName.of(further, engine.spool._node_id, 1)
            if known:
                waits = dataclasses.replace(further, state=State.WAITING)
                await engine.ledger(
                    lambda ledger: ledger.second_looks.settle(
                        kept.stored_key, lambda export, _: (export, waits)
                    )
                )
            (body,) = site.media()
            content = (site.archive / body).read_bytes()
            path = folder / name.text
            path.write_bytes(content if same else content[::-1])
            os.utime(path, (DAYS_AGO, DAYS_AGO))
            await engine.prepare()
    return path.exists()


async def test_the_file_of_a_version_that_was_dropped_goes(tmp_path):
    """Killed between the commit and the removal: its bytes are kept."""
    assert not await left(tmp_path, version=2, same=True)


@pytest.mark.parametrize(
    "given",
    [{"version": 2, "same": False}, {"version": 2, "same": True, "known": True}],
)
async def test_what_may_be_all_that_is_left_stays(tmp_path, given):
    """Other bytes than are kept; those of an export that is known."""
    assert await left(tmp_path, **given)


async def test_the_file_of_an_export_kept_by_other_bytes_goes(tmp_path):
    assert not await left(tmp_path, version=1, same=False)
