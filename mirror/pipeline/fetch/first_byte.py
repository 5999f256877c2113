"""How long to wait for the first byte of a file: a VMS may make it on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta

MOST_S = 900.0
_MOST_DOUBLINGS = 32


class FirstByteWait:
    """The wait: it doubles each time that an export's first byte comes too late.

    Args:
        first: The wait of a first try at an origin that has not answered yet.
    """

    def __init__(self, first: timedelta) -> None:
        self._first_s = first.total_seconds()
        self._starts_s: dict[str, float] = {}

    def wait_s(self, origin: str, *, late: int, left_s: float | None) -> float:
        """Return how long to wait.

        Args:
            origin: Of the source.
            late: How often in a row this export's first byte came too late.
            left_s: Until its deadline; half of that is the most, but never less than
                the wait of a first try. None if there is no deadline.
        """
        start_s = self._starts_s.get(origin, self._first_s)
        most_s = MOST_S if left_s is None else min(MOST_S, left_s / 2)
        grown_s = start_s * 2.0 ** min(late, _MOST_DOUBLINGS)
        return max(self._first_s, min(grown_s, most_s))

    def answered(self, origin: str, after_s: float) -> None:
        """Note after how long a wait a first byte came.

        The next first tries at that origin wait at least as long.
        """
        start_s = self._starts_s.get(origin, self._first_s)
        while start_s < after_s:
            start_s *= 2
        self._starts_s[origin] = start_s
