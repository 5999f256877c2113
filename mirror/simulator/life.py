"""The life of exports by the clock: asked for, made, deleted."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from mirror.simulator.exports import Stage
from mirror.simulator.footage import CLIPS

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.simulator.catalogue import Catalogue
    from mirror.simulator.exports import Export

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What happens by itself; by default, nothing does.

    Attributes:
        generation_delay: From row to file; None is never.
        file_lifetime: From file to deletion; None is never.
        cleanup_interval: How often the job runs that deletes; zero is always.
        arrivals_per_min: New exports.
        sizes: Smallest and largest file of new exports, in bytes.
        cameras: How many cameras new exports are of.
        speed: Divides every duration above; the clock itself stays as it is.
        seed: Decides all that is drawn.
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
    """What is drawn for a new export."""

    size_bytes: int
    clip: str
    camera_id: int
    length: timedelta


class Clockwork:
    """Brings the catalogue up to date whenever it is looked at; runs no task."""

    def __init__(
        self,
        life: Life,
        *,
        catalogue: Catalogue,
        started_at: datetime,
        ask: Callable[[datetime, Draft], Export],
    ) -> None:
        self.life = life
        self._catalogue = catalogue
        self._ask = ask
        self._draw = random.Random(life.seed)  # noqa: S311 -- must be reproducible
        self._due: list[tuple[datetime, int]] = []
        self._next_arrival = started_at

    def draft(self) -> Draft:
        """Draw a new export."""
        smallest, largest = self.life.sizes
        return Draft(
            size_bytes=self._draw.randint(smallest, largest),
            clip=self._draw.choice(CLIPS),
            camera_id=self._draw.randint(1, self.life.cameras),
            length=timedelta(seconds=self._draw.randint(30, 600)),
        )

    def watch(self, export: Export, since: datetime) -> None:
        """Plan the next step of an export that entered its stage at `since`."""
        export.due_at = None
        if export.stage is Stage.ASKED and self.life.generation_delay is not None:
            export.due_at = since + self.life.generation_delay / self.life.speed
        elif export.stage is Stage.MADE and self.life.file_lifetime is not None:
            over = since + self.life.file_lifetime / self.life.speed
            export.due_at = self._cleanup_after(over)
        if export.due_at is not None:
            heapq.heappush(self._due, (export.due_at, export.export_id))

    def advance(self, now: datetime) -> None:
        """Let all happen that was to happen until now, in order."""
        if self.life.arrivals_per_min > 0:
            self._arrive(now)
        while self._due and self._due[0][0] <= now:
            at, export_id = heapq.heappop(self._due)
            export = self._catalogue.get(export_id)
            if export is None or export.due_at != at:
                continue
            if export.stage is Stage.ASKED:
                export.make(at)
            else:
                export.delete()
            self.watch(export, at)

    def _arrive(self, now: datetime) -> None:
        mean_s = 60 / self.life.arrivals_per_min / self.life.speed
        while self._next_arrival <= now:
            at = self._next_arrival
            self._next_arrival += timedelta(
                seconds=mean_s * self._draw.uniform(0.5, 1.5)
            )
            self.watch(self._ask(at, self.draft()), at)

    def _cleanup_after(self, moment: datetime) -> datetime:
        interval = self.life.cleanup_interval / self.life.speed
        if not interval:
            return moment
        runs = -((_EPOCH - moment) // interval)
        return _EPOCH + runs * interval
