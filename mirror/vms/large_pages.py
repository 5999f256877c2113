"""A large page of the list: kept on disk, split into rows, never in memory at once."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import tempfile
import weakref
from array import array
from typing import TYPE_CHECKING

from mirror.errors import ListError

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import ClientResponse

MAX_PAGE_BYTES = 64 * 1024 * 1024
_AT_ONCE_BYTES = 4 * 1024 * 1024
"""A page up to this size is decoded at once, from memory."""
_PIECE_BYTES = 512 * 1024
MAX_ROWS = 20_000
"""On one page."""
MAX_ROW_BYTES = 4 * 1024 * 1024
MAX_FRAME_BYTES = 1024 * 1024
"""Of what is not in a row: many bare numbers would take much memory."""
MAX_VALUES = 4_000_000
"""Texts, lists and objects on one page: two hundred per row."""
_QUOTE, _LIST = b'"['
_OF_ROWS = 2
"""How deep the rows lie."""
_KEY_BYTES = 16
WINDOW_BYTES = 256 * 1024
_TEXT = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
_TOKEN = re.compile(rb'[\[\]{}]|"' + _TEXT + rb'("?)', re.DOTALL)
_REST = re.compile(_TEXT, re.DOTALL)
PLACE = b"{}"
"""Stands in the frame for a row that was taken out."""


class Scratch:
    """A file without a name; it is gone when nobody refers to it.

    Without a folder the system chooses where it lies.

    Raises:
        OSError: There is no room.
    """

    def __init__(self, folder: Path | None) -> None:
        fd, path = tempfile.mkstemp(dir=folder, prefix="list-")
        os.unlink(path)  # noqa: PTH108 -- it is open, and has no other name
        self._fd = fd
        self.size_bytes = 0
        weakref.finalize(self, os.close, fd)

    def write(self, piece: bytes) -> None:
        """Add to its end."""
        with memoryview(piece) as left:
            at = 0
            while at < len(left):
                at += os.write(self._fd, left[at:])
        self.size_bytes += len(piece)

    def read(self, offset: int, size: int) -> bytes:
        """Return what lies there; less at its end."""
        return os.pread(self._fd, size, offset)


async def read_page(response: ClientResponse, folder: Path | None) -> bytes | Scratch:
    """Return the body of a list's answer; a large one in a file, to save memory.

    Raises:
        ListError: It is larger than any page, or there is no room for the file.
    """
    pending, size, scratch = bytearray(), 0, None
    async for chunk in response.content.iter_any():
        pending += chunk
        size += len(chunk)
        if size > MAX_PAGE_BYTES:
            raise ListError(
                "too_large",
                "a page of the list is larger than 64 MiB; set a lower per_page",
            )
        if len(pending) > (_AT_ONCE_BYTES if scratch is None else _PIECE_BYTES):
            scratch = await asyncio.to_thread(_put, scratch, bytes(pending), folder)
            pending.clear()
    if scratch is None:
        return bytes(pending)
    return await asyncio.to_thread(_put, scratch, bytes(pending), folder)


def _put(scratch: Scratch | None, piece: bytes, folder: Path | None) -> Scratch:
    try:
        scratch = Scratch(folder) if scratch is None else scratch
        scratch.write(piece)
    except OSError as exc:
        raise ListError(
            "too_large",
            "a page of the list is larger than 4 MiB, and there is no room in "
            f"{folder or 'the folder for temporary files'} to take it in pieces "
            f"({exc.strerror}); make room, or set a lower per_page",
        ) from exc
    return scratch


class Split:
    """Where the rows of an answer lie.

    Attributes:
        frame: The answer with `{}` in the place of each row; rows that are no objects
            and no lists stand there themselves.
        starts: Where each row that was taken out begins.
        sizes: How long each is.
        digest: Of these rows.
    """

    def __init__(self, answer: Scratch) -> None:
        self.frame = bytearray()
        self.starts = array("q")
        self.sizes = array("q")
        self._digest = hashlib.sha256()
        self._values = 0
        self._depth = 0
        self._key = b""
        self._in_rows = False
        self._row: int | None = None
        self._in_text = False
        at, carried = 0, b""
        while piece := answer.read(at, WINDOW_BYTES):
            window = carried + piece
            done = self._take(window, at - len(carried))
            carried = window[done:]
            at += len(piece)
        self._keep(carried)
        self.digest = self._digest.digest()

    def _take(self, window: bytes, base: int) -> int:
        """Read a window; return up to where: a last backslash needs what follows."""
        end = len(window)
        place = since = 0
        if self._in_text:
            rest = _REST.match(window)
            place = rest.end() if rest else 0
            if place < end and window[place] == _QUOTE:
                self._in_text = False
                place += 1
            else:
                end = place
            if self._depth == 1:
                self._key = (self._key + window[:place])[:_KEY_BYTES]
        for match in _TOKEN.finditer(window, place, end):
            start, place = match.span()
            token = window[start]
            if token == _QUOTE:
                if not self._text(match):
                    end = place
            elif token in b"[{":
                since = self._open(window, since, start, base)
            else:
                since = self._close(window, since, place, base)
        (self._keep if self._row is None else self._digest.update)(window[since:end])
        return end

    def _text(self, match: re.Match[bytes]) -> bool:
        """Read a text; tell whether it ends in this window."""
        self._count()
        if self._depth == 1:
            self._key = match.group()[:_KEY_BYTES]
        self._in_text = not match.group(1)
        return not self._in_text

    def _open(self, window: bytes, since: int, start: int, base: int) -> int:
        self._count()
        if self._in_rows and self._depth == _OF_ROWS:
            self._keep(window[since:start])
            since = start
            self._row = base + start
        elif self._depth == 1 and self._key == b'"data"' and window[start] == _LIST:
            # Of two such lists the last counts.
            self._in_rows = True
            del self.starts[:], self.sizes[:]
        self._depth += 1
        return since

    def _close(self, window: bytes, since: int, place: int, base: int) -> int:
        self._depth -= 1
        if self._row is not None and self._depth == _OF_ROWS:
            self._digest.update(window[since:place])
            since = place
            self.starts.append(self._row)
            self.sizes.append(base + place - self._row)
            self._row = None
            self._keep(PLACE)
            if len(self.starts) > MAX_ROWS:
                raise too_many_rows()
        elif self._depth < _OF_ROWS:
            self._in_rows = False
        return since

    def _keep(self, piece: bytes) -> None:
        self.frame += piece
        if len(self.frame) > MAX_FRAME_BYTES:
            raise ListError(
                "too_large",
                "a page of the list holds over 1 MiB besides its rows; check url and "
                "list_path",
            )

    def _count(self) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise ListError(
                "too_large",
                f"a page of the list holds over {MAX_VALUES} values; set a lower "
                "per_page",
            )


def too_many_rows() -> ListError:
    """Return the error for a page with more rows than any should have."""
    return ListError(
        "too_large",
        f"a page of the list holds over {MAX_ROWS} rows; set a lower per_page",
    )
