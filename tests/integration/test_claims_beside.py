"""Commands that run beside a service leave alone what it has claimed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirror.app import check, probe
from mirror.ledger import Ledger
from mirror.model import State, to_us, utc_now
from mirror.simulator import Vms
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirror.config import Settings


async def run_check(settings: Settings) -> None:
    await check.run(settings, secret=lambda _: None)


async def run_probe(settings: Settings) -> None:
    await probe.probe(settings, "hq", secret=lambda _: None)


@pytest.mark.parametrize("command", [run_check, run_probe])
async def test_what_the_service_fetches_stays_claimed(
    tmp_path, command: Callable[[Settings], Awaitable[None]]
):
    """The state in the ledger says that a task has the export; no command has it."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        served = vms.add(size=20_000)
        async with site.engine() as engine:
            await engine.listers["hq"].walk(sweep=True)
        now_us = to_us(utc_now())
        with Ledger.reading(site.settings().state_dir, check=False) as ledger:
            claimed = ledger.fetches.claim(["hq"], now_us=now_us, horizon_us=10**12)
        await command(site.settings())

    assert claimed is not None
    assert site.export(served).state is State.FETCHING
