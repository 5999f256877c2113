"""Proves bytes as a file."""

from __future__ import annotations

import os

from mirror import mp4


def prove(content: bytes, *, explicit_end: bool = False) -> mp4.Proof:
    """Return what is proven of a file of these bytes."""
    fd = os.memfd_create("film")
    try:
        os.pwritev(fd, [content], 0)
        return mp4.prove(fd, len(content), explicit_end=explicit_end)
    finally:
        os.close(fd)
