"""Know whether a target can be used, and tell when that changes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from mirror.errors import LedgerError, TargetError
from mirror.mirroring.finish import finish
from mirror.model import to_us

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from mirror.metrics import Metrics
    from mirror.ports import Target, TargetHealth
    from mirror.state import LedgerThread

CHECK_S = 60.0
"""So often a target in use is looked at."""
LOOK_S = 15.0
"""A look that takes longer is told of, and waited for: no other would fare better."""
_log = structlog.get_logger()


class Standing:
    """How one target is.

    Attributes:
        marker_id: Of the target while it is there.
        failures: Looks in a row that found it unusable.
    """

    def __init__(
        self,
        target: Target,
        *,
        ledger: LedgerThread,
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        self._target = target
        self._ledger = ledger
        self._metrics = metrics
        self._now = now
        self._health: TargetHealth | None = None
        self._problem: str | None = None
        self._checked_at = 0.0
        self._looking: asyncio.Task[TargetHealth] | None = None
        self.marker_id: str | None = None
        self.failures = 0

    def doubt(self) -> None:
        """Look again before the next use: something went wrong."""
        self._health = None

    async def check(self) -> bool:
        """Tell whether the target can be used; looked at once a minute."""
        age_s = time.monotonic() - self._checked_at
        if self._health is not None and age_s < CHECK_S:
            return True
        name = self._target.name
        try:
            self._health = await self._look(name)
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
        self.marker_id = self._health.marker_id
        health, now_us = self._health, to_us(self._now())
        await self._ledger(
            lambda ledger: ledger.target_checked(
                name,
                marker_id=health.marker_id,
                free_bytes=health.free_bytes,
                problem=None,
                now_us=now_us,
            )
        )
        self._metrics.target_checked(name, up=True, free_bytes=health.free_bytes)
        if self._problem is not None:
            _log.info("target.recovered", target=name)
        self._problem, self.failures = None, 0
        return True

    async def _look(self, name: str) -> TargetHealth:
        """Look at the target, or wait on for the look that has not come back.

        Raises:
            TargetError: It cannot be used, or does not answer.
        """
        if self._looking is None:
            remembered = await self._ledger(lambda ledger: ledger.marker(name))
            self._looking = asyncio.create_task(self._target.open(remembered))
        looking = self._looking
        try:
            done, _ = await asyncio.wait([looking], timeout=LOOK_S)
        except asyncio.CancelledError:
            await finish(asyncio.wait([looking]))
            looking.exception()
            raise
        if not done:
            raise TargetError(
                "hung",
                f"target {name}: no answer for {LOOK_S:.0f} s; its disk or its server "
                "hangs: check the mount, mount it anew",
            )
        self._looking = None
        return looking.result()

    async def _down(self, exc: TargetError) -> None:
        self._health = self.marker_id = None
        self.failures += 1
        free = 0 if exc.reason == "no_space" else None
        name, text, now_us = self._target.name, str(exc), to_us(self._now())
        await self._ledger(
            lambda ledger: ledger.target_checked(
                name, marker_id=None, free_bytes=free, problem=text, now_us=now_us
            )
        )
        self._metrics.target_checked(name, up=False, free_bytes=free)
        if self._problem != exc.reason:
            self._problem = exc.reason
            _log.error("target.lost", target=name, reason=exc.reason, error=text)
