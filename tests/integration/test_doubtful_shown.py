"""What is doubtful, held or a further version, as `list`, `show`, `status` tell it."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import pytest
from prometheus_client import CollectorRegistry

from mirror.app.status import metrics_snapshot, public_json
from mirror.ledger import rows
from mirror.metrics import Metrics
from mirror.model import State
from tests.afternoon import HOUR, MINUTE, NOW_US, HandmadeSite
from tests.command import run

HELD = {
    "held_sha256": "ab" * 32,
    "held_bytes": 900_000,
    "held_doubt": "its moov describes no track",
    "held_us": NOW_US,
    "held_until_us": NOW_US + HOUR,
    "last_error": "not proven whole: its moov describes no track",
}


@pytest.fixture
def site(tmp_path):
    with HandmadeSite.open(tmp_path) as site:
        yield site


def told(site: HandmadeSite, *words: str) -> str:
    """Return what a command prints of a site, its ledger being closed."""
    with contextlib.closing(site.ledger):
        ran = run(*words, "-c", site.folder / "archive-mirror.toml")
    assert (ran.code, ran.err) == (0, ""), ran
    return ran.out


def facts(text: str) -> list[str]:
    """Return the lines that `show` prints, without the columns."""
    return [" ".join(line.split()) for line in text.splitlines()]


def test_list_says_in_short_what_is_doubted(site):
    """Of what is kept and of what is held; the long text below fits a terminal."""
    site.doubt("hq", kept_us=HOUR, then=State.SAVED)
    site.add("hq", State.READY, made_us=MINUTE, **HELD)
    doubted = f"hq/{site.ids - 1}"

    lines = told(site, "list").splitlines()
    of = {line.split()[0]: line for line in lines if line.startswith("hq/")}

    assert "doubtful: mdat ends at 900, the file at 700 " in of[doubted]
    assert " saved " in of[f"{doubted}~2"]
    assert "ready     held: its moov describes no track " in of[f"hq/{site.ids}"]
    below = lines[lines.index("") + 1 :]
    assert {line.split(":")[0] for line in below if line[0] != " "} == {
        "doubtful",
        "held",
    }
    assert max(map(len, below)) <= 80


def test_list_by_state_names_the_doubtful_alone(site):
    """`--state doubtful` gives these only, with what is doubted."""
    site.doubt("hq", kept_us=HOUR, then=State.SAVED)
    site.keep("hq", made_us=HOUR, took_us=MINUTE)

    text = told(site, "list", "--state", "doubtful", "--json")

    (line,) = map(json.loads, text.splitlines())
    assert (line["id"], line["version"], line["proof"]) == (
        site.ids - 1,
        1,
        "doubtful",
    )
    assert line["doubt"] == "mdat ends at 900, the file at 700"


def test_show_tells_the_doubt_and_the_other_versions(site):
    """One line each; the newest is shown unless another is asked for."""
    number = site.doubt("hq", kept_us=HOUR, then=State.SAVED)

    newest = facts(told(site, "show", f"hq/{number}"))

    assert newest[0].startswith("saved: its file is kept, on nas and vault.")
    assert "proof whole" in newest
    assert "version ~1: doubtful, 700 B" in newest


def test_show_of_a_doubtful_version(site):
    """It says what is doubted, how the file is called, and which versions there are."""
    number = site.doubt(
        "hq", kept_us=HOUR, then=State.READY, more={"reason": "changed"}
    )

    lines = facts(told(site, "show", f"hq/{number}~1"))

    assert "doubt mdat ends at 900, the file at 700" in lines
    assert "it is kept as NAME.doubtful.mp4" in lines[0]
    assert "version ~2: ready, changed" in lines


def test_show_of_a_held_body(site):
    """It says how much is held, why, and until when."""
    number = site.add("hq", State.READY, made_us=MINUTE, **HELD)

    lines = facts(told(site, "show", f"hq/{number}"))

    assert "held_bytes 878.9 KiB" in lines
    assert "held_doubt its moov describes no track" in lines
    assert any(one.startswith("held_until 2026-11-23T15:20:00.000Z (") for one in lines)


def test_status_counts_it_by_state(site):
    """Doubtful exports have a count of their own."""
    site.doubt("hq", kept_us=HOUR)
    site.keep("hq", made_us=HOUR, took_us=MINUTE)

    assert "exports   doubtful 1   saved 1" in told(site, "status").splitlines()


def test_the_command_of_on_event_is_told_of_it(site):
    """By an event of its own, with what is doubted."""
    site.ledger.node_id(1)
    site.ledger.events.listen(on=True)
    given = {"proof": "doubtful", "doubt": "it holds no samples"}
    site.add("hq", State.SPOOLED, made_us=MINUTE, **given)
    with site.ledger._db.transaction() as connection:
        (spooled,) = site.ledger.by_state(State.SPOOLED)
        rows.update(
            connection, spooled, dataclasses.replace(spooled, state=State.DOUBTFUL)
        )

    (event,) = site.ledger.events.take(5)
    shown = public_json.event(event)

    assert shown["event"] == "export.doubtful"
    assert shown["export"]["state"] == shown["export"]["proof"] == "doubtful"
    assert shown["export"]["doubt"] == "it holds no samples"


def test_what_is_to_be_fetched_is_not_what_waits(site):
    """Neither a held body nor a changed file before its time makes an alarm."""
    site.add("hq", State.READY, made_us=MINUTE)
    site.add("hq", State.PARKED, made_us=HOUR * 3 - 29 * MINUTE)
    site.add("hq", State.READY, made_us=HOUR * 3, **HELD)
    later = {"due_us": NOW_US + HOUR, "not_before_us": NOW_US + HOUR}
    site.add("hq", State.READY, made_us=MINUTE, reason="changed", version=2, **later)
    site.add("hq", State.READY, made_us=MINUTE, reason="changed", **later, **HELD)
    site.add("depot", State.READY, made_us=MINUTE, reason="changed", **later)
    site.keep("harbour", made_us=HOUR, took_us=MINUTE)
    counted = CollectorRegistry()
    metrics = Metrics(counted)
    metrics.declare(["hq", "depot", "harbour"], [])
    metrics.show(metrics_snapshot.take(site.ledger, site.now_us))

    def risk(source: str) -> tuple[float | None, float | None]:
        at_risk, deadline = (
            counted.get_sample_value(f"archive_mirror_{name}", {"source": source})
            for name in ("exports_at_risk", "earliest_deadline_timestamp_seconds")
        )
        return at_risk, deadline

    def unfetched(source: str) -> float | None:
        return counted.get_sample_value(
            "archive_mirror_exports_unfetched", {"source": source}
        )

    assert [unfetched(name) for name in ("hq", "depot", "harbour")] == [2, 0, 0]
    nearest_s = (site.now_us + 29 * MINUTE) / 1e6
    assert risk("hq") == (1, nearest_s)
    assert risk("depot") == risk("harbour") == (0, None)
