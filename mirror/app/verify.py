"""Read what is kept again, beside a running service or without one."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from mirror.app import lock
from mirror.app.build import source_urls, targets_for
from mirror.ledger import Ledger, LedgerThread
from mirror.model import to_us, utc_now
from mirror.pipeline.verify.read_copy import CopyReader
from mirror.pipeline.verify.repair import Repairer
from mirror.pipeline.verify.scrub import Scrub

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from mirror.config import Settings
    from mirror.pipeline.verify.judge import CopyFinding, VerifyTally
    from mirror.pipeline.verify.scrub import Sample

_PATIENCE_S = 60.0
_LOOK_S = 0.2


async def run(
    settings: Settings,
    *,
    targets: Collection[str],
    sample: Sample,
    repair: bool,
    told: Callable[[CopyFinding], None],
    watch: Callable[[Scrub], None],
) -> VerifyTally:
    """Read kept copies and compare them with the ledger.

    Args:
        settings: The configuration.
        targets: Names of those to be read.
        sample: How many copies over all of these.
        repair: Put right what is damaged, from copies on any target.
        told: Given each finding as it comes.
        watch: Called a few times a second, to show progress.

    Raises:
        LockedError: Another process repairs.
    """
    alone = lock.repairing(settings.state_dir) if repair else contextlib.nullcontext()
    with alone:
        ledger = LedgerThread(Ledger.read(settings.state_dir), patience_s=_PATIENCE_S)
        try:
            scrub = await _build(settings, ledger, told=told, repair=repair)
            async with asyncio.TaskGroup() as group:
                work = group.create_task(scrub.run(targets, sample), name="verify")
                while not work.done():
                    watch(scrub)
                    await asyncio.wait([work], timeout=_LOOK_S)
            watch(scrub)
            return work.result()
        finally:
            await ledger.close()


async def _build(
    settings: Settings,
    ledger: LedgerThread,
    *,
    told: Callable[[CopyFinding], None],
    repair: bool,
) -> Scrub:
    now_us = to_us(utc_now())
    node_id = await ledger(lambda opened: opened.node_id(now_us))
    markers = {
        name: await ledger(lambda opened, name: opened.targets.marker(name), name)
        for name in settings.targets
    }
    # Not the service's own id: each would remove the other's temporary files.
    reader = CopyReader(targets_for(settings, node_id=f"{node_id}repair"), markers)
    repairer = Repairer(
        reader,
        ledger=ledger,
        source_urls=source_urls(settings),
        node_id=node_id,
        now=utc_now,
    )
    return Scrub(
        reader,
        ledger=ledger,
        targets=list(settings.targets),
        tell=told,
        repairer=repairer if repair else None,
        now=utc_now,
    )
