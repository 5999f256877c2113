"""Look at all that the configuration names, before any work."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from mirror.app import build
from mirror.app.check import host, places, source
from mirror.app.check.finding import Finding, Grade, bounded
from mirror.ledger import Ledger, LedgerThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.config import Settings

__all__ = ["Finding", "Grade", "run"]


async def run(
    settings: Settings,
    *,
    secret: Callable[[str], None],
    adopt: str | None = None,
) -> list[Finding]:
    """Check sources, targets and the state directory, side by side.

    A target that was never used gets its marker. What does not answer costs the others
    nothing; all is told within three minutes. `secret` is given each text that must
    never be shown; `adopt` is a target whose present disk is to be taken as the right
    one.
    """
    state, readable = await places.state_dir(settings.state_dir)
    if not readable:
        return [state]
    local = await bounded(partial(host.state_dir, settings.state_dir))
    if not local or state.grade is not Grade.PASS:
        local = [state, *local]
    local += await bounded(partial(host.on_event, settings))
    ledger = LedgerThread(Ledger.read(settings.state_dir))
    try:
        device_uuids = dict.fromkeys(settings.sources, "archive-mirror-check")
        async with build.open_clients(
            settings, device_uuids=device_uuids, secret=secret
        ) as clients:
            targets = build.targets_for(settings, node_id="check")
            spool = build.places_for(settings, targets=targets, publishers={}).now
            wait_s = settings.transfer.first_byte_timeout.total_seconds()
            checks = [
                *(
                    source.check(client, settings.sources[name], first_byte_s=wait_s)
                    for name, client in clients.items()
                ),
                places.spool(settings, spool, ledger),
                places.spool_room(settings, spool, ledger),
                *(
                    places.check_target(target, ledger, adopt=adopt == name)
                    for name, target in targets.items()
                ),
            ]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(check) for check in checks]
            for target in targets.values():
                await target.close()
    finally:
        await ledger.close()
    return local + [found for task in tasks for found in task.result()]
