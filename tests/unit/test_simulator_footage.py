"""Simulated footage is a real mp4, readable from anywhere."""

import hashlib
from itertools import pairwise

import pytest

from mirror.simulator.footage import (
    CLIPS,
    Filler,
    footage,
    load_clip,
    noise,
    without_moov,
)

MIB = 1024 * 1024


def boxes(whole: bytes) -> list[tuple[str, int, int]]:
    """Return (kind, start, stop) of each top-level box."""
    found = []
    offset = 0
    while offset < len(whole):
        size = int.from_bytes(whole[offset : offset + 4])
        if size == 1:
            size = int.from_bytes(whole[offset + 8 : offset + 16])
        assert size >= 8
        found.append((whole[offset + 4 : offset + 8].decode(), offset, offset + size))
        offset += size
    assert offset == len(whole)
    return found


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("size", [None, 20_000, 3 * MIB + 17])
def test_boxes_tile_the_file_whatever_its_size(clip: str, size: int | None) -> None:
    content = footage(clip, size, seed=7)
    whole = content.read()

    assert len(whole) == content.size_bytes == (size or len(load_clip(clip).data))
    kinds = [kind for kind, _, _ in boxes(whole)]
    assert kinds[0] == "ftyp"
    assert kinds.count("moov") == 1
    assert content.sha256 == hashlib.sha256(whole).hexdigest()


def test_each_clip_keeps_its_moov_where_its_name_says() -> None:
    first = [kind for kind, _, _ in boxes(footage("moov-first", MIB, 1).read())]
    last = [kind for kind, _, _ in boxes(footage("moov-last", MIB, 1).read())]
    fragmented = [kind for kind, _, _ in boxes(footage("fragmented", MIB, 1).read())]

    assert first.index("moov") < first.index("mdat")
    assert last[-1] == "moov"
    assert fragmented.count("moof") > 1


def test_a_filler_past_four_gib_has_its_size_in_64_bits() -> None:
    size = 2**32 + 5 * MIB
    content = footage("moov-first", size, seed=3)
    clip = load_clip("moov-first")

    head = content.read(clip.gap, clip.gap + 16)
    assert head[:8] == b"\0\0\0\1free"
    assert int.from_bytes(head[8:]) == size - len(clip.data)
    assert content.size_bytes == size
    assert len(content.read(size - 100)) == 100


@pytest.mark.parametrize("clip", CLIPS)
def test_any_range_equals_that_part_of_the_whole(clip: str) -> None:
    content = footage(clip, 2 * MIB + 99, seed=11)
    whole = content.read()
    edges = [0, 1, 8, 1400, 15_855, 15_863, 70_000, MIB, MIB + 15_870, 2 * MIB + 99]

    for start, stop in pairwise(edges):
        assert content.read(start, stop) == whole[start:stop]
        assert content.cut(stop).read() == whole[:stop]
    assert content.read(2 * MIB, 9 * MIB) == whole[2 * MIB :]


def test_seeds_change_bytes_all_over_the_file_but_not_its_shape() -> None:
    one = footage("moov-first", 4 * MIB, seed=1)
    two = footage("moov-first", 4 * MIB, seed=2)

    assert one.size_bytes == two.size_bytes
    assert boxes(one.read()) == boxes(two.read())
    assert one.read(0, 4096) != two.read(0, 4096)
    for start in range(16_000, 4 * MIB - 4096, 100_000):
        assert one.read(start, start + 4096) != two.read(start, start + 4096)
    assert one.read() == footage("moov-first", 4 * MIB, seed=1).read()


def test_blocks_of_filler_differ_from_each_other() -> None:
    filler = Filler(seed=5, length=4 * MIB)
    blocks = {
        b"".join(filler.chunks(start + 100, start + 5000))
        for start in range(0, 4 * MIB, MIB)
    }

    assert len(blocks) == 4


@pytest.mark.parametrize("clip", CLIPS)
def test_without_moov_the_other_boxes_still_tile_the_file(clip: str) -> None:
    whole = footage(clip, MIB, seed=1)
    maimed = without_moov(clip, whole)

    kinds = [kind for kind, _, _ in boxes(maimed.read())]
    assert "moov" not in kinds
    assert "mdat" in kinds
    assert maimed.size_bytes < whole.size_bytes


def test_noise_is_no_mp4() -> None:
    assert noise(1, 1000).read(4, 8) != b"ftyp"
    assert noise(1, 1000).size_bytes == 1000


def test_a_size_between_clip_and_box_is_refused_with_what_would_do() -> None:
    clip = len(load_clip("moov-first").data)

    with pytest.raises(ValueError, match=str(clip + 8)):
        footage("moov-first", clip + 3, seed=1)
    with pytest.raises(ValueError, match="moov-last"):
        footage("nonesuch", None, seed=1)
