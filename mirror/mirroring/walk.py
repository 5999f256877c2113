"""Walk the list of one source: one pass, page by page, into the ledger."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from mirror.mirroring import plan as planning
from mirror.mirroring import verdict
from mirror.model import Reason, State, to_us
from mirror.state import KeySet

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime, timedelta

    from mirror.model import Export, Row
    from mirror.ports import Page, Source
    from mirror.state import LedgerThread

MAX_PAGES = 20_000
"""A walk ends here even if the server claims that there is more."""
MAX_STARTS = 3
"""So often is a list that moves read from the same place before that is given up."""
_AHEAD_US = 86_400_000_000
_SECOND_US = 1_000_000
_PACE_S = 0.05
_REPEATS = 2
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkRules:
    """How one source is walked; the keys of `[sources.NAME]`.

    Attributes:
        history_start_us: Where the first sweep begins.
        second_look: Files that are ours are looked at again.
        rule_for: Given a row and when the walk began, names the rule that excludes it.
    """

    lookback: timedelta
    sweep_depth: timedelta
    history_start_us: int
    file_lifetime: timedelta
    waiting_limit: timedelta
    try_folders: bool
    retry_max: timedelta
    second_look: bool = True
    rule_for: Callable[[Row, int], str | None]


@dataclass(slots=True, kw_only=True)
class WalkReport:
    """What a walk met.

    Attributes:
        complete: Every row that was listed all the while was met.
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
        await self._pass(report, sweep=sweep)
        if self._recall is not None:
            await self._recall(self._source.name)
        return report

    async def _pass(self, report: WalkReport, *, sweep: bool) -> None:
        """Read the list once, and conclude."""
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
            second_look=rules.second_look,
            rule_for=lambda row: rules.rule_for(row, began_us + offset_us),
        )
        missing: set[int] = set()
        met = KeySet()
        if sweep:
            missing = await self._ledger(
                lambda ledger: ledger.listing.expected(
                    name, since_us, began_us + offset_us
                )
            )
        reading = _Reading(began_us + offset_us + _AHEAD_US)
        while not reading.ended:
            page = await self._source.page(
                reading.number, since_us=since_us, until_us=reading.until_us
            )
            if reading.number == 1 and page.clock_offset_us is not None:
                walk = _corrected(walk, rules, page.clock_offset_us)
            keys = await self._meet(page, walk, report, met)
            missing -= keys
            reading.take(page, keys)
            await asyncio.sleep(_PACE_S if sweep else 0)
        if reading.endless:
            _log.error("list.endless", source=name, pages=reading.pages)
        report.complete = reading.whole
        await self._close(
            walk,
            sweep=sweep,
            complete=report.complete,
            since_us=since_us,
            missing=missing,
        )

    def _since(self, now_us: int, first_sweep_us: int | None, *, sweep: bool) -> int:
        if not sweep:
            return now_us - _us(self.rules.lookback)
        if first_sweep_us is None:
            return self.rules.history_start_us
        since_us = now_us - _us(self.rules.sweep_depth)
        return max(since_us, self.rules.history_start_us)

    async def _meet(
        self, page: Page, walk: planning.Walk, report: WalkReport, before: KeySet
    ) -> set[int]:
        met, keys = await self._ledger(
            lambda ledger: ledger.listing.meet(
                walk.source,
                page.rows,
                lambda prior, row: planning.plan(prior, row, walk),
                before,
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
        for export in met.further:
            _log.warning("version.made", export=export.label, reason=export.reason)
        for export in met.refused:
            _log.warning(
                "version.refused", export=export.label, error=export.last_error
            )
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
        return verdict.rather_kept(planning.lose(after, Reason.ROW_GONE))
    return after


class _Reading:
    """How far the pages of one walk are read.

    Pages are counted from the newest row on. If the total changes between two of them,
    rows slid over an edge: what is older than the last row met before is asked for by
    its date, as a list of its own.

    Attributes:
        number: Of the page to be read next.
        until_us: The upper bound to ask it with, by the VMS's clock.
        pages: How many were read.
        endless: The server gives more pages than its rows can fill.
    """

    def __init__(self, until_us: int) -> None:
        self.until_us = until_us
        self.pages = 0
        self.ended = False
        self.endless = False
        self._top_us = until_us
        self._starts = 1
        self._moved = False
        self._torn = False
        self._sorted = True
        self._joint: set[int] = set()
        self._start()

    def _start(self) -> None:
        self.number = 1
        self._total: int | None = None
        self._seen = 0
        self._edge_us: int | None = None
        self._keys: set[int] = set()
        self._repeats = 0

    @property
    def whole(self) -> bool:
        """Every row that was listed all the while was met."""
        short = self._total is not None and self._seen < self._total
        odd = not self._sorted and self.until_us != self._top_us
        return not (self._moved or self._torn or odd or self.endless or short)

    def take(self, page: Page, keys: set[int]) -> None:
        """Count a page; by numbers alone, whatever its links say."""
        self.pages += 1
        if self.number == 1:
            self._total = page.total
            # Without a row in common there may be rows between.
            self._torn = bool(self._joint) and keys.isdisjoint(self._joint)
        elif (
            page.total != self._total
            and not self._moved
            and self.pages < MAX_PAGES
            and self._start_anew()
        ):
            return
        self._sort(page)
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
            or self.pages >= MAX_PAGES
            or (limit is not None and self._seen > limit)
        ):
            self.ended = self.endless = True
        self.number += 1

    def _start_anew(self) -> bool:
        """Go on below the last row met, if that leads on; False if tried enough."""
        below_us = None if self._edge_us is None else self._edge_us + _SECOND_US
        if self._sorted and below_us is not None and below_us < self.until_us:
            self.until_us, self._joint = below_us, self._keys
        elif self._starts < MAX_STARTS:
            self._starts += 1
            if not self._sorted:
                self.until_us, self._joint = self._top_us, set()
        else:
            self._moved = True
            return False
        self._start()
        return True

    def _sort(self, page: Page) -> None:
        for row in page.rows:
            if row.created_us is not None:
                newer = self._edge_us is not None and row.created_us > self._edge_us
                self._sorted = self._sorted and not newer
                self._edge_us = row.created_us


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
