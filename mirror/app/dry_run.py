"""Say what a run would do: the same walk, on a copy of the ledger."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.app import instance
from mirror.app.engine import Engine
from mirror.app.once import LIST_TRIES
from mirror.ledger import Ledger, LedgerThread
from mirror.model import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.config import Settings
    from mirror.metrics import Metrics
    from mirror.model import Export


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What a run would do.

    Attributes:
        wanted: Exports that would be fetched, nearest deadline first.
        counts: Exports by state after the walk.
    """

    unread: tuple[str, ...]
    wanted: tuple[Export, ...]
    counts: dict[str, int]


async def run(
    settings: Settings, *, metrics: Metrics, secret: Callable[[str], None]
) -> Intent:
    """Walk each source once without changing anything."""
    with tempfile.TemporaryDirectory(prefix="archive-mirror-") as folder:
        Ledger.copy(settings.state_dir, Path(folder))
        ledger = LedgerThread(Ledger.open(Path(folder)))
        try:
            return await _walk(settings, ledger, metrics, secret)
        finally:
            await ledger.close()


async def _walk(
    settings: Settings,
    ledger: LedgerThread,
    metrics: Metrics,
    secret: Callable[[str], None],
) -> Intent:
    names = list(settings.sources)

    def ask(opened: Ledger) -> dict[str, str]:
        return {name: opened.walks.source(name).device_uuid for name in names}

    async with instance.sessions_for(settings) as sessions:
        engine = Engine(
            settings,
            ledger=ledger,
            node_id="dry-run",
            sessions=sessions,
            metrics=metrics,
            secret=secret,
            device_uuids=await ledger(ask),
        )
        try:
            async with asyncio.TaskGroup() as group:
                walks = {
                    name: group.create_task(lister.once(LIST_TRIES))
                    for name, lister in engine.listers.items()
                }
        finally:
            await engine.close()
    wanted = await ledger(lambda opened: opened.by_state(State.READY))
    counts = await ledger(lambda opened: opened.queries.counts())
    by_state: dict[str, int] = {}
    for (_, state), number in counts.items():
        by_state[state] = by_state.get(state, 0) + number
    return Intent(
        unread=tuple(name for name, walk in walks.items() if not walk.result()),
        wanted=tuple(sorted(wanted, key=lambda export: export.order_us)),
        counts=by_state,
    )
