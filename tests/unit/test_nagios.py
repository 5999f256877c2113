"""`status --nagios`: the right code, one line, figures that plugins' readers take."""

from __future__ import annotations

import re

import pytest

from mirror.app.status import nagios
from mirror.model import State
from tests.afternoon import HOUR, MINUTE, SECOND, HandmadeSite, afternoon

# "Performance data", monitoring-plugins.org/doc/guidelines.html
FIGURE = re.compile(
    r"[^ ='|]+=-?\d+(\.\d+)?(s|B|c)?(;[\d.:@~-]*(;[\d.:@~-]*(;-?\d*(;-?\d*)?)?)?)?"
)


def said(site: HandmadeSite, *, running: bool = True) -> tuple[nagios.Result, str]:
    """Return what the plugin answers; it is one short line whatever was given."""
    result, line = nagios.judge(site.status(running=running))

    text, bar, figures = line.partition(" | ")
    assert bar
    assert "\n" not in line
    assert "|" not in text
    assert len(line.encode()) < 1024
    assert text.startswith(f"ARCHIVE-MIRROR {result.name} - ")
    for figure in figures.split(" "):
        assert FIGURE.fullmatch(figure), figure
    return result, line


@pytest.fixture
def site(tmp_path):
    with HandmadeSite.open(tmp_path) as site:
        yield site


def test_all_is_well(site):
    site.keep("hq", made_us=HOUR, took_us=MINUTE)

    result, line = said(site)

    assert result == 0
    assert "1 exports saved" in line
    assert " owed=0;" in line
    assert " list_age=20s;" in line


def test_what_is_not_proven_whole_is_a_warning_for_a_day(site):
    site.keep("hq", made_us=HOUR, took_us=MINUTE)
    site.doubt("hq", kept_us=25 * HOUR)

    result, line = said(site)

    assert result == 0
    assert "1 exports saved, 1 doubtful, 0 owed" in line
    assert " doubtful=1;" in line

    site.doubt("hq", kept_us=23 * HOUR)
    result, line = said(site)

    assert result == 1
    assert "archive-mirror list --state doubtful --source hq" in line


def test_a_dead_service_is_critical(site):
    result, line = said(site, running=False)

    assert result == 2
    assert "The service does not run" in line


def test_a_target_that_is_away_is_a_warning(site):
    site.target("nas", problem="nothing is mounted at /srv/footage")

    result, line = said(site)

    assert result == 1
    assert "nothing is mounted" in line
    assert " targets_down=1;" in line


def test_it_warns_before_footage_is_lost(site):
    """A source that fails is a warning, and critical when its files soon expire."""
    site.read("hq", ago_us=30 * MINUTE, problem="refused")
    assert said(site)[0] == 1

    site.read("hq", ago_us=160 * MINUTE, problem="refused")
    assert said(site)[0] == 2


def test_what_is_at_risk_is_critical(site):
    site.add("hq", State.READY, made_us=160 * MINUTE)

    result, line = said(site)

    assert result == 2
    assert " at_risk=1;" in line
    assert " deadline_left=1200s;" in line


def test_a_loss_is_critical_until_it_is_acknowledged(site):
    site.add("hq", State.LOST, made_us=30 * HOUR, reason="expired")
    result, line = said(site)
    assert result == 2
    assert "archive-mirror ack hq/" in line

    (lost,) = site.ledger.queries.losses(1)
    site.ledger.acknowledge([lost], "seen", site.now_us)
    result, line = said(site)

    assert result == 0
    assert " lost=1c" in line
    assert " unacknowledged=0;" in line


def test_a_pause_is_a_warning(site):
    site.ledger.pauses.pause_source(
        "hq", from_us=site.now_us - SECOND, until_us=site.now_us + HOUR
    )

    result, line = said(site)

    assert result == 1
    assert "hq is paused until" in line


def test_much_and_hostile_text_stays_one_short_line(site):
    afternoon(site)
    site.read("hq", ago_us=MINUTE, problem="é|\n\x1b[31m" * 400)
    site.read("depot", ago_us=MINUTE, problem="x y" * 400)

    result, line = said(site)

    assert result == 2
    assert "\x1b" not in line
    assert re.search(r" - \d things: ", line)
