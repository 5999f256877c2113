"""When a file is looked at again, and what a look shows."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from mirror.lifecycle import second_look
from mirror.lifecycle.second_look import MOST_LOOKS, Empty, Shown
from mirror.model import Reason, State, Verdict
from mirror.mp4 import END_NOT_PROVABLE
from mirror.ports import Validators
from tests import builders
from tests.builders import HOUR, MINUTE, NOW

if TYPE_CHECKING:
    from mirror.model import Export

DATE = "Mon, 23 Nov 2026 12:00:00 GMT"
LATER = "Mon, 23 Nov 2026 12:05:00 GMT"
LIFE = 3 * HOUR
GROWN = Validators(total_bytes=200, etag='"2"', last_modified=LATER)


def kept(**given: Any) -> Export:
    values: dict[str, Any] = {
        "state": State.SAVED,
        "proof": Verdict.WHOLE,
        "size_bytes": 100,
        "sha256": "aa" * 32,
        "part_etag": '"1"',
        "part_modified": DATE,
        "look_due_us": NOW,
    }
    return builders.export(**(values | given))


def look(
    export: Export, shown: Shown, seen: Validators | None = None, **given: Any
) -> Any:
    newest = given.pop("newest", export)
    return second_look.after_look(
        export, newest, shown, seen, now_us=given.pop("now_us", NOW), lifetime_us=LIFE
    )


@pytest.mark.parametrize(
    ("seen", "empty", "shown"),
    [
        (None, {}, Shown.NOTHING),
        ((100, '"1"', DATE), {}, Shown.UNCHANGED),
        ((None, '"1"', None), {}, Shown.UNCHANGED),
        ((100, None, DATE), {}, Shown.UNCHANGED),
        ((100, 'W/"1"', None), {}, Shown.UNCHANGED),
        ((100, None, None), {}, Shown.NOTHING),
        ((101, None, None), {}, Shown.CHANGED),
        ((101, '"1"', DATE), {}, Shown.CHANGED),
        ((100, '"1"', LATER), {}, Shown.CHANGED),
        ((100, '"2"', DATE), {}, Shown.CHANGED),
        ((100, '"2"', None), {}, Shown.CHANGED),
        ((100, '"2"', DATE), {"etag": True}, Shown.UNCHANGED),
        ((100, '"2"', None), {"etag": True}, Shown.NOTHING),
        ((100, '"1"', LATER), {"modified": True}, Shown.UNCHANGED),
        ((100, '"2"', LATER), {"etag": True, "modified": True}, Shown.NOTHING),
        ((99, '"2"', LATER), {"etag": True, "modified": True}, Shown.CHANGED),
    ],
)
def test_what_a_look_shows(seen, empty, shown):
    """With only the total it may show a change, never that there is none."""
    names = ("total_bytes", "etag", "last_modified")
    found = second_look.compare(
        seen and Validators(**dict(zip(names, seen, strict=True))),
        size_bytes=100,
        etag='"1"',
        modified=DATE,
        empty=Empty(**empty),
    )

    assert found is shown


def test_a_file_is_looked_at_at_half_the_time_left_once():
    whole = kept(deadline_us=NOW + 2 * HOUR)
    after, _ = look(whole, Shown.UNCHANGED)

    assert second_look.first_due(whole, NOW, LIFE) == NOW + HOUR
    assert (after.looks, after.look_due_us) == (1, None)
    assert second_look.first_due(kept(deadline_us=NOW), NOW, LIFE) is None
    assert second_look.first_due(kept(deadline_us=None), NOW, LIFE) is None


@pytest.mark.parametrize(
    "given",
    [
        {"proof": Verdict.DOUBTFUL},
        {"proof_notes": f"free comes first; {END_NOT_PROVABLE}"},
    ],
)
def test_what_is_not_sure_is_looked_at_again_and_again(given):
    """Whenever half of what was left has gone, a twentieth of the lifetime apart."""
    export, now_us, times = kept(deadline_us=NOW + 2 * HOUR, **given), NOW, []
    while export.look_due_us is not None:
        export, _ = look(export, Shown.NOTHING, now_us=now_us)
        if export.look_due_us is not None:
            times.append((export.look_due_us - NOW) // MINUTE)
            now_us = export.look_due_us

    assert times == [60, 90, 105, 114]


def test_no_more_than_twelve_looks_the_last_one_late():
    """A row that changes at every walk does not make for more."""
    export, now_us, times = kept(deadline_us=NOW + LIFE), NOW, []
    for minute in range(200):
        now_us = NOW + minute * MINUTE
        due_us = second_look.next_due(
            export, now_us=now_us, lifetime_us=LIFE, soon=True
        )
        if due_us is not None and due_us <= now_us:
            export, _ = look(export, Shown.UNCHANGED, now_us=now_us)
            times.append(minute)

    assert len(times) == MOST_LOOKS == export.looks
    assert min(b - a for a, b in itertools.pairwise(times)) >= 9
    assert times[-1] >= 135


def test_looks_are_counted_by_export():
    """A further version goes on with those of the one before."""
    first, version = look(kept(looks=9), Shown.CHANGED, GROWN)
    version = dataclasses.replace(version, key=2)
    _, version = look(first, Shown.NOTHING, newest=version)
    ours = dataclasses.replace(version, state=State.SAVED)

    assert version.looks == 11
    assert second_look.first_due(ours, NOW, LIFE) == NOW + 3 * HOUR - 45 * MINUTE
    assert second_look.first_due(dataclasses.replace(ours, looks=12), NOW, LIFE) is None


def test_a_change_makes_a_version_that_waits():
    """It is fetched when two looks agree, or when a quarter of the lifetime is left."""
    export = kept(deadline_us=NOW + 2 * HOUR)
    first, version = look(export, Shown.CHANGED, GROWN)

    assert (version.key, version.version) == (None, 2)
    assert (version.state, version.reason) == (State.READY, Reason.CHANGED)
    assert version.deadline_us == export.deadline_us
    assert version.not_before_us == NOW + 2 * HOUR - 45 * MINUTE
    assert first.state is State.SAVED
    assert first.look_due_us == NOW + 9 * MINUTE

    version = dataclasses.replace(version, key=2)
    then = NOW + 9 * MINUTE
    _, agreed = look(first, Shown.CHANGED, GROWN, newest=version, now_us=then)
    still = dataclasses.replace(GROWN, total_bytes=300)
    grows, waits = look(first, Shown.CHANGED, still, newest=version, now_us=then)

    assert agreed.not_before_us == 0
    assert waits.not_before_us == version.not_before_us
    assert grows.look_total == 300


def test_the_last_version_waits_for_the_last_quarter():
    """However often looks agree."""
    export = kept(version=2, deadline_us=NOW + 2 * HOUR)
    first, version = look(export, Shown.CHANGED, GROWN)
    version = dataclasses.replace(version, key=2)
    _, after = look(first, Shown.CHANGED, GROWN, newest=version)

    assert version.version == 3
    assert after.not_before_us == NOW + 2 * HOUR - 45 * MINUTE


@pytest.mark.parametrize("given", [{"version": 3}, {"drops": 2}])
def test_there_is_no_fourth_version(given):
    """A further change is told, and not looked at any more."""
    after, newest = look(kept(**given), Shown.CHANGED, GROWN)

    assert newest is after
    assert after.look_due_us is None
    assert "changed again" in (after.last_error or "")


def test_an_overdue_look_may_still_show_a_change():
    """It is made once, also past the deadline; what it shows is fetched at once."""
    export = kept(deadline_us=NOW - MINUTE)
    after, version = look(export, Shown.CHANGED, GROWN)

    assert after.look_due_us is None
    assert version.not_before_us < NOW


@pytest.mark.parametrize("shown", [Shown.NOTHING, Shown.UNCHANGED])
def test_a_change_that_is_gone_agrees_with_nothing(shown):
    first, version = look(kept(), Shown.CHANGED, GROWN)
    version = dataclasses.replace(version, key=2)
    second, _ = look(first, shown, newest=version)
    _, third = look(second, Shown.CHANGED, GROWN, newest=version)

    assert third.not_before_us > 0


def test_a_look_that_fails_is_repeated():
    """It shows nothing, and forgets nothing."""
    first, version = look(kept(), Shown.CHANGED, GROWN)
    version = dataclasses.replace(version, key=2)
    second, _ = look(first, Shown.FAILED, newest=version)
    _, third = look(second, Shown.CHANGED, GROWN, newest=version)

    assert second.look_due_us == NOW + 9 * MINUTE
    assert third.not_before_us == 0


def test_a_signature_is_no_other_place():
    assert second_look.same_place("https://a/b.mp4?s=1", "https://a/b.mp4?s=2#x")
    assert not second_look.same_place("https://a/b.mp4", "https://a/c.mp4")
    assert not second_look.same_place("https://a/b.mp4", None)
