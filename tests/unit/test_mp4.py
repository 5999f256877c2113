"""The box walker: what is a whole mp4, and what is said of the rest."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror import mp4

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Check = Callable[..., str | None]


def box(kind: bytes, body: bytes = b"", *, long: bool = False) -> bytes:
    """Return one box with its size written in 32 or 64 bits."""
    if long:
        return struct.pack(">I4sQ", 1, kind, 16 + len(body)) + body
    return struct.pack(">I4s", 8 + len(body), kind) + body


FTYP = box(b"ftyp", b"isom\0\0\2\0isommp41")
MOOV = box(b"moov", box(b"mvhd", bytes(100)))
MDAT = box(b"mdat", bytes(range(256)) * 4)
FRAGMENT = box(b"moof", bytes(64)) + box(b"mdat", bytes(300))
OPEN_MDAT = struct.pack(">I4s", 0, b"mdat") + bytes(500)


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Return a check of the given bytes as a file."""

    def run(content: bytes, *, explicit_end: bool = False) -> str | None:
        path = tmp_path / "film"
        path.write_bytes(content)
        fd = os.open(path, os.O_RDONLY)
        try:
            return mp4.check(fd, len(content), explicit_end=explicit_end)
        finally:
            os.close(fd)

    return run


@pytest.mark.parametrize(
    "content",
    [
        FTYP + MOOV + MDAT,
        FTYP + MDAT + MOOV,
        FTYP + MOOV + FRAGMENT * 50 + box(b"mfra", bytes(40)),
        FTYP + box(b"mdat", bytes(70_000), long=True) + MOOV,
        FTYP + box(b"uuid", bytes(16)) + box(b"free") + MOOV + box(b"\xa9xyz") + MDAT,
        FTYP + box(b"vnd ", b"unknown to all") + MDAT + MOOV,
        box(b"ftyp", b"isom\0\0\2\0", long=True) + MOOV,
    ],
    ids=[
        "moov first",
        "moov last",
        "fragmented",
        "64 bit",
        "extras",
        "unknown",
        "ftyp",
    ],
)
def test_whole(check: Check, content: bytes) -> None:
    """What tiles the file, begins with ftyp and has a moov, is whole."""
    assert check(content) is None
    assert check(content, explicit_end=True) is None


def test_box_to_the_end(check: Check) -> None:
    """A last box without a size counts only where the body's end was announced."""
    assert check(FTYP + MOOV + OPEN_MDAT) is None

    assert check(FTYP + MOOV + OPEN_MDAT, explicit_end=True) == (
        f"box mdat at offset {len(FTYP + MOOV)} has no size, so its end is not proven"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (FTYP, f"no moov box up to the end at offset {len(FTYP)}"),
        (FTYP + MDAT, "no moov box"),
        (FTYP + OPEN_MDAT + MOOV, "no moov box"),
        (MOOV + FTYP + MDAT, "box moov comes first, not ftyp"),
        (box(b"styp") + MOOV, "box styp comes first"),
        (FTYP + MOOV + MDAT[:-1], f"box mdat at offset {len(FTYP + MOOV)} ends at "),
        (FTYP + MDAT + MOOV[:-1], f"box moov at offset {len(FTYP + MDAT)} ends at "),
        (FTYP + MOOV + MDAT[:7], "the file ends within a box head at offset"),
        (FTYP + MOOV + b"\0", "the file ends within a box head at offset"),
        (FTYP + MOOV + struct.pack(">I4sI", 1, b"mdat", 0), "within a box head"),
        (FTYP + MOOV + struct.pack(">I4s", 7, b"mdat"), "says it is 7 bytes long"),
        (FTYP + MOOV + struct.pack(">I4sQ", 1, b"mdat", 15), "says it is 15 bytes"),
        (
            FTYP + MOOV + struct.pack(">I4sQ", 1, b"mdat", 2**64 - 1),
            "but the file at",
        ),
        (FTYP + MOOV + bytes(512), r"its type is \x00\x00\x00\x00"),
        (FTYP + MOOV + box(b"md\nt"), "no box at offset"),
        (FTYP + MOOV + box(b"\xfdmov"), "no box at offset"),
        (b"<!DOCTYPE html><title>404</title>", "box CTYP comes first, not ftyp"),
        (b'{"error":"not found"}', 'box ror" comes first, not ftyp'),
    ],
)
def test_not_whole(check: Check, content: bytes, reason: str) -> None:
    """The reason names the box, where there is one, and the offset."""
    found = check(content)

    assert found is not None
    assert reason in found
    assert found.isascii()
    assert found.isprintable()


@pytest.mark.parametrize("content", [FTYP + MOOV + MDAT, FTYP + MDAT + MOOV])
def test_every_cut_shows(check: Check, content: bytes) -> None:
    """A file cut anywhere but right after its moov is refused."""
    missed = [cut for cut in range(len(content)) if check(content[:cut]) is None]

    assert missed == ([len(FTYP + MOOV)] if content.startswith(FTYP + MOOV) else [])


def test_size_bounds_the_walk(check: Check, tmp_path: Path) -> None:
    """Bytes of the file beyond the size given are not looked at."""
    path = tmp_path / "longer"
    path.write_bytes(FTYP + MOOV + MDAT + b"what is not yet proven")
    with path.open("rb") as file:
        assert mp4.check(file.fileno(), len(FTYP + MOOV + MDAT)) is None
        assert file.tell() == 0


def test_endless_boxes(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of boxes is bounded."""
    monkeypatch.setattr(mp4, "MAX_BOXES", 100)

    assert check(FTYP + MOOV + box(b"free") * 98) is None
    assert "more than 100 boxes" in str(check(FTYP + MOOV + box(b"free") * 99))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), keep_head=st.booleans())
def test_any_bytes(check: Check, content: bytes, keep_head: bool) -> None:
    """No bytes make it fail other than by a reason."""
    found = check((FTYP if keep_head else b"") + content)

    assert found is None or found


@pytest.mark.parametrize(
    ("head", "is_mp4"),
    [
        (FTYP[:8], True),
        (FTYP, True),
        (b"\0\0\0\1ftyp", True),
        (FTYP[:7], False),
        (b"", False),
        (b"\0\0\0\0ftyp", False),
        (b"\0\0\0\7ftyp", False),
        (b"\0\0\0\x18moov", False),
        (b"<!DOCTYPE html>", False),
        (b'{"a":"ftyp"}', False),
        (b"\0\0\0\x18FTYP", False),
    ],
)
def test_begins_as_mp4(head: bytes, is_mp4: bool) -> None:
    assert mp4.begins_as_mp4(head) is is_mp4
