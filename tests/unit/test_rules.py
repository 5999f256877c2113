"""Which rows the rules exclude."""

from __future__ import annotations

import pytest

from mirror.pipeline.discover.rules import Rule, first_match
from tests import builders
from tests.builders import HOUR, MINUTE, NOW

AGE = 10 * MINUTE
"""Of the built row at `NOW`."""


def matches(row=None, at_us: int = NOW, **named) -> bool:
    """Tell whether a rule that names this is about a row."""
    return Rule(name="r", **named).matches(row or builders.row(), at_us)


def test_a_rule_that_names_nothing_matches_all():
    """None leaves a property open."""
    assert matches()


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"cameras": (3, 1)}, True),
        ({"cameras": (3,)}, False),
        ({"cameras": ()}, False),
        ({"stream_types": ("lo*",)}, True),
        ({"stream_types": ("high", "low")}, True),
        ({"stream_types": ("LOW",)}, False),
        ({"stream_types": ("lo",)}, False),
        ({"users": ("5",)}, True),
        ({"users": ("50", "1?")}, False),
        ({"users": ("[1-9]",)}, True),
        ({"names": ("Gate*",)}, True),
        ({"names": ("gate*",)}, False),
        ({"names": ("*.mp4",)}, True),
        ({"names": ()}, False),
    ],
)
def test_one_property(named, expected):
    """Any of its values or globs is enough; the case of letters counts."""
    assert matches(**named) is expected


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ({"camera_id": None}, {"cameras": (1,)}),
        ({"stream_type": None}, {"stream_types": ("*",)}),
        ({"user_id": None}, {"users": ("*",)}),
        ({"name": None}, {"names": ("*",)}),
        ({"created_us": None}, {"min_age_us": 0}),
        ({"created_us": None}, {"max_age_us": HOUR}),
    ],
)
def test_a_row_that_lacks_what_is_named_is_not_excluded(missing, named):
    """What we do not know is fetched rather than left."""
    assert not matches(builders.row(**missing), **named)


def test_all_that_a_rule_names_must_match():
    """Properties are joined by and."""
    assert matches(cameras=(1,), names=("Gate*",), users=("5",))
    assert not matches(cameras=(1,), names=("Gate*",), users=("6",))
    assert not matches(cameras=(2,), names=("Gate*",))


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"min_age_us": AGE}, True),
        ({"min_age_us": AGE + 1}, False),
        ({"max_age_us": AGE}, True),
        ({"max_age_us": AGE - 1}, False),
        ({"min_age_us": AGE - 1, "max_age_us": AGE + 1}, True),
        ({"min_age_us": AGE + 1, "max_age_us": AGE - 1}, False),
    ],
)
def test_ages_include_their_bounds(named, expected):
    """At least so old, at most so old."""
    assert matches(**named) is expected


def test_a_row_from_the_future_is_young():
    """A VMS clock that is ahead makes no row old."""
    ahead = builders.row(created_us=NOW + HOUR)

    assert matches(ahead, max_age_us=0)
    assert not matches(ahead, min_age_us=0)


def test_the_first_rule_that_matches_gives_the_reason():
    """Order decides; without a match there is no name."""
    rules = [
        Rule(name="lobby", cameras=(9,)),
        Rule(name="low", stream_types=("low",)),
        Rule(name="all"),
    ]

    assert first_match(rules, builders.row(), NOW) == "low"
    assert first_match(rules[:1], builders.row(), NOW) is None
    assert first_match([], builders.row(), NOW) is None
