"""Say what a run would do: the same walk, on a copy of the ledger."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aiofiles.tempfile import TemporaryDirectory
from prometheus_client import CollectorRegistry

from mirror.app import build, instance
from mirror.app.once import LIST_TRIES
from mirror.app.status import public_json
from mirror.ledger import Ledger, LedgerThread
from mirror.metrics import Metrics
from mirror.model import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.config import Settings
    from mirror.model import Export


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What a run would do.

    Attributes:
        unread: Sources whose list could not be read.
        exports: Those that would be fetched, nearest deadline first.
        counts: Exports by state after the walk.
    """

    unread: tuple[str, ...]
    exports: tuple[Export, ...]
    counts: dict[str, int]


async def run(settings: Settings, *, secret: Callable[[str], None]) -> Intent:
    """Walk each source once without changing anything.

    `secret` is given each text that must never be shown.
    """
    async with TemporaryDirectory(prefix="archive-mirror-") as folder:
        Ledger.copy(settings.state_dir, Path(folder))
        ledger = LedgerThread(Ledger.open(Path(folder)))
        try:
            return await _walk(settings, ledger, secret)
        finally:
            await ledger.close()


async def _walk(
    settings: Settings, ledger: LedgerThread, secret: Callable[[str], None]
) -> Intent:
    device_uuids = await instance.device_uuids(ledger, settings.sources)
    async with build.open_clients(
        settings, device_uuids=device_uuids, secret=secret
    ) as clients:
        metrics = Metrics(CollectorRegistry())
        async with asyncio.TaskGroup() as group:
            walks = {
                name: group.create_task(
                    build.lister_for(
                        settings, name, client=client, ledger=ledger, metrics=metrics
                    ).once(LIST_TRIES)
                )
                for name, client in clients.items()
            }
    ready = await ledger(lambda opened: opened.by_state(State.READY))
    counts = await ledger(lambda opened: opened.queries.counts())
    return Intent(
        unread=tuple(name for name, walk in walks.items() if not walk.result()),
        exports=tuple(sorted(ready, key=lambda export: export.order_us)),
        counts=public_json.by_state(counts),
    )
