"""That a body is held, and when it is asked for again, is told wherever one looks."""

from __future__ import annotations

import json
import re

import pytest

from mirror.app.status.nagios import judge
from mirror.model import State
from tests.afternoon import MINUTE, NOW_US, HandmadeSite
from tests.integration.test_doubtful_shown import HELD, facts, told
from tests.integration.test_status_page import page_of

SOON = {"due_us": NOW_US + 2 * MINUTE, "not_before_us": NOW_US + 2 * MINUTE}


@pytest.fixture
def site(tmp_path):
    with HandmadeSite.open(tmp_path) as site:
        yield site


async def test_the_page_counts_it_apart(site):
    """It is owed, but it is not to be fetched as the others are."""
    site.add("hq", State.READY, made_us=2 * MINUTE)
    site.add("hq", State.READY, made_us=3 * MINUTE, **(HELD | SOON))
    status, seen = site.status(), await page_of(site)

    assert (status["owed"], status["held"]) == (2, 1)
    assert {one["name"]: one["held"] for one in status["sources"]} == {
        "depot": 0,
        "harbour": 0,
        "hq": 1,
    }
    assert "2 are on the way, in good time (1 held until proven)" in seen.text
    assert "have a file, are not kept yet; 1 held until proven" in seen.text
    assert "0 kept, 1 to fetch, 1 held until proven" in seen.text
    assert "nearest deadline first; 1 held until proven" in seen.text
    assert "held a file came to its end and is not proven whole" in seen.text
    assert "Asked again in 2 min" in seen.text.replace("\u00a0", " ")
    assert "(1 held)" in judge(status)[1]


async def test_nothing_is_said_of_it_where_nothing_is_held(site):
    site.add("hq", State.READY, made_us=2 * MINUTE)
    seen = await page_of(site)

    assert site.status()["held"] == 0
    assert "held until" not in seen.text
    assert "held" not in judge(site.status())[1]


def test_status_says_it(site):
    site.add("hq", State.READY, made_us=2 * MINUTE)
    site.add("hq", State.READY, made_us=3 * MINUTE, **HELD)

    assert "owed      2 (1 held, to be proven: see `list --state ready`)" in told(
        site, "status"
    )


def test_show_says_what_is_done_about_it_and_when(site):
    number = site.add("hq", State.READY, made_us=MINUTE, **(HELD | SOON))

    lines = facts(told(site, "show", f"hq/{number}"))

    assert "reason held" in lines
    assert any(one.startswith("asked_again 2026-11-23T14:22:00.000Z") for one in lines)
    assert "asked for again before it is kept as doubtful" in lines[0]


def test_show_of_what_is_asked_for_at_once(site):
    """Its time is that of the body's end."""
    number = site.add("hq", State.READY, made_us=MINUTE, **HELD)

    full = json.loads(told(site, "show", f"hq/{number}", "--json"))

    assert (full["reason"], full["why"]) == (None, "held")
    assert full["asked_again"] == "2026-11-23T14:20:00.000Z"


def test_list_explains_what_has_no_reason(site):
    """By what failed last, or by its state."""
    failed = {"last_error": "no first byte for 60 s", "attempts": 3}
    site.add("hq", State.READY, made_us=MINUTE)
    site.add("hq", State.READY, made_us=MINUTE, **failed)
    site.add("hq", State.DAMAGED, made_us=MINUTE, reason="doubtful")
    site.add("hq", State.EXCLUDED, made_us=MINUTE, reason="rule:lobby")

    lines = told(site, "list").splitlines()
    of = [re.split(r" \d+ d ", line)[0].split(None, 1)[1] for line in lines[1:5]]
    below = [line.split(":")[0] for line in lines[6:] if line[0] != " "]

    assert [" ".join(each.split()) for each in of] == [
        "ready",
        "ready retried: no first byte for 60 s",
        "damaged damaged",
        "excluded rule:lobby",
    ]
    assert below == ["damaged", "ready", "retried", "rule"]
