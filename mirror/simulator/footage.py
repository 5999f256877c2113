"""Simulated footage: real mp4 files of any size, made while they are read."""

from __future__ import annotations

import hashlib
import random
import struct
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CHUNK_BYTES = 256 * 1024
CLIPS = ("moov-first", "moov-last", "fragmented")
_BLOCK_BYTES = 1024 * 1024
_BLOCK_HEAD = struct.Struct(">QQ")
_BOX_HEAD_BYTES = 8
_LARGE_BOX_HEAD_BYTES = 16
_MAX_SMALL_BOX = 2**32 - 1
_STAMP_BYTES = 16
_MIX = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


@cache
def _pool() -> memoryview:
    """Return the random bytes all filler is cut from; two blocks long."""
    return memoryview(random.Random(6414).randbytes(2 * _BLOCK_BYTES))  # noqa: S311 -- reproducible


@dataclass(frozen=True, slots=True)
class Filler:
    """Pseudo-random bytes that depend on a seed and on nothing else.

    Each block of 1 MiB starts with the seed and its own number; what follows is cut
    from one pool, elsewhere for each block. Nothing is computed per byte.
    """

    seed: int
    length: int

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes from `start` to `stop`, in pieces."""
        pool = _pool()
        while start < stop:
            index, within = divmod(start, _BLOCK_BYTES)
            if within < _BLOCK_HEAD.size:
                head = _BLOCK_HEAD.pack(self.seed & _MASK, index)
                piece = memoryview(head)[within : within + stop - start]
            else:
                size = min(CHUNK_BYTES, _BLOCK_BYTES - within, stop - start)
                mixed = ((self.seed ^ (index + 1) * _MIX) * _MIX) & _MASK
                begin = (mixed >> 32) % _BLOCK_BYTES + within
                piece = pool[begin : begin + size]
            start += len(piece)
            yield piece


@dataclass(frozen=True, slots=True)
class Literal:
    """Bytes held in memory."""

    view: memoryview

    @property
    def length(self) -> int:
        """How many there are."""
        return len(self.view)

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes from `start` to `stop`."""
        yield self.view[start:stop]


@dataclass(frozen=True)
class Content:
    """A file as a sequence of parts; readable at any offset, not held in memory."""

    parts: tuple[Literal | Filler, ...]

    @cached_property
    def size_bytes(self) -> int:
        """Length of the whole."""
        return sum(part.length for part in self.parts)

    @cached_property
    def sha256(self) -> str:
        """Lower-case hex digest of the whole; reads all of it the first time."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """Yield the bytes from `start` to `stop` (default: the end), in pieces."""
        stop = self.size_bytes if stop is None else min(stop, self.size_bytes)
        offset = 0
        for part in self.parts:
            first = max(start - offset, 0)
            last = min(stop - offset, part.length)
            if first < last:
                yield from part.chunks(first, last)
            offset += part.length

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes from `start` to `stop` (default: the end)."""
        return b"".join(self.chunks(start, stop))

    def cut(self, length: int) -> Content:
        """Return the first `length` bytes as a file of their own."""
        parts: list[Literal | Filler] = []
        for part in self.parts:
            keep = min(part.length, length)
            if keep > 0 and isinstance(part, Filler):
                parts.append(Filler(part.seed, keep))
            elif keep > 0 and isinstance(part, Literal):
                parts.append(Literal(part.view[:keep]))
            length -= keep
        return Content(tuple(parts))


@dataclass(frozen=True, slots=True)
class Clip:
    """A short real mp4 that larger ones are made of.

    Attributes:
        data: The file as shipped.
        stamp: Where the encoder's remark begins. It is free text inside the video
            stream, so that each version can carry bytes of its own there.
        gap: Where a `free` box may be put; what the file needs follows it, so that a
            file cut anywhere has lost something.
        moov: Where the `moov` box begins and ends.
        offsets: Where the tables of offsets that point behind the gap begin and end.
    """

    data: bytes
    stamp: int
    gap: int
    moov: tuple[int, int]
    offsets: tuple[tuple[int, int], ...]


@cache
def load_clip(name: str) -> Clip:
    """Return one of `CLIPS`.

    Raises:
        ValueError: There is no clip of that name.
    """
    if name not in CLIPS:
        raise ValueError(f"no clip {name!r}; there are {', '.join(CLIPS)}")
    data = (resources.files(__package__) / "clips" / f"{name}.mp4").read_bytes()
    boxes: list[tuple[bytes, int, int]] = []
    offset = 0
    while offset < len(data):
        size = int.from_bytes(data[offset : offset + 4])
        boxes.append((data[offset + 4 : offset + 8], offset, offset + size))
        offset += size
    _, gap, _ = boxes[-1]
    start, stop = next((start, stop) for kind, start, stop in boxes if kind == b"moov")
    return Clip(
        data=data,
        stamp=data.index(b"x264 - core"),
        gap=gap,
        moov=(start, stop),
        offsets=tuple(_offsets(data, start, stop)) if stop <= gap else (),
    )


def _offsets(data: bytes, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield where the entries of each `co64` between two points begin and end."""
    while (start := data.find(b"co64", start, stop)) >= 0:
        (number,) = struct.unpack_from(">I", data, start + 8)
        start += 12
        yield start, start + 8 * number


def _free_box(length: int, seed: int) -> tuple[Literal, Filler]:
    """Return a `free` box of `length` bytes in all, its size in 64 bits if need be."""
    if length > _MAX_SMALL_BOX:
        head = b"\0\0\0\1free" + length.to_bytes(_LARGE_BOX_HEAD_BYTES // 2)
    else:
        head = length.to_bytes(4) + b"free"
    return Literal(memoryview(head)), Filler(seed, length - len(head))


def footage(clip_name: str, size_bytes: int | None, seed: int) -> Content:
    """Return a playable mp4, made of one of `CLIPS`, that no other seed gives.

    `size_bytes` None means that of the clip; `seed` decides every byte that is free
    to differ.

    Raises:
        ValueError: So short a file cannot be made of this clip.
    """
    clip = load_clip(clip_name)
    spare = 0 if size_bytes is None else size_bytes - len(clip.data)
    if spare and spare < _BOX_HEAD_BYTES:
        raise ValueError(
            f"{clip_name} makes a file of {len(clip.data)} bytes, or of"
            f" {len(clip.data) + _BOX_HEAD_BYTES} and more; not of {size_bytes}"
        )
    stamp = f"{seed & _MASK:0{_STAMP_BYTES}x}".encode()
    changes: list[tuple[int, int, Sequence[Literal | Filler]]] = [
        (clip.stamp, clip.stamp + _STAMP_BYTES, [Literal(memoryview(stamp))]),
        (clip.gap, clip.gap, _free_box(spare, seed) if spare else ()),
        *(
            (start, stop, [Literal(memoryview(_moved(clip.data[start:stop], spare)))])
            for start, stop in clip.offsets
        ),
    ]
    parts: list[Literal | Filler] = []
    view, done = memoryview(clip.data), 0
    for start, stop, instead in sorted(changes, key=lambda change: change[0]):
        parts += [Literal(view[done:start]), *instead]
        done = stop
    parts.append(Literal(view[done:]))
    return Content(tuple(part for part in parts if part.length))


def _moved(table: bytes, by: int) -> bytes:
    """Return offsets of 64 bits that point further on."""
    form = struct.Struct(f">{len(table) // 8}Q")
    return form.pack(*(offset + by for offset in form.unpack(table)))


def without_moov(clip_name: str, content: Content) -> Content:
    """Return `content`, made of that clip, less its `moov` box."""
    clip = load_clip(clip_name)
    start, stop = clip.moov
    if stop == len(clip.data):
        return content.cut(content.size_bytes - (stop - start))
    parts: list[Literal | Filler] = []
    offset = 0
    for part in content.parts:
        if isinstance(part, Literal):
            parts.append(Literal(part.view[: max(0, start - offset)]))
            parts.append(Literal(part.view[max(0, stop - offset) :]))
        else:
            parts.append(part)
        offset += part.length
    return Content(tuple(part for part in parts if part.length))


def noise(seed: int, length: int) -> Content:
    """Return bytes that are no mp4 at all."""
    return Content((Filler(seed, length),))
