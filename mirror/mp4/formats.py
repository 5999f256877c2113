"""Name other formats that come under the name of an mp4, by their first bytes."""

from __future__ import annotations

import re
from typing import Final

HEAD_BYTES: Final = 400
_TS_PACKETS: Final = ((0, 188), (4, 192))
_TS_SYNC: Final = b"\x47\x47"
_FORMATS: Final = (
    # A box of 442 bytes begins with the same four, and then has a type.
    (re.compile(rb"\x00\x00\x01\xba(?![ -~]{4})"), "MPEG-PS"),
    (re.compile(rb"IMKH"), "Hikvision MPEG-PS (IMKH)"),
    (re.compile(rb"DHAV"), "Dahua DAV"),
    (re.compile(rb"\x1a\x45\xdf\xa3"), "Matroska or WebM"),
    (re.compile(rb"RIFF.{4}AVI ", re.DOTALL), "AVI"),
    (re.compile(rb"RIFF.{4}WAVE", re.DOTALL), "WAV"),
    (re.compile(rb"FLV\x01"), "FLV"),
    (re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"), "ASF or WMV"),
    (re.compile(rb"OggS"), "Ogg"),
    (re.compile(rb"\xff\xd8\xff"), "JPEG"),
    (re.compile(rb"\x89PNG"), "PNG"),
    (re.compile(rb"GIF8"), "GIF"),
    (re.compile(rb"%PDF"), "PDF"),
    (re.compile(rb"PK\x03\x04"), "ZIP"),
    (re.compile(rb"\x1f\x8b"), "gzip"),
)


def name_of(head: bytes) -> str | None:
    """Return the format that a file's first `HEAD_BYTES` are of, if it is one known."""
    for magic, name in _FORMATS:
        if magic.match(head):
            return name
    for start, length in _TS_PACKETS:
        if head[start : start + length + 1 : length] == _TS_SYNC:
            return "MPEG-TS"
    return None
