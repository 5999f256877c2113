"""Walk the list of one source: one pass, page by page, into the ledger."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import structlog

from mirror.ledger import AT_ONCE, KeySet, in_slices
from mirror.lifecycle import loss
from mirror.lifecycle import row as planning
from mirror.lifecycle.walk import Walk
from mirror.model import State, to_us

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from datetime import datetime, timedelta

    from mirror.ledger import Ledger, LedgerThread, PageResult
    from mirror.model import Export, Row
    from mirror.ports import Page, Rows, Source

MAX_PAGES = 20_000
"""A walk ends here even if the server claims that there is more."""
MAX_ROWS = 2_000_000
"""Or here, if its pages are larger than was asked for."""
MAX_STARTS = 3
"""So often is a list that moves read from the same place before that is given up."""
_AHEAD_US = 86_400_000_000
_SECOND_US = 1_000_000
_PACE_S = 0.05
_FRUITLESS = 100
"""So many pages in a row without a row that can be used end a walk."""
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
        left_out: Rows without a file, of which the ledger holds too many.
        complete: Every row that was listed all the while was met.
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
        self._leaving_out = False
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
            lambda ledger: ledger.walks.correct_clock(name, began_us)
        )
        if back_us:
            _log.warning("clock.put_back", source=name, seconds=round(back_us / 1e6))
        while await self._ledger(lambda ledger: ledger.walks.follow_clock(name)):
            pass
        record = await self._ledger(lambda ledger: ledger.walks.source(name))
        offset_us = record.clock_offset_us
        since_us = self._since(began_us + offset_us, record.first_sweep_us, sweep=sweep)
        walk = Walk(
            source=name,
            at_us=began_us,
            previous=record.previous,
            clock_offset_us=offset_us,
            counts_as_ours=record.first_sweep_us is not None,
            lifetime_us=_us(rules.file_lifetime),
            waiting_limit_us=_us(rules.waiting_limit),
            try_folders=rules.try_folders,
            retry_max_us=_us(rules.retry_max),
            second_look=rules.second_look,
            rule_for=lambda row: rules.rule_for(row, began_us + offset_us),
        )
        missing, met = _Missing(), KeySet()
        if sweep:
            await self._expect(missing, since_us, began_us + offset_us)
        reading = _Reading(began_us + offset_us + _AHEAD_US)
        while not reading.ended:
            if reading.pages:
                await asyncio.sleep(_PACE_S)
            page = await self._source.page(
                reading.number, since_us=since_us, until_us=reading.until_us
            )
            if reading.number == 1 and page.clock_offset_us is not None:
                walk = _corrected(walk, rules, page.clock_offset_us)
            listed = await self._meet(page, walk, report, met)
            missing.meet(listed.keys)
            reading.take(page, listed)
        if reading.endless:
            _log.error("list.endless", source=name, pages=reading.pages)
        report.complete = reading.whole
        await self._close(
            walk,
            sweep=sweep,
            complete=report.complete,
            since_us=since_us,
            missing=missing,
            left_out=report.left_out,
        )

    async def _expect(self, missing: _Missing, since_us: int, until_us: int) -> None:
        """Find out what a sweep of this window should meet."""
        name = self._source.name
        after: int | None = 0
        while after is not None:
            keys, after = await self._ledger(
                lambda ledger, after: ledger.walks.expected(
                    name, since_us, until_us, after
                ),
                after,
            )
            missing.expect(keys)

    def _since(self, now_us: int, first_sweep_us: int | None, *, sweep: bool) -> int:
        if not sweep:
            return now_us - _us(self.rules.lookback)
        if first_sweep_us is None:
            return self.rules.history_start_us
        since_us = now_us - _us(self.rules.sweep_depth)
        return max(since_us, self.rules.history_start_us)

    async def _meet(
        self, page: Page, walk: Walk, report: WalkReport, before: KeySet
    ) -> _Listed:
        """Bring a page into the ledger, some rows at a time."""
        listed = _Listed()
        report.pages += 1
        report.rows += page.size
        await self._meet_rows(page, walk, report, listed, before)
        if page.later is not None:
            async for rows in page.later:
                await self._meet_rows(rows, walk, report, listed, before)
        return listed

    async def _meet_rows(
        self,
        given: Page | Rows,
        walk: Walk,
        report: WalkReport,
        listed: _Listed,
        before: KeySet,
    ) -> None:
        for first in range(0, len(given.rows), AT_ONCE):
            rows = given.rows[first : first + AT_ONCE]
            met, keys = await self._ledger(_meet, walk, rows, before)
            report.new += met.new
            report.changed += met.changed
            report.left_out += met.left_out
            _tell_lost(met.lost)
            _tell_versions(met)
            listed.add(rows, keys)
        report.bad_rows += len(given.bad_rows)
        for first in range(0, len(given.bad_rows), AT_ONCE):
            refused = given.bad_rows[first : first + AT_ONCE]
            for bad in await self._ledger(
                lambda ledger, refused: ledger.walks.bad_rows(
                    walk.source, refused, walk.at_us
                ),
                refused,
            ):
                _log.warning("row.refused", source=walk.source, error=bad.error)

    async def _close(
        self,
        walk: Walk,
        *,
        sweep: bool,
        complete: bool,
        since_us: int,
        missing: _Missing,
        left_out: int,
    ) -> None:
        """Draw the conclusions that only a whole walk allows."""
        now_us = to_us(self._now())
        if sweep and complete:

            def decide(export: Export) -> Export:
                return loss.absent(export, now_us, walk.oldest_us)

            for keys in missing.left():
                lost = await self._ledger(
                    lambda ledger, keys: ledger.walks.absent(keys, decide), keys
                )
                _tell_lost(lost)
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
                complete=complete,
                began_us=walk.at_us,
                since_us=since_us,
                offset_us=walk.clock_offset_us,
                now_us=now_us,
                left_out=left_out,
            )
        )
        if left_out and not self._leaving_out:
            _log.warning("rows.left_out", source=walk.source, rows=left_out)
        self._leaving_out = left_out > 0


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
        return planning.plan(prior, row, walk)

    return ledger.walks.meet(walk.source, rows, decide, before)


def _corrected(walk: Walk, rules: WalkRules, offset_us: int) -> Walk:
    """Return the walk knowing the VMS's clock as its first page shows it."""
    theirs_us = walk.at_us + offset_us
    return dataclasses.replace(
        walk,
        clock_offset_us=offset_us,
        rule_for=lambda row: rules.rule_for(row, theirs_us),
    )


class _Missing:
    """What a sweep should meet and has not met; little memory for a million exports."""

    def __init__(self) -> None:
        self._keys = array("q")
        self._met = bytearray()

    def expect(self, keys: Iterable[int]) -> None:
        """Add keys, each higher than those before."""
        self._keys.extend(keys)
        self._met.extend(bytes(len(self._keys) - len(self._met)))

    def meet(self, keys: Iterable[int]) -> None:
        """Strike out what was met."""
        for key in keys:
            at = bisect_left(self._keys, key)
            if at < len(self._keys) and self._keys[at] == key:
                self._met[at] = 1

    def left(self) -> Iterator[list[int]]:
        """Yield the keys of what was not met, some at a time."""
        left = (key for key, met in zip(self._keys, self._met, strict=True) if not met)
        while some := list(islice(left, AT_ONCE)):
            yield some


class _Listed:
    """What came of one page.

    Attributes:
        keys: Of the exports met.
        created_us: Of its rows, in their order; unknown ones left out.
        usable: How many rows could be used.
    """

    def __init__(self) -> None:
        self.keys: set[int] = set()
        self.created_us = array("q")
        self.usable = 0

    def add(self, rows: list[Row], keys: set[int]) -> None:
        """Add rows that were met."""
        self.keys |= keys
        self.usable += len(rows)
        self.created_us.extend(
            row.created_us for row in rows if row.created_us is not None
        )


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
        self._rows = 0
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
        self._met: set[bytes] = set()
        self._fruitless = 0

    @property
    def whole(self) -> bool:
        """Every row that was listed all the while was met."""
        short = self._total is not None and self._seen < self._total
        odd = not self._sorted and self.until_us != self._top_us
        return not (self._moved or self._torn or odd or self.endless or short)

    def take(self, page: Page, listed: _Listed) -> None:
        """Count a page; by numbers alone, whatever its links say."""
        keys = listed.keys
        self.pages += 1
        self._rows += page.size
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
        self._sort(listed.created_us)
        self._seen += page.size
        again = self._is_met_again(page, listed)
        self._keys = keys
        if page.size == 0:
            self.ended = True
        elif page.last_page is not None:
            self.ended = self.number >= page.last_page
        elif page.total is not None:
            self.ended = self._seen >= page.total
        limit = None if page.total is None else page.total + 2 * page.size
        if not self.ended and (
            again
            or self._fruitless >= _FRUITLESS
            or self.pages >= MAX_PAGES
            or self._rows >= MAX_ROWS
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

    def _is_met_again(self, page: Page, listed: _Listed) -> bool:
        """Tell whether this walk had a page of the same rows, refused ones included."""
        self._fruitless = 0 if listed.usable else self._fruitless + 1
        seen = {each for each in (page.digest, _fingerprint(listed.keys)) if each}
        again = not seen.isdisjoint(self._met)
        self._met |= seen
        return again

    def _sort(self, created_us: Iterable[int]) -> None:
        for moment_us in created_us:
            newer = self._edge_us is not None and moment_us > self._edge_us
            self._sorted = self._sorted and not newer
            self._edge_us = moment_us


def _fingerprint(keys: set[int]) -> bytes:
    """Return what stands for a set of exports; empty if there are none."""
    joined = array("q", sorted(keys)).tobytes()
    return hashlib.sha256(joined).digest() if keys else b""


def _tell_versions(met: PageResult) -> None:
    for export in met.further:
        _log.warning("version.made", export=export.label, reason=export.reason)
    for export in met.refused:
        _log.warning("version.refused", export=export.label, error=export.last_error)


def _tell_lost(lost: tuple[Export, ...] | list[Export]) -> None:
    for export in lost:
        if export.state is State.LOST:
            _log.error(
                "export.lost",
                export=export.label,
                reason=export.reason,
                last_error=export.last_error,
                ours=export.counts_as_ours,
            )


def _us(span: timedelta) -> int:
    return round(span.total_seconds() * 1_000_000)
