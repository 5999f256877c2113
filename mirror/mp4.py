"""Tell whether a file is a whole mp4, by its top-level boxes alone.

A cut file shows here: its last box reaches past the end. Media libraries play such
files without a word. Format: ISO/IEC 14496-12, section 4.2.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

MAX_BOXES: Final = 1_000_000
"""More than a day of fragments; a file of more is not footage."""

HEAD_BYTES: Final = 8
"""So many first bytes `begins_as_mp4` needs."""

_LONG_HEAD_BYTES: Final = 16
_TO_END: Final = 0
_LONG: Final = 1
_KIND: Final = re.compile(rb"[ -~\xa9]{4}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    """One top-level box; `to_end` if its size is not written but "the rest"."""

    kind: bytes
    start: int
    end: int
    to_end: bool

    @property
    def label(self) -> str:
        """What a reason calls it."""
        return f"box {_shown(self.kind)} at offset {self.start}"


class _BrokenError(Exception):
    """The boxes do not tile the file."""


def check(fd: int, size: int, *, explicit_end: bool = False) -> str | None:
    """Return why the file is no whole mp4, or None if it is one.

    Whole means: the top-level boxes tile the file exactly, `ftyp` comes first and
    `moov` is there. Only box heads are read. Blocking.

    Args:
        fd: Open for reading; its position is neither used nor moved.
        size: Length of the file in bytes.
        explicit_end: Refuse a box whose size is "to the end of the file": it would
            fit a file cut anywhere.

    Raises:
        OSError: The file cannot be read.
    """
    offset, boxes, has_moov = 0, 0, False
    try:
        while offset < size:
            box = _box(fd, offset, size)
            if box.to_end and explicit_end:
                return f"{box.label} has no size, so its end is not proven"
            boxes += 1
            if boxes > MAX_BOXES:
                return f"{box.label} is one of more than {MAX_BOXES} boxes"
            has_moov = has_moov or box.kind == b"moov"
            offset = box.end
    except _BrokenError as exc:
        return str(exc)
    if boxes == 0:
        return "the file is empty"
    return None if has_moov else f"no moov box up to the end at offset {size}"


def begins_as_mp4(head: bytes) -> bool:
    """Tell whether the first bytes of a body can be those of an mp4.

    Args:
        head: At least `HEAD_BYTES`; fewer are never enough.
    """
    size = int.from_bytes(head[:4], "big")
    return head[4:8] == b"ftyp" and (size >= HEAD_BYTES or size == _LONG)


def _box(fd: int, start: int, file_size: int) -> _Box:
    """Read the head of the box at `start`."""
    head = os.pread(fd, _LONG_HEAD_BYTES, start)[: file_size - start]
    if len(head) < HEAD_BYTES:
        raise _BrokenError(f"the file ends within a box head at offset {start}")
    size, kind = int.from_bytes(head[:4], "big"), head[4:8]
    if not _KIND.fullmatch(kind):
        raise _BrokenError(f"no box at offset {start}: its type is {_shown(kind)}")
    if start == 0 and kind != b"ftyp":
        raise _BrokenError(f"box {_shown(kind)} comes first, not ftyp")
    least = HEAD_BYTES
    if size == _LONG:
        if len(head) < _LONG_HEAD_BYTES:
            raise _BrokenError(f"the file ends within a box head at offset {start}")
        size, least = int.from_bytes(head[8:16], "big"), _LONG_HEAD_BYTES
    elif size == _TO_END:
        return _Box(kind=kind, start=start, end=file_size, to_end=True)
    box = _Box(kind=kind, start=start, end=start + size, to_end=False)
    if size < least:
        raise _BrokenError(
            f"{box.label} says it is {size} bytes long, less than its head"
        )
    if box.end > file_size:
        raise _BrokenError(
            f"{box.label} ends at {box.end}, but the file at {file_size}"
        )
    return box


def _shown(kind: bytes) -> str:
    """Return a box type as text that is safe in a log."""
    return kind.decode("ascii", "backslashreplace").encode("unicode_escape").decode()
