"""The resume matrix sees the bugs that it is there for.

The matrix itself, each behaviour at each point, is
`tests/integration/test_hostile_files.py::test_resume_matrix`.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from typing_extensions import override

from mirror.errors import FetchError
from mirror.mp4.proof import Proof
from mirror.pipeline.spool.part import Part
from mirror.simulator import Vms
from mirror.vms import file_answer
from mirror.vms.file_answer import Offer
from tests.integration import test_hostile_files as matrix
from tests.site import Site

if TYPE_CHECKING:
    from mirror.ports import ResumePoint

_POINTS = len(matrix.POINTS) + len(matrix.UNTOLD)


@pytest.fixture
async def vms():
    async with Vms() as served:
        yield served


@pytest.fixture
def site(tmp_path, vms):
    made = Site.make(tmp_path, vms, concurrency=16)
    made.tables["transfer"] |= {"max_file_size": "600KB"}
    return made


def test_the_matrix_is_as_large_as_is_said(figures):
    """Each behaviour meets a resume at every point that is promised."""
    points = {0, 1, 10, 65_535, 65_536, 65_537, matrix.SIZE // 2}
    assert points | {matrix.SIZE - 1, matrix.SIZE} == set(matrix.POINTS.values())
    assert len(matrix.MATRIX) >= 30
    behaviours = len(matrix.MATRIX)
    figures.record(6, behaviours=behaviours, points=_POINTS, cells=behaviours * _POINTS)


def _continued(point: ResumePoint, length: int | None, total: int | None) -> Offer:
    """Return the offer of a body that goes on where the held bytes end."""
    return Offer(
        start_bytes=point.size_bytes,
        total_bytes=total,
        length=length,
        explicit_end=True,
        etag=point.etag,
        last_modified=point.last_modified,
        firm=point.firm,
    )


def content_range_unread(judge, status, headers, *, point, **more):
    """Take any 206 for the rest that was asked for."""
    if status != 206:
        return judge(status, headers, point=point, **more)
    length = headers.get("Content-Length")
    return _continued(point, length and int(length), point.total_bytes)


def appended(judge, status, headers, *, point, **more):
    """Append the whole of a 200 to what is held; the boxes are not looked at either.

    Each of the two walls behind it, the length and the boxes, would catch it alone.
    """
    offer = judge(status, headers, point=point, **more)
    if status == 200 and point.size_bytes:
        return replace(offer, start_bytes=point.size_bytes, total_bytes=None)
    return offer


def validators_unread(judge, status, headers, *, point, **more):
    """Go on with the bytes of another version."""
    unknown = replace(point, etag=None, last_modified=None)
    return judge(status, headers, point=unknown, **more)


def total_unread(judge, status, headers, *, point, **more):
    """Go on with a file that has another length now."""
    return judge(status, headers, point=replace(point, total_bytes=None), **more)


def any_416_is_the_end(judge, status, headers, *, point, **more):
    """Take a 416 for the proof that all is there."""
    if status == 416:
        return _continued(point, 0, point.size_bytes)
    return judge(status, headers, point=point, **more)


def compressed_is_taken(judge, status, headers, **more):
    """Keep a compressed body as if it were the file."""
    plain = {k: v for k, v in headers.items() if k.lower() != "content-encoding"}
    return judge(status, plain, **more)


def nothing_is_gone(judge, status, headers, **more):
    """Try again for ever where the file was deleted."""
    if status in {403, 404, 410}:
        raise FetchError("busy", "the VMS is busy")
    return judge(status, headers, **more)


@pytest.mark.parametrize(
    ("bug", "behaviour"),
    [
        (content_range_unread, "wrong_start"),
        (content_range_unread, "start_at_0"),
        (content_range_unread, "multipart"),
        (appended, "ignore_range"),
        (validators_unread, "ignore_if_range_change"),
        (total_unread, "ignore_if_range_grow_no_validators"),
        (any_416_is_the_end, "range_refused_short"),
        (compressed_is_taken, "gzip"),
        (nothing_is_gone, "delete"),
    ],
)
async def test_a_planted_bug_turns_its_cells_red(
    site, vms, monkeypatch, bug, behaviour
):
    """One that judges the answer for a file wrongly."""
    judge = file_answer.judge
    monkeypatch.setattr(file_answer, "judge", functools.partial(bug, judge))
    if bug is appended:
        monkeypatch.setattr(Part, "examine", lambda self, announced: Proof(doubt=None))
    with pytest.raises(AssertionError):
        await matrix.test_resume_matrix(site, vms, behaviour)


class _Any(bytes):
    """Equal to all bytes."""

    __hash__ = bytes.__hash__

    @override
    def __eq__(self, other: object) -> bool:
        return True

    @override
    def __ne__(self, other: object) -> bool:
        return False


async def test_an_overlap_that_is_not_compared_turns_its_cells_red(
    site, vms, monkeypatch
):
    """The body goes on behind bytes that are not those held."""
    monkeypatch.setattr(Part, "tail", lambda self, size: _Any())
    with pytest.raises(AssertionError):
        await matrix.test_resume_matrix(site, vms, "hidden_change_other_etag")
