"""A page in place of the file is told by its bytes."""

from __future__ import annotations

import codecs
import json
import random

import pytest

from mirror.mp4 import HEAD_BYTES, is_error_page
from mirror.simulator.footage import CLIPS, footage
from tests import mp4_boxes
from tests.unit.test_mp4 import FIELD

HTML = "<!DOCTYPE html>\r\n<html>\t<title>404 »nicht gefunden«</title></html>\n"
PAGES = {
    "nothing": b"",
    "html": HTML.encode(),
    "html, long": HTML.encode() * 900,
    "json": json.dumps({"error": "no such file", "code": 404}).encode(),
    "xml": b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>',
    "text": b"Not found",
    "one letter": b"0",
    "white space": b"\r\n\r\n \t\f",
    "utf-8": "Файл не найден".encode(),
    "utf-8 bom": codecs.BOM_UTF8 + HTML.encode(),
    "utf-8 bom alone": codecs.BOM_UTF8,
    "utf-8 cut": ("x" + "€" * HEAD_BYTES).encode()[:HEAD_BYTES],
    "utf-16 le bom": codecs.BOM_UTF16_LE + HTML.encode("utf-16-le"),
    "utf-16 be bom": codecs.BOM_UTF16_BE + HTML.encode("utf-16-be"),
    "utf-16 le": HTML.encode("utf-16-le"),
    "utf-16 be": HTML.encode("utf-16-be"),
    "utf-16 le cut": HTML.encode("utf-16-le")[:-1],
    "utf-16 of chinese": codecs.BOM_UTF16_LE + ("找不到文件" * 9).encode("utf-16-le"),
    "utf-16 be of chinese": "\ufeff找不到文件".encode("utf-16-be"),
    "latin-1": "Fichier supprimé, réessayez".encode("latin-1"),
    "cp1252": "that\u2019s gone, we\u2019re sorry".encode("cp1252"),
    "gbk": ("<html>" + "找不到文件" * 60 + "</html>").encode("gbk"),
    "cp1251": ("Файл не найден. " * 20).encode("cp1251"),
}
FOOTAGE = {
    **mp4_boxes.FILMS,
    **{path.name: path.read_bytes() for path in FIELD.iterdir()},
    **{name: footage(name, None, 5).read() for name in CLIPS},
    "20 binary bytes": bytes(range(20)),
    "one byte": b"\0",
    "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xdb",
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "mpeg-ps": b"\0\0\1\xba\x44\0\4\0\4\1\0\1\x89\xc3\xf8",
    "mpeg-ts": (b"G@\0\x10\0\0\xb0\r" + b"\xff" * 180) * 3,
    "matroska": b"\x1a\x45\xdf\xa3\x9fB\x86\x81\1B\xf7\x81\1",
    "avi": b"RIFF\x24\x20\2\0AVI LIST\x2a\1\0\0hdrlavih8\0\0\0",
    "gzip": b"\x1f\x8b\x08\0\0\0\0\0\0\3",
    "zeros": bytes(5000),
    "erased flash": b"\xff" * 5000,
    "high bytes": bytes(range(128, 256)) * 40,
    "text, then binary": b"hello world " * 30 + b"\0",
    "utf-16 bom, then binary": codecs.BOM_UTF16_LE + bytes(40),
    "noise with a utf-16 bom": b"\xff\xfe" + random.Random(1).randbytes(500),
    "utf-32": HTML.encode("utf-32-le"),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page(name):
    """All text, in any usual character set, or nothing."""
    assert is_error_page(PAGES[name][:HEAD_BYTES])


@pytest.mark.parametrize("name", FOOTAGE)
def test_no_page(name):
    """Anything that is not all text, an mp4 under any Content-Type included."""
    assert not is_error_page(FOOTAGE[name][:HEAD_BYTES])


def test_noise_is_no_page():
    """Of 20 random bytes hardly any, of more none."""
    noise = random.Random(6414)

    assert sum(is_error_page(noise.randbytes(20)) for _ in range(2000)) <= 10
    assert not any(is_error_page(noise.randbytes(200)) for _ in range(500))


@pytest.mark.parametrize("name", mp4_boxes.FILMS)
@pytest.mark.parametrize("length", [1, 2, 4, 7, 8, 12, 24, 100])
def test_the_begin_of_an_mp4_is_no_page(name, length):
    """However few bytes came before a line broke."""
    assert not is_error_page(mp4_boxes.FILMS[name][:length])
