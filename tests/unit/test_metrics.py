"""Metrics: the names and labels that dashboards rely on."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry, generate_latest

from mirror.metrics import LedgerSnapshot, Metrics

PROMISED = {
    "exports": {"source", "state"},
    "exports_saved_total": {"source"},
    "exports_lost_total": {"source", "reason"},
    "polls_total": {"source", "outcome"},
    "source_last_success_timestamp_seconds": {"source"},
    "source_up": {"source"},
    "fetches_total": {"source", "outcome"},
    "fetched_bytes_total": set(),
    "fetch_duration_seconds_count": {"source"},
    "oldest_ready_timestamp_seconds": set(),
    "earliest_deadline_timestamp_seconds": {"source"},
    "exports_at_risk": {"source"},
    "exports_without_room": set(),
    "deadline_margin_seconds_count": {"source"},
    "copies_total": {"target", "outcome"},
    "target_up": {"target"},
    "target_owed_files": {"target"},
    "target_owed_bytes": {"target"},
    "target_free_bytes": {"target"},
    "target_size_bytes": {"target"},
    "target_last_verified_timestamp_seconds": {"target"},
    "spool_bytes": set(),
    "spool_free_bytes": set(),
    "holdup_seconds": {"target"},
    "clock_offset_seconds": {"source"},
    "token_expiry_timestamp_seconds": {"source"},
    "config_last_reload_successful": set(),
    "build_info": {"version", "python"},
}


def told(metrics):
    """Return the exposition as {name: {labels: value}}."""
    text = generate_latest(metrics.registry).decode()
    found: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"archive_mirror_(\w+)(?:\{(.*)\})? (\S+)", line)
        if match:
            found.setdefault(match[1], {})[match[2] or ""] = float(match[3])
    return found


def used():
    """Return metrics that have seen one of everything."""
    metrics = Metrics(CollectorRegistry())
    metrics.declare(["hq"], ["nas"])
    metrics.poll_ended("hq", "ok")
    metrics.fetch_ended("hq", "whole", 2.0)
    metrics.fetch_ended("hq", "never heard of", 2.0)
    metrics.bytes_fetched(10)
    metrics.deadline_margin("hq", 60)
    metrics.copy_ended("nas", "saved")
    metrics.target_checked("nas", up=True, free_bytes=5, size_bytes=9)
    metrics.spool_measured(used_bytes=1, free_bytes=2)
    metrics.holdup("nas", 3.0)
    metrics.token_expiry("hq", 4)
    metrics.config_reloaded(successful=True)
    metrics.show(
        LedgerSnapshot(
            exports={("hq", "saved"): 3, ("gone", "saved"): 9},
            lost_total={("hq", "expired"): 2},
            last_success_us={"hq": 5_000_000},
            oldest_ready_us=1,
            earliest_deadline_us={"hq": 2_000_000, "gone": 1},
            exports_at_risk={"hq": 1, "gone": 1},
            target_last_verified_us={"nas": 7_000_000, "gone": 1},
        )
    )
    return metrics


def test_every_promised_metric_is_there_with_its_labels():
    """No more and no other labels than promised."""
    found = told(used())

    for name, labels in PROMISED.items():
        series = next(iter(found[name]))
        assert set(re.findall(r"(\w+)=", series)) == labels, name
    assert not [name for name in found if name.endswith("_created")]


def test_known_series_begin_at_zero():
    """A rate over a counter that is not there yet is no rate."""
    metrics = Metrics(CollectorRegistry())
    metrics.declare(["hq"], ["nas"])
    metrics.show(LedgerSnapshot())
    found = told(metrics)

    assert found["exports"]['source="hq",state="lost"'] == 0
    assert found["exports_lost_total"]['reason="expired",source="hq"'] == 0
    assert found["polls_total"]['outcome="unauthorized",source="hq"'] == 0
    assert found["copies_total"]['outcome="failed",target="nas"'] == 0
    assert found["exports_at_risk"]['source="hq"'] == 0
    assert found["deadline_margin_seconds_count"]['source="hq"'] == 0
    assert found["fetch_duration_seconds_count"]['source="hq"'] == 0


def test_totals_of_the_ledger_are_not_shown_before_it_was_asked():
    """A 0 at the start and 41 a scrape later would be an alert: 41 exports lost."""
    metrics = Metrics(CollectorRegistry())
    metrics.declare(["hq"], ["nas"])

    assert not {"exports_lost_total", "exports_saved_total"} & set(told(metrics))


def test_a_token_that_does_not_say_when_it_ends_has_no_end():
    """The end of the token before it would warn for ever."""
    metrics = used()
    metrics.token_expiry("hq", None)
    metrics.token_expiry("never named one", None)

    assert "token_expiry_timestamp_seconds" not in told(metrics)


def test_the_ledger_is_what_counts():
    """Counts come from the ledger's snapshot; unknown sources are left out."""
    found = told(used())

    assert found["exports"]['source="hq",state="saved"'] == 3
    assert found["exports_lost_total"]['reason="expired",source="hq"'] == 2
    assert found["exports_at_risk"] == {'source="hq"': 1}
    assert found["earliest_deadline_timestamp_seconds"] == {'source="hq"': 2}
    assert found["target_last_verified_timestamp_seconds"] == {'target="nas"': 7}
    assert not any("gone" in series for series in found["exports"])


def test_removed_names_are_forgotten():
    """After a reload no dead series is shown as if it lived."""
    metrics = used()
    metrics.declare(["two"], ["other"])
    found = told(metrics)

    series = [labels for name in found.values() for labels in name]
    assert not [labels for labels in series if '"hq"' in labels or '"nas"' in labels]
    assert found["polls_total"]['outcome="ok",source="two"'] == 0


def test_a_reload_keeps_the_counts_of_what_stays():
    """A counter that begins anew looks like a restart."""
    metrics = used()
    metrics.declare(["hq", "two"], ["nas"])

    assert told(metrics)["polls_total"]['outcome="ok",source="hq"'] == 1


def test_the_process_is_measured_too():
    """Memory and garbage of this process are on the same registry."""
    text = generate_latest(used().registry).decode()

    assert "process_resident_memory_bytes" in text
    assert "python_gc_collections_total" in text


def test_a_miss_by_hours_has_its_own_bucket():
    """Margins are told apart up to three hours before and after the deadline."""
    buckets = told(used())["deadline_margin_seconds_bucket"]

    bounds = {f'le="{bound}",source="hq"' for bound in ("-10800.0", "0.0", "10800.0")}
    assert bounds <= set(buckets)
