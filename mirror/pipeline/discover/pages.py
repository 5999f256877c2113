"""Which page of a source's list a walk reads next, and whether it read all of it."""

from __future__ import annotations

import hashlib
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirror.model import Row
    from mirror.ports import Page

MAX_PAGES = 20_000
"""A walk ends here even if the server says that there is more."""
MAX_ROWS = 2_000_000
"""A walk ends here even if its pages are larger than asked for."""
MAX_STARTS = 3
"""How often a list that moves is read from the same place before that is given up."""
MAX_UNUSABLE = 100
"""A walk ends after so many pages in a row without a row that can be used."""
_SECOND_US = 1_000_000


class PageRows:
    """The usable rows of one page, as they were entered in the ledger.

    Attributes:
        keys: Ledger keys of their exports.
        created_us: When each was created, in the list's order; unknown times left out.
        usable: How many there are.
    """

    def __init__(self) -> None:
        self.keys: set[int] = set()
        self.created_us = array("q")
        self.usable = 0

    def add(self, rows: list[Row], keys: set[int]) -> None:
        """Add rows and the keys of their exports."""
        self.keys |= keys
        self.usable += len(rows)
        self.created_us.extend(
            row.created_us for row in rows if row.created_us is not None
        )


class PageCursor:
    """The position of one walk in the list.

    Page numbers count from the newest row. If the total changes between two pages, rows
    may have moved from one page to another. What is older than the last row read is
    then asked for by its date, as a list of its own that begins with page 1.

    Args:
        until_us: The upper bound of the walk, by the VMS's clock.

    Attributes:
        number: Of the page to read next.
        until_us: The upper bound to ask for it with.
        pages: How many were read.
        ended: There is no page to read next.
        endless: The server gives more pages than its rows can fill.
    """

    def __init__(self, until_us: int) -> None:
        self.until_us = until_us
        self.pages = 0
        self.ended = False
        self.endless = False
        self._rows = 0
        self._first_until_us = until_us
        self._starts = 1
        self._moved = False
        self._gap = False
        self._sorted = True
        self._keys_above: set[int] = set()
        self._start()

    def _start(self) -> None:
        self.number = 1
        self._total: int | None = None
        self._rows_here = 0
        self._last_created_us: int | None = None
        self._keys: set[int] = set()
        self._digests: set[bytes] = set()
        self._unusable = 0

    @property
    def whole(self) -> bool:
        """The walk met every row that was listed all the while."""
        short = self._total is not None and self._rows_here < self._total
        by_date = self.until_us != self._first_until_us
        unsorted = by_date and not self._sorted
        return not (self._moved or self._gap or unsorted or self.endless or short)

    def advance(self, page: Page, rows: PageRows) -> None:
        """Go to the next page. Only numbers count, not the links of the page."""
        self.pages += 1
        self._rows += page.size
        if self.number == 1:
            self._total = page.total
            # Without a row in common there may be rows between.
            self._gap = bool(self._keys_above) and rows.keys.isdisjoint(
                self._keys_above
            )
        elif (
            page.total != self._total
            and not self._moved
            and self.pages < MAX_PAGES
            and self._start_again()
        ):
            return
        self._check_order(rows.created_us)
        self._rows_here += page.size
        repeated = self._is_repeated(page, rows)
        self._keys = rows.keys
        if page.size == 0:
            self.ended = True
        elif page.last_page is not None:
            self.ended = self.number >= page.last_page
        elif page.total is not None:
            self.ended = self._rows_here >= page.total
        most = None if page.total is None else page.total + 2 * page.size
        if not self.ended and (
            repeated
            or self._unusable >= MAX_UNUSABLE
            or self.pages >= MAX_PAGES
            or self._rows >= MAX_ROWS
            or (most is not None and self._rows_here > most)
        ):
            self.ended = self.endless = True
        self.number += 1

    def _start_again(self) -> bool:
        """Go on below the last row read, or from the top; False if tried enough."""
        below_us = self._last_created_us
        below_us = None if below_us is None else below_us + _SECOND_US
        if self._sorted and below_us is not None and below_us < self.until_us:
            self.until_us, self._keys_above = below_us, self._keys
        elif self._starts < MAX_STARTS:
            self._starts += 1
            if not self._sorted:
                self.until_us, self._keys_above = self._first_until_us, set()
        else:
            self._moved = True
            return False
        self._start()
        return True

    def _is_repeated(self, page: Page, rows: PageRows) -> bool:
        """Tell whether an earlier page had the same rows, refused ones included."""
        self._unusable = 0 if rows.usable else self._unusable + 1
        digests = {page.digest, _digest(rows.keys)} - {b""}
        repeated = not digests.isdisjoint(self._digests)
        self._digests |= digests
        return repeated

    def _check_order(self, created_us: Iterable[int]) -> None:
        for moment_us in created_us:
            last_us = self._last_created_us
            if last_us is not None and moment_us > last_us:
                self._sorted = False
            self._last_created_us = moment_us


def _digest(keys: set[int]) -> bytes:
    """Return the digest of a set of keys; empty if there are none."""
    joined = array("q", sorted(keys)).tobytes()
    return hashlib.sha256(joined).digest() if keys else b""
