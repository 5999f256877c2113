"""How the rest of a file is asked for, and what an answer teaches of its ETag."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from mirror.model import EtagUse
from mirror.pipeline.fetch.resume import OVERLAP_BYTES, learn, point
from mirror.ports import Validators
from mirror.vms.file_answer import range_headers

E1, E2, WEAK = '"e1"', '"e2"', 'W/"e1"'
D1, D2 = "Mon, 23 Nov 2026 08:00:00 GMT", "Mon, 23 Nov 2026 09:00:00 GMT"
KNOWN = Validators(total_bytes=900_000, etag=E1, last_modified=D1, firm=True)
SIZE = 500_000


@dataclass
class Answer:
    """What an answer says."""

    start_bytes: int = 0
    total_bytes: int | None = 900_000
    explicit_end: bool = True
    etag: str | None = E1
    last_modified: str | None = D1
    firm: bool = True

    async def fill(self, *_: object) -> bool:
        return False


def known(**changes: Any) -> Validators:
    values: dict[str, Any] = {
        "total_bytes": 900_000,
        "etag": E1,
        "last_modified": D1,
        "firm": True,
    }
    return Validators(**(values | changes))


@pytest.mark.parametrize(
    ("use", "facts", "start", "by"),
    [
        (EtagUse.GUARDS, KNOWN, SIZE, E1),
        (EtagUse.GUARDS, known(firm=False), SIZE, E1),
        (EtagUse.GUARDS, known(etag=None), SIZE, D1),
        (EtagUse.GUARDS, known(etag=None, firm=False), None, None),
        (EtagUse.GUARDS, known(etag=WEAK, firm=False), None, None),
        (EtagUse.COMPARES, KNOWN, SIZE - OVERLAP_BYTES, D1),
        (EtagUse.COMPARES, known(firm=False), None, None),
        (EtagUse.NONE, KNOWN, SIZE - OVERLAP_BYTES, D1),
        (EtagUse.NONE, known(firm=False), None, None),
        (EtagUse.NONE, known(last_modified=None), None, None),
    ],
)
def test_what_guards_the_rest(use, facts, start, by):
    """A date only if it is of one version alone, and an overlap where no ETag does."""
    headers = range_headers(point(SIZE, facts, use))

    assert headers.get("Range") == (None if start is None else f"bytes={start}-")
    assert headers.get("If-Range") == by


def test_all_that_is_held_is_compared_if_it_is_less():
    assert range_headers(point(7, KNOWN, EtagUse.NONE))["Range"] == "bytes=0-"


@pytest.mark.parametrize("use", list(EtagUse))
@pytest.mark.parametrize(
    ("facts", "answer", "taught"),
    [
        (KNOWN, Answer(etag=E2), EtagUse.NONE),
        (known(firm=False), Answer(etag=E2), EtagUse.NONE),
        (known(etag=WEAK), Answer(etag='W/"e2"'), EtagUse.NONE),
        (KNOWN, Answer(), EtagUse.COMPARES),
        (known(etag=WEAK), Answer(etag=WEAK), None),
        (KNOWN, Answer(etag=E2, total_bytes=900_001), None),
        (KNOWN, Answer(etag=E2, total_bytes=None), None),
        (KNOWN, Answer(etag=E2, last_modified=D2), None),
        (KNOWN, Answer(etag=E2, last_modified=None), None),
        (KNOWN, Answer(etag=None), None),
        (KNOWN, Answer(etag=E2, start_bytes=SIZE), None),
        (known(etag=None), Answer(etag=E2), None),
        (known(total_bytes=None), Answer(etag=E2, total_bytes=None), None),
        (known(last_modified=None), Answer(etag=E2, last_modified=None), None),
        (Validators(), Answer(etag=E2), None),
    ],
)
def test_what_a_full_answer_teaches(use, facts, answer, taught):
    """Only one of equal length and date does; what was learnt is never unlearnt."""
    asked = point(SIZE, facts, use)
    expected = use
    if taught is EtagUse.NONE or (taught and use is EtagUse.GUARDS):
        expected = taught

    assert learn(use, facts, asked, answer) is expected


def test_an_answer_to_who_asked_for_the_whole_does_not_show_what_is_heeded():
    asked = point(0, KNOWN, EtagUse.GUARDS)

    assert learn(EtagUse.GUARDS, KNOWN, asked, Answer()) is EtagUse.GUARDS
    assert learn(EtagUse.GUARDS, KNOWN, asked, Answer(etag=E2)) is EtagUse.NONE
