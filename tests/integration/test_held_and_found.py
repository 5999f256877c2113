"""A good copy turns up while a body of its export is held: both are kept."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from mirror.lifecycle import held_body
from mirror.lifecycle.second_look import Shown, after_look
from mirror.model import CopyState, Export, State, Verdict
from mirror.ports import Validators
from tests import builders
from tests.builders import HOUR, NOW
from tests.integration.test_versions import all_of, fetch, ledger, meet, publish

if TYPE_CHECKING:
    from mirror.ledger import Ledger

__all__ = ["ledger"]
FOUND = builders.export(
    key=None,
    state=State.SAVED,
    proof=Verdict.WHOLE,
    size_bytes=100,
    sha256="a" * 64,
    spooled_us=NOW,
    saved_us=NOW,
)
"""What a sidecar tells."""


def hold(ledger: Ledger, digit: str = "c", *, state: State = State.READY) -> Export:
    """Let the newest version be due, or being fetched, with a body held."""
    newest = all_of(ledger)[-1]
    held = dataclasses.replace(
        newest,
        state=state,
        without_walks=1,
        held_sha256=digit * 64,
        held_bytes=70_000,
        held_dir="spool",
        held_number=1,
        held_doubt="x",
        held_us=NOW,
        held_until_us=NOW + HOUR,
    )
    ledger.second_looks.settle(newest.stored_key, lambda *_: (held, held))
    return held


def end(ledger: Ledger) -> list[tuple[Export, Export]]:
    """Let what is held wait no longer than it must."""
    return ledger.fetches.end_held(
        held_body.spooled_doubtful, targets=["nas", "vault"], now_us=NOW
    )


def found_good(ledger: Ledger, key: int) -> None:
    """Let `verify` find the copy good that it had found damaged."""
    subject = ledger.verification.copy_to_read(key, "nas")
    assert subject is not None
    assert ledger.verification.good(subject, note=None, now_us=NOW)


def shown(ledger: Ledger) -> list[tuple[int, State, str]]:
    return [(one.version, one.state, (one.sha256 or "-")[:1]) for one in all_of(ledger)]


def test_verify_finds_a_copy_good(ledger):
    """The copy with its path becomes a version; the held body is kept as doubtful."""
    meet(ledger)
    fetch(ledger, "a")
    [path] = publish(ledger)
    held = hold(ledger)
    found_good(ledger, held.stored_key)
    ended = end(ledger)

    assert shown(ledger) == [(1, State.SPOOLED, "c"), (2, State.SAVED, "a")]
    assert [prior.key for prior, _ in ended] == [held.key]
    odd, kept = all_of(ledger)
    assert (odd.proof, odd.doubt, odd.size_bytes) == (Verdict.DOUBTFUL, "x", 70_000)
    assert (odd.spool_dir, odd.part_number) == ("spool", 1)
    assert [(one.state, one.path) for one in ledger.copies.of(kept.stored_key)] == [
        (CopyState.SAVED, path)
    ]
    assert [one.state for one in ledger.copies.of(odd.stored_key)] == ["pending"] * 2
    assert publish(ledger) == [path.replace(".mp4", ".doubtful.mp4")]


def test_the_same_bytes_need_no_version(ledger):
    meet(ledger)
    fetch(ledger, "a")
    publish(ledger)
    found_good(ledger, hold(ledger, "a").stored_key)

    assert shown(ledger) == [(1, State.SAVED, "a")]
    assert end(ledger) == []


@pytest.mark.parametrize("known", [False, True])
def test_rebuild_meets_the_file_of_what_was_being_fetched(ledger, known):
    """A kill left it so. On two targets it is one version."""
    meet(ledger)
    if known:
        fetch(ledger, "a")
        publish(ledger)
    hold(ledger, state=State.FETCHING)
    for target in ("nas", "vault"):
        ledger.inventory.take(FOUND, target=target, path="hq/7.mp4", whole=True)
    ledger.inventory.settle()
    ledger.fetches.recover()
    end(ledger)

    assert shown(ledger) == [(1, State.SPOOLED, "c"), (2, State.SAVED, "a")]


def test_what_changes_after_both_are_kept_is_a_version(ledger):
    """The body that was held is looked at; the VMS shows another file twice."""
    meet(ledger)
    fetch(ledger, "a")
    publish(ledger)
    found_good(ledger, hold(ledger).stored_key)
    end(ledger)
    odd = all_of(ledger)[0]
    seen = Validators(total_bytes=90_000, etag='"9"', last_modified=None)
    ledger.second_looks.settle(
        odd.stored_key,
        lambda export, newest: after_look(
            export, newest, Shown.CHANGED, seen, now_us=NOW, lifetime_us=3 * HOUR
        ),
    )

    versions = [(one.version, one.state, one.reason) for one in all_of(ledger)]
    assert versions[2:] == [(3, State.READY, "changed")]
    assert versions[1] == (2, State.SAVED, None)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("recalled", [False, True])
def test_an_older_ledger_meets_the_file_of_a_later_one(ledger, known, recalled):
    """Whether it knew the bytes before they were damaged, or never had any."""
    meet(ledger)
    if known:
        fetch(ledger, "a")
        publish(ledger)
    held = hold(ledger)
    place = {"target": "nas", "path": "hq/7.mp4"}
    if recalled:
        assert ledger.inventory.recall(
            held.stored_key, FOUND, others=["vault"], **place
        )
    else:
        ledger.inventory.take(FOUND, whole=True, **place)
        ledger.inventory.settle()
    end(ledger)

    assert shown(ledger) == [(1, State.SPOOLED, "c"), (2, State.SAVED, "a")]
    kept = all_of(ledger)[-1]
    copies = {one.target: one.state for one in ledger.copies.of(kept.stored_key)}
    assert copies == {"nas": "saved"} | ({"vault": "pending"} if recalled else {})
