"""No body crashes the proof, or makes it read, hold or say more than its bounds."""

from __future__ import annotations

import os
import random
import struct
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror import mp4
from mirror.mp4 import boxes as reading
from mirror.mp4 import movie, top_level
from tests import mp4_boxes
from tests.mp4_boxes import (
    FTYP,
    SOUND,
    TRACKS,
    VIDEO,
    Fragments,
    box,
    classic,
    fragmented,
    full,
    words,
)
from tests.mp4_proof import prove
from tests.unit.test_mp4 import DOUBTFUL, FIELD

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024 * 1024
MOST_HELD = 6 * MIB
ODD = (0, 1, 7, 8, 16, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
KINDS = (
    b"moov",
    b"moof",
    b"mdat",
    b"trak",
    b"stbl",
    b"stsz",
    b"stz2",
    b"stsc",
    b"co64",
)
SEEDS = (
    *mp4_boxes.FILMS.values(),
    fragmented(form=Fragments(base="implied", runs=2, mehd=600)),
    fragmented(form=Fragments(base="file")),
    classic((replace(VIDEO, sizes=16), replace(SOUND, long=True))),
    (FIELD / "empty_moov_only.mp4").read_bytes(),
    (FIELD / "moov_points_beyond.mp4").read_bytes(),
)


class Meter:
    """Counts what is read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.total = self.most = self.calls = 0
        self._pread = os.pread
        monkeypatch.setattr(os, "pread", self.pread)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        self.calls += 1
        self.total += length
        self.most = max(self.most, length)
        return self._pread(fd, length, offset)


@pytest.fixture
def meter(monkeypatch) -> Meter:
    return Meter(monkeypatch)


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Return bytes that differ a little."""
    made = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(made) + 1) if made else 0
        match chance.randrange(7):
            case 0:
                made[at : at + 1] = chance.randbytes(1)
            case 1:
                made[at : at + 4] = words(chance.choice(ODD))
            case 2:
                made[at : at + 4] = chance.choice(KINDS)
            case 3:
                del made[at : at + chance.randrange(40)]
            case 4:
                made[at:at] = chance.randbytes(chance.randrange(1, 20))
            case 5:
                made[at:at] = made[at : at + chance.randrange(1, 400)]
            case _:
                del made[at:]
    return bytes(made)


def sane(proof: mp4.Proof) -> bool:
    """Tell whether a proof can be shown to people."""
    said = [*proof.notes, *([proof.doubt] if proof.doubt is not None else [])]
    return (
        len(proof.notes) <= 8
        and (proof.doubt is None or not proof.notes)
        and all(text.isascii() and text.isprintable() for text in said)
        and all(0 < len(text) < 160 for text in said)
    )


@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_no_mutated_body_crashes_it(seed, meter):
    """It is judged, in a sentence; no more is read than a few times its length."""
    chance = random.Random(seed)
    content = SEEDS[seed]
    for _ in range(250):
        body = mutated(content, chance)
        meter.total = 0
        proof = prove(body, explicit_end=chance.random() < 0.3)

        assert sane(proof), proof
        assert meter.total <= 20 * len(body) + 100_000
    assert meter.most <= MIB


@given(
    content=st.binary(max_size=200), head=st.sampled_from((b"", FTYP, classic()[:900]))
)
def test_any_bytes(content, head):
    """No bytes make it fail other than by a reason."""
    assert sane(prove(head + content))


def table(kind: bytes, *fields: int) -> bytes:
    """Return a table whose head promises more than there is."""
    return full(kind, 0, words(*fields))


def hollow(**tables: bytes) -> bytes:
    """Return a file whose track has these tables in the place of its own."""

    def edit(made: bytes) -> bytes:
        kept = [
            tables.get(kind.decode(), made[8:][start:end])
            for kind, start, end in mp4_boxes.top(made[8:])
        ]
        return box(b"stbl", *kept)

    return classic((replace(VIDEO, edit=edit),), moov_last=True)


MANY = 0xFFFFFFFF
HOSTILE = {
    "stsz of a size, 2**32 samples": hollow(stsz=table(b"stsz", 1, MANY)),
    "and all in one chunk": hollow(
        stsz=table(b"stsz", 1, MANY), stsc=table(b"stsc", 1, 1, MANY, 1)
    ),
    "stsz of 2**32": hollow(stsz=table(b"stsz", 0, MANY)),
    "stz2 of 2**32": hollow(stsz=table(b"stz2", 4, MANY)),
    "stsc of 2**32": hollow(stsc=table(b"stsc", MANY, 1, 4, 1)),
    "stco of 2**32": hollow(stco=table(b"stco", MANY, 40)),
    "trun of 2**32": fragmented((VIDEO,)).replace(words(0x301, 5), words(0x301, MANY)),
    "trun of a size, 2**32": fragmented(
        (replace(VIDEO, samples=(b"\1" * 9,) * 12),), Fragments(defaults="trex")
    ).replace(words(1, 3), words(1, MANY)),
    "sidx of 65535": classic(
        before=FTYP + box(b"sidx", bytes(22), b"\xff\xff", bytes(30))
    ),
    "nested": FTYP + box(b"moov", *[struct.pack(">I4s", 90_000, b"trak")] * 9000),
    "traks": FTYP + box(b"moov", box(b"trak") * 50_000),
    "tracks": mp4_boxes.FTYP + mp4_boxes.moov((VIDEO,) * 1500, [[]] * 1500),
    "moovs": FTYP + mp4_boxes.moov(TRACKS, [[], []]) * 300,
    "small boxes": FTYP + box(b"mdat", b"x") * 30_000,
    "moofs": fragmented() + box(b"moof") * 20_000,
    "truns": FTYP
    + mp4_boxes.moov((VIDEO,), [[]], box(b"mvex"))
    + box(
        b"moof",
        box(
            b"traf",
            full(b"tfhd", 0x10, words(1, 0)),
            full(b"trun", 0, words(MANY)) * 20_000,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies_cost_little(name, meter):
    """However many samples, boxes or levels are promised."""
    content = HOSTILE[name]
    fd = os.memfd_create("film")
    os.pwritev(fd, [content], 0)
    tracemalloc.start()
    try:
        proof = mp4.prove(fd, len(content))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        os.close(fd)

    assert sane(proof)
    assert most <= MOST_HELD
    assert meter.most <= MIB
    assert meter.total <= 6 * len(content) + MIB


@pytest.fixture
def sparse() -> Iterator[int]:
    """Yield a file that takes no room, however long it is."""
    fd = os.memfd_create("film")
    yield fd
    os.close(fd)


@pytest.mark.parametrize(("entries", "over"), [(15_000_000, False), (17_000_000, True)])
def test_tables_are_bounded(sparse, meter, entries, over):
    """At 64 MiB in all; what is below it takes its time, and little room."""
    length = 4 * entries
    stsd = full(b"stsd", 0, words(1), box(b"avc1", bytes(6), b"\0\1", bytes(70)))
    tables = stsd + table(b"stsc", 1, 1, entries, 1) + table(b"stco", 1, 32)
    size = struct.pack(">I4s", 20 + length, b"stsz") + words(0, 0, entries)
    head = size
    for kind, before in (
        (b"stbl", tables),
        (b"minf", b""),
        (b"mdia", full(b"mdhd", 0, bytes(20)) + full(b"hdlr", 0, bytes(4), b"soun")),
        (b"trak", full(b"tkhd", 7, words(0, 0, 1), bytes(68))),
        (b"moov", b""),
    ):  # fmt: skip
        head = before + head
        head = struct.pack(">I4s", 8 + len(head) + length, kind) + head
    head = FTYP + box(b"mdat", b"x") + head
    os.pwritev(sparse, [head], 0)
    os.truncate(sparse, len(head) + length)
    tracemalloc.start()
    try:
        proof = mp4.prove(sparse, len(head) + length)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # All of these samples are empty.
    assert proof.doubt == (
        "its tables are over 64 MiB" if over else "it holds no samples"
    )
    assert most <= MOST_HELD
    assert meter.total <= (2 * MIB if over else length + 2 * MIB)


@pytest.mark.parametrize(
    ("module", "bound", "least", "content", "said"),
    [
        (top_level, "MAX_BOXES", 3, classic(), "more than {} boxes"),
        (reading, "MAX_INNER_BOXES", 30, classic(), "more than {} inner boxes"),
        (reading, "MAX_SAMPLES", 32, classic(), "more than {} samples"),
        (reading, "MAX_SAMPLES", 32, fragmented(), "more than {} samples"),
        (reading, "MAX_TABLE_BYTES", 200, classic(), "its tables are over"),
        (reading, "MAX_READ_BYTES", 900, classic(), "of it are tables"),
        (movie, "MAX_TRACKS", 2, classic(), "more than {} tracks"),
    ],
)
def test_each_bound(monkeypatch, module, bound, least, content, said):
    """At the bound a file is whole, beyond it doubtful; a block is not a whole file."""
    monkeypatch.setattr(reading, "BLOCK_BYTES", 512)
    for most, whole in ((50 * least, True), (least - 1, False)):
        monkeypatch.setattr(module, bound, most)
        proof = prove(content)

        assert (proof.doubt is None) is whole
        assert whole or said.format(most) in str(proof.doubt)


def test_a_day_of_footage_is_within_the_bounds():
    """60 pictures a second with sound; tables, and fragments of a second."""
    day, frames, packets = 86_400, 60, 48_000 // 1024 + 1
    samples = day * (frames + packets)

    assert samples <= reading.MAX_SAMPLES
    assert 4 * samples + 4 * 2 * day <= reading.MAX_TABLE_BYTES
    assert 2 * day <= top_level.MAX_BOXES
    # traf, tfhd, tfdt, trun of two tracks, and as much again.
    assert 18 * day <= reading.MAX_INNER_BOXES
    # Duration, size, flags and offset of each picture, the size of each packet.
    assert day * (16 * frames + 8 * packets + 300) <= reading.MAX_READ_BYTES


def test_what_is_doubted_is_said_in_few_words():
    """Whatever the file holds."""
    assert all(sane(prove(content)) for content, _ in DOUBTFUL.values())
