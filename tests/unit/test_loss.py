"""When an export is lost: past its deadline, and shown to be gone often enough."""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Any

import pytest

from mirror.backoff import Pace
from mirror.errors import FileGoneError
from mirror.lifecycle import loss
from mirror.lifecycle.attempt_end import AttemptFacts, after_attempt
from mirror.lifecycle.list_row import plan
from mirror.model import Reason, State
from tests import builders
from tests.builders import HOUR, MINUTE, NOW

PASSED = NOW - MINUTE


@pytest.mark.parametrize(
    ("sweeps", "deadline_us", "oldest_us", "lost"),
    [
        (0, PASSED, NOW, False),
        (1, PASSED, NOW, True),
        (5, NOW + HOUR, NOW, False),
        (5, None, NOW, False),
        # By the clock of the VMS the file may be there still.
        (5, PASSED, NOW - HOUR, False),
        (5, PASSED, None, False),
    ],
)
def test_a_row_that_two_sweeps_do_not_show(sweeps, deadline_us, oldest_us, lost):
    """The clock alone loses nothing, nor does absence before the deadline."""
    export = builders.export(absent_sweeps=sweeps, deadline_us=deadline_us)
    after = loss.absent(export, NOW, oldest_us, looked_for=True)

    assert (after.state is State.LOST) == lost
    assert after.absent_sweeps == min(sweeps + 1, 2)


@pytest.mark.parametrize(
    ("walks", "had_file", "lost"),
    [(1, True, False), (2, True, True), (2, False, False)],
)
def test_a_file_that_three_walks_do_not_show(walks, had_file, lost):
    """Each walk counts once; what never had a file cannot be lost."""
    export = builders.export(
        state=State.WAITING, without_walks=walks, had_file=had_file, deadline_us=PASSED
    )
    given: dict[str, Any] = {"now_us": NOW, "oldest_us": NOW, "looked_for": True}
    after = loss.seen_without(export, walk_us=NOW, **given)
    again = loss.seen_without(after, walk_us=NOW, **given)

    assert (after.state is State.LOST) == lost
    assert again.without_walks == after.without_walks == walks + had_file


def test_nothing_is_lost_that_was_not_looked_for():
    """Neither by a walk, nor by a sweep, nor by an attempt; the next one decides."""
    gone = {"without_walks": 3, "absent_sweeps": 2, "deadline_us": PASSED}
    aged = functools.partial(builders.export, created_us=NOW - 4 * HOUR, **gone)
    waiting, fetching = aged(state=State.WAITING), aged(state=State.FETCHING)
    row = builders.row(has_file=False)
    facts = AttemptFacts(
        started_us=NOW,
        oldest_us=NOW,
        lifetime_us=HOUR,
        second_look=False,
        offset_bytes=0,
        held_bytes=0,
        failure=FileGoneError(Reason.FILE_GONE, "404"),
        ended_us=NOW,
    )
    pace = Pace(initial=timedelta(seconds=1), maximum=timedelta(seconds=2))
    for looked_for in (False, True):
        facts.looked_for = looked_for
        walk = builders.walk(looked_for=lambda _, is_so=looked_for: is_so)
        ended = (
            plan(waiting, row, walk),
            loss.absent(waiting, NOW, NOW, looked_for=looked_for),
            after_attempt(fetching, facts, pace=pace, jitter=0.5, patient=True),
        )
        state = State.LOST if looked_for else State.WAITING

        assert [export.state for export in ended] == [state] * 3
        assert {export.without_walks for export in ended} == {3}


@pytest.mark.parametrize(
    ("state", "facts", "unavailable"),
    [
        (State.WAITING, {}, True),
        (State.WAITING, {"had_file": True}, False),
        (State.WAITING, {"has_file": True}, False),
        (State.READY, {}, False),
    ],
)
def test_what_never_had_a_file_waits_only_so_long(state, facts, unavailable):
    """From when it was made, by the clock of the VMS corrected."""
    export = builders.export(
        **{"state": state, "had_file": False, "has_file": False, **facts},
        created_us=NOW - 25 * HOUR,
    )
    ahead = builders.walk(clock_offset_us=-2 * HOUR)
    after = loss.overdue(export, builders.walk())

    assert (after.state is State.UNAVAILABLE) == unavailable
    assert loss.overdue(export, ahead) is export
