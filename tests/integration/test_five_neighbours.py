"""A source that is hostile in one way, beside five that are well."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from mirror.app.notify import hook
from mirror.model import State
from mirror.simulator import FAULTS, Behaviour, Step, fault
from tests.integration.test_fairness import (
    GIB,
    MIB,
    SIZE,
    Disk,
    exports,
    saved,
    servers,
    site_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.simulator import Vms
    from tests.site import Site

_HEALTHY = 5
_FILES = 8


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to be hostile.

    Attributes:
        files: It has so many.
        size: Of each.
        meets: What each request for one of them meets.
        lists: What requests for the list meet, over and over.
        rate: Bytes a second of each file.
        spool: Bytes of the disk that all share as spool; 0 is a large one.
        retry: The first wait of what fails.
        source: Keys of the source.
        asked: So many files of it, or pages, were asked for before the others have any.
    """

    files: int = 0
    size: int = SIZE
    meets: Step = None
    lists: tuple[Step, ...] = ()
    rate: int | None = None
    spool: int = 0
    retry: str = "20ms"
    source: dict[str, Any] = field(default_factory=dict)
    asked: int = 3

    def begin(self, vms: Vms) -> None:
        """Have a VMS behave so."""
        vms.behaviour = Behaviour(rate=self.rate)
        vms.script_list(*self.lists * (1000 // max(1, len(self.lists))))
        for _ in range(self.files):
            vms.add(size=self.size, then=self.meets)

    def holds(self, vms: Vms) -> bool:
        """Tell whether it has done to us what it can."""
        kind = "file" if self.files else "list"
        return sum(one.kind == kind for one in vms.requests) >= self.asked


def rows(number: int) -> Step:
    """Return what puts so many rows on a page, whatever was asked for."""
    shown = (f'{{"id":{10**6 + n},"is_file_exists":false}}' for n in range(number))
    return fault("bad_row", text=",".join(shown))


def refused(number: int) -> Step:
    """Return what makes a page of rows that cannot be used, and says no more."""
    return (fault("bad_row", text=",".join(['{"id":"x"}'] * number)), fault("no_meta"))


_SPOOL = 20 * MIB
WAYS = {
    "mute": Way(files=4, meets="hang"),
    "mute_on_16": Way(files=16, meets="hang", source={"concurrency": 16}, asked=16),
    "mute_list": Way(lists=("hang",), asked=1),
    "drips": Way(files=4, meets=fault("drip", seconds=1.0)),
    "drips_on_16": Way(
        files=16,
        meets=fault("drip", seconds=1.0),
        source={"concurrency": 16},
        asked=16,
    ),
    "stalls": Way(files=4, meets=fault("stall", at=1000)),
    "40_gib": Way(size=40 * GIB, meets=fault("stall", at=0), files=8, spool=_SPOOL),
    "40_gib_begun": Way(
        size=40 * GIB,
        meets=fault("stall", at=8192),
        files=8,
        spool=_SPOOL,
        retry="1s",
        asked=8,
    ),
    "8_mib_cut": Way(size=8 * MIB, meets=fault("cut", at=0.6), files=8, spool=_SPOOL),
    "8_mib_stalled": Way(
        size=8 * MIB, meets=fault("stall", at=0.6), files=8, spool=_SPOOL
    ),
    "8_mib_slow": Way(size=8 * MIB, rate=MIB, files=8, spool=_SPOOL),
    "8_mib_doubtful": Way(
        size=8 * MIB, meets=("change", "garbage"), files=8, spool=_SPOOL
    ),
    "endless_bodies": Way(meets="endless", files=8, spool=_SPOOL),
    "doubtful": Way(files=30, meets=("change", "garbage")),
    "changes": Way(files=30, meets="change"),
    "no_file": Way(files=30, meets="status_404"),
    "busy": Way(files=30, meets="busy_503"),
    "elsewhere": Way(files=30, meets="redirect_other"),
    "errors_at_once": Way(files=300, meets="status_500"),
    "interim_flood": Way(files=8, meets="interim_flood"),
    "interim_drip": Way(files=8, meets="interim_drip"),
    "blank_lines": Way(files=8, meets="blank_lines"),
    "endless_extension": Way(files=8, meets="endless_extension"),
    "endless_trailers": Way(files=8, meets="endless_trailers"),
    "flags_that_flap": Way(files=30, lists=(None, "flip_flags"), asked=30),
    "rows_20_000": Way(lists=(rows(20_000),)),
    "rows_190_000": Way(lists=(rows(190_000),), asked=1),
    "rows_for_ever": Way(lists=("endless_rows",)),
    "rows_refused": Way(lists=(refused(20),)),
    "rows_refused_20_000": Way(lists=(refused(20_000),)),
    "list_100_mb": Way(lists=("huge_body",), asked=1),
}
_QUICK = {
    "mute_on_16",
    "drips_on_16",
    "40_gib_begun",
    "8_mib_cut",
    "doubtful",
    "interim_flood",
    "flags_that_flap",
    "rows_refused",
}
"""The rest of them takes its time, all in all."""


def _cases() -> list[Any]:
    quick = {name: () if name in _QUICK else (pytest.mark.proof,) for name in WAYS}
    return [pytest.param(WAYS[name], id=name, marks=quick[name]) for name in WAYS]


def site_beside(folder: Path, ill: Vms, well: list[Vms], way: Way) -> Site:
    """Return a site with a source `ill` and others, named by numbers."""
    first, *others = well
    site = site_of(
        folder,
        first,
        {f"well_{number}": vms for number, vms in enumerate(others)} | {"ill": ill},
        poll_interval="300ms",
        sweep_interval="3s",
    )
    site.tables["sources"]["ill"] |= way.source
    # What is hostile is not over before the others have all they want.
    site.tables["transfer"] |= {
        "first_byte_timeout": "60s",
        "stall_timeout": "60s",
        "retry_initial": way.retry,
        "retry_max": "10s",
    }
    return site


async def all_saved_at_once(site: Site, well: list[Vms]) -> None:
    """Give each healthy VMS its files; each is saved at the first attempt."""
    for vms in well:
        for _ in range(_FILES):
            vms.add(size=SIZE)
    names = [name for name in site.tables["sources"] if name != "ill"]
    kept = await saved(site, names, _FILES)

    assert Counter(one.source for one in kept) == dict.fromkeys(names, _FILES)
    assert {one.attempts for one in kept} == {1}
    assert {one.last_error for one in kept} == {None}


@pytest.mark.parametrize("way", _cases())
async def test_hostile_in_one_way_beside_five_that_are_well(tmp_path, monkeypatch, way):
    """It costs them no attempt."""
    async with servers(_HEALTHY + 1) as (ill, *well):
        site = site_beside(tmp_path, ill, well, way)
        disk = Disk(tmp_path / "spool", way.spool)
        if way.spool:
            disk.patch(monkeypatch)
            site.tables["spool_dir"] = str(disk.folder)
        way.begin(ill)
        async with site.service():
            await ill.until(lambda: way.holds(ill))
            await all_saved_at_once(site, well)

    assert disk.overflows == 0


async def test_every_fault_of_a_file_at_once_beside_five_that_are_well(tmp_path):
    """One file for each."""
    way = Way(source={"concurrency": 16})
    async with servers(_HEALTHY + 1) as (ill, *well):
        site = site_beside(tmp_path, ill, well, way)
        for name, each in FAULTS.items():
            if each.kind.is_for_files:
                ill.add(size=SIZE, then=name)
        async with site.service():
            await ill.until(lambda: Way(files=1, asked=16).holds(ill))
            await all_saved_at_once(site, well)


@pytest.mark.proof
async def test_hundreds_that_are_told_beside_five_that_are_well(tmp_path, monkeypatch):
    """Of them is told before all that happened to the other."""
    monkeypatch.setattr(hook, "LOOK_S", 0.05)
    monkeypatch.setattr(hook, "LIMIT_S", 300.0)
    monkeypatch.setattr(hook, "WAITING", 10_000)
    command = tmp_path / "tell"
    # In one write: several of them run at once.
    told_of = 'printf "%s\\n" "$(cat)" >> told'
    waits = "while [ ! -e gate ]; do sleep 0.1; done"
    command.write_text(f"#!/bin/sh\ncd {tmp_path}\n{waits}\n{told_of}\n")
    command.chmod(0o755)
    async with servers(_HEALTHY + 1) as (ill, *well):
        site = site_beside(tmp_path, ill, well, Way())
        site.tables["on_event"] = [str(command)]
        for _ in range(500):
            ill.add(size=20_000)

        def kept() -> int:
            return len(exports(site, source="ill", states=(State.SAVED,)))

        def told() -> Counter[str]:
            path = tmp_path / "told"
            lines = path.read_text().splitlines() if path.exists() else []
            events = [json.loads(line) for line in lines]
            return Counter(one["export"]["source"] for one in events)

        async with site.service():
            await site.until(lambda: kept() > 50, 90)
            before = kept()
            await all_saved_at_once(site, well)
            (tmp_path / "gate").touch()
            await site.until(lambda: len(told()) == _HEALTHY + 1, 90)
            told_first = told()["ill"]

    assert told_first < before
