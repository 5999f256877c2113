"""A walker over a list that a test writes, with a real ledger."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mirror.ledger import Filter, Ledger, LedgerThread
from mirror.model import State, from_us
from mirror.pipeline.discover.walker import Walker, WalkRules
from mirror.ports import BadRow, Page
from tests import builders
from tests.builders import HOUR, NOW

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from mirror.model import Export, Row
    from mirror.pipeline.discover.walker import WalkReport


DAY = 24 * HOUR
SECOND = 1_000_000
HISTORY = NOW - 300 * DAY


def listed(number: int, **given: Any) -> Row:
    """Return the row of one export."""
    return builders.row(export_id=number, created_key=f"k{number}", **given)


def page(*rows: Row, total: int | None = None, **given: Any) -> Page:
    """Return a page; its total is that of its rows if not given."""
    bad = given.pop("bad_rows", [])
    values: dict[str, Any] = {
        "size": len(rows) + len(bad),
        "total": len(rows) + len(bad) if total is None else total,
        "last_page": None,
        "clock_offset_us": 0,
    }
    return Page(rows=list(rows), bad_rows=bad, **(values | given))


def bad(number: int) -> BadRow:
    """Return a row that cannot be used."""
    return BadRow(raw=f'{{"n": {number}}}', error="no id")


class Scripted:
    """A source whose list is a function of the page number.

    Attributes:
        asked: Each request as (number, since, until).
    """

    name = "hq"
    origin = "https://vms.example"
    oldest_us = None
    lifetime_us = 3 * HOUR
    second_look = True

    def __init__(self, answer: Callable[[int], Page]) -> None:
        self.answer = answer
        self.asked: list[tuple[int, int, int]] = []

    async def page(self, number: int, *, since_us: int, until_us: int) -> Page:
        self.asked.append((number, since_us, until_us))
        return self.answer(number)

    def open_file(self, *_: object, **__: object) -> Any:
        raise AssertionError("a walk fetches no file")

    async def look(self, *_: object) -> Any:
        raise AssertionError("a walk looks at no file")

    def shows(self, *rows: Row, **given: Any) -> None:
        """Answer each request with this one page."""
        self.answer = lambda _: page(*rows, **given)

    def pages(self, *each: Page) -> None:
        """Answer with these pages, then with empty ones of the last total."""
        after = page(total=each[-1].total)
        self.answer = lambda number: each[number - 1] if number <= len(each) else after


class WalkBench:
    """A walker with its clock, its list and its ledger."""

    def __init__(self, folder: Path) -> None:
        self.now_us = NOW
        self.source = Scripted(lambda _: page())
        self.ledger = LedgerThread(Ledger.open(folder))
        self.walker = self.walker_with()

    def walker_with(self, **given: Any) -> Walker:
        """Return a walker with these rules."""
        values: dict[str, Any] = {
            "lookback": timedelta(hours=6),
            "sweep_depth": timedelta(days=30),
            "history_start_us": HISTORY,
            "waiting_limit": timedelta(hours=24),
            "try_folders": True,
            "retry_max": timedelta(minutes=10),
        }
        rules = WalkRules(**(values | given))
        return Walker(self.source, ledger=self.ledger, rules=rules, now=self._now)

    def _now(self) -> datetime:
        return from_us(self.now_us)

    async def poll(self) -> WalkReport:
        """Walk the recent window."""
        return await self.walker.walk(sweep=False)

    async def sweep(self) -> WalkReport:
        """Walk the history."""
        return await self.walker.walk(sweep=True)

    async def exports(self) -> dict[int, Export]:
        """Return what the ledger has, by id."""
        found = await self.ledger(lambda ledger: list(ledger.queries.exports(Filter())))
        return {export.export_id: export for export, _ in found}

    async def record(self):
        """Return what the ledger remembers of the source."""
        return await self.ledger(lambda ledger: ledger.walks.source("hq"))


async def met_and_past(bench: WalkBench, **given: Any) -> None:
    """Let an export be met, and its deadline pass."""
    bench.source.shows(listed(1, **given))
    await bench.sweep()
    bench.now_us = NOW + 4 * HOUR
    bench.source.shows()


async def state_of(bench: WalkBench) -> tuple[State, str | None]:
    """Return the state and reason of that export."""
    export = (await bench.exports())[1]
    return export.state, export.reason
