"""Writes tiny mp4 files, box by box, in each way a muxer lays them out."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def box(kind: bytes, *parts: bytes, long: bool = False) -> bytes:
    """Return one box with its size written in 32 or 64 bits."""
    body = b"".join(parts)
    if long:
        return struct.pack(">I4sQ", 1, kind, 16 + len(body)) + body
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full(kind: bytes, flags: int, *parts: bytes) -> bytes:
    """Return one box with a version and flags."""
    return box(kind, struct.pack(">I", flags), *parts)


def words(*numbers: int) -> bytes:
    """Return numbers of 32 bits."""
    return struct.pack(f">{len(numbers)}I", *numbers)


def top(content: bytes) -> list[tuple[bytes, int, int]]:
    """Return kind, start and end of the top-level boxes of a well-formed file."""
    found, offset = [], 0
    while offset < len(content):
        size, kind = struct.unpack_from(">I4s", content, offset)
        if size == 1:
            (size,) = struct.unpack_from(">Q", content, offset + 8)
        found.append((kind, offset, offset + size))
        offset += size
    return found


_SIDX_BYTES = 44
FTYP = box(b"ftyp", b"isom\0\0\2\0isommp41")


def pictures(number: int = 20) -> tuple[bytes, ...]:
    """Return samples that all differ, none of zeros."""
    return tuple(bytes([1 + n % 250]) * (24 + n % 7) for n in range(number))


def silence(number: int = 12) -> tuple[bytes, ...]:
    """Return samples of zeros."""
    return tuple(bytes(10 + n % 3) for n in range(number))


@dataclass(frozen=True, kw_only=True)
class Track:
    """One track to be written.

    Attributes:
        chunks: Samples in each chunk, the last number for all that follow.
        sizes: `stsz`, or the bits of the entries of a `stz2`; 0 writes one for all.
        long: Offsets have 64 bits.
        reference: The flags of its data reference.
        edit: Changes its sample tables.
    """

    number: int = 1
    handler: bytes = b"vide"
    samples: tuple[bytes, ...] = field(default_factory=pictures)
    chunks: tuple[int, ...] = (4,)
    sizes: int = 32
    long: bool = False
    reference: int = 1
    entry: bytes = b"avc1"
    edit: Callable[[bytes], bytes] = lambda tables: tables

    def pieces(self) -> list[tuple[bytes, ...]]:
        """Return the samples of each chunk."""
        made: list[tuple[bytes, ...]] = []
        left = self.samples
        while left:
            count = self.chunks[min(len(made), len(self.chunks) - 1)]
            made.append(left[:count])
            left = left[count:]
        return made


VIDEO = Track()
SOUND = Track(
    number=2, handler=b"soun", samples=silence(), chunks=(3, 2, 3), entry=b"mp4a"
)
TRACKS = (VIDEO, SOUND)


def _sizes(track: Track) -> bytes:
    sizes = [len(one) for one in track.samples]
    number = len(sizes)
    if track.sizes == 0:
        return full(b"stsz", 0, words(sizes[0], number))
    if track.sizes == 32:
        return full(b"stsz", 0, words(0, number, *sizes))
    if track.sizes == 4:
        pairs = zip(sizes[::2], [*sizes[1::2], 0], strict=False)
        packed = bytes(a << 4 | b for a, b in pairs)
    else:
        packed = b"".join(one.to_bytes(track.sizes // 8) for one in sizes)
    return full(b"stz2", 0, words(track.sizes, number), packed)


def _offsets(track: Track, offsets: list[int]) -> bytes:
    form = f">{len(offsets)}{'Q' if track.long else 'I'}"
    kind = b"co64" if track.long else b"stco"
    return full(kind, 0, words(len(offsets)), struct.pack(form, *offsets))


def trak(track: Track, offsets: list[int]) -> bytes:
    """Return the `trak` of a track whose chunks begin at these offsets."""
    counts = [len(one) for one in track.pieces()[: len(offsets)]]
    entries = [
        (index, count, 1)
        for index, count in enumerate(counts, 1)
        if index == 1 or count != counts[index - 2]
    ]
    written = track if offsets else replace(track, samples=(), sizes=32)
    tables = box(
        b"stbl",
        full(b"stsd", 0, words(1), box(track.entry, bytes(6), b"\0\1", bytes(70))),
        full(b"stts", 0, words(1, len(written.samples), 512)),
        full(b"stsc", 0, words(len(entries), *(n for one in entries for n in one))),
        _sizes(written),
        _offsets(track, offsets),
    )
    references = full(b"dref", 0, words(1), full(b"url ", track.reference))
    return box(
        b"trak",
        full(b"tkhd", 7, words(0, 0, track.number), bytes(68)),
        box(
            b"mdia",
            full(b"mdhd", 0, words(0, 0, 15_360, 0, 0)),
            full(b"hdlr", 0, words(0), track.handler, bytes(13)),
            box(b"minf", box(b"dinf", references), track.edit(tables)),
        ),
    )


def moov(tracks: tuple[Track, ...], offsets: list[list[int]], *more: bytes) -> bytes:
    """Return a `moov`; `more` comes behind its tracks."""
    header = full(b"mvhd", 0, words(0, 0, 1000, 0), bytes(80))
    traks = [trak(*one) for one in zip(tracks, offsets, strict=True)]
    return box(b"moov", header, *traks, *more)


def interleaved(tracks: tuple[Track, ...]) -> tuple[bytes, list[list[int]]]:
    """Return the chunks of all tracks in turn, and where each begins."""
    made = b""
    offsets: list[list[int]] = [[] for _ in tracks]
    pieces = [track.pieces() for track in tracks]
    for turn in range(max(len(one) for one in pieces)):
        for index, one in enumerate(pieces):
            if turn < len(one):
                offsets[index].append(len(made))
                made += b"".join(one[turn])
    return made, offsets


def classic(
    tracks: tuple[Track, ...] = TRACKS,
    *,
    moov_last: bool = False,
    before: bytes = FTYP,
    long: bool = False,
    mdats: int = 1,
    shift: int = 0,
) -> bytes:
    """Return a file whose `moov` describes all samples.

    Args:
        tracks: To be written.
        moov_last: Put it behind the media.
        before: What comes first.
        long: Write the sizes of `mdat` in 64 bits.
        mdats: So many boxes share the chunks.
        shift: Added to the offset of each chunk.
    """
    media, offsets = interleaved(tracks)
    edges = sorted({0, *(at for one in offsets for at in one), len(media)})
    cuts = [edges[n * (len(edges) - 1) // mdats] for n in range(mdats + 1)]
    boxes = [box(b"mdat", media[a:b], long=long) for a, b in pairwise(cuts)]
    head = 16 if long else 8

    def laid_out(begin: int) -> bytes:
        placed = [
            [
                at + shift + begin + head * sum(cut <= at for cut in cuts[:-1])
                for at in one
            ]
            for one in offsets
        ]
        return moov(tracks, placed)

    begin = len(before) + (0 if moov_last else len(laid_out(0)))
    parts = [before, laid_out(begin), *boxes]
    if moov_last:
        parts = [before, *boxes, laid_out(begin)]
    return b"".join(parts)


def open_ended(content: bytes) -> bytes:
    """Return a file whose last `mdat` does not say its size."""
    at = content.rindex(b"mdat") - 4
    return content[:at] + bytes(4) + content[at + 4 :]


def quicktime(*, moov_last: bool = True) -> bytes:
    """Return a file without `ftyp`, as old QuickTime wrote it."""
    return classic(before=box(b"wide"), moov_last=moov_last)


@dataclass(frozen=True, kw_only=True)
class Fragments:
    """How fragments are written.

    Attributes:
        number: How many.
        base: What the offsets of samples count from: `moof`, the `file`, `implied`
            (the samples before), or `none` (they begin at the base that is told).
        styp: Each is a segment.
        runs: So many `trun` in each `traf`.
        defaults: Sizes are told once, by `trex` or `tfhd`.
        between: What lies before each fragment.
        sidx: A `sidx` of the whole file comes first.
        mehd: What `mehd` says of the duration, in ms.
        mfra: An `mfra` ends it.
    """

    number: int = 4
    base: str = "moof"
    styp: bool = False
    runs: int = 1
    defaults: str | None = None
    between: bytes = b""
    sidx: bool = False
    mehd: int | None = None
    mfra: bool = False


def fragmented(
    tracks: tuple[Track, ...] = TRACKS,
    form: Fragments = Fragments(),
) -> bytes:
    """Return a file whose samples are described by fragments."""
    each = len(tracks[0].samples[0]) if form.defaults == "trex" else 0
    extends = [
        full(b"trex", 0, words(track.number, 1, 512, each, 0)) for track in tracks
    ]
    if form.mehd is not None:
        extends.insert(0, full(b"mehd", 0, words(form.mehd)))
    made = FTYP + moov(tracks, [[] for _ in tracks], box(b"mvex", *extends))
    parts, at = [], len(made) + (_SIDX_BYTES if form.sidx else 0)
    for index in range(form.number):
        shares = [_share(track.samples, index, form.number) for track in tracks]
        head = form.between
        if form.styp:
            head += box(b"styp", b"msdh\0\0\0\0msdhmsix")
        part = head + _fragment(tracks, shares, form, at + len(head))
        parts.append(part)
        at += len(part)
    if form.sidx:
        total = sum(map(len, parts))
        made += full(b"sidx", 0, words(1, 1000, 0, 0, 1, total, 0, 0))
    made += b"".join(parts)
    return made + (box(b"mfra", bytes(16)) if form.mfra else b"")


def _share(samples: tuple[bytes, ...], index: int, number: int) -> tuple[bytes, ...]:
    count = len(samples)
    return samples[count * index // number : count * (index + 1) // number]


def _fragment(
    tracks: tuple[Track, ...],
    shares: list[tuple[bytes, ...]],
    form: Fragments,
    at: int,
) -> bytes:
    """Return a `moof` that begins at `at`, and its `mdat`."""
    media = b"".join(b"".join(one) for one in shares)
    starts = list(accumulate((sum(map(len, one)) for one in shares), initial=0))
    moof = b""
    for _ in range(2):  # The first round only shows how long it is.
        moof = box(
            b"moof",
            full(b"mfhd", 0, words(1)),
            *(
                _traf(track, share, form, at, len(moof) + 8, start)
                for track, share, start in zip(tracks, shares, starts, strict=False)
            ),
        )
    return moof + box(b"mdat", media)


def _traf(
    track: Track,
    share: tuple[bytes, ...],
    form: Fragments,
    moof: int,
    behind: int,
    start: int,
) -> bytes:
    """Return a `traf`.

    Args:
        track: Its track.
        share: Its samples.
        form: How it is written.
        moof: Where the `moof` begins in the file.
        behind: Where the media begin, from there.
        start: Where its samples begin in the media.
    """
    head, flags = words(track.number), 0
    offset = behind + start
    if form.base in {"file", "none"}:
        flags, base = 1, moof + behind + start
        head += struct.pack(">Q", base)
        offset = 0
    elif form.base == "moof":
        flags = 0x20000
    if form.defaults == "tfhd":
        flags |= 0x10
        head += words(len(share[0]))
    made = [full(b"tfhd", flags, head), full(b"tfdt", 0, words(0))]
    for index in range(form.runs):
        run = _share(share, index, form.runs)
        of_run, fields = 0, b""
        follows = form.base == "implied" and (start or index)
        if form.base != "none" and not follows:
            of_run |= 1
            fields += struct.pack(">i", offset)
        if form.defaults is None:
            of_run |= 0x300
            fields += b"".join(words(512, len(one)) for one in run)
        made.append(full(b"trun", of_run, words(len(run)), fields))
        offset += sum(map(len, run))
    return box(b"traf", *made)


FILMS: dict[str, bytes] = {
    "faststart": classic(),
    "moov last": classic(moov_last=True),
    "64 bit": classic((replace(VIDEO, long=True), SOUND), long=True),
    "several mdat": classic(mdats=3),
    "quicktime": quicktime(),
    "fragmented": fragmented(),
    "closed": fragmented(form=Fragments(mfra=True)),
    "segmented": fragmented(form=Fragments(styp=True)),
    "indexed": fragmented(form=Fragments(sidx=True)),
}
"""One of each layout."""
