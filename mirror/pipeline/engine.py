"""Start and stop the stages, and keep them together."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING

import structlog

from mirror.errors import SpoolError
from mirror.ledger import Paused, in_slices
from mirror.model import State, to_us, utc_now
from mirror.tasks import run_to_end

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from mirror.ledger import Ledger, LedgerThread, Slice
    from mirror.model import Export
    from mirror.pipeline.discover.lister import Lister
    from mirror.pipeline.fetch.pool import FetchPool
    from mirror.pipeline.fetch.second_looks import SecondLooks
    from mirror.pipeline.progress import Progress
    from mirror.pipeline.publish.already_kept import AlreadyKept
    from mirror.pipeline.publish.publisher import Publisher
    from mirror.pipeline.spool.part import PartName
    from mirror.pipeline.spool.places import SpoolPlaces
    from mirror.pipeline.spool.spool import Spool

_TIDY_S = 60.0
_log = structlog.get_logger()


class Engine:
    """The stages of one configuration, run together.

    Args:
        ledger: Open for writing; outlives the engine.
        listers: By source.
        wake: Wakes the pool.
        publishers: By target.
        required: Names of the targets that an export must lie on to be saved.

    Attributes:
        paused: The sources and targets that are left alone now.
    """

    def __init__(
        self,
        *,
        ledger: LedgerThread,
        progress: Progress,
        places: SpoolPlaces,
        spool: Spool,
        listers: Mapping[str, Lister],
        pool: FetchPool,
        looks: SecondLooks,
        wake: asyncio.Event,
        publishers: Mapping[str, Publisher],
        recall: AlreadyKept,
        required: Collection[str],
    ) -> None:
        self.ledger = ledger
        self.progress = progress
        self.places = places
        self.spool = spool
        self.listers = listers
        self.pool = pool
        self.looks = looks
        self.publishers = publishers
        self.paused = Paused()
        self._wake = wake
        self._recall = recall
        self._required = frozenset(required)
        self._targets = frozenset(publishers)

    async def run(self) -> None:
        """Run all stages until cancelled; each keeps what it has."""
        try:
            await self.prepare()
            async with asyncio.TaskGroup() as group:
                for lister in self.listers.values():
                    group.create_task(lister.run(), name=f"list {lister.name}")
                self.start_moving(group)
                group.create_task(self._keep_tidy(), name="tidy")
        finally:
            await self.close()

    def start_moving(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Start the fetchers, the looks and the publishers."""
        tasks = [
            group.create_task(self.pool.run(), name="fetch"),
            group.create_task(self.looks.run(), name="second looks"),
        ]
        tasks += [
            group.create_task(publisher.run(), name=f"publish to {name}")
            for name, publisher in self.publishers.items()
        ]
        return tasks

    async def prepare(self) -> None:
        """Look at the targets once, and continue what an earlier run left."""
        await self._recover()
        await self.heed_pauses()
        looks = [
            asyncio.create_task(publisher.monitor.check(), name=f"check {name}")
            for name, publisher in self.publishers.items()
            if not publisher.paused
        ]
        if looks:
            # A hung mount does not keep the rest from starting: no check lasts long.
            await asyncio.wait(looks)
        await self._recall.warn_if_new(self.listers)
        required, now_us = self._required, to_us(utc_now())
        for target in sorted(self._targets):
            await in_slices(self.ledger, partial(_fill, target))
        await in_slices(
            self.ledger,
            lambda ledger, after: ledger.copies.settle_spooled(required, now_us, after),
        )
        await self.tidy()
        await self._sweep()

    async def tidy(self) -> None:
        """Remove from the spool what no target waits for."""
        targets = self._targets
        idle = await self.ledger(lambda ledger: ledger.copies.freeable(targets))
        ended = await self.ledger(lambda ledger: ledger.copies.ended())
        for export in (*idle, *ended):
            try:
                await self.spool.remove([export])
            except SpoolError as exc:
                _log.debug("spool.failed", export=export.label, error=str(exc))
                continue
            await self.ledger(lambda ledger, gone: ledger.copies.freed([gone]), export)

    async def _sweep(self) -> None:
        """Remove files that were left in the spool though they are of no use.

        By an export kept by other bytes: they lay on a disk that was away. By a version
        that was dropped, in the moment of a crash: its bytes are those of a kept one.
        Nothing may be fetched meanwhile. Any other file stays: it may be all that is
        left.
        """
        for path, name in await self.spool.strays():
            known = await self.ledger(
                lambda ledger, number, source: ledger.queries.find(
                    number, source=source
                ),
                name.export_id,
                name.source,
            )
            with contextlib.suppress(SpoolError):
                if await self._is_idle(path, name, known):
                    await self.spool.sweep(path)
                    _log.info("spool.swept", file=str(path))

    async def _is_idle(self, path: Path, name: PartName, known: list[Export]) -> bool:
        kept = [one for one in known if one.state in {State.SAVED, State.DOUBTFUL}]
        mine = [one for one in known if name.is_of(one)]
        if mine:
            return all(
                one in kept and path not in self.spool.paths_of(one) for one in mine
            )
        for one in kept:
            if one.sha256 and await self.spool.is_body(path, one):
                return True
        return False

    async def _keep_tidy(self) -> None:
        while True:
            await asyncio.sleep(_TIDY_S)
            await self.tidy()

    async def _recover(self) -> None:
        """Return to the queue what was claimed and has no task."""
        interrupted = await self.ledger(lambda ledger: ledger.fetches.recover())
        if interrupted:
            _log.info("fetches.recovered", exports=interrupted)

    async def close(self) -> None:
        """Release all claims, and all threads without waiting for one that hangs.

        A claim that was cancelled on its way from the ledger has no task to undo it.
        """
        await run_to_end(self._recover())
        self.spool.close()
        for publisher in self.publishers.values():
            await publisher.target.close()

    async def heed_pauses(self) -> None:
        """Leave alone what is paused now; work under way ends as it would."""
        now_us = to_us(utc_now())
        paused = await self.ledger(lambda ledger: ledger.pauses.now(now_us))
        if paused == self.paused:
            return
        for kind in ("sources", "targets"):
            was, now = getattr(self.paused, kind), getattr(paused, kind)
            for event, names in (
                ("pause.begun", now - was),
                ("pause.ended", was - now),
            ):
                for name in sorted(names):
                    _log.info(event, **{kind.removesuffix("s"): name})
        self.paused = paused
        self.pool.paused = self.looks.paused = paused.sources
        for name, lister in self.listers.items():
            (lister.going.clear if name in paused.sources else lister.going.set)()
        for name, publisher in self.publishers.items():
            publisher.paused = name in paused.targets
        self.wake()

    def wake(self) -> None:
        """Have all stages look for work now: something has changed the ledger."""
        self._wake.set()
        self.looks.wake.set()
        for publisher in self.publishers.values():
            publisher.wake.set()


def _fill(target: str, ledger: Ledger, after: int) -> Slice:
    return ledger.copies.fill(target, after)
