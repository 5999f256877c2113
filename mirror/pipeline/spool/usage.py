"""What else lies in the spool, and how fast files came, as the ledger knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.ledger import SpoolUse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mirror.ledger import LedgerThread

_COST_SHARE = 0.02
_REMEMBERED = 4096


class SpoolUsage:
    """Remembers the ledger's answers for a while.

    Args:
        ledger: None knows of nothing.
        clock: Seconds.
    """

    def __init__(self, ledger: LedgerThread | None, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._uses: dict[Path, tuple[float, SpoolUse]] = {}
        self._rates: dict[int, float] = {}

    async def of(self, folder: Path) -> SpoolUse:
        """Return what lies in the spool; a little old where that is costly to know."""
        until, use = self._uses.get(folder, (0.0, SpoolUse()))
        if self._ledger is not None and self._clock() >= until:
            began = self._clock()
            use = await self._ledger(
                lambda ledger: ledger.fetches.spool_use(str(folder))
            )
            ended = self._clock()
            until = ended + (ended - began) / _COST_SHARE
            self._uses[folder] = (until, use)
        return use

    def forget(self, folder: Path) -> None:
        """Ask anew: what lies in a folder has changed."""
        self._uses.pop(folder, None)

    async def rate(self, key: int) -> float:
        """Return how many bytes of an export came per second, now or at an attempt."""
        if key not in self._rates and self._ledger is not None:
            if len(self._rates) >= _REMEMBERED:
                self._rates.clear()
            self._rates[key] = await self._ledger(
                lambda ledger: ledger.fetches.rate(key)
            )
        return self.known_rate(key)

    def known_rate(self, key: int) -> float:
        """Return the same as far as it is known without asking; else 0."""
        return self._rates.get(key, 0.0)

    def measured(self, key: int, rate: float) -> None:
        """Remember how many bytes per second come now."""
        self._rates[key] = rate
