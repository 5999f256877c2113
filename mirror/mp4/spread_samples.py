"""Keep few samples out of many, evenly spread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST: Final = 16

Place = tuple[int, int]
"""Offset and length of a sample."""


class SpreadSamples:
    """Keeps at least `LEAST` samples, however many come, the first and last included.

    Every n-th is kept; once there are twice `LEAST`, every other one is dropped and n
    is doubled.
    """

    def __init__(self) -> None:
        self._stride = 1
        self._count = 0
        self._kept: list[Place] = []
        self._last: list[Place] = []

    def add(self, number: int, place: Callable[[int], Place]) -> None:
        """Add samples that follow those before; `place` finds one of them, from 0."""
        at = -self._count % self._stride
        while at < number:
            self._kept.append(place(at))
            if len(self._kept) == 2 * LEAST:
                del self._kept[1::2]
                self._stride *= 2
            at += 1
            at += -(self._count + at) % self._stride
        self._count += number
        if number:
            self._last = [place(number - 1)]

    def places(self) -> list[Place]:
        """Return what was kept."""
        return self._kept + self._last
