"""Read the tracks a `moov` describes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mirror.mp4.boxes import DoubtError
from mirror.mp4.spread_samples import SpreadSamples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.mp4.boxes import Box, Reader

MAX_TRACKS: Final = 1000
_SELF_CONTAINED: Final = 1
_ENTRIES: Final = 8
_SOUND_BYTES: Final = 44
_MOST_SAMPLE_BYTES: Final = 64


@dataclass(slots=True, kw_only=True)
class Track:
    """One track.

    Attributes:
        timescale: Units of its durations in a second.
        problem: Why its samples cannot be read from this file; None if they can.
        tables: Boxes of its sample tables by kind.
        packet: Samples in a packet of compressed QuickTime sound, and its bytes. Its
            table then has one byte for each sample, whatever the packets hold.
        default_size: Bytes of a sample of a fragment that gives no size.
        default_duration: Of such a sample.
        duration: Of its samples in fragments.
        spread: Those of its samples whose bytes are checked.
    """

    number: int
    video: bool
    timescale: int
    problem: str | None
    tables: dict[bytes, Box]
    packet: tuple[int, int] | None = None
    default_size: int | None = None
    default_duration: int = 0
    duration: int = 0
    spread: SpreadSamples = field(default_factory=SpreadSamples)


@dataclass(slots=True, kw_only=True)
class Movie:
    """What one `moov` says.

    Attributes:
        tracks: By id.
        fragmented: Fragments may follow.
        timescale: Units of its duration in a second.
        duration: Of all fragments together; 0 if unknown.
    """

    tracks: dict[int, Track] = field(default_factory=dict)
    fragmented: bool = False
    timescale: int = 0
    duration: int = 0


def read_movie(reader: Reader, start: int) -> Movie:
    """Return what the `moov` at `start` says.

    Raises:
        DoubtError: It has no track, or cannot be read.
    """
    moov = reader.hold(start)
    movie = Movie()
    extends: Box | None = None
    for box in reader.inside(moov):
        if box.kind == b"trak":
            track = _track(reader, box)
            movie.tracks[track.number] = track
            if len(movie.tracks) > MAX_TRACKS:
                raise DoubtError(f"it has more than {MAX_TRACKS} tracks")
        elif box.kind == b"mvex":
            extends = box
        elif box.kind == b"mvhd":
            (movie.timescale,) = reader.fields(box, _after_times(reader, box), "I")
        elif box.kind == b"cmov":
            raise DoubtError("its moov is compressed (cmov)")
    if not movie.tracks:
        raise DoubtError("its moov describes no track")
    if extends is not None:
        movie.fragmented = True
        _extend(reader, extends, movie)
    return movie


def _extend(reader: Reader, extends: Box, movie: Movie) -> None:
    """Read what `mvex` says of the fragments."""
    for box in reader.inside(extends):
        if box.kind == b"trex":
            number, _, duration, size = reader.fields(box, 4, "4I")
            if number in movie.tracks:
                movie.tracks[number].default_duration = duration
                movie.tracks[number].default_size = size
        elif box.kind == b"mehd":
            (version,) = reader.fields(box, 0, "B")
            (movie.duration,) = reader.fields(box, 4, "Q" if version else "I")


def _track(reader: Reader, trak: Box) -> Track:
    parts = _parts(reader, trak)
    header = _part(parts, b"tkhd", trak)
    (number,) = reader.fields(header, _after_times(reader, header), "I")
    media = _parts(reader, _part(parts, b"mdia", trak))
    handler = _part(media, b"hdlr", trak)
    clock = _part(media, b"mdhd", trak)
    (timescale,) = reader.fields(clock, _after_times(reader, clock), "I")
    information = _parts(reader, _part(media, b"minf", trak))
    tables = _parts(reader, _part(information, b"stbl", trak))
    kind = bytes(reader.fields(handler, 8, "4B"))
    return Track(
        number=number,
        video=kind == b"vide",
        timescale=timescale,
        problem=_problem(reader, number, tables, information.get(b"dinf")),
        tables=tables,
        packet=_packet(reader, tables) if kind == b"soun" else None,
    )


def _packet(reader: Reader, tables: dict[bytes, Box]) -> tuple[int, int] | None:
    """Read the packets of a sound description of version 1."""
    for entry in _entries(reader, tables.get(b"stsd")):
        (version,) = reader.fields(entry, 8, "H")
        if version == 1 and entry.end - entry.body >= _SOUND_BYTES:
            samples, _, length = reader.fields(entry, 28, "3I")
            # MPEG-4 has boxes in their place, and a version 1 too.
            if 0 < length <= _MOST_SAMPLE_BYTES * samples:
                return samples, length
    return None


def _parts(reader: Reader, parent: Box) -> dict[bytes, Box]:
    """Return the boxes in one, the first of each kind."""
    parts: dict[bytes, Box] = {}
    for box in reader.inside(parent):
        parts.setdefault(box.kind, box)
    return parts


def _part(parts: dict[bytes, Box], kind: bytes, trak: Box) -> Box:
    if kind not in parts:
        raise DoubtError(f"{trak.label} has no {kind.decode()}")
    return parts[kind]


def _after_times(reader: Reader, box: Box) -> int:
    """Return what comes after the two times, which version 1 has in 64 bits."""
    (version,) = reader.fields(box, 0, "B")
    return 20 if version == 1 else 12


def _problem(
    reader: Reader, number: int, tables: dict[bytes, Box], data: Box | None
) -> str | None:
    """Return why the samples cannot be read; None if they can."""
    descriptions = _entries(reader, tables.get(b"stsd"))
    used = {reader.fields(entry, 6, "H")[0] for entry in descriptions}
    if not used:
        return f"track {number} does not describe its samples"
    references = None if data is None else _parts(reader, data).get(b"dref")
    for index, entry in enumerate(_entries(reader, references), 1):
        (flags,) = reader.fields(entry, 0, "I")
        if index in used and not flags & _SELF_CONTAINED:
            return f"the media of track {number} lie in another file"
    return None


def _entries(reader: Reader, table: Box | None) -> Iterator[Box]:
    """Yield as many boxes as the head of a table says it has; none without one."""
    if table is None:
        return
    (number,) = reader.fields(table, 4, "I")
    entries = reader.inside(table._replace(body=table.body + _ENTRIES))
    for _, entry in zip(range(number), entries, strict=False):
        yield entry
