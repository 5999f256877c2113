"""What a sidecar proves: its export, or nothing."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from mirror import sidecar
from mirror.lifecycle.inventory import NOT_FOUND_YET, SidecarVerdict, judge
from mirror.lifecycle.second_look import first_due
from mirror.model import Copy, CopyState, State
from mirror.ports import StoredFile
from mirror.sidecar import SidecarError
from tests import builders
from tests.builders import HOUR, NOW

KEPT = builders.export(
    key=None,
    state=State.SAVED,
    created_at="2026-09-21T13:00:00Z",
    created_key="2026-09-21T13:00:00.000000Z",
    created_us=1_790_000_000_000_000 - 1_790_000_000_000_000 % 1000,
    size_bytes=100,
    sha256="ab" * 32,
    first_seen_us=NOW - HOUR,
    started_us=NOW - 3000,
    spooled_us=NOW - 2000,
    saved_us=NOW - 2000,
    attempts=3,
    part_etag='"e"',
    footage_from="2026-09-21T12:00:00Z",
)
ITEM = {"id": 7, "updated_at": "u1", "user": {"id": 5}, "url": "https://a.example/x"}


def written(**given: Any) -> bytes:
    """Return the sidecar of `KEPT`, with these fields changed."""
    raw = sidecar.record(
        KEPT,
        item=json.dumps(ITEM).encode(),
        source_url="https://vms.example",
        node_id="n0de",
        target="nas",
        path="hq/7.mp4",
    )
    return json.dumps(json.loads(raw) | given).encode()


def found(raw: bytes | None, **given: Any) -> StoredFile:
    """Return it as found beside a file of the right length."""
    values: dict[str, Any] = {"path": "hq/7.mp4", "sidecar": raw, "size_bytes": 100}
    return StoredFile(**(values | given))


def test_what_was_written_is_read_back():
    """All that a saved export needs; its url is no one's business any more."""
    told = sidecar.export_of(found(written()), NOW)
    same = dataclasses.replace(
        KEPT,
        created_us=told.created_us,
        url=None,
        has_file=True,
        counts_as_ours=True,
        proof="whole",
        look_due_us=told.look_due_us,
        order_us=KEPT.deadline_us or 0,
    )

    assert told == same
    assert told.look_due_us == first_due(KEPT, NOW, 0)
    assert sidecar.is_whole(found(written()), told)
    assert sidecar.same_export(told, KEPT)


@pytest.mark.parametrize(
    "raw",
    [
        None,
        b"",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b'{"a": ' * 100_000,
        b"{}",
        *(
            written(**given)
            for given in (
                {"id": "7"},
                {"id": True},
                {"id": 7.0},
                {"id": -1},
                {"id": 2**63},
                {"id": 8},
                {"size_bytes": None},
                {"size_bytes": 0},
                {"size_bytes": -5},
                {"sha256": "AB" * 32},
                {"sha256": "ab"},
                {"sha256": None},
                {"created_key": None},
                {"created_key": "yesterday"},
                {"created_key": "2026-09-21T13:00:00"},
                {"created_key": "\ud800"},
                {"source": ["hq"]},
                {"source": None},
            )
        ),
    ],
)
def test_what_proves_nothing(raw):
    """It is no record of ours, or contradicts itself; that is said, in words."""
    with pytest.raises(SidecarError, match=r"\w"):
        sidecar.export_of(found(raw), NOW)


@pytest.mark.parametrize(
    "given",
    [
        {"name": 7, "camera_id": "x", "stream_type": [], "footage_from": {}},
        {"camera_id": -1},
        {"camera_id": 2**63},
        {"item": None},
        {"item": {"user": [], "updated_at": 5}},
        {"item": {"id": "7"}},
        {"response": None},
        {"first_seen": "yesterday", "fetched": None, "deadline": 5},
        {"first_seen": "2026-01-01T00:00:00", "fetched": "0001-01-01T00:00:00+23:59"},
        {"name": "\ud800.mp4"},
        {"attempts": None, "path": "/etc/passwd", "target": "elsewhere"},
        {"created_at": None, "created_key": "about noon"},
        {"more": ["of", "a", "later", "version"]},
    ],
)
def test_what_only_describes_may_be_missing(given):
    """Identity, length and digest are enough."""
    told = sidecar.export_of(found(written(**given)), NOW)

    assert (told.source, told.export_id, told.sha256) == ("hq", 7, "ab" * 32)
    assert told.state is State.SAVED
    assert told.saved_us
    assert told.first_seen_us
    assert told.order_us


@pytest.mark.parametrize("size", [None, 0, 99, 101])
def test_a_file_of_another_length_is_not_whole(size):
    """Nor is what is no file."""
    told = sidecar.export_of(found(written()), NOW)

    assert not sidecar.is_whole(found(written(), size_bytes=size), told)


@pytest.mark.parametrize(
    "given", [{"source": "annex"}, {"export_id": 8}, {"created_key": "k"}]
)
def test_whose_a_sidecar_is(given):
    """Identity is source, id and created_key."""
    told = sidecar.export_of(found(written()), NOW)

    assert not sidecar.same_export(told, dataclasses.replace(KEPT, **given))


def copy(
    state: CopyState,
    path: str | None = "a",
    saved_us: int | None = 5,
    last_error: str | None = None,
) -> Copy:
    """Return a copy that the ledger knows."""
    return Copy(
        export=1,
        target="nas",
        state=state,
        path=path,
        verified_us=None,
        saved_us=saved_us,
        attempts=0,
        due_us=0,
        last_error=last_error,
    )


LOOKED_FOR = copy(CopyState.PENDING, last_error=NOT_FOUND_YET)


@pytest.mark.parametrize(
    ("known", "path", "whole", "verdict"),
    [
        (None, "a", True, SidecarVerdict.KEPT),
        (None, "a", False, SidecarVerdict.DAMAGED),
        (copy(CopyState.SAVED), "a", True, SidecarVerdict.KEPT),
        (copy(CopyState.SAVED), "b", True, SidecarVerdict.SECOND),
        (copy(CopyState.SAVED), "b", False, SidecarVerdict.SECOND),
        # Known to have wrong bytes, whatever its length.
        (copy(CopyState.DAMAGED), "a", True, SidecarVerdict.KNOWN_DAMAGED),
        (copy(CopyState.DAMAGED), "b", True, SidecarVerdict.KEPT),
        (copy(CopyState.DAMAGED), "b", False, SidecarVerdict.SECOND),
        # Saved before, and looked for now.
        (LOOKED_FOR, "a", True, SidecarVerdict.KEPT),
        (LOOKED_FOR, "b", True, SidecarVerdict.KEPT),
        (LOOKED_FOR, "a", False, SidecarVerdict.DAMAGED),
        (LOOKED_FOR, "b", False, SidecarVerdict.SECOND),
        # Saved once, then found damaged and owed again.
        (copy(CopyState.PENDING), "a", True, SidecarVerdict.KNOWN_DAMAGED),
        (copy(CopyState.PENDING), "b", True, SidecarVerdict.KEPT),
        (copy(CopyState.PENDING), "a", False, SidecarVerdict.SECOND),
        # Yet to be published.
        (copy(CopyState.PENDING, saved_us=None), "a", True, SidecarVerdict.KEPT),
        (copy(CopyState.PENDING, saved_us=None), "a", False, SidecarVerdict.SECOND),
        (copy(CopyState.FAILED, None, None), "a", True, SidecarVerdict.KEPT),
        (copy(CopyState.ERASED), "a", True, SidecarVerdict.SECOND),
    ],
)
def test_what_a_sidecar_means_for_a_copy_that_is_known(known, path, whole, verdict):
    """The good one wins; what is known to be bad stays so."""
    assert judge(known, path, whole=whole) is verdict
