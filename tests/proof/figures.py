"""How much a proof tries, and what it found.

Few rounds in `make proofs`, many in `make chaos`.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")
_UNITS = {"s": 1, "m": 60, "h": 3600}
_SHOWN_EVERY_S = 10.0
REACHED = "reached"


def budget_s(text: str) -> float:
    """Return the seconds in `90s`, `60m` or `2h`.

    Raises:
        ValueError: The text is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None:
        raise ValueError(f"{text!r} is no budget: say 90s, 60m or 2h")
    return float(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True, slots=True)
class Figures:
    """What one test may spend, and the figures it reaches.

    Attributes:
        test: Its name.
        seed: What all its random numbers come from.
        total_s: The time of the whole run; None in the short form.
        reached: Takes the lines of the closing table.
    """

    test: str
    seed: int
    total_s: float | None
    reached: list[tuple[str, object]]

    @property
    def long(self) -> bool:
        """It is the long form."""
        return self.total_s is not None

    def rounds(
        self, short: int, long: int, *, share: float
    ) -> Iterator[tuple[int, random.Random]]:
        """Yield round numbers, each with its own source of random numbers.

        Args:
            short: How many rounds in `make proofs`.
            long: How many in `make chaos`, unless the time ends before.
            share: Of the whole time that these rounds may take in `make chaos`.
        """
        began = shown = time.monotonic()
        most = long if self.long else short
        for number in range(most):
            now = time.monotonic()
            if self.total_s is not None and now - began > share * self.total_s:
                self._tell(f"time is up after {number} of {most} rounds")
                return
            if self.long and now - shown > _SHOWN_EVERY_S:
                shown = now
                self._tell(f"{number} of {most} rounds")
            yield number, self.round(number)

    async def side_by_side(
        self,
        work: Callable[[int, random.Random], Awaitable[T]],
        short: int,
        long: int,
        *,
        share: float,
    ) -> list[T]:
        """Do rounds at once, as many as the cores bear; return what each returned.

        Args:
            work: Does one round.
            short: As in `rounds`.
            long: As in `rounds`.
            share: As in `rounds`.
        """
        lanes = asyncio.Semaphore(4 if self.long else 2)

        async def lane(number: int, rng: random.Random) -> T:
            try:
                return await work(number, rng)
            finally:
                lanes.release()

        tasks = []
        async with asyncio.TaskGroup() as group:
            for number, rng in self.rounds(short, long, share=share):
                await lanes.acquire()
                tasks.append(group.create_task(lane(number, rng)))
        return [task.result() for task in tasks]

    def round(self, number: int) -> random.Random:
        """Return the random numbers of one round, to repeat it alone."""
        return random.Random(f"{self.seed}/{self.test}/{number}")

    def record(self, row: int, **figures: object) -> None:
        """Remember what was reached, for the table at the end."""
        shown = ", ".join(f"{name} {value}" for name, value in figures.items())
        self.reached.append((REACHED, f"row {row:>2}  {self.test}: {shown}"))

    def _tell(self, text: str) -> None:
        sys.stderr.write(f"{self.test}: {text}\n")
        sys.stderr.flush()
