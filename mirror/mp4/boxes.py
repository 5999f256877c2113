"""Read boxes and bytes of one file, within bounds."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_INNER_BOXES: Final = 4_000_000
"""Below the top level, as far as they are read."""
MAX_SAMPLES: Final = 32_000_000
"""With a size of their own: a day of 60 pictures a second with sound has 9 million."""
MAX_TABLE_BYTES: Final = 64 * 1024 * 1024
"""Of the sample tables in `moov` boxes."""
MAX_READ_BYTES: Final = 256 * 1024 * 1024
"""Of all that is read."""
BLOCK_BYTES: Final = 1024 * 1024
"""At most so many are held at a time."""

LEAST_HEAD_BYTES: Final = 8
_LONG_HEAD_BYTES: Final = 16
_TO_END: Final = 0
_LONG: Final = 1
_HEAD: Final = struct.Struct(">I4s")


class DoubtError(Exception):
    """The structure does not prove the file whole; the text says why."""


class Box(NamedTuple):
    """One box.

    Attributes:
        start: Where its head begins.
        body: Where its head ends.
        end: As its head says, even past the end of what holds it.
        to_end: Its head has no size: it ends where the file ends.
    """

    kind: bytes
    start: int
    body: int
    end: int
    to_end: bool = False

    @property
    def label(self) -> str:
        """Its name in a doubt."""
        return f"box {shown(self.kind)} at offset {self.start}"


class Reader:
    """Reads a file by offsets, within bounds; each read may raise DoubtError."""

    def __init__(self, fd: int, size: int) -> None:
        self.size = size
        self._fd = fd
        self._held = os.pread(fd, size, 0) if size <= BLOCK_BYTES else b""
        self._held_at = 0
        self._read_bytes = 0
        self._inner_boxes = 0
        self._samples = 0
        self._table_bytes = 0

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly these bytes."""
        at = offset - self._held_at
        if at >= 0 and at + length <= len(self._held):
            return self._held[at : at + length]
        self._read_bytes += length
        if self._read_bytes > MAX_READ_BYTES:
            raise DoubtError(f"more than {MAX_READ_BYTES >> 20} MiB of it are tables")
        data = os.pread(self._fd, length, offset)
        while len(data) < length:
            more = os.pread(self._fd, length - len(data), offset + len(data))
            if not more:
                raise DoubtError(f"the file ends before offset {offset + length}")
            data += more
        return data

    def hold(self, start: int) -> Box:
        """Return a box; its first part is read ahead, and costs nothing from now on."""
        box = self.box(start, self.size)
        if box is None:
            raise DoubtError(f"no box at offset {start}")
        if self.size > BLOCK_BYTES:
            self._held = self.read(start, min(box.end - start, BLOCK_BYTES))
            self._held_at = start
        return box

    def is_zero(self, offset: int, length: int) -> bool:
        """Tell whether all these bytes are zeros, as far as one block shows."""
        stop = offset + min(length, BLOCK_BYTES)
        step = 4096
        while offset < stop:
            if self.read(offset, min(step, stop - offset)).strip(b"\0"):
                return False
            offset += step
            step = BLOCK_BYTES
        return True

    def box(self, start: int, end: int) -> Box | None:
        """Return the box at `start`, or None if what ends at `end` cannot hold one."""
        if end - start < LEAST_HEAD_BYTES:
            return None
        head = self.read(start, min(_LONG_HEAD_BYTES, end - start))
        size, kind = _HEAD.unpack_from(head)
        least = LEAST_HEAD_BYTES
        if size == _LONG:
            least = _LONG_HEAD_BYTES
            size = int.from_bytes(head[8:]) if len(head) == least else 0
        elif size == _TO_END:
            return Box(kind, start, start + least, end, to_end=True)
        if size < least:
            return None
        return Box(kind, start, start + least, start + size)

    def inside(self, parent: Box) -> Iterator[Box]:
        """Yield the boxes in one, cut to its length."""
        offset = parent.body
        while parent.end - offset >= LEAST_HEAD_BYTES:
            box = self.box(offset, parent.end)
            if box is None or box.to_end:
                raise DoubtError(f"{parent.label} cannot be read at offset {offset}")
            self._inner_boxes += 1
            if self._inner_boxes > MAX_INNER_BOXES:
                raise DoubtError(f"it has more than {MAX_INNER_BOXES} inner boxes")
            yield box if box.end <= parent.end else box._replace(end=parent.end)
            offset = box.end

    def fields(self, box: Box, offset: int, layout: str) -> tuple[int, ...]:
        """Return the numbers at an offset from the end of a box's head, all within it.

        The layout is as `struct` has it, without the order of bytes.
        """
        form = ">" + layout
        length = struct.calcsize(form)
        if box.body + offset + length > box.end:
            raise DoubtError(f"{box.label} is too short")
        return struct.unpack(form, self.read(box.body + offset, length))

    def take_table(self, length: int) -> None:
        """Count the bytes of a table that will be read."""
        self._table_bytes += length
        if self._table_bytes > MAX_TABLE_BYTES:
            raise DoubtError(f"its tables are over {MAX_TABLE_BYTES >> 20} MiB")

    def take_samples(self, number: int) -> None:
        """Count samples that have a size of their own."""
        self._samples += number
        if self._samples > MAX_SAMPLES:
            raise DoubtError(f"it has more than {MAX_SAMPLES} samples")


def shown(kind: bytes) -> str:
    """Return a box type as text that is safe in a log."""
    return kind.decode("latin-1").encode("unicode_escape").decode()
