"""What an export costs in thread hops, commits, flushes, opened files and tasks.

The counts do not depend on the machine. Where a change lowers one, lower its bound.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.instrument import KINDS, counting, vms_beside
from tests.site import Site

if TYPE_CHECKING:
    from collections import Counter
    from pathlib import Path

KIB = 1024
MIB = 1024 * KIB


async def cost(folder: Path, *, files: int, size: int, at_once: int) -> Counter[str]:
    """Return what it takes to save so many files, once they are listed."""

    def fill(vms) -> None:
        for _ in range(files):
            vms.add(size=size)

    with vms_beside(fill) as vms:
        site = Site.make(folder, vms, concurrency=at_once)
        site.tables["transfer"]["concurrency"] = at_once
        with counting() as counts:
            async with site.engine() as engine:
                await engine.prepare()
                for lister in engine.listers.values():
                    await lister.walk(sweep=True)
                counts.clear()
                async with asyncio.TaskGroup() as group:
                    stages = engine.start_moving(group)
                    while engine.progress.saved_files < files or site.spool_files():
                        await asyncio.sleep(0.02)
                    for stage in stages:
                        stage.cancel()
        assert len(site.media()) == files
    return counts


@pytest.mark.parametrize(
    ("at_once", "bounds"),
    [
        (1, {"hops": 15, "commits": 8, "fsyncs": 4.6, "opens": 18, "tasks": 17}),
        (16, {"hops": 10, "commits": 4, "fsyncs": 4.6, "opens": 14, "tasks": 15}),
    ],
)
async def test_a_small_export(tmp_path, at_once, bounds):
    """Alone, and beside fifteen others."""
    counts = await cost(tmp_path, files=48, size=200 * KIB, at_once=at_once)

    each = {kind: round(counts[kind] / 48, 2) for kind in KINDS}
    assert [kind for kind in KINDS if each[kind] > bounds[kind]] == [], each


async def test_a_large_export(tmp_path):
    """100 MiB; what is done each second depends on the machine, and is not counted."""
    counts = await cost(tmp_path, files=1, size=100 * MIB, at_once=1)

    bounds = {"opens": 60, "hops": 290, "tasks": 290}
    assert [kind for kind in bounds if counts[kind] > bounds[kind]] == [], counts
