"""What is fetched: valid mp4 files, written once to memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.simulator.footage import footage

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Corpus:
    """Files of one size.

    Attributes:
        name: A letter; also the folder it is served from.
        files: How many.
        size_bytes: Of each.
    """

    name: str
    files: int
    size_bytes: int

    @property
    def total_bytes(self) -> int:
        """Length of all files together."""
        return self.files * self.size_bytes

    def names(self) -> list[str]:
        """Return the files' names, in order."""
        return [f"{number}.mp4" for number in range(self.files)]

    def write(self, root: Path) -> None:
        """Write the files below `root`, unless they are there."""
        folder = root / self.name
        folder.mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(self.names()):
            path = folder / name
            if path.exists() and path.stat().st_size == self.size_bytes:
                continue
            with path.open("wb") as file:
                for chunk in footage("moov-first", self.size_bytes, number).chunks():
                    file.write(chunk)


CORPORA = {
    each.name: each
    for each in (
        Corpus("A", 16, 128 * MIB),
        Corpus("B", 5000, 200 * 1024),
        Corpus("C", 1, 2048 * MIB),
        Corpus("S", 12, 8 * MIB),
    )
}
"""Large files, small files, one huge file; and what a slow link carries in 10 s."""
