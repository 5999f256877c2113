"""Where the end of an attempt leaves an export."""

from __future__ import annotations

import pytest

from mirror.errors import FetchError, FileGoneError
from mirror.lifecycle.attempt_end import timed_out


@pytest.mark.parametrize(
    ("failure", "is_so"),
    [
        (FetchError("timeout", ""), True),
        (FetchError("too_slow", ""), True),
        (FetchError("cut", ""), False),
        (FileGoneError("file_gone", ""), False),
        (None, False),
    ],
)
def test_what_ended_because_it_took_too_long(failure, is_so):
    """Such an export yields to others at its next try."""
    assert timed_out(failure) is is_so
