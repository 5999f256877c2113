"""What is a whole mp4, what is doubted, and what is said of either."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from mirror import mp4
from mirror.mp4 import END_NOT_PROVABLE, fragments, tables
from mirror.mp4.spread_samples import SpreadSamples
from mirror.simulator.footage import CLIPS, footage
from tests import mp4_boxes
from tests.mp4_boxes import (
    FTYP,
    SOUND,
    TRACKS,
    VIDEO,
    Fragments,
    Track,
    box,
    classic,
    fragmented,
    full,
    pictures,
    words,
)
from tests.mp4_proof import prove

FIELD = Path(__file__).parent.parent / "data" / "field"
AT_END = "after the last whole box"


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("good_base.mp4", None),
        ("trail_crlf.mp4", f"2 bytes {AT_END}"),
        ("trail_kenwood_CCCC.mp4", f"208 bytes {AT_END}"),
        (
            "mdat_plus8.mp4",
            "box mdat at offset 2163, which is 8 bytes shorter than it says",
        ),
        ("first_free.mp4", "free comes first"),
        ("no_ftyp_wide_first.mov", "no ftyp"),
        ("box_nonascii_type.mp4", r"box \x00\x00\x00\x01 at offset 41785"),
        ("growing.mp4", None),
    ],
)
def test_whole_in_the_field(name, note):
    """Odd recordings that players play are whole; what is odd is noted."""
    content = (FIELD / name).read_bytes()

    assert prove(content) == mp4.Proof(doubt=None, notes=(note,) if note else ())


@pytest.mark.parametrize(
    ("name", "doubt"),
    [
        (
            "gst_frag_killed.mp4",
            (
                "a fragmented file that ends with box mdat at offset 122790, which is"
                " 10927 bytes shorter than it says"
            ),
        ),
        ("hik_imkh_named_mp4.mp4", "it is Hikvision MPEG-PS (IMKH), not mp4"),
        ("empty_moov_only.mp4", "it holds no samples"),
        (
            "moov_points_beyond.mp4",
            "track 1 has samples at bytes 2429 to 7800, the file ends at 2271",
        ),
    ],
)
def test_doubtful_in_the_field(name, doubt):
    """What does not prove that all is there is doubted, in one sentence."""
    assert prove((FIELD / name).read_bytes()) == mp4.Proof(doubt=doubt)


def test_all_of_the_field_is_judged():
    """No file of the folder is forgotten here."""
    assert len(list(FIELD.iterdir())) == 12


def test_a_growing_file_is_whole_only_at_its_end():
    """At each earlier edge of a box it is not told where it ends."""
    content = (FIELD / "growing.mp4").read_bytes()
    *edges, last = [end for kind, _, end in mp4_boxes.top(content) if kind == b"mdat"]

    assert len(edges) == 5
    for edge in edges:
        assert prove(content[:edge]).notes == (END_NOT_PROVABLE,)
    # All that `mehd` announces is there; behind it comes only an index.
    assert prove(content[:last]) == prove(content) == mp4.Proof(doubt=None)


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("size", [None, 300_000])
def test_footage_of_the_simulator_is_whole(name, size):
    """As it is shipped, and with a `free` box in it."""
    content = footage(name, size, 7).read()

    assert prove(content) == prove(content, explicit_end=True)
    assert prove(content) == mp4.Proof(doubt=None)


SMALL = tuple(b"\1" * (n % 16) for n in range(1, 28))
VARIANTS = {
    "stz2 4": (replace(VIDEO, sizes=4, samples=SMALL),),
    "stz2 4, odd chunks": (replace(VIDEO, sizes=4, samples=SMALL, chunks=(3, 2)),),
    "stz2 8": (replace(VIDEO, sizes=8),),
    "stz2 16": (replace(VIDEO, sizes=16), SOUND),
    "one size": (replace(VIDEO, sizes=0, samples=(b"\1" * 9,) * 7), SOUND),
    "co64": (replace(VIDEO, long=True), replace(SOUND, long=True)),
    "one chunk": (replace(VIDEO, chunks=(99,)),),
    "a sample a chunk": (replace(VIDEO, chunks=(1,)), replace(SOUND, chunks=(1,))),
    "empty samples": (replace(VIDEO, samples=(b"\1\2", b"", b"\3", b"", b"")), SOUND),
    "one sample": (replace(VIDEO, samples=(b"\0\1",)),),
    "sound alone": (SOUND,),
    "sound of zeros first": (replace(SOUND, number=1), replace(VIDEO, number=2)),
    "text": (*TRACKS, Track(number=3, handler=b"text", entry=b"tx3g")),
    "hint": (*TRACKS, Track(number=3, handler=b"hint", entry=b"rtp ")),
    "timed metadata": (*TRACKS, replace(SOUND, number=3, handler=b"meta")),
    "encrypted": (replace(VIDEO, entry=b"encv"), replace(SOUND, entry=b"enca")),
    "two of pictures": (VIDEO, replace(VIDEO, number=2)),
    "a track without samples": (VIDEO, replace(SOUND, samples=())),
}  # fmt: skip


@pytest.mark.parametrize("moov_last", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_whole_tracks(name, moov_last):
    """Each way to write sample tables is read, and each kind of track."""
    content = classic(VARIANTS[name], moov_last=moov_last)

    assert prove(content) == prove(content, explicit_end=True)
    assert prove(content) == mp4.Proof(doubt=None)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("shift", [-9, 1000])
def test_no_track_may_lie_elsewhere(name, shift):
    """Samples that begin before the media, or go on behind them, are seen."""
    doubt = prove(classic(VARIANTS[name], moov_last=True, shift=shift)).doubt

    assert doubt is not None
    assert "has samples at bytes" in doubt


@pytest.mark.parametrize("block", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("name", VARIANTS)
def test_tables_are_read_in_blocks(monkeypatch, name, block):
    """Wherever one ends: within a chunk, or within a byte of two sizes."""
    monkeypatch.setattr(tables, "BLOCK_SAMPLES", block)
    content = classic(VARIANTS[name], moov_last=True)
    at = content.index(b"moov") - 4

    assert prove(content) == mp4.Proof(doubt=None)
    assert prove(classic(VARIANTS[name], moov_last=True, shift=1)).doubt is not None
    # A byte less in the media moves all behind it.
    assert prove(content[: at - 1] + content[at:]).doubt is not None


@pytest.mark.parametrize("block", [1, 2, 3, 5, 7])
def test_runs_are_read_in_blocks(monkeypatch, block):
    """Of fragments likewise."""
    monkeypatch.setattr(fragments, "BLOCK_SAMPLES", block)
    content = fragmented(form=Fragments(mehd=666))

    assert prove(content) == mp4.Proof(doubt=None)
    assert prove(content[:-1]).doubt is not None


@pytest.mark.parametrize("name", mp4_boxes.FILMS)
def test_whole_layouts(name):
    """Each layout is whole, also where only its boxes tell its end."""
    content = mp4_boxes.FILMS[name]
    notes = {
        "quicktime": ("no ftyp",),
        "fragmented": (END_NOT_PROVABLE,),
        "segmented": (END_NOT_PROVABLE,),
    }

    assert prove(content) == prove(content, explicit_end=True)
    assert prove(content) == mp4.Proof(doubt=None, notes=notes.get(name, ()))


BEFORE = {
    "free": box(b"free", bytes(20)),
    "skip": box(b"skip", bytes(20)),
    "wide": box(b"wide"),
    "uuid": box(b"uuid", bytes(40)),
    "styp": box(b"styp", b"msdh\0\0\0\0"),
    "sidx": box(b"sidx", bytes(40)),
    "sidx cut": box(b"sidx", bytes(3)),
    "pdin": box(b"pdin", bytes(12)),
    "pnot": box(b"pnot", bytes(12)),
    "64 bit": box(b"free", bytes(12), long=True),
}


@pytest.mark.parametrize("first", BEFORE)
@pytest.mark.parametrize("film", ["faststart", "moov last"])
@pytest.mark.parametrize("ftyp", [FTYP, b""])
def test_what_comes_first_is_no_matter(first, film, ftyp):
    """A box before `ftyp`, or none, is noted."""
    head = BEFORE[first] + ftyp
    proof = prove(classic(before=head, moov_last=film == "moov last"))
    kind = BEFORE[first][4:8].decode()

    assert proof.doubt is None
    assert proof.notes == (f"{kind} comes first" if ftyp else "no ftyp",)


TRAILERS = {
    "zeros": bytes(512),
    "one byte": b"\0",
    "text": b"GPS 47.1 N 8.2 E\r\n",
    "crlf": b"\r\n",
    "riff": b"RIFF\x10\0\0\0WAVEfmt ",
    "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    "binary that parses": b"CCCC" * 20,
    "free cut short": struct.pack(">I4s", 4000, b"free") + bytes(30),
    "size below a head": struct.pack(">I4s", 5, b"abcd") + bytes(30),
    "64 bit cut short": struct.pack(">I4s", 1, b"free") + b"\0\0\0",
    "64 bit past the end": struct.pack(">I4sQ", 1, b"free", 2**64 - 1),
    "moof cut short": struct.pack(">I4s", 4000, b"moof"),
}


@pytest.mark.parametrize("film", ["faststart", "moov last", "64 bit", "quicktime"])
@pytest.mark.parametrize("trailer", TRAILERS)
def test_trailers_are_noted(film, trailer):
    """Cameras and disks leave things behind the last box; no sample lies there."""
    content = mp4_boxes.FILMS[film] + TRAILERS[trailer]
    proof = prove(content)
    number = len(TRAILERS[trailer])

    assert proof.doubt is None
    assert proof.notes[-1] == f"{number} byte{'s' if number > 1 else ''} {AT_END}"
    assert prove(content, explicit_end=True).doubt is not None


@pytest.mark.parametrize("kind", [b"\xfd\xfe\xff\0", b"ab\n\0", b"\xa9cam", b"zzzz"])
@pytest.mark.parametrize("film", ["faststart", "moov last"])
def test_a_box_of_any_type_is_passed(kind, film):
    """Its size tells where the next one begins; an odd type is noted."""
    content = FTYP + box(kind, bytes(9))
    content = classic(before=content, moov_last=film == "moov last")
    proof = prove(content + box(kind, bytes(9)))

    assert proof.doubt is None
    assert len(proof.notes) == (0 if kind in {b"\xa9cam", b"zzzz"} else 1)
    assert all(note.isascii() and note.isprintable() for note in proof.notes)


@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("film", ["fragmented", "segmented", "closed", "indexed"])
def test_a_fragmented_file_ends_with_a_whole_box(film, trailer):
    """What follows may be the start of a further fragment."""
    doubt = prove(mp4_boxes.FILMS[film] + TRAILERS[trailer]).doubt

    assert doubt is not None
    assert doubt.startswith("a fragmented file that ends with ")


def test_an_mdat_may_say_more_than_there_is():
    """If all samples are there; not in a fragmented file."""
    content = classic()
    at = content.index(b"mdat") - 4
    (size,) = struct.unpack_from(">I", content, at)
    content = content[:at] + words(size + 8) + content[at + 4 :]

    assert prove(content).doubt is None
    assert "8 bytes shorter than it says" in prove(content).notes[0]
    assert prove(content[:-1]).doubt is not None
    assert prove(content, explicit_end=True).doubt is not None


@pytest.mark.parametrize(
    ("content", "notes"),
    [
        (classic(), ()),
        (fragmented(form=Fragments(number=1)), (END_NOT_PROVABLE,)),
    ],
)
def test_an_mdat_without_a_size_is_judged_by_its_samples(content, notes):
    """It fits a file cut anywhere, so the end must have been announced."""
    at = content.rindex(b"mdat") - 4
    content = mp4_boxes.open_ended(content)
    open_ended = f"box mdat at offset {at} has no size"

    assert prove(content) == mp4.Proof(doubt=None, notes=(open_ended, *notes))
    assert prove(content[:-1]).doubt is not None
    assert prove(content, explicit_end=True).doubt == (
        "no end was announced, and its boxes do not prove it"
    )


FORMS = {
    "file": Fragments(base="file"),
    "implied": Fragments(base="implied"),
    "none": Fragments(base="none"),
    "two runs": Fragments(runs=2),
    "two runs, file": Fragments(base="file", runs=2),
    "two runs, implied": Fragments(base="implied", runs=2),
    "two runs, none": Fragments(base="none", runs=2),
    "segments with sidx": Fragments(styp=True, between=box(b"sidx", bytes(40))),
    "events": Fragments(between=box(b"emsg", bytes(30)) + box(b"prft", bytes(20))),
    "free between": Fragments(between=box(b"free", bytes(30))),
    "mdat between": Fragments(between=box(b"mdat", b"unused")),
}


@pytest.mark.parametrize("form", FORMS)
def test_whole_fragments(form):
    """Each way to say where the samples of a fragment lie is understood."""
    proof = prove(fragmented(form=FORMS[form]))

    assert proof == mp4.Proof(doubt=None, notes=(END_NOT_PROVABLE,))


@pytest.mark.parametrize("defaults", ["trex", "tfhd"])
def test_sizes_may_be_told_once(defaults):
    """For all samples of a track, or of a fragment of it."""
    tracks = (replace(VIDEO, samples=(b"\1" * 9,) * 12),)
    content = fragmented(tracks, Fragments(defaults=defaults))

    assert prove(content).doubt is None
    assert prove(content[:-1]).doubt is not None


def test_a_size_that_is_told_nowhere_is_missed():
    """Neither by the run nor by a default."""
    content = fragmented((VIDEO,), Fragments(defaults="trex"))
    content = content.replace(b"trex", b"xxxx")

    assert "does not say how long its samples are" in str(prove(content).doubt)


@pytest.mark.parametrize(
    ("form", "ends"),
    [
        (Fragments(), False),
        (Fragments(mfra=True), True),
        (Fragments(sidx=True), True),
        (Fragments(sidx=True, number=1), True),
        (Fragments(styp=True, between=box(b"sidx", bytes(40))), False),
        (Fragments(mehd=0), False),
        (Fragments(mehd=666), True),
        (Fragments(mehd=667), True),
        (Fragments(mehd=668), False),
        (Fragments(mehd=60_000), False),
    ],
)
def test_what_proves_the_end_of_a_fragmented_file(form, ends):
    """`mfra`, a `sidx` of the whole file, or the duration that `mehd` says."""
    proof = prove(fragmented(form=form))

    assert proof.doubt is None
    assert proof.notes == (() if ends else (END_NOT_PROVABLE,))


@pytest.mark.parametrize(("styp", "ends"), [(True, False), (False, True)])
def test_an_index_of_a_segment_proves_no_end(styp, ends):
    """It comes behind `styp`, and tells only how long its segment is."""
    content = fragmented(form=Fragments(number=1, styp=styp))
    at = content.index(b"moof") - 4
    rest = content[at:]
    index = full(b"sidx", 0, words(1, 1000, 0, 0, 1, len(rest), 0, 0))

    assert prove(content[:at] + index + rest).notes == (
        () if ends else (END_NOT_PROVABLE,)
    )


def test_what_comes_behind_mfra_opens_the_file_again():
    """Such as a second recording behind the first."""
    closed, later = fragmented(form=Fragments(mfra=True)), box(b"moof", bytes(0))

    assert prove(closed).notes == ()
    assert prove(closed + later).notes == (END_NOT_PROVABLE,)


def test_each_moov_must_be_proven():
    """One that points elsewhere makes the file doubtful, wherever it stands."""
    good, bad = classic(), classic(shift=5000)
    at = bad.index(b"moov") - 4
    moov = bad[at : bad.index(b"mdat") - 4]

    assert prove(good + good[at : at + len(moov)]).notes == ("2 moov boxes",)
    assert prove(good + moov).doubt is not None
    assert prove(good + moov[:-1]).doubt is not None


def test_the_pictures_of_each_moov_are_looked_at():
    """Though both describe a track of the same number."""
    hollow = replace(VIDEO, samples=(bytes(30), b"\1" * 30))
    first = classic((hollow,))

    assert prove(classic((VIDEO,), before=classic((VIDEO,)))).doubt is None
    assert str(prove(classic((VIDEO,), before=first)).doubt).endswith("is all zeros")


@pytest.mark.parametrize("runs", [[1000], [1] * 1000, [7, 0, 13, 500, 1] * 3])
def test_kept_samples_are_spread_evenly(runs):
    """However the samples come; the first and the last are among them."""
    spread, number = SpreadSamples(), 0

    def place(before: int, index: int) -> tuple[int, int]:
        return before + index, 1

    for run in runs:
        spread.add(run, partial(place, number))
        number += run
    *kept, last = [offset for offset, _ in spread.places()]

    assert last == number - 1
    assert 16 <= len(kept) < 32
    assert kept == list(range(0, number, kept[1]))


def moov_of(**changes) -> bytes:
    """Return a file of one track that is changed."""
    return classic((replace(VIDEO, **changes),))


def without(kind: bytes):
    """Return what takes a table out."""
    return lambda tables: tables.replace(kind, b"free")


def changed(old: bytes, new: bytes):
    """Return what changes the tables, and makes sure that it does."""

    def edit(tables: bytes) -> bytes:
        assert old in tables
        return tables.replace(old, new)

    return edit


EMPTY_MOOV = mp4_boxes.moov(TRACKS, [[], []])
DOUBTFUL = {
    "nothing": (b"", "the file is empty"),
    "ftyp": (FTYP, "no moov box; the last box ends at 24"),
    "no moov": (FTYP + box(b"mdat", b"x" * 99), "no moov box; the last box ends"),
    "no moov, cut": (
        (FTYP + box(b"mdat", b"x" * 99))[:-1],
        "no moov box; box mdat at offset 24, which is 1 byte shorter",
    ),
    "moov by its letters": (FTYP + b"junk junk" + classic()[24:], "no moov box; "),
    "moov in mdat": (FTYP + box(b"mdat", classic()), "no moov box; "),
    "moov cut": (classic(moov_last=True)[:-1], "box moov at offset 701 ends at"),
    "moov of zeros": (FTYP + box(b"moov", bytes(900)), "cannot be read"),
    "moov of nothing": (FTYP + box(b"moov"), "its moov describes no track"),
    "moov alone": (FTYP + EMPTY_MOOV, "it holds no samples"),
    "moov and an empty mdat": (FTYP + EMPTY_MOOV + box(b"mdat"), "it holds no samples"),
    "fragments to come": (fragmented(form=Fragments(number=0)), "it holds no samples"),
    "cmov": (FTYP + box(b"moov", box(b"cmov", bytes(90))), "compressed (cmov)"),
    "elsewhere": (moov_of(reference=0), "the media of track 1 lie in another file"),
    "elsewhere, fragments": (
        fragmented((replace(VIDEO, reference=0),)),
        "the media of track 1 lie in another file",
    ),
    "no stsd": (moov_of(edit=without(b"stsd")), "does not describe its samples"),
    "no stsc": (moov_of(edit=without(b"stsc")), "does not say where its samples lie"),
    "no stco": (moov_of(edit=without(b"stco")), "does not say where its samples lie"),
    "no stsz": (moov_of(edit=without(b"stsz")), "it holds no samples"),
    "no stbl": (moov_of(edit=without(b"stbl")), "has no stbl"),
    "stsz longer than its box": (
        moov_of(edit=changed(words(0, 20, 24), words(0, 21, 24))),
        "is shorter than the table in it",
    ),
    "stz2 of 12 bits": (
        moov_of(sizes=16, edit=changed(words(16, 20), words(12, 20))),
        "stz2 at offset",
    ),
    "stsc from chunk 2": (
        moov_of(edit=changed(words(1, 1, 4, 1), words(1, 2, 4, 1))),
        "does not count its chunks in order",
    ),
    "stsc of no samples": (
        moov_of(edit=changed(words(1, 1, 4, 1), words(1, 1, 0, 1))),
        "does not count its chunks in order",
    ),
    "stsc too short": (
        moov_of(edit=changed(words(1, 1, 4, 1), words(1, 1, 3, 1))),
        "5 samples of 20 lie in no chunk",
    ),
    "stsc empty": (
        moov_of(edit=changed(words(1, 1, 4, 1), words(0, 1, 4, 1))),
        "20 samples of 20 lie in no chunk",
    ),
    "no tfhd": (fragmented().replace(b"tfhd", b"free"), "no tfhd before its samples"),
    "trun longer than its box": (
        fragmented((VIDEO,)).replace(words(0x301, 5), words(0x301, 6)),
        "is shorter than the table in it",
    ),
    "MPEG-PS": (b"\0\0\1\xba\x44\0\4\0" + bytes(5000), "it is MPEG-PS, not mp4"),
    "MPEG-TS": ((b"\x47" + bytes(187)) * 9, "it is MPEG-TS, not mp4"),
    "MPEG-TS of disks": ((bytes(4) + b"\x47" + bytes(187)) * 9, "it is MPEG-TS, "),
    "Matroska": (b"\x1a\x45\xdf\xa3" + bytes(900), "it is Matroska or WebM, not mp4"),
    "AVI": (b"RIFF\0\1\0\0AVI LIST" + bytes(900), "it is AVI, not mp4"),
    "JPEG": (b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(900), "it is JPEG, not mp4"),
    "20 bytes": (bytes(range(20, 40)), "it does not begin as an mp4"),
}  # fmt: skip


@pytest.mark.parametrize("name", DOUBTFUL)
def test_doubtful(name):
    """What cannot be read, or points elsewhere, proves nothing; the text says what."""
    content, said = DOUBTFUL[name]
    proof = prove(content)

    assert proof.doubt is not None
    assert said in proof.doubt
    assert proof.notes == ()
    assert proof.doubt.isascii() and proof.doubt.isprintable()
    assert len(proof.doubt) < 160


def test_a_box_of_442_bytes_is_no_mpeg_ps():
    """Though its size is written as the mark of one."""
    assert "MPEG-PS" not in str(prove(box(b"moof", bytes(434))).doubt)


def test_a_chunk_table_may_be_longer_than_the_samples():
    """The last chunk is often not full, and some recorders leave empty ones."""
    tracks = (replace(VIDEO, edit=changed(words(1, 1, 4, 1), words(1, 1, 7, 1))),)
    apart = replace(VIDEO, samples=pictures(7), chunks=(4,))
    not_full = changed(words(2, 1, 4, 1, 2, 3, 1), words(2, 1, 4, 1, 2, 4, 1))

    assert prove(classic((replace(apart, edit=not_full),))) == mp4.Proof(doubt=None)
    assert prove(classic(tracks)).doubt is None


@pytest.mark.parametrize("number", [1, 2, 15, 16, 17, 100, 1000])
@pytest.mark.parametrize("make", [classic, fragmented])
@pytest.mark.parametrize("which", ["first", "last", "second half"])
def test_pictures_of_zeros_are_doubted(number, make, which):
    """The first and the last are always looked at, and enough between them."""
    made = list(pictures(number))
    hollow = {
        "first": range(1),
        "last": range(number - 1, number),
        "second half": range(number // 2, number),
    }
    for index in hollow[which]:
        made[index] = bytes(len(made[index]))

    form = {} if make is classic else {"form": Fragments(number=min(number, 7))}
    assert (
        prove(make((replace(VIDEO, samples=pictures(number)), SOUND), **form)).doubt
        is None
    )
    doubt = prove(make((replace(VIDEO, samples=tuple(made)), SOUND), **form)).doubt
    assert doubt is not None
    assert doubt.endswith("is all zeros")


def test_a_picture_may_begin_with_zeros():
    """All of it is looked at, up to a mebibyte."""
    samples = (bytes(50_000) + b"\1", bytes(5000) + b"\1" * 5)

    assert prove(classic((replace(VIDEO, samples=samples),))).doubt is None


def test_sound_in_packets():
    """Old QuickTime counts samples of one byte, whatever the packets hold."""
    table = box(b"ms\0\2", bytes(6), b"\0\1", b"\0\1", bytes(18), words(64, 17, 34, 2))
    packets = (b"s" * 34,) * 10

    def edit(tables: bytes) -> bytes:
        """Say that the 10 packets are 640 samples."""
        stsd = full(b"stsd", 0, words(1), box(b"sowt", bytes(6), b"\0\1", bytes(70)))
        tables = changed(stsd, full(b"stsd", 0, words(1), table))(tables[8:])
        tables = changed(words(34, 10), words(1, 640))(tables)
        return box(b"stbl", changed(words(1, 1, 5, 1), words(1, 1, 320, 1))(tables))

    track = Track(
        handler=b"soun", samples=packets, chunks=(5,), sizes=0, entry=b"sowt", edit=edit
    )
    content = classic((track,), moov_last=True)
    at = content.index(b"moov")

    assert prove(content).doubt is None
    assert prove(content[: at - 5] + content[at - 4 :]).doubt is not None


def test_size_bounds_the_proof(tmp_path):
    """Bytes of the file beyond the size given are not looked at."""
    path = tmp_path / "longer"
    path.write_bytes(classic() + b"what is not yet proven")
    with path.open("rb") as file:
        assert mp4.prove(file.fileno(), len(classic())) == mp4.Proof(doubt=None)
        assert file.tell() == 0


def test_a_file_that_cannot_be_read_is_not_doubted(tmp_path):
    """That is a fault of the disk."""
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(IsADirectoryError):
        mp4.prove(fd, 1000)
    os.close(fd)
