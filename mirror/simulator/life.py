"""What happens to exports by the clock: listed, made, deleted."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from mirror.simulator.exports import Stage
from mirror.simulator.footage import CLIPS

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.simulator.exports import Export

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What happens by itself; by default, nothing does.

    Attributes:
        generation_delay: From row to file; None is never.
        file_lifetime: From file to deletion; None is never.
        cleanup_interval: How often the job that deletes runs; zero is always.
        arrivals_per_min: New exports.
        sizes: Smallest and largest file of new exports, in bytes.
        cameras: How many cameras the new exports come from.
        speed: Divides every duration above; the clock itself stays as it is.
        seed: Decides all random choices.
    """

    generation_delay: timedelta | None = None
    file_lifetime: timedelta | None = None
    cleanup_interval: timedelta = timedelta()
    arrivals_per_min: float = 0.0
    sizes: tuple[int, int] = (200_000, 4_000_000)
    cameras: int = 4
    speed: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The random choices for a new export."""

    size_bytes: int
    clip: str
    camera_id: int
    length: timedelta


class Clockwork:
    """Does what is due when it is asked to; runs no task.

    The first export arrives at `started_at`; `arrive` lists it, and each other.
    """

    def __init__(
        self,
        life: Life,
        *,
        started_at: datetime,
        arrive: Callable[[datetime, Draft], object],
    ) -> None:
        self._life = life
        self._arrive = arrive
        self._random = random.Random(life.seed)  # noqa: S311 -- must be reproducible
        self._number = itertools.count()
        self._due: list[tuple[datetime, int, Export]] = []
        self._next_arrival = started_at

    def draft(self) -> Draft:
        """Return random choices for a new export."""
        smallest, largest = self._life.sizes
        return Draft(
            size_bytes=self._random.randint(smallest, largest),
            clip=self._random.choice(CLIPS),
            camera_id=self._random.randint(1, self._life.cameras),
            length=timedelta(seconds=self._random.randint(30, 600)),
        )

    def plan(self, export: Export, since: datetime) -> None:
        """Plan the next step of an export that entered its stage at `since`."""
        export.due_at = None
        if export.stage is Stage.ASKED and self._life.generation_delay is not None:
            export.due_at = since + self._life.generation_delay / self._life.speed
        elif export.stage is Stage.MADE and self._life.file_lifetime is not None:
            export.due_at = since + self._life.file_lifetime / self._life.speed
            interval = self._life.cleanup_interval / self._life.speed
            if interval:
                # The job that deletes runs at whole intervals since 1970.
                export.due_at += (_EPOCH - export.due_at) % interval
        if export.due_at is not None:
            heapq.heappush(self._due, (export.due_at, next(self._number), export))

    def advance(self, now: datetime) -> None:
        """Do all that was due until now, in order."""
        while self._life.arrivals_per_min > 0 and self._next_arrival <= now:
            at = self._next_arrival
            mean_s = 60 / self._life.arrivals_per_min / self._life.speed
            wait_s = mean_s * self._random.uniform(0.5, 1.5)
            self._next_arrival += timedelta(seconds=wait_s)
            self._arrive(at, self.draft())
        while self._due and self._due[0][0] <= now:
            at, _, export = heapq.heappop(self._due)
            if export.due_at != at:
                continue
            if export.stage is Stage.ASKED:
                export.make(at)
            else:
                export.delete()
            self.plan(export, at)
