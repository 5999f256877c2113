"""How much may be asked of one origin at once: falls when it is overloaded."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mirror.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Callable


class OriginLimit:
    """How many fetches one origin may have under way.

    Concurrency is halved on 429 or 503, or when the bodies of two different exports
    stall with no success between, and grows back by one per fetched file. An answer
    that does not begin says nothing of the load: the file may be made on demand.

    Args:
        most: The most at once.
        longest_pause_s: Retry-After is honoured up to here.
    """

    def __init__(
        self,
        *,
        most: int,
        longest_pause_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most = most
        self.allowed = most
        self.running = 0
        self._longest_pause_s = longest_pause_s
        self._clock = clock
        self._paused_until = 0.0
        self._slow: set[int] = set()

    @property
    def has_room(self) -> bool:
        """One more may start now."""
        return self.running < self.allowed and self.pause_s <= 0

    @property
    def pause_s(self) -> float:
        """How long nothing may start, in seconds."""
        return max(0.0, self._paused_until - self._clock())

    def ended(self, key: int, failure: Exception | None, *, began: bool = True) -> None:
        """Learn from the end of a fetch of the export `key`.

        Args:
            key: Of the export.
            failure: None if it was fetched.
            began: Its body had begun.
        """
        if failure is None:
            self._slow.clear()
            self.allowed = min(self.most, self.allowed + 1)
            return
        if not isinstance(failure, FetchError):
            return
        if failure.reason == "busy":
            self._fall()
            pause = min(failure.retry_after_s or 0.0, self._longest_pause_s)
            self._paused_until = max(self._paused_until, self._clock() + pause)
        elif failure.reason == "timeout" and began:
            self._slow.add(key)
            if len(self._slow) > 1:
                self._fall()

    def _fall(self) -> None:
        self._slow.clear()
        self.allowed = max(1, self.allowed // 2)
