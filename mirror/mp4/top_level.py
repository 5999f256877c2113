"""Read the top-level boxes of a file: where its parts lie and how it ends."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Final

from mirror.mp4.boxes import DoubtError, shown
from mirror.mp4.formats import HEAD_BYTES, name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.mp4.boxes import Box, Reader

MAX_BOXES: Final = 1_000_000
"""At the top level: a day of fragments of a second has 172,800."""

_NO_KIND: Final = bytes(4)
_REFERENCED: Final = 0x7FFFFFFF
_KIND: Final = re.compile(rb"[ -~\xa9]{4}")


class Media:
    """Where the contents of all `mdat` boxes lie."""

    def __init__(self, file_size: int) -> None:
        self._file_size = file_size
        self._starts = array("Q")
        self._ends = array("Q")

    def add(self, box: Box) -> None:
        """Add an `mdat`; they come in the order of the file."""
        end = min(box.end, self._file_size)
        if box.body < end:
            self._starts.append(box.body)
            self._ends.append(end)

    def holds(self, start: int, end: int) -> bool:
        """Tell whether one of them holds all these bytes."""
        at = bisect_right(self._starts, start) - 1
        return at >= 0 and end <= self._ends[at]

    def demand(self, track: int, start: int, end: int) -> None:
        """Raise DoubtError unless one of them holds these bytes of a track."""
        if start != end and not self.holds(start, end):
            why = "which lie in no mdat"
            if end > self._file_size:
                why = f"the file ends at {self._file_size}"
            raise DoubtError(
                f"track {track} has samples at bytes {start} to {end}, {why}"
            )


@dataclass(slots=True, kw_only=True)
class TopLevel:
    """What the top-level boxes of a file say.

    Attributes:
        media: The contents of its `mdat` boxes.
        moovs: Where each `moov` begins; `moofs` likewise.
        notes: What is odd.
        incomplete_end: What it ends with; None if that is a whole box.
        explicit: Boxes that say their size fill it.
        ended_by_mfra: `mfra` comes after the last `moof`.
        indexed_to: Where the last byte that a `sidx` of the whole file lists ends.
        used_to: Where the last `moof` or `mdat` ends.
    """

    media: Media
    moovs: array[int] = field(default_factory=lambda: array("Q"))
    moofs: array[int] = field(default_factory=lambda: array("Q"))
    notes: list[str] = field(default_factory=list)
    incomplete_end: str | None = None
    explicit: bool = True
    ended_by_mfra: bool = False
    indexed_to: int = 0
    used_to: int = 0


def read_top_level(reader: Reader) -> TopLevel:
    """Return what the top-level boxes say.

    Raises:
        DoubtError: There is no whole `moov`, or too much of something.
    """
    top = TopLevel(media=Media(reader.size))
    first, named, segments, odd = b"", False, False, ""
    end = 0
    for box in _boxes(reader, top):
        first = first or box.kind
        named = named or box.kind == b"ftyp"
        odd = odd or ("" if _KIND.fullmatch(box.kind) else box.label)
        if box.kind == b"sidx" and not segments:
            top.indexed_to = max(top.indexed_to, _indexed_to(reader, box))
        segments = segments or box.kind in {b"styp", b"moof"}
        _record(top, box, reader.size)
        end = box.end
    if not top.moovs:
        raise DoubtError(_without_moov(reader, top, end))
    comes_first = f"{shown(first)} comes first" if first != b"ftyp" else ""
    several = f"{len(top.moovs)} moov boxes" if len(top.moovs) > 1 else ""
    notes = (comes_first if named else "no ftyp", odd, several, top.incomplete_end)
    top.notes[:0] = filter(None, notes)
    top.explicit = top.explicit and top.incomplete_end is None
    return top


def _boxes(reader: Reader, top: TopLevel) -> Iterator[Box]:
    """Yield the top-level boxes; what follows the last is the incomplete end."""
    offset = 0
    for number in count(1):
        if offset >= reader.size:
            return
        if number > MAX_BOXES:
            raise DoubtError(f"it has more than {MAX_BOXES} boxes")
        box = reader.box(offset, reader.size)
        if box is None or _is_trailer(box, reader.size):
            left = reader.size - offset
            top.incomplete_end = f"{_bytes(left)} after the last whole box"
            return
        yield box
        offset = box.end


def _bytes(number: int) -> str:
    return "1 byte" if number == 1 else f"{number} bytes"


def _is_trailer(box: Box, file_size: int) -> bool:
    """Tell whether this only looks like a box; of boxes cut short, two count."""
    if box.to_end:
        return box.kind == _NO_KIND
    return box.end > file_size and box.kind not in {b"mdat", b"moov"}


def _record(top: TopLevel, box: Box, file_size: int) -> None:
    if box.to_end:
        top.explicit = False
        top.notes.append(f"{box.label} has no size")
    elif box.end > file_size:
        if box.kind == b"moov":
            raise DoubtError(f"{box.label} ends at {box.end}, the file at {file_size}")
        number = box.end - file_size
        top.incomplete_end = (
            f"{box.label}, which is {_bytes(number)} shorter than it says"
        )
    if box.kind == b"moov":
        top.moovs.append(box.start)
    elif box.kind == b"moof":
        top.moofs.append(box.start)
        top.ended_by_mfra = False
        top.used_to = box.end
    elif box.kind == b"mdat":
        top.media.add(box)
        top.used_to = box.end
    elif box.kind == b"mfra":
        top.ended_by_mfra = True


def _indexed_to(reader: Reader, box: Box) -> int:
    """Return where the last byte that a `sidx` lists ends; 0 if it cannot be read."""
    if box.end > reader.size:
        return 0
    try:
        (version,) = reader.fields(box, 0, "B")
        form = "QQHH" if version else "IIHH"
        _, first, _, number = reader.fields(box, 12, form)
        words = reader.fields(box, 32 if version else 24, f"{3 * number}I")
    except DoubtError:
        return 0
    return box.end + first + sum(word & _REFERENCED for word in words[::3])


def _without_moov(reader: Reader, top: TopLevel, end: int) -> str:
    if reader.size == 0:
        return "the file is empty"
    other_format = name_of(reader.read(0, min(reader.size, HEAD_BYTES)))
    if other_format is not None:
        return f"it is {other_format}, not mp4"
    if end == 0:
        return "it does not begin as an mp4"
    return f"no moov box; {top.incomplete_end or f'the last box ends at {end}'}"
