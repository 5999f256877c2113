"""Cut at and around every edge of a box, a file is what is left of it."""

from __future__ import annotations

import pytest

from mirror.mp4 import END_NOT_PROVABLE
from mirror.simulator.footage import CLIPS, footage
from tests import mp4_boxes
from tests.mp4_boxes import Fragments, box, classic, fragmented
from tests.mp4_proof import prove
from tests.unit.test_mp4 import FIELD

NEAR = range(-8, 9)
HOLDERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"mvex", b"moof", b"traf")
CLASSIC = {
    **{
        name: mp4_boxes.FILMS[name]
        for name in ("faststart", "moov last", "64 bit", "several mdat", "quicktime")
    },
    "moov first, free last": classic() + box(b"free", bytes(30)),
    "moov last, free last": classic(moov_last=True) + box(b"free", bytes(30)),
    "free first": classic(before=box(b"free", bytes(9)) + mp4_boxes.FTYP),
    "shipped, moov first": footage("moov-first", 20_000, 1).read(),
    "shipped, moov last": footage("moov-last", 20_000, 1).read(),
    "field": (FIELD / "good_base.mp4").read_bytes(),
    "field, moov beside": (FIELD / "no_ftyp_wide_first.mov").read_bytes(),
}
FRAGMENTED = {
    **{
        name: mp4_boxes.FILMS[name]
        for name in ("fragmented", "closed", "segmented", "indexed")
    },
    "events": fragmented(form=Fragments(between=box(b"emsg", bytes(30)))),
    "one fragment": fragmented(form=Fragments(number=1, mfra=True)),
    "shipped": footage("fragmented", None, 1).read(),
    "field": (FIELD / "growing.mp4").read_bytes(),
}


def edges(content: bytes, start: int = 0) -> set[int]:
    """Return where boxes begin and end, as far down as they are looked at."""
    found = {start}
    for kind, begin, end in mp4_boxes.top(content):
        found |= {start + begin, start + end}
        if kind in HOLDERS:
            found |= edges(content[begin + 8 : end], start + begin + 8)
    return found


def cuts(content: bytes) -> list[int]:
    """Return the lengths to cut it to."""
    near = {edge + by for edge in edges(content) for by in NEAR}
    return sorted(cut for cut in near if 0 <= cut <= len(content))


@pytest.mark.parametrize("name", CLASSIC)
def test_what_a_moov_describes_is_there_or_not(name):
    """Whole from the last byte of `moov` and samples on, doubtful before."""
    content = CLASSIC[name]
    needed = max(
        end for kind, _, end in mp4_boxes.top(content) if kind in {b"moov", b"mdat"}
    )
    wrong = [
        (cut, proof)
        for cut in cuts(content)
        if ((proof := prove(content[:cut])).doubt is None) is not (cut >= needed)
    ]

    assert wrong == []


@pytest.mark.parametrize("name", FRAGMENTED)
def test_fragments_are_there_up_to_an_edge(name):
    """Whole at an edge that is not between `moof` and `mdat`, if one has come."""
    content = FRAGMENTED[name]
    tops = mp4_boxes.top(content)
    fragments = [end for kind, _, end in tops if kind == b"mdat"]
    good = {end for kind, _, end in tops if end >= fragments[0] and kind != b"moof"}
    wrong = [
        (cut, proof)
        for cut in cuts(content)
        if ((proof := prove(content[:cut])).doubt is None) is not (cut in good)
    ]
    assert wrong == []

    open_ended = {cut for cut in good if END_NOT_PROVABLE in prove(content[:cut]).notes}
    # Nothing but an index follows the last fragment.
    assert open_ended >= {cut for cut in good if cut < fragments[-1]}


@pytest.mark.parametrize("clip", CLIPS)
def test_every_cut_of_a_small_file_is_doubtful_or_at_an_edge(clip):
    """At any byte, of the three that are shipped; a prime step keeps it quick."""
    content = footage(clip, None, 3).read()
    tops = {end for _, _, end in mp4_boxes.top(content)}
    whole = [
        cut for cut in range(0, len(content), 7) if prove(content[:cut]).doubt is None
    ]

    assert set(whole) <= tops


@pytest.mark.parametrize("film", mp4_boxes.FILMS)
def test_a_cut_is_never_proven_by_its_boxes_alone(film):
    """Nor is one to which neither length nor chunks gave an end."""
    content = mp4_boxes.FILMS[film]
    for cut in cuts(content):
        proof = prove(content[:cut], explicit_end=True)
        at_edge = cut in {end for _, _, end in mp4_boxes.top(content)}

        assert proof.doubt is not None or at_edge
