"""What a listed row means for an export: the table of states, row by row."""

from __future__ import annotations

import pytest

from mirror.lifecycle.list_row import plan
from mirror.model import Reason, State
from tests import builders
from tests.builders import FOLDER, HOUR, MINUTE, NOW, URL

NO_FILE = {"has_file": False}


@pytest.mark.parametrize(
    ("listed", "state", "reason"),
    [
        ({}, State.READY, None),
        ({"has_file": False}, State.WAITING, Reason.NO_FILE_YET),
        ({"url": None}, State.WAITING, Reason.NO_FILE_YET),
        ({"url": FOLDER}, State.READY, None),
        (
            {"has_file": False, "created_us": NOW - 25 * HOUR},
            State.UNAVAILABLE,
            Reason.BEFORE_FIRST_RUN,
        ),
        ({"created_us": NOW - 900 * HOUR}, State.READY, None),
        ({"has_file": False, "created_us": None}, State.WAITING, Reason.NO_FILE_YET),
    ],
)
def test_a_new_row(listed, state, reason):
    """A row never listed before gets the state that its flag and url give."""
    after = plan(None, builders.row(**listed), builders.walk())

    assert (after.state, after.reason) == (state, reason)


def test_a_new_row_that_a_rule_excludes():
    """An excluded row never had a file as far as we are concerned."""
    after = plan(None, builders.row(), builders.walk(rule_for=lambda *_: "lobby"))

    assert (after.state, after.reason, after.had_file) == (
        State.EXCLUDED,
        "rule:lobby",
        False,
    )


def test_an_excluded_row_that_no_rule_excludes_any_more():
    """It becomes as new, under the same key."""
    prior = builders.export(state=State.EXCLUDED, reason="rule:lobby", key=42)
    after = plan(prior, builders.row(), builders.walk())

    assert (after.state, after.key) == (State.READY, 42)


@pytest.mark.parametrize(
    "url", [FOLDER, "https://vms.example", "https://vms.example/a/?x=1"]
)
def test_a_folder_url_is_not_tried_where_so_configured(url):
    """With folder_url = "wait" the row waits and says why."""
    after = plan(None, builders.row(url=url), builders.walk(try_folders=False))

    assert (after.state, after.reason) == (State.WAITING, Reason.URL_WITHOUT_FILE)


@pytest.mark.parametrize("state", [State.READY, State.PARKED])
@pytest.mark.parametrize("listed", [{"has_file": False}, {"url": None}])
def test_a_file_that_is_gone_before_it_was_fetched(state, listed):
    """Ready and parked exports wait when the list shows no file any more."""
    after = plan(builders.export(state=state), builders.row(**listed), builders.walk())

    assert (after.state, after.reason) == (State.WAITING, Reason.FILE_GONE)
    assert after.without_walks == 1


def test_a_running_fetch_goes_on_when_the_flag_turns_false():
    """The list does not stop what is under way."""
    prior = builders.export(state=State.FETCHING)
    after = plan(prior, builders.row(has_file=False), builders.walk())

    assert after.state is State.FETCHING


def test_what_is_erased_is_left_alone():
    prior = builders.export(state=State.ERASED)
    after = plan(prior, builders.row(updated_at="u9", url=URL + "x"), builders.walk())

    assert after is prior


def test_three_walks_without_the_file_after_the_deadline_lose_it():
    """Expired: past its deadline and seen without the file in 3 walks."""
    old = NOW - 4 * HOUR
    export = builders.export(created_us=old, deadline_us=NOW - MINUTE)
    row = builders.row(created_us=old, has_file=False)
    for number in range(1, 4):
        export = plan(export, row, builders.walk(at_us=NOW + number))
        assert export.without_walks == number
        assert (export.state is State.LOST) == (number == 3)

    assert export.reason == Reason.EXPIRED


def test_walks_without_the_file_before_the_deadline_lose_nothing():
    """The deadline must have passed too."""
    export = builders.export()
    for number in range(1, 9):
        export = plan(
            export, builders.row(has_file=False), builders.walk(at_us=NOW + number)
        )

    assert export.state is State.WAITING


@pytest.mark.parametrize("offset", [0, -3 * HOUR])
def test_a_clock_put_forward_loses_nothing(offset):
    """By the clock of the VMS the file can be there still."""
    old = NOW - 4 * HOUR + offset
    export = builders.export(created_us=old + HOUR * 2, deadline_us=NOW - MINUTE)
    row = builders.row(created_us=old + HOUR * 2, has_file=False)
    for number in range(1, 9):
        walk = builders.walk(at_us=NOW + number, clock_offset_us=offset)
        export = plan(export, row, walk)

    assert export.state is State.WAITING


def test_a_row_that_never_had_a_file_ends_after_the_waiting_limit():
    """It is unavailable, and no loss."""
    prior = builders.export(
        state=State.WAITING,
        reason=Reason.NO_FILE_YET,
        had_file=False,
        has_file=False,
        deadline_us=None,
        created_us=NOW - 25 * HOUR,
        first_seen_us=NOW - 24 * HOUR,
    )
    after = plan(
        prior, builders.row(has_file=False, created_us=NOW - 25 * HOUR), builders.walk()
    )

    assert (after.state, after.reason) == (State.UNAVAILABLE, Reason.NEVER_HAD_A_FILE)


def test_a_flagged_row_with_a_folder_url_waits_for_ever():
    """As long as the flag is true it is not given up."""
    prior = builders.export(
        state=State.WAITING,
        reason=Reason.URL_WITHOUT_FILE,
        url=FOLDER,
        had_file=False,
        deadline_us=None,
        due_us=NOW + HOUR,
        first_seen_us=NOW - 900 * HOUR,
    )
    listed = builders.row(url=FOLDER, created_us=NOW - 900 * HOUR)
    after = plan(prior, listed, builders.walk())

    assert (after.state, after.reason) == (State.WAITING, Reason.URL_WITHOUT_FILE)


@pytest.mark.parametrize("state", [State.LOST, State.UNAVAILABLE])
@pytest.mark.parametrize(
    ("prior", "listed", "again"),
    [
        ({"has_file": False}, {}, True),
        ({}, {"url": URL + "2"}, True),
        ({}, {"updated_at": "u2"}, True),
        ({}, {}, False),
        ({"has_file": False}, {"has_file": False, "updated_at": "u2"}, False),
    ],
)
def test_an_ended_export_that_is_made_again(state, prior, listed, again):
    """Only a file that appears, or another one, brings an ended export back."""
    before = builders.export(
        state=state,
        attempts_without_gain=10,
        tries_without_file=4,
        best_bytes=99,
        **prior,
    )
    after = plan(before, builders.row(**listed), builders.walk())

    assert (after.state is State.READY) == again
    if again:
        assert (after.reason, after.attempts_without_gain, after.best_bytes) == (
            "made_again",
            0,
            0,
        )
        assert after.walk_us == NOW


def test_a_damaged_export_is_fetched_again_when_the_list_shows_a_file():
    """Be it the same file: ours is no good."""
    before = builders.export(state=State.DAMAGED, walk_us=5)
    after = plan(before, builders.row(), builders.walk())
    without = plan(before, builders.row(has_file=False), builders.walk())

    assert (after.state, after.reason, after.walk_us) == (
        State.READY,
        "made_again",
        NOW,
    )
    assert without.state is State.DAMAGED


@pytest.mark.parametrize(
    ("prior", "listed", "previous", "born"),
    [
        (None, {"created_us": NOW - 10 * MINUTE}, (), NOW - 10 * MINUTE),
        (None, {"created_us": NOW - 9 * HOUR}, (), NOW),
        (
            None,
            {"created_us": NOW - 9 * HOUR, "updated_us": NOW - HOUR},
            (),
            NOW - HOUR,
        ),
        (None, {"created_us": NOW + HOUR}, (), NOW),
        (None, {"created_us": None}, (), NOW),
        (NO_FILE, {}, ((NOW - MINUTE, 0),), NOW - MINUTE),
        (NO_FILE, {}, ((NOW - MINUTE, NOW), (NOW - 2 * MINUTE, 0)), NOW - 2 * MINUTE),
        (NO_FILE, {}, ((NOW - 30 * MINUTE, 0),), NOW - 10 * MINUTE),
        (NO_FILE, {}, ((NOW + HOUR, 0), (NOW - MINUTE, 0)), NOW - MINUTE),
    ],
)
def test_the_deadline_of_a_file_that_appears(prior, listed, previous, born):
    """Born when last seen without, else when created or updated, else now."""
    before = (
        builders.export(
            state=State.WAITING,
            reason=Reason.NO_FILE_YET,
            deadline_us=None,
            had_file=False,
            **prior,
        )
        if prior is not None
        else None
    )
    after = plan(before, builders.row(**listed), builders.walk(previous=previous))

    assert after.deadline_us == born + 3 * HOUR


def test_the_deadline_is_corrected_by_the_clock_offset():
    """A VMS one hour ahead does not make us believe in a later deadline."""
    listed = builders.row(created_us=NOW + HOUR - 10 * MINUTE)
    after = plan(None, listed, builders.walk(clock_offset_us=HOUR))

    assert after.deadline_us == NOW - 10 * MINUTE + 3 * HOUR


def test_the_deadline_stays_while_the_file_stays():
    """Later walks that show the file do not move it."""
    before = builders.export(deadline_us=NOW + HOUR)
    after = plan(before, builders.row(updated_us=NOW, updated_at="u2"), builders.walk())

    assert after.deadline_us == NOW + HOUR


@pytest.mark.parametrize(
    ("without", "born"),
    [
        (None, NOW - 10 * MINUTE),
        (NOW + HOUR, NOW - 10 * MINUTE),
        (NOW - 5 * MINUTE, NOW - 5 * MINUTE),
    ],
)
def test_a_deadline_of_a_clock_that_was_put_back_is_fixed_anew(without, born):
    """No file is there for longer than its lifetime from now."""
    before = builders.export(deadline_us=NOW + 5 * HOUR, without_us=without)
    after = plan(before, builders.row(), builders.walk())

    assert (after.deadline_us, after.order_us) == (born + 3 * HOUR, born + 3 * HOUR)


def test_a_deadline_of_a_walk_that_began_later_is_left_alone():
    """A long sweep meets what a poll has met first."""
    before = builders.export(deadline_us=NOW + 3 * HOUR + 9 * MINUTE)
    after = plan(before, builders.row(), builders.walk())

    assert after.deadline_us == NOW + 3 * HOUR + 9 * MINUTE


def test_the_deadline_is_fixed_anew_when_the_file_is_made_again():
    """A walk without the file in between makes it another file."""
    before = builders.export(
        state=State.WAITING,
        reason=Reason.FILE_GONE,
        has_file=False,
        deadline_us=NOW - HOUR,
    )
    after = plan(before, builders.row(), builders.walk(previous=((NOW - MINUTE, 0),)))

    assert (after.state, after.deadline_us) == (State.READY, NOW - MINUTE + 3 * HOUR)


def test_a_folder_url_has_no_deadline_and_a_file_url_after_it_has():
    """Unknown before a file shows; then from the last try that found none."""
    first = plan(None, builders.row(url=FOLDER), builders.walk())
    assert (first.deadline_us, first.had_file) == (None, False)

    waiting = builders.export(
        state=State.WAITING,
        reason=Reason.URL_WITHOUT_FILE,
        url=FOLDER,
        had_file=False,
        deadline_us=None,
        without_us=NOW - MINUTE,
    )
    after = plan(waiting, builders.row(), builders.walk())
    assert (after.state, after.had_file) == (State.READY, True)
    assert after.deadline_us == NOW - MINUTE + 3 * HOUR


def test_an_unchanged_row_writes_nothing():
    """A walk that meets what it knows gives back an equal export."""
    first = plan(None, builders.row(), builders.walk())
    again = plan(first, builders.row(), builders.walk(at_us=NOW + MINUTE))

    assert again == first


@pytest.mark.parametrize(
    ("left", "state"),
    [
        (-1, State.READY),
        (MINUTE, State.WAITING),
        (10 * MINUTE, State.WAITING),
        (3 * HOUR, State.READY),
    ],
)
def test_a_pause_that_a_clock_put_back_made_too_long_is_over(left, state):
    """No export that had a file waits longer than retry_max."""
    prior = builders.export(
        state=State.WAITING,
        reason=Reason.FILE_GONE,
        tries_without_file=9,
        due_us=NOW + left,
    )

    assert plan(prior, builders.row(), builders.walk()).state is state
