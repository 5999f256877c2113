"""Limit the fetches at one origin: fewer while the origin is overloaded."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mirror.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Callable


class OriginLimit:
    """How many fetches one origin may have under way.

    The limit is halved on 429 or 503, or when the bodies of two different exports stall
    with no success between. It grows by one with each fetched file. An answer that does
    not begin says nothing of the load: the VMS may make the file on demand.

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
        self._stalled: set[int] = set()

    @property
    def has_room(self) -> bool:
        """One more fetch may start now."""
        return self.running < self.allowed and self.pause_s <= 0

    @property
    def pause_s(self) -> float:
        """How long nothing may start, in seconds."""
        return max(0.0, self._paused_until - self._clock())

    def ended(self, key: int, failure: Exception | None, *, began: bool = True) -> None:
        """Adjust the limit after a fetch.

        Args:
            key: Of the export.
            failure: None if it was fetched.
            began: Its body had begun.
        """
        if failure is None:
            self._stalled.clear()
            self.allowed = min(self.most, self.allowed + 1)
            return
        if not isinstance(failure, FetchError):
            return
        if failure.reason == "busy":
            self._halve()
            pause = min(failure.retry_after_s or 0.0, self._longest_pause_s)
            self._paused_until = max(self._paused_until, self._clock() + pause)
        elif failure.reason == "timeout" and began:
            self._stalled.add(key)
            if len(self._stalled) > 1:
                self._halve()

    def _halve(self) -> None:
        self._stalled.clear()
        self.allowed = max(1, self.allowed // 2)
