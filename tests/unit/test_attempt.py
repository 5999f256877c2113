"""What the end of a fetch attempt means for an export."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from mirror.backoff import Pace
from mirror.lifecycle import attempt
from mirror.model import Reason, State
from tests import builders
from tests.builders import FOLDER, HOUR, MINUTE, NOW

PACE = Pace(initial=timedelta(seconds=5), maximum=timedelta(minutes=10))


def fail(export, *, jitter=0.5):
    export = dataclasses.replace(export, state=State.FETCHING)
    return attempt.failed(export, error="cut", now_us=NOW, pace=PACE, jitter=jitter)


def gone(export, *, reason=Reason.FILE_GONE, oldest_us: int | None = NOW):
    return attempt.gone(
        dataclasses.replace(export, state=State.FETCHING),
        reason=reason,
        error="404",
        now_us=NOW,
        oldest_us=oldest_us,
        looked_for=True,
        pace=PACE,
    )


def test_ten_attempts_in_a_row_that_gained_nothing_park_it():
    """The tenth parks it for retry_max; the nine before only wait."""
    export = builders.export(state=State.FETCHING)
    for number in range(1, 11):
        export = fail(export)
        assert export.attempts_without_gain == number
        assert (export.state is State.PARKED) == (number == 10)

    assert (export.reason, export.due_us) == (Reason.NO_PROGRESS, NOW + 10 * MINUTE)


def test_an_attempt_that_gained_resets_the_back_off():
    """A partial longer than ever is a gain."""
    export = fail(
        builders.export(attempts_without_gain=9, best_bytes=100, part_bytes=101),
        jitter=0.99,
    )

    assert (export.state, export.attempts_without_gain, export.best_bytes) == (
        State.READY,
        0,
        101,
    )
    assert export.due_us <= NOW + 5_000_000


@pytest.mark.parametrize("held", [0, 50, 100])
def test_bytes_fetched_again_are_no_gain(held):
    """Only what exceeds the longest partial counts."""
    export = fail(builders.export(best_bytes=100, part_bytes=held))

    assert (export.attempts_without_gain, export.best_bytes) == (1, 100)


def test_a_parked_export_that_fails_again_is_parked_again_at_once():
    """One attempt each retry_max, not ten."""
    export = fail(builders.export(attempts_without_gain=10))

    assert export.state is State.PARKED


def test_a_try_counts_once_for_the_walk_before_it():
    """Two tries after one walk are one walk that saw it without the file."""
    export = builders.export(state=State.FETCHING, walk_us=NOW - MINUTE)
    for _ in range(2):
        export = gone(export)

    assert (export.state, export.without_walks, export.tries_without_file) == (
        State.WAITING,
        1,
        2,
    )


def test_tries_after_three_walks_past_the_deadline_lose_it():
    """404 while the flag stays true ends it all the same."""
    export = builders.export(state=State.FETCHING, deadline_us=NOW - MINUTE)
    for number in range(1, 4):
        assert export.state is not State.LOST
        export = builders.export(
            deadline_us=NOW - MINUTE,
            without_walks=export.without_walks,
            without_walk_us=export.without_walk_us,
            walk_us=number,
        )
        export = gone(export)

    assert (export.state, export.reason) == (State.LOST, Reason.EXPIRED)


@pytest.mark.parametrize("oldest", [None, NOW - HOUR])
def test_a_deadline_that_is_over_by_our_clock_alone_loses_nothing(oldest):
    """Ours may have been put forward; the VMS has not had the time to delete it."""
    export = builders.export(
        state=State.FETCHING,
        created_us=NOW - HOUR,
        deadline_us=NOW - MINUTE,
        without_walks=9,
    )
    after = gone(export, oldest_us=oldest)

    assert after.state is State.WAITING


def test_a_folder_without_a_file_is_never_lost():
    """What never had a file cannot be lost."""
    export = builders.export(url=FOLDER, had_file=False, deadline_us=None)
    for number in range(20):
        export = gone(
            builders.export(
                url=FOLDER,
                had_file=False,
                deadline_us=None,
                tries_without_file=export.tries_without_file,
                order_us=NOW - HOUR,
                walk_us=number,
            ),
            reason=Reason.URL_WITHOUT_FILE,
        )

    assert (export.state, export.reason) == (State.WAITING, Reason.URL_WITHOUT_FILE)
    assert NOW + 10 * MINUTE < export.due_us <= NOW + 6 * HOUR


def test_the_first_misses_are_tried_at_every_walk():
    """A fresh file may need moments to appear."""
    export = builders.export(tries_without_file=4)
    after = gone(export)

    assert after.due_us == NOW


def test_bytes_from_a_folder_url_show_that_there_was_a_file():
    """From then on it has a deadline and can be owed."""
    export = fail(
        builders.export(url=FOLDER, had_file=False, deadline_us=None, part_bytes=10)
    )

    assert (export.had_file, export.deadline_us) == (True, export.order_us)


def test_an_interrupted_attempt_is_due_at_once_and_counts_for_nothing():
    """A stop of the service is no fault of the export's."""
    export = attempt.interrupted(
        builders.export(
            state=State.FETCHING, attempts_without_gain=3, due_us=NOW, part_bytes=9
        )
    )

    assert (export.state, export.attempts_without_gain, export.due_us) == (
        State.READY,
        3,
        0,
    )
