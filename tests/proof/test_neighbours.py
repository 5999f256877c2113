"""A source that fails, in every way there is, costs those beside it nothing."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from statistics import median
from typing import TYPE_CHECKING

import pytest

from mirror.simulator import FAULTS, Vms
from tests.site import IMPATIENT, Site

if TYPE_CHECKING:
    from tests.proof.figures import Figures

_HEALTHY = 39
_SHORT = 6
_PATIENCE_S = 60.0


def _site(folder, well: Vms, ill: Vms) -> Site:
    """Return a site with many sources at one VMS and one at another."""
    site = Site.make(folder, well, poll_interval="1s", sweep_interval="1h")
    site.tables["transfer"] |= IMPATIENT
    healthy = site.tables["sources"].pop("hq")
    (folder / "token-of-ill").write_text(ill.token)
    theirs = {"url": ill.url, "token_file": str(folder / "token-of-ill")}
    names = [f"well_{number:02}" for number in range(_HEALTHY)]
    site.tables["sources"] = dict.fromkeys(names, healthy)
    site.tables["sources"]["ill"] = healthy | theirs
    return site


def _of_the_healthy(site: Site) -> list[tuple[str, int]]:
    """Return state and attempts of each export of theirs."""
    path = site.folder / "state" / "ledger.sqlite3"
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
        return connection.execute(
            "SELECT state, attempts FROM exports WHERE source <> 'ill'"
        ).fetchall()


async def _round(site: Site, well: Vms, wanted: int) -> float:
    """Make one file; return how long it took until all healthy sources had it."""
    began = time.monotonic()
    well.add(size=20_000)
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            found = _of_the_healthy(site)
            if sum(state == "saved" for state, _ in found) == wanted:
                return time.monotonic() - began
            await asyncio.sleep(0.01)


@pytest.mark.timeout(600)
async def test_one_that_fails_beside_many_that_are_well(tmp_path, figures: Figures):
    """Its list and its files meet each fault in turn."""
    async with Vms(other_origin=False) as well, Vms() as ill:
        site = _site(tmp_path, well, ill)
        took_s: dict[bool, list[float]] = {False: [], True: []}
        wanted = 0
        async with site.service():
            await site.until(site.swept)
            for number, rng in figures.rounds(_SHORT, len(FAULTS), share=0.1):
                name = rng.choice(sorted(FAULTS))
                for failing in (number % 2 == 0, number % 2 == 1):
                    ill.script_list(then=name if failing else None)
                    for _ in range(6):
                        ill.add(size=200_000, then=name if failing else None)
                    wanted += _HEALTHY
                    took_s[failing].append(await _round(site, well, wanted))
        attempts = {attempts for _, attempts in _of_the_healthy(site)}
        asked = ill.journal.counters["list"]

    assert attempts == {1}
    assert asked > len(took_s[True])
    quick, slow = median(took_s[False]), median(took_s[True])
    figures.record(
        19,
        healthy=_HEALTHY,
        faults_of_the_other=len(took_s[True]),
        median_s_without=round(quick, 2),
        median_s_with=round(slow, 2),
        worst_s_without=round(max(took_s[False]), 2),
        worst_s_with=round(max(took_s[True]), 2),
    )
