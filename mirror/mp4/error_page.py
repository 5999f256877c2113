"""Tell an error page from footage, by its first bytes alone."""

from __future__ import annotations

import codecs
import re
from typing import Final

HEAD_BYTES: Final = 4096
"""How many first bytes are judged; all of a shorter body."""

_CONTROL: Final = re.compile("[\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_CONTROL_BYTE: Final = re.compile(rb"[\0-\x08\x0e-\x1f\x7f]")
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_MOSTLY: Final = 0.75
_LONG_BYTES: Final = 256
"""Footage this long holds a control character, unless it is one high byte repeated."""
_SOME: Final = 0.02


def is_error_page(head: bytes) -> bool:
    """Tell whether a body that begins so is text, or nothing, instead of a file.

    Text is UTF-8, UTF-16, or one of the older sets that keep ASCII (Latin-1, GBK),
    and has no control characters but white space.
    """
    for bom, charset in _BOMS:
        if head.startswith(bom):
            return _text(head[len(bom) :], charset) is not None
    if _text(head, "utf-8") is not None:
        return True
    share = _MOSTLY if len(head) < _LONG_BYTES else _SOME
    if not _CONTROL_BYTE.search(head) and _has_ascii(head.decode("latin-1"), share):
        return True
    texts = (_text(head, charset) for charset in ("utf-16-le", "utf-16-be"))
    return any(text and _has_ascii(text, _MOSTLY) for text in texts)


def _text(head: bytes, charset: str) -> str | None:
    """Return the head as text; a character cut at its end does not count."""
    try:
        text = codecs.getincrementaldecoder(charset)().decode(head)
    except UnicodeDecodeError:
        return None
    return None if _CONTROL.search(text) else text


def _has_ascii(text: str, share: float) -> bool:
    return len(text.encode("ascii", "ignore")) >= share * len(text)
