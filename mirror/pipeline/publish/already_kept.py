"""Find on the targets what the ledger does not know to be kept.

A ledger can be older than the archive: restored from a backup, set back by the loss of
its -wal file, or made anew. What lies on a target must not be called lost then.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING

import structlog

from mirror import sidecar
from mirror.errors import TargetError
from mirror.layout import doubtful_form, whole_form, with_number
from mirror.model import to_us
from mirror.sidecar import SidecarError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime

    from mirror.ledger import LedgerThread
    from mirror.model import Export
    from mirror.pipeline.publish.publisher import Publisher
    from mirror.ports import StoredFile

LONGEST_S = 10.0
"""The questions of one walk, or to one target, must not hold up the rest for longer."""
AGAIN = 100
"""So many are looked for again at most, where no other was found to vanish since."""
_log = structlog.get_logger()


class AlreadyKept:
    """Looks where the layout would have put a file.

    Args:
        publishers: By target; those whose target is away are passed over.
    """

    def __init__(
        self,
        *,
        ledger: LedgerThread,
        publishers: Mapping[str, Publisher],
        now: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self._publishers = publishers
        self._now = now
        self._in_vain: dict[str, set[int]] = {}

    async def vanishing(self, source: str) -> None:
        """Save the exports of a source that may soon be lost and yet are kept.

        What was not looked for yet comes first: what one call does not reach, the next
        ones do.
        """
        keys = await self._ledger(lambda ledger: ledger.inventory.vanishing(source))
        in_vain = self._in_vain.setdefault(source, set())
        in_vain.intersection_update(keys)
        first = [key for key in keys if key not in in_vain]
        # The target that keeps it may be back.
        again = [key for key in keys if key in in_vain][: max(0, AGAIN - len(first))]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_S):
                for key in (*first, *again):
                    await self._look_for(key, in_vain)

    def looked_for(self, export: Export) -> bool:
        """Tell whether an export was looked for, in vain, since it vanished."""
        return export.key in self._in_vain.get(export.source, ())

    async def warn_if_new(self, sources: Collection[str]) -> None:
        """Say so loudly if an empty ledger meets an archive of the same sources."""
        if not await self._ledger(lambda ledger: ledger.inventory.is_empty()):
            return
        for name, publisher in self._publishers.items():
            example = None
            with contextlib.suppress(TimeoutError, TargetError):
                async with asyncio.timeout(LONGEST_S):
                    example = await self._example(publisher, sources)
            if example is not None:
                _log.error(
                    "ledger.empty",
                    target=name,
                    example=example,
                    error="the ledger is empty, and the target holds files of its "
                    "sources. If a ledger was lost, stop the service and run "
                    "`archive-mirror rebuild --force` to take them up again",
                )

    async def _look_for(self, key: int, in_vain: set[int]) -> None:
        export = await self._ledger(lambda ledger: ledger.inventory.idle(key))
        if export is None:
            return
        # One target that hangs neither hides the others nor takes all the time.
        share_s = LONGEST_S / (len(self._publishers) + 1)
        for name, publisher in self._publishers.items():
            path = None
            with contextlib.suppress(TargetError, TimeoutError):
                async with asyncio.timeout(share_s):
                    path = await self._path_on(publisher, export)
            if path is not None:
                _log.warning(
                    "export.recalled", export=export.label, target=name, path=path
                )
                for other in self._publishers.values():
                    other.wake.set()
                return
        after = await self._ledger(lambda ledger: ledger.inventory.idle(key))
        if after is not None and after.attempts == export.attempts:
            in_vain.add(key)
        else:
            # It may lie there: what a fetcher has is not taken up.
            in_vain.discard(key)

    async def _path_on(self, publisher: Publisher, export: Export) -> str | None:
        """Take up an export that lies on a target; return where."""
        marker_id = publisher.monitor.marker_id
        if marker_id is None:
            return None
        key = export.stored_key
        copies = await self._ledger(lambda ledger: ledger.copies.of(key))
        fixed = [copy.path for copy in copies if copy.target == publisher.name]
        first = whole_form((fixed and fixed[0]) or publisher.copies.path_for(export))
        for number in itertools.count(1):
            base, lies = with_number(first, number), False
            for path in (base, doubtful_form(base)):
                stored = await publisher.target.find(path, marker_id)
                if stored is None:
                    continue
                lies = True
                if await self._take_up(publisher.name, export, stored):
                    return path
            if not lies:
                return None
        return None

    async def _take_up(self, target: str, export: Export, stored: StoredFile) -> bool:
        try:
            kept = sidecar.export_of(stored, to_us(self._now()))
        except SidecarError:
            return False
        if not sidecar.is_whole(stored, kept) or not sidecar.same_export(kept, export):
            return False
        others = sorted(self._publishers)
        return await self._ledger(
            lambda ledger: ledger.inventory.recall(
                export.stored_key, kept, target=target, path=stored.path, others=others
            )
        )

    async def _example(
        self, publisher: Publisher, sources: Collection[str]
    ) -> str | None:
        marker_id = publisher.monitor.marker_id
        if marker_id is None:
            return None
        scan = publisher.target.scan(marker_id)
        async with contextlib.aclosing(scan) as batches:
            async for batch in batches:
                for stored in batch:
                    with contextlib.suppress(SidecarError):
                        if sidecar.export_of(stored, 0).source in sources:
                            return stored.path
        return None
