"""Find which exports a sweep should have met and did not."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Absence:
    """Keys of exports, and which of them were met: nine bytes for each."""

    def __init__(self) -> None:
        self._keys = array("q")
        self._met = bytearray()

    def expect(self, keys: Iterable[int]) -> None:
        """Add keys, each higher than those before."""
        self._keys.extend(keys)
        self._met.extend(bytes(len(self._keys) - len(self._met)))

    def meet(self, keys: Iterable[int]) -> None:
        """Mark keys as met; keys that were not expected do not matter."""
        for key in keys:
            at = bisect_left(self._keys, key)
            if at < len(self._keys) and self._keys[at] == key:
                self._met[at] = 1

    def batches(self, most: int) -> Iterator[list[int]]:
        """Yield the keys that were not met, up to so many at a time."""
        left = (key for key, met in zip(self._keys, self._met, strict=True) if not met)
        while batch := list(islice(left, most)):
            yield batch
