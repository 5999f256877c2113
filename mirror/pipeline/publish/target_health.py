"""Whether a target can be used, and a log line when that changes."""

from __future__ import annotations

import random
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog

from mirror import backoff
from mirror.errors import LedgerError, TargetError
from mirror.model import to_us
from mirror.tasks import run_to_end

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from mirror.backoff import Pace
    from mirror.ledger import LedgerThread
    from mirror.metrics import Metrics
    from mirror.ports import Target, TargetHealth

CHECK_S = 60.0
"""So often a target in use is looked at."""
_MAX_REST = timedelta(seconds=60)
_OF_THE_TARGET: Final = frozenset({"no_space", "read_only", "away", "hung"})
_OF_ONE_FILE: Final = frozenset(
    {
        "path_taken",
        "bad_path",
        "in_the_way",
        "missing",
        "name_too_long",
        "file_too_big",
        "no_origin",
        "unexpected",
    }
)
"""Of any other reason two copies in a row must fail for it to be the target's."""
_log = structlog.get_logger()


class TargetMonitor:
    """How one target is.

    A target that is there may still refuse everything: full, over quota, failing,
    hanging. Then it gets a rest, and one copy as a trial, the smallest, and so on. It
    is well again when it took one as large as one that it refused. A copy that it
    refuses after that, while it takes others, is at fault itself.

    Attributes:
        marker_id: Of the target while it is there.
        warning: What is not as it should be though it can be used.
        failures: Looks and tries in a row that found it unusable.
    """

    def __init__(
        self,
        target: Target,
        *,
        ledger: LedgerThread,
        metrics: Metrics,
        pace: Pace,
        now: Callable[[], datetime],
    ) -> None:
        self._pace = pace
        self._target = target
        self._ledger = ledger
        self._metrics = metrics
        self._now = now
        self._health: TargetHealth | None = None
        self._problem: str | None = None
        self._suspect: tuple[str, int] | None = None
        self._rests = False
        self._takes = True
        self._refused: dict[int, int] = {}
        self._odd: set[int] = set()
        self._checked_at = 0.0
        self.marker_id: str | None = None
        self.warning: str | None = None
        self.failures = 0

    @property
    def refuses(self) -> bool:
        """Copies that it did not take are owed still."""
        return bool(self._refused)

    @property
    def on_trial(self) -> bool:
        """It took nothing since it was last left alone."""
        return not self._takes

    @property
    def looked_at(self) -> bool:
        """Nothing went wrong since the last look."""
        return self._health is not None

    @property
    def rest(self) -> timedelta:
        """For how long a target is left alone that takes nothing."""
        return backoff.delay(
            self.failures,
            initial=self._pace.initial,
            maximum=min(self._pace.maximum, _MAX_REST),
            jitter=random.random(),  # noqa: S311 -- spreads load
        )

    def recheck(self) -> None:
        """Look again before the next use: something went wrong."""
        self._health = None

    async def check(self) -> bool:
        """Tell whether the target can be used; looked at once a minute.

        One that has refused a copy is left alone once.
        """
        if self._rests:
            self._rests = False
            return False
        age_s = time.monotonic() - self._checked_at
        if self._health is not None and age_s < CHECK_S:
            return True
        name = self._target.name
        try:
            health = await self._probe(name)
        except TargetError as exc:
            await self._down(exc)
            return False
        except LedgerError:
            raise
        except Exception as exc:  # noqa: BLE001 -- a fault of ours stops this target only
            _log.error("target.crashed", target=name, exc_info=exc)
            await self._down(TargetError("unexpected", f"target {name}: {exc!r}"))
            return False
        self._checked_at = time.monotonic()
        self.marker_id = health.marker_id
        if health.warning not in {None, self.warning}:
            _log.warning("target.not_private", target=name, error=health.warning)
        self.warning = health.warning
        if health.full is not None:
            await self._useless(TargetError("no_space", health.full), health)
            return False
        self._health = health
        if not self._refused:
            await self._up(health)
        return True

    async def failed(self, exc: TargetError, key: int, size_bytes: int) -> bool:
        """Tell whether a copy failed by the target's fault and not by its own.

        Args:
            exc: Why it failed.
            key: Of its export.
            size_bytes: Of the file.
        """
        before, self._suspect = self._suspect, (exc.reason, key)
        again = before is not None and before[0] == exc.reason and before[1] != key
        self.recheck()
        if exc.reason in _OF_ONE_FILE or key in self._odd:
            return False
        if exc.reason not in _OF_THE_TARGET and not (again or self._refused):
            return False
        self._refused[key] = size_bytes
        self._takes = False
        if not self._rests:
            self._rests = True
            await self._useless(exc, None)
        return True

    async def took(self, key: int, size_bytes: int) -> None:
        """Record that a copy was kept."""
        self._suspect, self._takes = None, True
        self._odd.discard(key)
        if key in self._refused or size_bytes >= min(self._refused.values(), default=0):
            self._refused.pop(key, None)
            self._odd |= self._refused.keys()
            self._refused.clear()
            await self._recover()

    async def forgive(self) -> None:
        """Forget refused copies that are not owed any longer."""
        name, keys = self._target.name, sorted(self._refused)
        owed = await self._ledger(lambda ledger: ledger.copies.owed(name, keys))
        for key in self._refused.keys() - owed:
            del self._refused[key]
        await self._recover()

    async def _recover(self) -> None:
        if self._problem is not None and not self._refused and self._health is not None:
            await self._up(self._health)

    async def _probe(self, name: str) -> TargetHealth:
        """Probe the target; one that was begun ends first.

        Raises:
            TargetError: It cannot be used, or does not answer.
        """
        known = await self._ledger(lambda ledger: ledger.targets.marker(name))
        return await run_to_end(self._target.probe(known, write=True))

    async def _up(self, health: TargetHealth) -> None:
        await self._record(health, problem=None, free_bytes=health.free_bytes)
        if self._problem is not None:
            _log.info("target.recovered", target=self._target.name)
        self._problem, self.failures = None, 0

    async def _down(self, exc: TargetError) -> None:
        """Record that it is away."""
        self._health = self.marker_id = None
        await self._useless(exc, None)

    async def _useless(self, exc: TargetError, health: TargetHealth | None) -> None:
        """Record that nothing can be kept there, and log it once."""
        self._health = None
        self.failures += 1
        free = 0 if exc.reason == "no_space" else None
        await self._record(health, problem=str(exc), free_bytes=free)
        if self._problem != exc.reason:
            self._problem = exc.reason
            name = self._target.name
            _log.error("target.lost", target=name, reason=exc.reason, error=str(exc))

    async def _record(
        self,
        health: TargetHealth | None,
        *,
        problem: str | None,
        free_bytes: int | None,
    ) -> None:
        name, now_us = self._target.name, to_us(self._now())
        await self._ledger(
            lambda ledger: ledger.targets.checked(
                name,
                marker_id=health.marker_id if health else None,
                free_bytes=free_bytes,
                problem=problem,
                warning=self.warning,
                now_us=now_us,
            )
        )
        self._metrics.target_checked(
            name,
            up=problem is None,
            free_bytes=free_bytes,
            size_bytes=health.size_bytes if health else None,
        )
