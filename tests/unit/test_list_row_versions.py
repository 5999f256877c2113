"""What a walk means for an export whose file is ours."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from mirror.lifecycle.held_body import doubted
from mirror.lifecycle.list_row import plan
from mirror.model import Reason, State, Verdict
from tests import builders
from tests.builders import HOUR, NOW, URL
from tests.unit.test_held_body import PACE, body

if TYPE_CHECKING:
    from mirror.model import Export

KEPT = [State.SPOOLED, State.SAVED, State.DOUBTFUL]


def kept(state: State, **given: Any) -> Export:
    proof = Verdict.DOUBTFUL if state is State.DOUBTFUL else Verdict.WHOLE
    return builders.export(**({"state": state, "proof": proof} | given))


def held() -> Export:
    return doubted(
        builders.export(state=State.FETCHING),
        body(),
        folder="spool",
        started_us=NOW,
        now_us=NOW,
        lifetime_us=3 * HOUR,
        pace=PACE,
        jitter=0,
        patient=True,
    )


def met(prior: Export, **row: Any) -> Export:
    return plan(prior, builders.row(**row), builders.walk())


@pytest.mark.parametrize("state", KEPT)
def test_an_unchanged_row_changes_nothing(state):
    prior = kept(state)

    assert met(prior) == prior
    assert met(prior, name="another.mp4", user_id=6) == prior


@pytest.mark.parametrize("state", KEPT)
@pytest.mark.parametrize("row", [{"updated_at": "u2"}, {"url": f"{URL}x"}])
def test_a_changed_row_makes_a_look_due(state, row):
    """What the file was fetched under stays; where it lies is kept current."""
    prior = kept(state, look_due_us=NOW + HOUR)
    after = met(prior, name="another.mp4", **row)

    assert after == dataclasses.replace(prior, look_due_us=NOW, **row)


def test_a_new_signature_makes_no_look_due():
    prior = kept(State.SAVED, look_due_us=NOW + HOUR)
    after = met(prior, url=f"{URL}?signature=2")

    assert after == dataclasses.replace(prior, url=f"{URL}?signature=2")


def test_after_its_deadline_nothing_is_looked_at():
    prior = kept(State.SAVED, deadline_us=NOW - HOUR)

    assert met(prior, updated_at="u2", url=f"{URL}x") is prior


def test_without_second_looks_a_changed_row_is_nothing():
    walk = builders.walk(second_look=False)
    prior = kept(State.SAVED)

    assert plan(prior, builders.row(updated_at="u2"), walk) is prior


@pytest.mark.parametrize("state", [*KEPT, State.DAMAGED, State.ERASED])
@pytest.mark.parametrize(
    "row",
    [
        {"camera_id": 2},
        {"footage_from": "2026-11-23T08:01:00Z"},
        {"footage_to": "2026-11-23T09:01:00Z"},
    ],
)
def test_other_footage_is_a_version_at_once(state, row):
    """With row facts of its own, and a deadline of its own."""
    prior = kept(
        state,
        footage_from="2026-11-23T08:00:00Z",
        footage_to="2026-11-23T09:00:00Z",
    )
    after = met(prior, name="another.mp4", **row)

    assert (after.key, after.version) == (None, 2)
    assert (after.state, after.reason) == (State.READY, Reason.MADE_AGAIN)
    assert after.name == "another.mp4"
    assert after.not_before_us == 0
    assert all(getattr(after, name) == value for name, value in row.items())


@pytest.mark.parametrize(
    "row", [{"camera_id": None}, {"footage_from": None}, {"has_file": False}]
)
def test_what_cannot_be_read_is_no_other_footage(row):
    prior = kept(State.SAVED, footage_from="2026-11-23T08:00:00Z")
    given = {"footage_from": "2026-11-23T08:00:00Z", "camera_id": 1}
    if row == {"has_file": False}:
        given["camera_id"] = 2

    assert met(prior, **(given | row)).version == 1


@pytest.mark.parametrize("given", [{"version": 3}, {"drops": 2}])
def test_there_is_no_fourth_version(given):
    """It is told once, and not fetched."""
    prior = kept(State.SAVED, **given)
    after = met(prior, camera_id=2)

    assert after.key == prior.key
    assert "other footage" in (after.last_error or "")
    assert met(after, camera_id=2) == after


@pytest.mark.parametrize("state", [State.SPOOLED, State.DOUBTFUL])
def test_what_is_doubtful_is_fetched_anew_when_it_is_made_anew(state):
    """The flag is true after a walk without it."""
    prior = kept(state, proof=Verdict.DOUBTFUL, doubt="a sample is missing")
    without = met(prior, has_file=False)
    again = met(without)

    assert (without.state, without.has_file) == (state, False)
    assert (again.key, again.version, again.state) == (None, 2, State.READY)
    assert again.reason == Reason.MADE_AGAIN


def test_what_is_whole_is_not_fetched_anew():
    without = met(kept(State.SAVED), has_file=False)

    assert met(without).version == 1


@pytest.mark.parametrize("row", [{"has_file": False}, {"url": None}])
@pytest.mark.parametrize("state", [State.READY, State.PARKED, State.WAITING])
def test_a_held_body_is_kept_when_the_flag_falls(state, row):
    """It goes before every row to waiting or lost."""
    prior = held()
    after = met(dataclasses.replace(prior, state=state), **row)

    assert (after.state, after.held_until_us) == (State.READY, 0)
    assert after.held_sha256 == prior.held_sha256


def test_a_flag_that_flaps_hurries_no_changed_file():
    """It waits for its time all the same, and is then what the VMS has by then."""
    later = NOW + 90 * 60_000_000
    prior = builders.export(
        version=2, reason=Reason.CHANGED, due_us=later, not_before_us=later
    )
    without = met(prior, has_file=False)
    again = met(without)

    assert without.state is State.WAITING
    assert (again.state, again.due_us, again.not_before_us) == (
        State.READY,
        later,
        later,
    )


@pytest.mark.parametrize("state", [State.READY, State.PARKED, State.FETCHING])
def test_a_held_body_keeps_the_facts_it_was_fetched_under(state):
    """A row that speaks of other footage ends the wait; it comes as a version."""
    prior = held()
    after = met(dataclasses.replace(prior, state=state), camera_id=2)

    runs = state is State.FETCHING
    assert after.state is (state if runs else State.READY)
    assert (after.camera_id, after.held_until_us) == (1, 0)
