"""Walk the samples that the fragments of a file describe."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from mirror.mp4.boxes import DoubtError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mirror.mp4.boxes import Box, Reader
    from mirror.mp4.movie import Track
    from mirror.mp4.spread_samples import Place
    from mirror.mp4.top_level import Media

BLOCK_SAMPLES: Final = 16_384
_BASE_OFFSET: Final = 0x1
_DESCRIPTION: Final = 0x2
_DEFAULT_DURATION: Final = 0x8
_DEFAULT_SIZE: Final = 0x10
_BASE_IS_MOOF: Final = 0x20000
_DATA_OFFSET: Final = 0x1
_FIRST_FLAGS: Final = 0x4
_DURATION: Final = 0x100
_SIZE: Final = 0x200
_SAMPLE_FIELDS: Final = (_DURATION, _SIZE, 0x400, 0x800)


@dataclass(slots=True, kw_only=True)
class _Run:
    """The defaults and offsets that the samples of a `trun` are read with.

    Attributes:
        track: None if `moov` does not have it.
        base: What offsets count from.
        at: Where the next run begins, unless it says so itself.
        size: Default size of a sample; None if there is none.
        duration: Default duration of a sample.
    """

    number: int
    track: Track | None
    base: int
    at: int
    size: int | None
    duration: int


def walk(reader: Reader, start: int, tracks: Mapping[int, Track], media: Media) -> int:
    """Prove that all samples of a `moof` lie in the media; return how many bytes.

    Raises:
        DoubtError: They do not, or it cannot be read.
    """
    moof = reader.hold(start)
    total, at = 0, start
    for traf in reader.inside(moof):
        if traf.kind != b"traf":
            continue
        run: _Run | None = None
        for box in reader.inside(traf):
            if box.kind == b"tfhd":
                run = _header(reader, box, tracks, start=start, at=at)
            elif box.kind == b"trun":
                if run is None:
                    raise DoubtError(f"{traf.label} has no tfhd before its samples")
                total += _samples(reader, box, run, media)
                at = run.at
    return total


def _header(
    reader: Reader, box: Box, tracks: Mapping[int, Track], *, start: int, at: int
) -> _Run:
    """Read a `tfhd`; the samples of the `traf` before it end at `at`."""
    flags, number = reader.fields(box, 0, "II")
    track = tracks.get(number)
    if track is not None and track.problem is not None:
        raise DoubtError(track.problem)
    base = start if flags & _BASE_IS_MOOF else at
    size = None if track is None else track.default_size
    duration = 0 if track is None else track.default_duration
    offset = 8
    if flags & _BASE_OFFSET:
        (base,) = reader.fields(box, offset, "Q")
        offset += 8
    if flags & _DESCRIPTION:
        offset += 4
    if flags & _DEFAULT_DURATION:
        (duration,) = reader.fields(box, offset, "I")
        offset += 4
    if flags & _DEFAULT_SIZE:
        (size,) = reader.fields(box, offset, "I")
    return _Run(
        number=number, track=track, base=base, at=base, size=size, duration=duration
    )


def _samples(reader: Reader, box: Box, run: _Run, media: Media) -> int:
    """Prove the samples of one `trun`, and leave `run` behind them."""
    (flags,) = reader.fields(box, 0, "I")
    offset = 8
    if flags & _DATA_OFFSET:
        run.at = run.base + reader.fields(box, offset, "i")[0]
        offset += 4
    if flags & _FIRST_FLAGS:
        offset += 4
    if not flags & _SIZE and run.size is None:
        raise DoubtError(f"{box.label} does not say how long its samples are")
    first = run.at
    track = run.track
    for count, sums, duration in _rows(reader, box, run, offset):
        media.demand(run.number, run.at, run.at + sums[-1])
        if track is not None:
            track.duration += duration
            if track.video:
                track.spread.add(count, partial(_place, run.at, sums))
        run.at += sums[-1]
    return run.at - first


def _place(at: int, sums: Sequence[int], index: int) -> Place:
    return at + sums[index], sums[index + 1] - sums[index]


def _rows(
    reader: Reader, box: Box, run: _Run, offset: int
) -> Iterator[tuple[int, Sequence[int], int]]:
    """Yield samples of a `trun` whose table begins at `offset`, in blocks.

    Yields:
        How many, how many bytes lie before each of them and in all, how long they last.
    """
    flags, number = reader.fields(box, 0, "II")
    fields = [field for field in _SAMPLE_FIELDS if flags & field]
    width = len(fields)
    if box.body + offset + 4 * width * number > box.end:
        raise DoubtError(f"{box.label} is shorter than the table in it")
    each = run.size or 0
    if not flags & (_SIZE | _DURATION):
        if each:
            yield number, range(0, (number + 1) * each, each), number * run.duration
        return
    reader.take_samples(number)
    for done in range(0, number, BLOCK_SAMPLES):
        count = min(BLOCK_SAMPLES, number - done)
        at = offset + 4 * width * done
        row = reader.fields(box, at, f"{width * count}I")
        sizes = row[fields.index(_SIZE) :: width] if flags & _SIZE else [each] * count
        lasts = row[::width] if flags & _DURATION else [run.duration] * count
        yield count, list(accumulate(sizes, initial=0)), sum(lasts)
