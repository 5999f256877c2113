"""Walk the samples that the tables of a `moov` describe."""

from __future__ import annotations

import struct
from bisect import bisect_right
from itertools import accumulate
from operator import add, sub
from typing import TYPE_CHECKING, Final

from mirror.mp4.boxes import DoubtError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mirror.mp4.boxes import Box, Reader
    from mirror.mp4.movie import Track
    from mirror.mp4.spread_samples import Place
    from mirror.mp4.top_level import Media

BLOCK_SAMPLES: Final = 16_384
"""So many samples, or chunks, are worked on at a time."""
_FORMS: Final = {8: "B", 16: "H", 32: "I", 64: "Q"}
_HALF: Final = 4
_FROM_HEX: Final = bytes.maketrans(b"0123456789abcdef", bytes(range(16)))


def walk(reader: Reader, track: Track, media: Media) -> int:
    """Prove that all samples of a track lie in the media; return how many bytes.

    Raises:
        DoubtError: They do not, or the tables cannot be read.
    """
    sizes = _Sizes(reader, track)
    if not sizes.number:
        return 0
    if track.problem is not None:
        raise DoubtError(track.problem)
    chunks = track.tables.get(b"stco") or track.tables.get(b"co64")
    if chunks is None or b"stsc" not in track.tables:
        raise DoubtError(f"track {track.number} does not say where its samples lie")
    bits = 32 if chunks.kind == b"stco" else 64
    (number,) = reader.fields(chunks, 4, "I")
    offsets = _Column(reader, chunks, offset=8, number=number, bits=bits)
    total = 0
    for counts in _groups(_runs(reader, track.tables[b"stsc"], number), sizes):
        starts = offsets.take(len(counts))
        if len(counts) > 1 or counts[0] <= sizes.limit:
            total += _place(track, sizes, media, starts, counts)
            continue
        start = starts[0]
        for done in range(0, counts[0], sizes.limit):
            piece = min(sizes.limit, counts[0] - done)
            start += _place(track, sizes, media, [start], [piece])
        total += start - starts[0]
    return total


class _Column:
    """Numbers of one table, read in blocks and in order."""

    def __init__(
        self, reader: Reader, box: Box, *, offset: int, number: int, bits: int
    ) -> None:
        self._reader = reader
        self._at = box.body + offset
        self._bits = bits
        self._next = 0
        length = (number * bits + 7) // 8
        if self._at + length > box.end:
            raise DoubtError(f"{box.label} is shorter than the table in it")
        reader.take_table(length)

    def take(self, number: int) -> Sequence[int]:
        """Return the next ones."""
        first, self._next = self._next, self._next + number
        at, stop = first * self._bits // 8, (self._next * self._bits + 7) // 8
        raw = self._reader.read(self._at + at, stop - at)
        if self._bits == _HALF:
            return raw.hex().encode().translate(_FROM_HEX)[first % 2 :][:number]
        return struct.unpack(f">{number}{_FORMS[self._bits]}", raw)


class _Sizes:
    """Sizes of a track's samples, in order; at most `limit` are asked for at a time."""

    def __init__(self, reader: Reader, track: Track) -> None:
        self.number = 0
        self.limit = BLOCK_SAMPLES
        self._column: _Column | None = None
        self._packet = (1, 0)
        box = track.tables.get(b"stsz") or track.tables.get(b"stz2")
        if box is None:
            return
        bits, each = 32, 0
        if box.kind == b"stsz":
            each, self.number = reader.fields(box, 4, "II")
        else:
            bits, self.number = reader.fields(box, 7, "BI")
            if bits not in {_HALF, 8, 16}:
                raise DoubtError(f"{box.label} cannot be read")
        if each:
            self.limit = self.number
            packet = track.packet if each == 1 else None
            self._packet = packet or (1, each)
            return
        reader.take_samples(self.number)
        self._column = _Column(reader, box, offset=12, number=self.number, bits=bits)

    def take(self, number: int) -> Callable[[int], int]:
        """Return what tells how many bytes so many of the next ones have together."""
        if self._column is None:
            samples, length = self._packet
            return lambda index: index // samples * length
        return list(accumulate(self._column.take(number), initial=0)).__getitem__


def _runs(reader: Reader, box: Box, chunks: int) -> Iterator[tuple[int, int]]:
    """Yield how many chunks follow each other with how many samples in each.

    The last entry of the `stsc` goes for all chunks that remain.
    """
    (number,) = reader.fields(box, 4, "I")
    column = _Column(reader, box, offset=8, number=3 * number, bits=32)
    first = per = 0
    for done in range(0, number, BLOCK_SAMPLES):
        values = column.take(3 * min(BLOCK_SAMPLES, number - done))
        for following, samples in zip(values[::3], values[1::3], strict=True):
            if following <= first or not samples or (not first and following > 1):
                raise DoubtError(f"{box.label} does not count its chunks in order")
            if first:
                yield min(following, chunks + 1) - min(first, chunks + 1), per
            first, per = following, samples
    if first:
        yield chunks + 1 - min(first, chunks + 1), per


def _groups(runs: Iterator[tuple[int, int]], sizes: _Sizes) -> Iterator[list[int]]:
    """Yield the samples in each chunk, for some chunks that follow each other.

    A chunk with more samples than are worked on at a time comes alone. The last one
    with samples may hold fewer than the table says, and there may be empty ones.
    """
    left = sizes.number
    counts: list[int] = []
    room = sizes.limit
    for number, per in runs:
        chunks = number
        while chunks and left:
            if counts and (len(counts) == BLOCK_SAMPLES or per > room):
                yield counts
                counts, room = [], sizes.limit
            most = max(1, min(left, room) // per)
            step, held = min(chunks, BLOCK_SAMPLES - len(counts), most), min(per, left)
            counts += [held] * step
            chunks, left, room = chunks - step, left - step * held, room - step * held
    if left:
        raise DoubtError(f"{left} samples of {sizes.number} lie in no chunk")
    if counts:
        yield counts


def _place(
    track: Track,
    sizes: _Sizes,
    media: Media,
    starts: Sequence[int],
    counts: Sequence[int],
) -> int:
    """Prove that these chunks lie in the media; return how many bytes they hold."""
    edges = list(accumulate(counts, initial=0))
    sums = sizes.take(edges[-1])
    bounds = list(map(sums, edges))
    ends = list(map(add, starts, map(sub, bounds[1:], bounds)))
    if not media.holds(min(starts), max(ends)):
        for start, end in zip(starts, ends, strict=True):
            media.demand(track.number, start, end)

    def place(index: int) -> Place:
        chunk = bisect_right(edges, index) - 1
        at = starts[chunk] + sums(index) - bounds[chunk]
        return at, sums(index + 1) - sums(index)

    if track.video:
        track.spread.add(edges[-1], place)
    return bounds[-1]
