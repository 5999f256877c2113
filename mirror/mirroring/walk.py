"""Walk the list of one source: one pass, page by page, into the ledger."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from mirror.mirroring import plan as planning
from mirror.model import Reason, State, to_us

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime, timedelta

    from mirror.model import Export, Row
    from mirror.ports import Page, Source
    from mirror.state import LedgerThread

MAX_PAGES = 20_000
"""A walk ends here even if the server claims that there is more."""
MAX_WALKS = 3
"""So often is a walk begun anew because the list moved under it."""
_AHEAD_US = 86_400_000_000
_PACE_S = 0.05
_REPEATS = 2
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkRules:
    """How one source is walked; the keys of `[sources.NAME]`.

    Attributes:
        history_start_us: Where the first sweep begins.
        rule_for: Given a row and when the walk began, names the rule that excludes it.
    """

    lookback: timedelta
    sweep_depth: timedelta
    history_start_us: int
    file_lifetime: timedelta
    waiting_limit: timedelta
    try_folders: bool
    retry_max: timedelta
    rule_for: Callable[[Row, int], str | None]


@dataclass(slots=True, kw_only=True)
class WalkReport:
    """What a walk met.

    Attributes:
        complete: Every page was read and the total did not change meanwhile.
    """

    pages: int = 0
    rows: int = 0
    new: int = 0
    changed: int = 0
    bad_rows: int = 0
    complete: bool = False


class Walker:
    """Walks one source.

    Args:
        recall: Given the source's name after each walk, before the next may find more
            to be lost.
    """

    def __init__(
        self,
        source: Source,
        *,
        ledger: LedgerThread,
        rules: WalkRules,
        now: Callable[[], datetime],
        recall: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._source = source
        self._ledger = ledger
        self._recall = recall
        self._now = now
        self.rules = rules

    async def walk(self, *, sweep: bool) -> WalkReport:
        """Read the recent window, or with `sweep` the history, into the ledger.

        Raises:
            AuthError: The token is missing or refused.
            ListError: A page could not be had. Pages read before it count.
        """
        report = WalkReport()
        for _ in range(MAX_WALKS):
            if not await self._pass(report, sweep=sweep):
                break
        if self._recall is not None:
            await self._recall(self._source.name)
        return report

    async def _pass(self, report: WalkReport, *, sweep: bool) -> bool:
        """Walk once; tell whether the list moved meanwhile."""
        name, rules = self._source.name, self.rules
        began_us = to_us(self._now())
        back_us = await self._ledger(
            lambda ledger: ledger.listing.put_back(name, began_us)
        )
        if back_us:
            _log.warning("clock.put_back", source=name, seconds=round(back_us / 1e6))
        record = await self._ledger(lambda ledger: ledger.listing.source(name))
        offset_us = record.clock_offset_us
        since_us = self._since(began_us + offset_us, record.first_sweep_us, sweep=sweep)
        until_us = began_us + offset_us + _AHEAD_US
        walk = planning.Walk(
            source=name,
            at_us=began_us,
            previous=record.previous,
            clock_offset_us=offset_us,
            ours=record.first_sweep_us is not None,
            lifetime_us=_us(rules.file_lifetime),
            waiting_limit_us=_us(rules.waiting_limit),
            try_folders=rules.try_folders,
            retry_max_us=_us(rules.retry_max),
            rule_for=lambda row: rules.rule_for(row, began_us + offset_us),
        )
        missing: set[int] = set()
        if sweep:
            missing = await self._ledger(
                lambda ledger: ledger.listing.expected(
                    name, since_us, began_us + offset_us
                )
            )
        reading = _Reading()
        while not reading.ended:
            page = await self._source.page(
                reading.number, since_us=since_us, until_us=until_us
            )
            if reading.number == 1 and page.clock_offset_us is not None:
                walk = _corrected(walk, rules, page.clock_offset_us)
            keys = await self._meet(page, walk, report)
            missing -= keys
            reading.take(page, keys)
            await asyncio.sleep(_PACE_S if sweep else 0)
        if reading.endless:
            _log.error("list.endless", source=name, pages=reading.number)
        report.complete = reading.whole
        await self._close(
            walk,
            sweep=sweep,
            complete=report.complete,
            since_us=since_us,
            missing=missing,
        )
        return reading.moved

    def _since(self, now_us: int, first_sweep_us: int | None, *, sweep: bool) -> int:
        if not sweep:
            return now_us - _us(self.rules.lookback)
        if first_sweep_us is None:
            return self.rules.history_start_us
        since_us = now_us - _us(self.rules.sweep_depth)
        return max(since_us, self.rules.history_start_us)

    async def _meet(
        self, page: Page, walk: planning.Walk, report: WalkReport
    ) -> set[int]:
        met, keys = await self._ledger(
            lambda ledger: ledger.listing.meet(
                walk.source,
                page.rows,
                lambda prior, row: planning.plan(prior, row, walk),
            )
        )
        report.pages += 1
        report.rows += page.size
        report.new += met.new
        report.changed += met.changed
        report.bad_rows += len(page.bad_rows)
        for bad in page.bad_rows:
            first = await self._ledger(
                lambda ledger, bad: ledger.listing.bad_row(
                    walk.source, bad, walk.at_us
                ),
                bad,
            )
            if first:
                _log.warning("row.refused", source=walk.source, error=bad.error)
        _tell_lost(met.lost)
        return keys

    async def _close(
        self,
        walk: planning.Walk,
        *,
        sweep: bool,
        complete: bool,
        since_us: int,
        missing: set[int],
    ) -> None:
        """Draw the conclusions that only a whole walk allows."""
        now_us = to_us(self._now())
        if sweep and complete and missing:

            def decide(export: Export) -> Export:
                return _absent(export, now_us, walk.oldest_us)

            lost = await self._ledger(
                lambda ledger: ledger.listing.absent(missing, decide)
            )
            _tell_lost(lost)
        if sweep:
            await self._ledger(
                lambda ledger: ledger.listing.rouse(
                    walk.source,
                    before_us=since_us,
                    at_us=walk.at_us,
                    horizon_us=max(planning.RARELY_US, walk.retry_max_us),
                    folders=walk.try_folders,
                )
            )
        await self._ledger(
            lambda ledger: ledger.listing.give_up(
                walk.source,
                born_before_us=walk.at_us - walk.waiting_limit_us,
                offset_us=walk.clock_offset_us,
            )
        )
        await self._ledger(
            lambda ledger: ledger.listing.walked(
                walk.source,
                sweep=sweep,
                complete=complete,
                began_us=walk.at_us,
                since_us=since_us,
                offset_us=walk.clock_offset_us,
                now_us=now_us,
            )
        )


def _corrected(walk: planning.Walk, rules: WalkRules, offset_us: int) -> planning.Walk:
    """Return the walk knowing the VMS's clock as its first page shows it."""
    theirs_us = walk.at_us + offset_us
    return dataclasses.replace(
        walk,
        clock_offset_us=offset_us,
        rule_for=lambda row: rules.rule_for(row, theirs_us),
    )


def _absent(export: Export, now_us: int, oldest_us: int) -> Export:
    """Return the export that a complete sweep should have shown and did not."""
    sweeps = min(export.absent_sweeps + 1, planning.GONE_SWEEPS)
    after = dataclasses.replace(export, absent_sweeps=sweeps)
    over = planning.past_deadline(export, now_us, oldest_us)
    if sweeps >= planning.GONE_SWEEPS and over:
        return planning.lose(after, Reason.ROW_GONE)
    return after


@dataclass(slots=True)
class _Reading:
    """How far the pages of one walk are read.

    Attributes:
        number: Of the page to be read next.
        moved: The total changed between pages.
        endless: The server gives more pages than its rows can fill.
        total: Rows the window holds, as the first page says.
    """

    number: int = 1
    ended: bool = False
    moved: bool = False
    endless: bool = False
    total: int | None = None
    _seen: int = 0
    _keys: set[int] = field(default_factory=set)
    _repeats: int = 0

    @property
    def whole(self) -> bool:
        """All was read that the server says there is, and it stayed the same."""
        short = self.total is not None and self._seen < self.total
        return not (self.moved or self.endless or short)

    def take(self, page: Page, keys: set[int]) -> None:
        """Count a page; by numbers alone, whatever its links say."""
        if self.number == 1:
            self.total = page.total
        self.moved = self.moved or page.total != self.total
        self._seen += page.size
        self._repeats = self._repeats + 1 if keys and keys == self._keys else 0
        self._keys = keys
        if page.size == 0:
            self.ended = True
        elif page.last_page is not None:
            self.ended = self.number >= page.last_page
        elif page.total is not None:
            self.ended = self._seen >= page.total
        limit = None if page.total is None else page.total + 2 * page.size
        if not self.ended and (
            self._repeats >= _REPEATS
            or self.number >= MAX_PAGES
            or (limit is not None and self._seen > limit)
        ):
            self.ended = self.endless = True
        self.number += 1


def _tell_lost(lost: tuple[Export, ...] | list[Export]) -> None:
    for export in lost:
        if export.state is State.LOST:
            _log.error(
                "export.lost",
                export=export.label,
                reason=export.reason,
                last_error=export.last_error,
                ours=export.ours,
            )


def _us(span: timedelta) -> int:
    return round(span.total_seconds() * 1_000_000)
