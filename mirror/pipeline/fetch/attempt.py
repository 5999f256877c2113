"""One attempt to fetch one file: make it, and record how it ended."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import structlog

from mirror.errors import FetchError, FileGoneError, OriginRefusedError, SpoolError
from mirror.lifecycle import held_body
from mirror.lifecycle.attempt_end import after_attempt
from mirror.lifecycle.second_look import MOST_LOOKS, Shown, compare
from mirror.model import State, to_us
from mirror.pipeline.fetch.download import Download
from mirror.pipeline.progress import Progress, Transfer
from mirror.tasks import run_to_end

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

    from mirror.backoff import Pace
    from mirror.ledger import FetchResult, LedgerThread
    from mirror.metrics import Metrics
    from mirror.model import Export
    from mirror.pipeline.fetch.download import Downloader
    from mirror.pipeline.spool.spool import Spool
    from mirror.ports import Source

_log = structlog.get_logger()


class Fetcher:
    """Carries out attempts and records how each ended.

    Args:
        targets: Names of the targets that will be owed a copy.
        looked_for: An export was looked for on them, in vain, since it vanished.
        patient: A doubtful body is asked for again later, not at once.
    """

    def __init__(
        self,
        *,
        ledger: LedgerThread,
        spool: Spool,
        metrics: Metrics,
        progress: Progress,
        downloader: Downloader,
        pace: Pace,
        targets: Sequence[str],
        looked_for: Callable[[Export], bool],
        patient: bool = True,
        now: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self._spool = spool
        self._metrics = metrics
        self._progress = progress
        self._downloader = downloader
        self._pace = pace
        self._targets = targets
        self._looked_for = looked_for
        self.patient = patient
        self._now = now

    async def attempt(self, source: Source, export: Export) -> Exception | None:
        """Try once and record it; return what failed, for whoever paces the tries."""
        download, began = self._begin(source, export), time.monotonic()
        transfer = Transfer(label=export.label, deadline_us=export.deadline_us)
        self._progress.transfers[download.key] = transfer
        try:
            async with asyncio.timeout(self._left_s(export)):
                if not await self._confirmed(download):
                    await self._downloader.run(download)
        except asyncio.CancelledError:
            await run_to_end(self._settle(download))
            raise
        except TimeoutError:
            download.failure = FetchError(
                "held", "no whole body came in time; the doubtful one is kept"
            )
        except (FetchError, FileGoneError, OriginRefusedError, SpoolError) as exc:
            download.failure = exc
            if isinstance(exc, FetchError):
                exc.began = download.began
        finally:
            self._progress.transfers.pop(download.key, None)
        after = await run_to_end(self._settle(download))
        bodies = self._spool.paths_of(export) | download.paths
        await run_to_end(discard(self._spool, bodies, after))
        took_s = time.monotonic() - began
        self._metrics.fetch_ended(source.name, download.outcome, took_s)
        return download.failure

    async def give_back(
        self, source: Source, export: Export, failure: FetchError
    ) -> None:
        """Record an attempt that ended in a way nobody foresaw, if none has."""
        key = export.stored_key
        if not await self._ledger(lambda ledger: ledger.fetches.is_claimed(key)):
            return
        download = self._begin(source, export)
        download.failure = failure
        await self._settle(download)

    def _begin(self, source: Source, export: Export) -> Download:
        return Download(
            source=source,
            export=export,
            key=export.stored_key,
            started_us=to_us(self._now()),
            oldest_us=source.oldest_us,
            lifetime_us=source.lifetime_us,
            second_look=source.second_look,
            offset_bytes=export.part_bytes,
            held_bytes=export.part_bytes,
        )

    def _left_s(self, export: Export) -> float | None:
        """Return how long the attempt may take: a held body does not wait for ever."""
        if export.held_until_us is None:
            return None
        return max(0.0, (export.held_until_us - to_us(self._now())) / 1e6)

    async def _confirmed(self, download: Download) -> bool:
        """Look whether the file is still the body that is held, if that can tell."""
        source, export = download.source, download.export
        looks = self.patient and source.second_look and export.looks < MOST_LOOKS
        if not looks or not held_body.can_look(export) or export.url is None:
            return False
        try:
            seen = await source.look(export.url, export.name)
        except (FetchError, FileGoneError, OriginRefusedError):
            self._metrics.looked(source.name, "failed")
            raise
        empty = await self._ledger(
            lambda ledger: ledger.second_looks.empty(export.source)
        )
        download.shown = compare(
            seen,
            size_bytes=export.held_bytes,
            etag=export.held_etag,
            modified=export.held_modified,
            empty=empty,
        )
        self._metrics.looked(source.name, download.shown)
        return download.shown is Shown.UNCHANGED

    async def _settle(self, download: Download) -> Export:
        """Record the attempt, and where it leaves the export."""
        download.ended_us = to_us(self._now())
        download.looked_for = self._looked_for(download.export)
        jitter = random.random()  # noqa: S311 -- spreads load, hides nothing

        def decide(export: Export) -> Export:
            return after_attempt(
                export, download, pace=self._pace, jitter=jitter, patient=self.patient
            )

        settled = await self._ledger(
            lambda ledger: ledger.fetches.settle(
                download.key, decide, download.attempt, self._targets
            )
        )
        self._log(settled, download)
        return settled.after

    def _log(self, settled: FetchResult, download: Download) -> None:
        now_us, after = to_us(self._now()), settled.after
        if settled.dropped:
            _log.info("version.dropped", export=after.label, reason=after.reason)
            return
        if after.state is State.SPOOLED:
            self._progress.fetched_files += 1
            if after.deadline_us is not None:
                left_s = (after.deadline_us - now_us) / 1e6
                self._metrics.deadline_margin(after.source, left_s)
        if after.held and download.failure is None:
            _log.warning(
                "body.held",
                export=after.label,
                doubt=after.held_doubt,
                held_bytes=after.held_bytes,
            )
        if download.failure is None:
            return
        facts: dict[str, object] = {
            "export": after.label,
            "state": after.state,
            "reason": after.reason,
            "error": str(download.failure),
            "held_bytes": download.held_bytes,
            "attempts": after.attempts,
        }
        if after.state is not State.WAITING:
            facts["retry_in_s"] = max(0.0, round((after.due_us - now_us) / 1e6, 1))
        # A file that is still not there is no news.
        level = _log.debug if after.tries_without_file > 1 else _log.warning
        level("export.postponed", **facts)
        if after.state is State.LOST:
            _log.error("export.lost", export=after.label, reason=after.reason)


async def discard(spool: Spool, bodies: set[Path], after: Export) -> None:
    """Remove from the spool those bodies that the export does not need any more."""
    for path in bodies - spool.paths_of(after):
        try:
            await spool.sweep(path)
        except SpoolError as exc:
            _log.warning("spool.failed", export=after.label, error=str(exc))
