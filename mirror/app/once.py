"""Sweep each source once, mirror what that brings, and stop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from mirror.app import build, instance
from mirror.app.build_engine import engine_for
from mirror.metrics import Metrics
from mirror.model import State, to_us, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.config import Settings
    from mirror.ledger import Ledger
    from mirror.pipeline.engine import Engine

LIST_TRIES = 3
COPY_TRIES = 10
_LOOK_S = 0.1
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OnceReport:
    """The result of one run.

    Attributes:
        unread: Sources whose list could not be read.
        saved: Exports saved by this run.
        owed: Exports and copies that are still owed.
        lost: Exports newly lost.
        doubtful: Exports newly kept whose files are not proven whole.
        paused: Sources and targets that were left alone.
        at_risk: Exports that may not be fetched in time.
    """

    unread: tuple[str, ...]
    saved: int
    owed: int
    lost: int
    doubtful: int
    at_risk: int
    paused: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """1 no list; 3 something is owed, newly lost or newly doubtful; else 0."""
        if self.unread:
            return 1
        return 3 if self.owed or self.lost or self.doubtful else 0


async def run(
    settings: Settings,
    *,
    secret: Callable[[str], None],
    watch: Callable[[Engine], None] = lambda _: None,
    stopped: Callable[[OnceReport], None] = lambda _: None,
) -> OnceReport:
    """Mirror what there is now.

    Args:
        settings: The configuration.
        secret: Given each text that must never be shown.
        watch: Called a few times a second, to show progress.
        stopped: Given the result so far if the run is cancelled.
    """
    async with (
        instance.open_instance(settings, patience_s=_PATIENCE_S) as node,
        build.open_clients(
            settings,
            device_uuids=await instance.device_uuids(node.ledger, settings.sources),
            secret=secret,
        ) as clients,
    ):
        engine = engine_for(
            settings,
            clients=clients,
            ledger=node.ledger,
            node_id=node.node_id,
            metrics=Metrics(CollectorRegistry()),
            unparks=False,
            patient=False,
        )
        before = await node.reader(_lost_and_doubtful)
        try:
            try:
                await engine.prepare()
                await node.ledger(_unpark)
                unread = await _mirror(engine, watch)
            finally:
                await engine.close()
        except asyncio.CancelledError:
            stopped(await _report(engine, settings, before, ()))
            raise
        return await _report(engine, settings, before, unread)


async def _report(
    engine: Engine,
    settings: Settings,
    before: tuple[int, int],
    unread: tuple[str, ...],
) -> OnceReport:
    """Say what came of a run; `before` it so many were lost and doubtful."""
    now_us = to_us(utc_now())
    owed = await engine.ledger(lambda ledger: _owed(ledger, settings))
    lost, doubtful = await engine.ledger(_lost_and_doubtful)
    backlog = await engine.ledger(lambda ledger: ledger.queries.backlog(now_us))
    return OnceReport(
        unread=unread,
        saved=engine.progress.saved_files,
        owed=owed,
        lost=max(0, lost - before[0]),
        doubtful=doubtful - before[1],
        at_risk=backlog.at_risk,
        paused=tuple(
            sorted(
                (engine.paused.sources & settings.sources.keys())
                | (engine.paused.targets & settings.targets.keys())
            )
        ),
    )


async def _mirror(engine: Engine, watch: Callable[[Engine], None]) -> tuple[str, ...]:
    async with asyncio.TaskGroup() as group:
        walks = {
            name: group.create_task(lister.once(LIST_TRIES), name=f"list {name}")
            for name, lister in engine.listers.items()
            if name not in engine.paused.sources
        }
        movers = engine.start_moving(group)
        while not await _settled(engine, list(walks.values())):
            watch(engine)
            await asyncio.sleep(_LOOK_S)
        for mover in movers:
            mover.cancel()
    watch(engine)
    return tuple(name for name, walk in walks.items() if not walk.result())


async def _settled(engine: Engine, walks: list[asyncio.Task[bool]]) -> bool:
    """Tell whether there is nothing left that this run should try."""
    if not all(walk.done() for walk in walks):
        return False
    running = engine.pool.running + sum(p.running for p in engine.publishers.values())
    if running or engine.looks.running or await engine.looks.pending():
        return False
    sources = list(engine.listers.keys() - engine.paused.sources)
    spool_gone = engine.pool.spool_failures
    ready, fetching = await engine.ledger(
        lambda ledger: ledger.queries.unfetched(sources, to_us(utc_now()))
    )
    if fetching or (ready and spool_gone < COPY_TRIES):
        return False
    for name, publisher in engine.publishers.items():
        if publisher.paused or publisher.monitor.failures >= COPY_TRIES:
            continue
        waiting = await engine.ledger(
            lambda ledger, name: ledger.copies.hopeful(name, COPY_TRIES), name
        )
        if waiting:
            return False
    return True


def _unpark(ledger: Ledger) -> None:
    now_us = to_us(utc_now())
    ledger.fetches.unpark(now_us=now_us, horizon_us=0)
    ledger.fetches.ask_again()


def _lost_and_doubtful(ledger: Ledger) -> tuple[int, int]:
    """Return how many exports are lost, and how many ever were kept though doubted."""
    return ledger.queries.lost(), sum(ledger.queries.totals("doubtful").values())


def _owed(ledger: Ledger, settings: Settings) -> int:
    copies = ledger.queries.owed_copies()
    pending = sum(
        files for name, (files, _) in copies.items() if name in settings.targets
    )
    counts = ledger.queries.counts()
    spooled = sum(n for (_, state), n in counts.items() if state == State.SPOOLED)
    later = ledger.queries.not_yet_due(to_us(utc_now()), list(settings.sources))
    return ledger.queries.owed() - later - spooled + max(pending, spooled)
