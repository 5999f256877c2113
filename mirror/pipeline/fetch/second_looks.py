"""Look again at files that may have changed, and end the wait of held bodies."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

import structlog

from mirror.errors import FetchError, FileGoneError, OriginRefusedError
from mirror.lifecycle import held_body, second_look
from mirror.lifecycle.second_look import Shown
from mirror.model import EtagUse, to_us
from mirror.pipeline.fetch.attempt import discard

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from mirror.ledger import LedgerThread, LookDue
    from mirror.metrics import Metrics
    from mirror.model import Export
    from mirror.pipeline.fetch.pool import FetchSource
    from mirror.pipeline.spool.spool import Spool
    from mirror.ports import Source, Validators

_MOST_S = 60.0
_LEAST_S = 0.05
_NO_ROOM_S = 0.5
_log = structlog.get_logger()


class SecondLooks:
    """Takes the looks that are due, each in a slot of its origin's limit.

    Args:
        sources: By name.
        targets: Names of the targets that will be owed a copy.
        spooled: Called after a held body became the file of its export, and after each
            look.

    Attributes:
        wake: Set when what is due may have changed.
        paused: Sources whose files are not looked at.
    """

    def __init__(
        self,
        *,
        ledger: LedgerThread,
        spool: Spool,
        metrics: Metrics,
        sources: Mapping[str, FetchSource],
        targets: Sequence[str],
        spooled: Callable[[], None],
        now: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self._spool = spool
        self._metrics = metrics
        self._sources = sources
        self._targets = targets
        self._spooled = spooled
        self._now = now
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._room_needed = False
        self.wake = asyncio.Event()
        self.paused: frozenset[str] = frozenset()

    @property
    def running(self) -> int:
        """Looks under way."""
        return len(self._tasks)

    async def run(self) -> None:
        """Look until cancelled; a look that is cancelled shows nothing."""
        async with asyncio.TaskGroup() as group:
            while True:
                self.wake.clear()
                await self.end_held()
                waits = await self._start_all(group)
                await self._sleep(_NO_ROOM_S if waits else _MOST_S)

    def make_room(self) -> None:
        """End the wait of held bodies: others need their room."""
        self._room_needed = True
        self.wake.set()

    async def end_held(self) -> None:
        """Spool as doubtful each held body whose wait is over."""
        if self._room_needed:
            self._room_needed = False
            await self._ledger(lambda ledger: ledger.fetches.release_held())
        while True:
            now_us = to_us(self._now())
            ended = await self._ledger(
                lambda ledger, now_us: ledger.fetches.end_held(
                    lambda export: self._spooled_doubtful(export, now_us),
                    targets=self._targets,
                    now_us=now_us,
                ),
                now_us,
            )
            for before, after in ended:
                _log.info("export.spooled", export=after.label, doubt=after.doubt)
                await discard(self._spool, self._spool.paths_of(before), after)
            if not ended:
                return
            self._spooled()

    def _spooled_doubtful(self, export: Export, now_us: int) -> Export:
        """Return the export with its held body as its file, which may still grow."""
        after = held_body.spooled_doubtful(export)
        source = self._sources.get(export.source)
        if source is None or not source.client.second_look:
            return after
        due_us = second_look.first_due(after, now_us, source.client.lifetime_us)
        return dataclasses.replace(after, look_due_us=due_us)

    async def pending(self) -> bool:
        """Tell whether a look, or the end of a held body, is due now."""
        now_us = to_us(self._now())
        return any(due_us <= now_us for due_us in await self._dues())

    async def _dues(self) -> list[int]:
        sources = self._open_sources()
        dues = [
            await self._ledger(lambda ledger: ledger.fetches.held_until()),
            await self._ledger(lambda ledger: ledger.second_looks.next_due(sources)),
        ]
        return [due_us for due_us in dues if due_us is not None]

    def _open_sources(self) -> list[str]:
        return [
            name
            for name, source in self._sources.items()
            if source.client.second_look and name not in self.paused
        ]

    async def _start_all(self, group: asyncio.TaskGroup) -> bool:
        """Start the looks that have room; tell whether one that is due waits."""
        sources, waits = self._open_sources(), False
        while sources:
            now_us = to_us(self._now())
            due = await self._ledger(
                lambda ledger, sources, now_us: ledger.second_looks.due(
                    sources, now_us
                ),
                sources,
                now_us,
            )
            if due is None:
                return waits
            name = due.export.source
            key = due.export.stored_key
            if key in self._tasks or not await self._may_start(due, now_us):
                sources.remove(name)
                waits = True
                continue
            source = self._sources[name]
            source.limit.running += 1
            self._tasks[key] = group.create_task(
                self._take(source, due), name=f"look at {due.export.label}"
            )
            self._tasks[key].add_done_callback(self._ended(key, source))
            # Its look stays due until it was taken.
            sources.remove(name)
        return waits

    async def _may_start(self, due: LookDue, now_us: int) -> bool:
        """Tell whether a look may start; fetches at its origin go first for a while."""
        source = self._sources[due.export.source]
        if not source.limit.has_room:
            return False
        until_us = second_look.yields_until(
            due.export.look_due_us or 0, source.client.lifetime_us
        )
        if now_us >= until_us:
            return True
        same = [
            name for name, other in self._sources.items() if other.limit is source.limit
        ]
        return not await self._ledger(
            lambda ledger: ledger.fetches.has_due(same, now_us=now_us)
        )

    def _ended(self, key: int, source: FetchSource) -> Callable[[object], None]:
        def ended(_: object) -> None:
            self._tasks.pop(key, None)
            source.limit.running -= 1
            self.wake.set()
            self._spooled()

        return ended

    async def _sleep(self, most_s: float) -> None:
        due_us = min(await self._dues(), default=None)
        wait_s = most_s
        if due_us is not None:
            due_s = (due_us - to_us(self._now())) / 1e6
            # A look that is due and did not start waits for room.
            wait_s = min(most_s, due_s if due_s > 0 else _NO_ROOM_S)
        try:
            async with asyncio.timeout(max(_LEAST_S, wait_s)):
                await self.wake.wait()
        except TimeoutError:
            return

    async def _take(self, source: FetchSource, due: LookDue) -> None:
        """Look at one file and record what the look showed."""
        client, key = source.client, due.export.stored_key
        seen, failure = await self._look(client, due)
        if failure is not None:
            source.limit.ended(key, failure)
        empty = await self._ledger(
            lambda ledger: ledger.second_looks.empty(client.name)
        )
        now_us = to_us(self._now())

        def shown_of(export: Export) -> Shown:
            if failure is not None:
                return Shown.FAILED
            return second_look.compare(
                seen,
                size_bytes=export.size_bytes,
                etag=None if export.etag_use is EtagUse.NONE else export.part_etag,
                modified=export.part_modified,
                empty=empty,
            )

        def decide(export: Export, newest: Export) -> tuple[Export, Export]:
            return second_look.after_look(
                export,
                newest,
                shown_of(export),
                seen,
                now_us=now_us,
                lifetime_us=client.lifetime_us,
            )

        self._metrics.looked(client.name, shown_of(due.export))
        after, newest = await self._ledger(
            lambda ledger: ledger.second_looks.settle(key, decide)
        )
        if newest.key is None:
            _log.warning("version.made", export=newest.label, reason=newest.reason)
        elif after.last_error not in {None, due.export.last_error}:
            _log.warning("version.refused", export=after.label, error=after.last_error)

    async def _look(
        self, source: Source, due: LookDue
    ) -> tuple[Validators | None, FetchError | None]:
        """Return what the VMS says of a file, or why nothing could be seen."""
        listed = due.listed
        if listed.url is None:
            return None, None
        try:
            return await source.look(listed.url, listed.name), None
        except (FileGoneError, OriginRefusedError):
            return None, None
        except FetchError as exc:
            return None, exc
        except Exception as exc:  # noqa: BLE001 -- a fault of ours stops this look only
            _log.error("look.crashed", export=due.export.label, exc_info=exc)
            return None, FetchError("unexpected", "the look failed")
