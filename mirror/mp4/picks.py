"""Choose few samples out of many, evenly spread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PICKS: Final = 16

Place = tuple[int, int]
"""Offset and length of a sample."""


class Picks:
    """Keeps at least `PICKS` samples, however many come, the first and last included.

    Each so manieth is kept; once there are twice `PICKS`, every other one is dropped.
    """

    def __init__(self) -> None:
        self._stride = 1
        self._met = 0
        self._kept: list[Place] = []
        self._last: list[Place] = []

    def add(self, number: int, place: Callable[[int], Place]) -> None:
        """Meet more samples.

        Args:
            number: How many.
            place: Tells where one of them lies, counted from 0.
        """
        at = -self._met % self._stride
        while at < number:
            self._kept.append(place(at))
            if len(self._kept) == 2 * PICKS:
                del self._kept[1::2]
                self._stride *= 2
            at += 1
            at += -(self._met + at) % self._stride
        self._met += number
        if number:
            self._last = [place(number - 1)]

    def places(self) -> list[Place]:
        """Return what was kept."""
        return self._kept + self._last
