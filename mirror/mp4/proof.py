"""Prove that a file is a whole mp4, or say what is doubted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mirror.mp4 import fragments, tables
from mirror.mp4.boxes import DoubtError, Reader
from mirror.mp4.movie import MAX_TRACKS, Movie, movie
from mirror.mp4.outline import outline
from mirror.mp4.picks import Picks

if TYPE_CHECKING:
    from mirror.mp4.movie import Track
    from mirror.mp4.outline import Outline

END_NOT_PROVABLE: Final = "end not provable"
"""The note of a fragmented file that may go on, and says nowhere where it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What the structure of a file proves.

    Attributes:
        doubt: Why it does not prove the file whole, for operators; None if it does.
        notes: What is odd about a whole file.
    """

    doubt: str | None
    notes: tuple[str, ...] = ()


def prove(fd: int, size: int, *, explicit_end: bool = False) -> Proof:
    """Tell whether a file is whole. Blocking.

    It is if a `moov` has a track, all samples lie inside the file and inside an `mdat`,
    and some video samples, evenly spread, are not zeros. How much is read is bounded
    (`MAX_...` here and there); a few MiB are held at most.

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
    shape = outline(reader)
    tracks: dict[int, Track] = {}
    fragmented, total, last = bool(shape.moofs), 0, Movie()
    for start in shape.moovs:
        last = movie(reader, start)
        fragmented = fragmented or last.fragmented
        for track in last.tracks.values():
            total += tables.walk(reader, track, shape.media)
            _look(reader, track)
        tracks |= last.tracks
        if len(tracks) > MAX_TRACKS:
            raise DoubtError(f"it has more than {MAX_TRACKS} tracks")
    if fragmented and shape.ragged is not None:
        raise DoubtError(f"a fragmented file that ends with {shape.ragged}")
    for start in shape.moofs:
        total += fragments.walk(reader, start, tracks, shape.media)
    for track in tracks.values():
        _look(reader, track)
    if not total:
        raise DoubtError("it holds no samples")
    if explicit_end and not shape.explicit:
        raise DoubtError("no end was announced, and its boxes do not prove it")
    if fragmented and not _ends(reader, shape, last, tracks):
        shape.notes.append(END_NOT_PROVABLE)
    return shape.notes


def _look(reader: Reader, track: Track) -> None:
    """See that what was picked of a video track is not zeros, and forget it."""
    for offset, length in track.picks.places():
        if length and reader.is_zero(offset, length):
            raise DoubtError(
                f"the picture of track {track.number} at offset {offset} is all zeros"
            )
    track.picks = Picks()


def _ends(
    reader: Reader, shape: Outline, last: Movie, tracks: dict[int, Track]
) -> bool:
    """Tell whether the fragments there are, are all."""
    if shape.closed or shape.used_to <= shape.indexed_to <= reader.size:
        return True
    # The duration may have been rounded to a unit of the movie.
    least = max(0, last.duration - 1)
    return any(
        least and track.duration * last.timescale >= least * track.timescale > 0
        for track in tracks.values()
    )
