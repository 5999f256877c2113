"""Walk the list of one source, page by page, into the ledger."""

from __future__ import annotations

import asyncio
import dataclasses
from array import array
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import structlog

from mirror.ledger import AT_ONCE, KeySet, in_slices
from mirror.lifecycle import loss
from mirror.lifecycle.list_row import plan
from mirror.lifecycle.walk import Walk
from mirror.model import State, to_us
from mirror.pipeline.discover.pages import PageCursor, PageRows
from mirror.pipeline.discover.rules import Rule, first_match

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from datetime import datetime

    from mirror.ledger import Ledger, LedgerThread, PageResult
    from mirror.model import Export, Row
    from mirror.ports import Page, Rows, Source

_MICROSECOND = timedelta(microseconds=1)
_AHEAD_US = 86_400_000_000
"""So far ahead of the VMS's clock rows are asked for."""
PACE_S = 0.05
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkRules:
    """How one source is walked; the keys of `[sources.NAME]`.

    Attributes:
        history_start_us: Where the first sweep begins.
        exclude: Rules that exclude exports, in their order.
    """

    lookback: timedelta
    sweep_depth: timedelta
    history_start_us: int
    waiting_limit: timedelta
    try_folders: bool
    retry_max: timedelta
    exclude: tuple[Rule, ...] = ()


@dataclass(slots=True, kw_only=True)
class WalkReport:
    """What a walk met.

    Attributes:
        left_out: New rows without a file that the ledger has no room for.
        complete: The walk met every row that was listed all the while.
    """

    pages: int = 0
    rows: int = 0
    new: int = 0
    changed: int = 0
    bad_rows: int = 0
    left_out: int = 0
    complete: bool = False


class Walker:
    """Walks one source.

    Args:
        recall: Called with the source's name before the first walks of a life and after
            each walk, before the next walk may record more losses.
        looked_for: `recall` looked for an export, in vain, since it vanished.
    """

    def __init__(
        self,
        source: Source,
        *,
        ledger: LedgerThread,
        rules: WalkRules,
        now: Callable[[], datetime],
        recall: Callable[[str], Awaitable[None]] | None = None,
        looked_for: Callable[[Export], bool] = lambda _: True,
    ) -> None:
        self._source = source
        self._ledger = ledger
        self._recall = recall
        self._looked_for = looked_for
        self._begun: set[bool] = set()
        self._now = now
        self._leaving_out = False
        self.rules = rules

    async def walk(self, *, sweep: bool) -> WalkReport:
        """Read the recent window, or with `sweep` the history, into the ledger.

        Raises:
            AuthError: The token is missing or refused.
            ListError: A page could not be had. Pages read before it count.
        """
        report = WalkReport()
        if self._recall is not None and sweep not in self._begun:
            self._begun.add(sweep)
            await self._recall(self._source.name)
        await self._read_list(report, sweep=sweep)
        if self._recall is not None:
            await self._recall(self._source.name)
        return report

    async def _read_list(self, report: WalkReport, *, sweep: bool) -> None:
        name, began_us = self._source.name, to_us(self._now())
        await self._follow_clock(began_us)
        record = await self._ledger(lambda ledger: ledger.walks.source(name))
        offset_us = record.clock_offset_us
        theirs_us = began_us + offset_us
        since_us = self._since(theirs_us, record.first_sweep_us, sweep=sweep)
        walk = Walk(
            source=name,
            at_us=began_us,
            previous=record.previous,
            clock_offset_us=offset_us,
            counts_as_ours=record.first_sweep_us is not None,
            lifetime_us=self._source.lifetime_us,
            waiting_limit_us=self.rules.waiting_limit // _MICROSECOND,
            try_folders=self.rules.try_folders,
            retry_max_us=self.rules.retry_max // _MICROSECOND,
            second_look=self._source.second_look,
            rule_for=partial(first_match, self.rules.exclude),
            looked_for=self._looked_for,
        )
        met, expected = KeySet(), array("q")
        if sweep:
            expected = await self._expected(since_us, theirs_us)
        cursor = PageCursor(theirs_us + _AHEAD_US)
        while not cursor.ended:
            if cursor.pages:
                await asyncio.sleep(PACE_S)
            page = await self._source.page(
                cursor.number, since_us=since_us, until_us=cursor.until_us
            )
            if cursor.number == 1 and page.clock_offset_us is not None:
                offset_us = page.clock_offset_us
                walk = dataclasses.replace(walk, clock_offset_us=offset_us)
            rows = await self._meet_page(page, walk, report, met)
            cursor.advance(page, rows)
        if cursor.endless:
            _log.error("list.endless", source=name, pages=cursor.pages)
        report.complete = cursor.whole
        unmet = (key for key in expected if key not in met)
        await self._conclude(walk, report, sweep=sweep, since_us=since_us, unmet=unmet)

    async def _follow_clock(self, now_us: int) -> None:
        """Correct what was reckoned by our clock, if that was put back."""
        name = self._source.name
        back_us = await self._ledger(
            lambda ledger: ledger.walks.correct_clock(name, now_us)
        )
        if back_us:
            _log.warning("clock.put_back", source=name, seconds=round(back_us / 1e6))
        while await self._ledger(lambda ledger: ledger.walks.follow_clock(name)):
            pass

    async def _expected(self, since_us: int, until_us: int) -> array[int]:
        """Return the keys of the exports that a sweep of this window should meet."""
        name, expected = self._source.name, array("q")
        after: int | None = 0
        while after is not None:
            keys, after = await self._ledger(
                lambda ledger, after: ledger.walks.expected(
                    name, since_us, until_us, after
                ),
                after,
            )
            expected.extend(keys)
        return expected

    def _since(self, now_us: int, first_sweep_us: int | None, *, sweep: bool) -> int:
        if not sweep:
            return now_us - self.rules.lookback // _MICROSECOND
        if first_sweep_us is None:
            return self.rules.history_start_us
        since_us = now_us - self.rules.sweep_depth // _MICROSECOND
        return max(since_us, self.rules.history_start_us)

    async def _meet_page(
        self, page: Page, walk: Walk, report: WalkReport, before: KeySet
    ) -> PageRows:
        """Enter a page in the ledger, some rows at a time."""
        rows = PageRows()
        report.pages += 1
        report.rows += page.size
        await self._meet_rows(page, walk, report, rows, before)
        if page.later is not None:
            async for later in page.later:
                await self._meet_rows(later, walk, report, rows, before)
        return rows

    async def _meet_rows(
        self,
        part: Page | Rows,
        walk: Walk,
        report: WalkReport,
        page_rows: PageRows,
        before: KeySet,
    ) -> None:
        for first in range(0, len(part.rows), AT_ONCE):
            rows = part.rows[first : first + AT_ONCE]
            met, keys = await self._ledger(_meet, walk, rows, before)
            report.new += met.new
            report.changed += met.changed
            report.left_out += met.left_out
            _log_lost(met.lost)
            _log_versions(met)
            page_rows.add(rows, keys)
        report.bad_rows += len(part.bad_rows)
        for first in range(0, len(part.bad_rows), AT_ONCE):
            bad_rows = part.bad_rows[first : first + AT_ONCE]
            for bad in await self._ledger(
                lambda ledger, bad_rows: ledger.walks.bad_rows(
                    walk.source, bad_rows, walk.at_us
                ),
                bad_rows,
            ):
                _log.warning("row.refused", source=walk.source, error=bad.error)

    async def _conclude(
        self,
        walk: Walk,
        report: WalkReport,
        *,
        sweep: bool,
        since_us: int,
        unmet: Iterator[int],
    ) -> None:
        """Decide what only a walk to the end of the list can tell."""
        now_us = to_us(self._now())
        if sweep and report.complete:
            while keys := list(islice(unmet, AT_ONCE)):
                lost = await self._ledger(
                    lambda ledger, keys: ledger.walks.absent(
                        keys,
                        lambda export: loss.absent(
                            export,
                            now_us,
                            walk.oldest_us,
                            looked_for=walk.looked_for(export),
                        ),
                    ),
                    keys,
                )
                _log_lost(lost)
        if sweep:
            await in_slices(
                self._ledger,
                lambda ledger, after: ledger.walks.requeue_old(walk, since_us, after),
            )
        await in_slices(
            self._ledger,
            lambda ledger, after: ledger.walks.mark_unavailable(walk, after),
        )
        await self._ledger(
            lambda ledger: ledger.walks.walked(
                walk.source,
                sweep=sweep,
                complete=report.complete,
                began_us=walk.at_us,
                since_us=since_us,
                offset_us=walk.clock_offset_us,
                now_us=now_us,
                left_out=report.left_out,
            )
        )
        if report.left_out and not self._leaving_out:
            _log.warning("rows.left_out", source=walk.source, rows=report.left_out)
        self._leaving_out = report.left_out > 0


def _meet(
    ledger: Ledger, walk: Walk, rows: list[Row], before: KeySet
) -> tuple[PageResult, set[int]]:
    """Meet some rows; new ones without a file as long as there is room for them."""
    room = ledger.walks.room(walk.source)

    def decide(prior: Export | None, row: Row) -> Export | None:
        nonlocal room
        if prior is None and not row.shows_file:
            if room <= 0:
                return None
            room -= 1
        return plan(prior, row, walk)

    return ledger.walks.meet(walk.source, rows, decide, before)


def _log_versions(met: PageResult) -> None:
    for export in met.further:
        _log.warning("version.made", export=export.label, reason=export.reason)
    for export in met.refused:
        _log.warning("version.refused", export=export.label, error=export.last_error)


def _log_lost(exports: Iterable[Export]) -> None:
    for export in exports:
        if export.state is State.LOST:
            _log.error(
                "export.lost",
                export=export.label,
                reason=export.reason,
                last_error=export.last_error,
                ours=export.counts_as_ours,
            )
