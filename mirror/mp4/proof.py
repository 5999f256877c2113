"""Prove that a file is a whole mp4, or say what is doubted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mirror.mp4 import fragments, tables
from mirror.mp4.boxes import DoubtError, Reader
from mirror.mp4.movie import MAX_TRACKS, Movie, read_movie
from mirror.mp4.spread_samples import SpreadSamples
from mirror.mp4.top_level import read_top_level

if TYPE_CHECKING:
    from mirror.mp4.movie import Track
    from mirror.mp4.top_level import TopLevel

END_NOT_PROVABLE: Final = "end not provable"
"""The note of a fragmented file that does not say where it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What the structure of a file proves.

    Attributes:
        doubt: Why the file is not proven whole, for operators; None if it is.
        notes: What is odd about a whole file.
    """

    doubt: str | None
    notes: tuple[str, ...] = ()


def prove(fd: int, size: int, *, explicit_end: bool = False) -> Proof:
    """Tell whether a file is whole. Blocking.

    It is whole if a `moov` has a track, all samples lie inside the file and inside an
    `mdat`, and some video samples, evenly spread, are not zeros. The modules' `MAX_...`
    bound what is read; a few MiB are held at most.

    Args:
        fd: Open for reading; its position is neither used nor moved.
        size: Length of the file in bytes.
        explicit_end: Nothing announced where the body ends, so boxes that say their
            size must fill the file.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        notes = _prove(Reader(fd, size), explicit_end=explicit_end)
    except DoubtError as exc:
        return Proof(doubt=str(exc))
    return Proof(doubt=None, notes=tuple(notes))


def _prove(reader: Reader, *, explicit_end: bool) -> list[str]:
    """Return the notes on a whole file, or raise DoubtError."""
    top = read_top_level(reader)
    tracks: dict[int, Track] = {}
    fragmented, total, last = bool(top.moofs), 0, Movie()
    for start in top.moovs:
        last = read_movie(reader, start)
        fragmented = fragmented or last.fragmented
        for track in last.tracks.values():
            total += tables.walk(reader, track, top.media)
            _check_samples(reader, track)
        tracks |= last.tracks
        if len(tracks) > MAX_TRACKS:
            raise DoubtError(f"it has more than {MAX_TRACKS} tracks")
    if fragmented and top.incomplete_end is not None:
        raise DoubtError(f"a fragmented file that ends with {top.incomplete_end}")
    for start in top.moofs:
        total += fragments.walk(reader, start, tracks, top.media)
    for track in tracks.values():
        _check_samples(reader, track)
    if not total:
        raise DoubtError("it holds no samples")
    if explicit_end and not top.explicit:
        raise DoubtError("no end was announced, and its boxes do not prove it")
    if fragmented and not _is_complete(reader, top, last, tracks):
        top.notes.append(END_NOT_PROVABLE)
    return top.notes


def _check_samples(reader: Reader, track: Track) -> None:
    """Raise if one of the spread samples of a video track is zeros; start anew."""
    for offset, length in track.spread.places():
        if length and reader.is_zero(offset, length):
            raise DoubtError(
                f"the picture of track {track.number} at offset {offset} is all zeros"
            )
    track.spread = SpreadSamples()


def _is_complete(
    reader: Reader, top: TopLevel, last: Movie, tracks: dict[int, Track]
) -> bool:
    """Tell whether these fragments are all there were."""
    if top.ended_by_mfra or top.used_to <= top.indexed_to <= reader.size:
        return True
    # The duration may have been rounded to a unit of the movie.
    least = max(0, last.duration - 1)
    return any(
        least and track.duration * last.timescale >= least * track.timescale > 0
        for track in tracks.values()
    )
