"""The resume matrix sees the bugs that it is there for.

The matrix itself, each behaviour at each point, is
`tests/integration/test_hostile_files.py::test_resume_matrix`.
"""

from __future__ import annotations

import dataclasses

import pytest

from mirror.errors import FetchError
from mirror.mp4.proof import Proof
from mirror.pipeline.fetch.download import Downloader
from mirror.pipeline.spool.part import Part
from mirror.simulator import Vms
from mirror.vms import file_answer
from tests.integration import test_hostile_files as matrix
from tests.site import Site

_CELLS = len(matrix.MATRIX) * (len(matrix.POINTS) + len(matrix.UNTOLD))


@pytest.fixture
async def vms():
    async with Vms() as served:
        yield served


@pytest.fixture
def site(tmp_path, vms):
    made = Site.make(tmp_path, vms, concurrency=16)
    made.tables["transfer"] |= {"max_file_size": "600KB"}
    return made


def test_the_matrix_is_as_large_as_is_said(effort):
    points = {0, 1, 10, 65_535, 65_536, 65_537, matrix.SIZE // 2}
    assert points | {matrix.SIZE - 1, matrix.SIZE} == set(matrix.POINTS.values())
    assert len(matrix.MATRIX) >= 30
    effort.record(6, behaviours=len(matrix.MATRIX), points=9, cells=_CELLS)


def content_range_unread(monkeypatch) -> None:
    """Take any 206 for the rest that was asked for."""

    def rest(headers, point, length, *, firm):
        return file_answer.Offer(
            start_bytes=point.size_bytes,
            total_bytes=point.total_bytes,
            length=length,
            explicit_end=True,
            etag=point.etag,
            last_modified=point.last_modified,
            firm=point.firm,
        )

    monkeypatch.setattr(file_answer, "_rest", rest)


def appended(monkeypatch) -> None:
    """Append the whole of a 200 to what is held, and do not look at the boxes.

    Each of the two walls behind it, the length and the boxes, would catch it alone.
    """
    judge = file_answer.judge

    def judged(status, headers, *, point, **more):
        offer = judge(status, headers, point=point, **more)
        if status == 200 and point.size_bytes:
            return dataclasses.replace(
                offer, start_bytes=point.size_bytes, total_bytes=None
            )
        return offer

    monkeypatch.setattr(file_answer, "judge", judged)
    monkeypatch.setattr(Part, "examine", lambda self, explicit_end: Proof(doubt=None))


def validators_unread(monkeypatch) -> None:
    """Go on with the bytes of another version."""
    monkeypatch.setattr(file_answer, "_same_version", lambda headers, point: None)


def total_unread(monkeypatch) -> None:
    """Go on with a file that has another length now."""
    rest = file_answer._rest

    def lenient(headers, point, length, *, firm):
        unknown = dataclasses.replace(point, total_bytes=None)
        return rest(headers, unknown, length, firm=firm)

    monkeypatch.setattr(file_answer, "_rest", lenient)


def any_416_is_the_end(monkeypatch) -> None:
    """Take a 416 for the proof that all is there."""

    def whole(headers, point):
        return file_answer.Offer(
            start_bytes=point.size_bytes,
            total_bytes=point.size_bytes,
            length=0,
            explicit_end=True,
            etag=point.etag,
            last_modified=point.last_modified,
            firm=point.firm,
        )

    monkeypatch.setattr(file_answer, "_beyond_end", whole)


def compressed_is_taken(monkeypatch) -> None:
    """Keep a compressed body as if it were the file."""
    judge = file_answer.judge

    def judged(status, headers, **more):
        plain = {k: v for k, v in headers.items() if k.lower() != "content-encoding"}
        return judge(status, plain, **more)

    monkeypatch.setattr(file_answer, "judge", judged)


def overlap_unread(monkeypatch) -> None:
    """Go on behind bytes that nobody compared with those point."""

    async def unread(self, body, part, size):
        came = b""
        while len(came) < size and (chunk := await body.read()):
            came += chunk
        return came[size:]

    monkeypatch.setattr(Downloader, "_compare", unread)


def nothing_is_gone(monkeypatch) -> None:
    """Try again for ever where the file was deleted."""
    judge = file_answer.judge

    def judged(status, headers, **more):
        if status in {403, 404, 410}:
            raise FetchError("busy", "the VMS is busy")
        return judge(status, headers, **more)

    monkeypatch.setattr(file_answer, "judge", judged)


@pytest.mark.parametrize(
    ("plant", "behaviour"),
    [
        (content_range_unread, "wrong_start"),
        (content_range_unread, "start_at_0"),
        (content_range_unread, "multipart"),
        (appended, "ignore_range"),
        (validators_unread, "ignore_if_range_change"),
        (total_unread, "ignore_if_range_grow_no_validators"),
        (any_416_is_the_end, "range_refused_short"),
        (overlap_unread, "hidden_change_other_etag"),
        (compressed_is_taken, "gzip"),
        (nothing_is_gone, "delete"),
    ],
)
async def test_a_planted_bug_turns_its_cells_red(
    site, vms, monkeypatch, plant, behaviour
):
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        await matrix.test_resume_matrix(site, vms, behaviour)
