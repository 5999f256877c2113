"""Name other formats that recorders write, by their first bytes."""

from __future__ import annotations

from typing import Final

_TS_SYNC: Final = 0x47
_FORMATS: Final = (
    (0, b"\0\0\1\xba", "MPEG-PS"),
    (0, b"IMKH", "Hikvision MPEG-PS (IMKH)"),
    (0, b"DHAV", "Dahua DAV"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM"),
    (8, b"AVI ", "AVI"),
    (8, b"WAVE", "WAV"),
    (0, b"FLV\1", "FLV"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "ASF"),
    (0, b"OggS", "Ogg"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG", "PNG"),
    (0, b"GIF8", "GIF"),
    (0, b"%PDF", "PDF"),
    (0, b"PK\3\4", "ZIP"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"\0\0\0\1", "a raw video stream"),
    (0, b"\0\0\1", "a raw video stream"),
)


def name_of(head: bytes) -> str | None:
    """Return the name of the format a file begins as, if it is one of these.

    Args:
        head: Its first 400 bytes or more, or all of it.
    """
    for offset, magic, name in _FORMATS:
        if head.startswith(magic, offset):
            return name
    for start, step in ((0, 188), (4, 192)):
        syncs = head[start : start + 2 * step + 1 : step]
        if len(syncs) > 1 and set(syncs) == {_TS_SYNC}:
            return "MPEG-TS"
    return None
