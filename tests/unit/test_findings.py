"""What a copy that was read again is worth, and what is said of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mirror import sidecar
from mirror.ledger import CopyToRead
from mirror.lifecycle import copy as copies
from mirror.model import Copy, CopyState, State
from mirror.pipeline.verify import judge
from mirror.pipeline.verify.judge import Problem, VerifyTally
from mirror.pipeline.verify.scrub import Sample
from mirror.ports import StoredFile
from tests import builders
from tests.builders import HOUR, NOW

SHA = "ab" * 32
RIGHT = {
    "source": "hq",
    "id": 7,
    "created_key": "k",
    "size_bytes": 100,
    "sha256": SHA,
}


def export(**given: Any):
    """Return an export that is kept."""
    values: dict[str, Any] = {"state": State.SAVED, "size_bytes": 100, "sha256": SHA}
    return builders.export(**(values | given))


def examined(**given: Any) -> StoredFile:
    """Return what is read of a good copy."""
    values: dict[str, Any] = {
        "path": "a/7.mp4",
        "present": True,
        "size_bytes": 100,
        "sha256": SHA,
        "sidecar": json.dumps(RIGHT).encode(),
    }
    return StoredFile(**(values | given))


def copy(target: str, state: CopyState = CopyState.SAVED) -> Copy:
    """Return a copy."""
    return Copy(
        export=1,
        target=target,
        state=state,
        path="a/7.mp4",
        verified_us=None,
        saved_us=NOW,
        attempts=1,
        due_us=0,
        last_error=None,
    )


def subject(*others: Copy, spooled: bool = False, **given: Any) -> CopyToRead:
    """Return a copy on `nas` that is to be read."""
    return CopyToRead(
        export=export(**given),
        copy=copy("nas"),
        path="a/7.mp4",
        spooled=spooled,
        others=others,
    )


def test_a_good_copy_has_no_fault():
    """Length, bytes and sidecar agree."""
    assert judge.judge(export(), examined()) == ()


@pytest.mark.parametrize(
    ("found", "problem", "told"),
    [
        ({"present": False, "size_bytes": None}, "missing", "gone"),
        ({"size_bytes": None, "sha256": None}, "not_a_file", "a link, a folder"),
        ({"size_bytes": 99, "sha256": None}, "wrong_length", "99 bytes long, not 100"),
        ({"sha256": "cd" * 32}, "wrong_bytes", "not those that were saved"),
        ({"sha256": None}, "wrong_bytes", "not those that were saved"),
        ({"sidecar": None}, "sidecar_missing", "gone"),
        ({"sidecar": b""}, "sidecar_wrong", "cannot be understood"),
        ({"sidecar": b"\xff"}, "sidecar_wrong", "cannot be understood"),
        ({"sidecar": b"[" * 100_000}, "sidecar_wrong", "cannot be understood"),
        ({"sidecar": b"[]"}, "sidecar_wrong", "cannot be understood"),
        ({"sidecar": b"{}"}, "sidecar_wrong", "cannot be understood"),
    ],
)
def test_each_fault_has_its_name(found, problem, told):
    """One fault, in words that say what was found."""
    (fault,) = judge.judge(export(), examined(**found))

    assert fault.problem == problem
    assert told in fault.what


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", "annex"),
        ("id", 8),
        ("created_key", "l"),
        ("size_bytes", 99),
        ("sha256", "cd" * 32),
    ],
)
def test_a_sidecar_of_another_file(name, value):
    """Each of the five facts counts, and the one that differs is named."""
    raw = json.dumps(RIGHT | {name: value}).encode()
    (fault,) = judge.judge(export(), examined(sidecar=raw))

    assert fault.problem is Problem.SIDECAR_WRONG
    assert f"says {name} {value}" in fault.what


def test_file_and_sidecar_are_told_apart():
    """Both may be wrong; only the file makes the copy a damaged one."""
    both = judge.judge(export(), examined(present=False, sidecar=None))
    beside = judge.judge(export(), examined(sidecar=None))

    assert [one.problem for one in both] == ["missing", "sidecar_missing"]
    assert judge.broken(both)
    assert not judge.broken(beside)


@pytest.mark.parametrize("state", list(State))
def test_a_good_copy_saves_what_had_none(state):
    """Never one that is fetched, spooled, excluded or erased."""
    before = export(state=state, reason="made_again", last_error="x")
    after = copies.after_good(before)
    revived = {State.DAMAGED, State.READY, State.PARKED, State.WAITING, State.LOST}

    assert (after.state is State.SAVED) == (state in revived | {State.SAVED})
    if state in revived:
        assert (after.reason, after.last_error) == (None, None)
    else:
        assert after is before


@pytest.mark.parametrize(
    ("state", "spooled", "others", "then"),
    [
        (State.SAVED, False, False, State.DAMAGED),
        (State.SAVED, True, False, State.SPOOLED),
        (State.SAVED, False, True, State.SAVED),
        (State.SAVED, True, True, State.SAVED),
        (State.SPOOLED, True, False, State.SPOOLED),
        (State.FETCHING, False, False, State.FETCHING),
        (State.LOST, False, False, State.LOST),
        (State.DAMAGED, False, False, State.DAMAGED),
    ],
)
def test_an_export_is_damaged_when_its_last_good_copy_is(state, spooled, others, then):
    """A file that the spool still holds is published again instead."""
    before = export(state=state)
    after = copies.after_bad(before, spooled=spooled, others=others, error="gone")

    assert after.state is then
    assert (after.last_error == "gone") == (after is not before)


@pytest.mark.parametrize(
    ("of", "problem", "told"),
    [
        (subject(), Problem.SIDECAR_WRONG, "--repair` writes it anew"),
        (subject(spooled=True), Problem.MISSING, "the spool holds its file"),
        (subject(copy("usb")), Problem.MISSING, "from the copy on usb"),
        (
            subject(copy("usb", CopyState.DAMAGED), deadline_us=NOW + HOUR),
            Problem.WRONG_BYTES,
            "the service fetches it at its next walk",
        ),
        (subject(deadline_us=NOW - HOUR), Problem.MISSING, "if it lists it still"),
        (subject(deadline_us=None), Problem.MISSING, "until it deletes it"),
        (subject(has_file=False), Problem.MISSING, "lists no file for it any more"),
    ],
)
def test_what_helps(of, problem, told):
    """A sibling, the spool, the VMS, or asking for the export again."""
    assert told in judge.advice(of, problem, NOW)


@pytest.mark.parametrize(
    ("counts", "code"),
    [
        ({}, 0),
        ({"checked": 5, "good": 5}, 0),
        ({"damaged": 1}, 4),
        ({"damaged": 1, "repaired": 1}, 4),
        ({"not_checked": 1}, 1),
        ({"damaged": 1, "not_checked": 1}, 4),
    ],
)
def test_exit_codes(counts, code):
    """4 damage, be it repaired; else 1 if not all could be checked."""
    assert VerifyTally(**counts).exit_code == code


@pytest.mark.parametrize(
    ("sample", "total", "size"),
    [
        (Sample(), 7, None),
        (Sample(count=3), 7, 3),
        (Sample(count=10**30), 7, 7),
        (Sample(percent=100), 7, 7),
        (Sample(percent=0.01), 7, 1),
        (Sample(percent=50), 7, 4),
        (Sample(percent=50), 0, 0),
    ],
)
def test_the_size_of_a_sample(sample, total, size):
    """Rounded up, so that a small share of a few is still one."""
    assert sample.of(total) == size


def test_a_sidecar_moves_to_another_target():
    """Only where it lies is another."""
    raw = sidecar.record(
        export(),
        item=b'{"id": 7, "name": "\\ud800 Gate"}',
        source_url="https://vms.example",
        node_id="n",
        target="nas",
        path="a/7.mp4",
    )
    moved = json.loads(sidecar.moved(raw, target="usb", path="b/7.mp4"))

    assert (moved.pop("target"), moved.pop("path")) == ("usb", "b/7.mp4")
    assert moved.items() <= json.loads(raw).items()
    assert len(moved) == len(json.loads(raw)) - 2
