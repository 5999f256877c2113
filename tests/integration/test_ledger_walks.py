"""What walks write to the ledger, and what it gives back."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mirror.ledger import Filter
from mirror.ledger.walks import BAD_ROWS_KEPT
from mirror.lifecycle.list_row import plan
from mirror.model import Reason, State
from mirror.ports import BadRow
from tests import builders
from tests.builders import HOUR, MINUTE, NOW
from tests.ledger_bench import (
    attempt,
    claim,
    get,
    key_of,
    meet,
    row,
    vanished,
)


def test_a_row_goes_in_and_comes_out_as_planned(ledger):
    """What plan decides is what the ledger gives back, and the item as received."""
    listed = row(1, name="Tür \U0001f4f9.mp4", footage_from="a", raw=b'{"id": 1}')
    (met, keys) = meet(ledger, listed)
    export = get(ledger)

    assert dataclasses.replace(export, key=None) == plan(None, listed, builders.walk())
    assert (met.new, met.changed, keys) == (1, 0, {export.key})
    assert ledger.queries.details(export).item == b'{"id": 1}'


def test_every_field_of_an_export_survives(ledger):
    """Also those that only a fetch sets."""
    meet(ledger, row(1))
    values: dict[str, Any] = {
        "state": State.PARKED,
        "reason": Reason.NO_PROGRESS,
        "without_us": 1,
        "without_walk_us": 2,
        "without_walks": 3,
        "absent_sweeps": 1,
        "due_us": 4,
        "attempts": 5,
        "attempts_without_gain": 6,
        "tries_without_file": 7,
        "best_bytes": 1 << 40,
        "last_error": "e",
        "spool_dir": "/s",
        "part_bytes": 1 << 41,
        "part_sha256": "d",
        "part_total": 9,
        "part_etag": "t",
        "part_modified": "m",
        "ask_without_range": True,
        "size_bytes": 10,
        "sha256": "x",
        "started_us": 11,
        "spooled_us": 12,
        "saved_us": 13,
    }
    full = dataclasses.replace(get(ledger), **values)
    ledger.fetches.settle(key_of(ledger), lambda _: full, attempt())

    assert get(ledger) == full


def test_an_id_counted_anew_is_another_export(ledger):
    """Source, id and created_at together are the identity."""
    meet(ledger, row(1))
    meet(ledger, builders.row(export_id=1, created_key="later"))
    meet(ledger, row(1), source="hq2")
    meet(ledger, row(1, name="renamed"))

    assert len(ledger.queries.find(1)) == 3
    assert len(ledger.queries.find(1, source="hq")) == 2
    (found,) = ledger.queries.find(1, created_at="k1", source="hq")
    assert found.name == "renamed"


def test_a_page_is_met_whole_or_not_at_all(ledger):
    """A page whose last row fails leaves no trace of its first."""

    def decide(prior, listed):
        if listed.export_id == 2:
            raise ValueError("planned")
        return plan(prior, listed, builders.walk())

    with pytest.raises(ValueError, match="planned"):
        ledger.walks.meet("hq", [row(1), row(2)], decide)

    assert list(ledger.queries.exports(Filter())) == []


def test_a_row_met_twice_on_a_page_is_one_export(ledger):
    """It is decided twice, the second time on what the first left."""
    met, keys = meet(ledger, row(1, has_file=False), row(1))

    assert (met.new, len(keys)) == (1, 1)
    assert get(ledger).state is State.READY


def test_the_device_of_a_source_is_made_once(ledger):
    """And differs from that of another."""
    first = ledger.walks.source("hq").device_uuid

    assert ledger.walks.source("hq").device_uuid == first
    assert ledger.walks.source("hq2").device_uuid != first


def test_complete_walks_are_remembered_newest_first(ledger):
    """A poll and a sweep each once; an incomplete walk is none."""

    def walked(began_us: int, *, sweep: bool, complete: bool = True) -> None:
        ledger.walks.walked(
            "hq",
            sweep=sweep,
            complete=complete,
            began_us=began_us,
            since_us=began_us - 5,
            offset_us=3,
            now_us=began_us + 1,
        )

    walked(10, sweep=True, complete=False)
    assert ledger.walks.source("hq").first_sweep_us is None
    walked(20, sweep=True)
    walked(30, sweep=False)
    walked(40, sweep=False)
    walked(50, sweep=True, complete=False)
    record = ledger.walks.source("hq")

    assert record.previous == ((40, 35), (20, 15))
    assert (record.first_sweep_us, record.last_success_us) == (21, 51)
    assert record.clock_offset_us == 3


def test_a_failed_walk_is_a_problem_until_one_succeeds(ledger):
    """The reason is kept for status."""
    ledger.walks.walk_failed("hq", "500", NOW)
    assert ledger.walks.source("hq").problem == "500"
    ledger.walks.walked(
        "hq",
        sweep=False,
        complete=True,
        began_us=NOW,
        since_us=0,
        offset_us=0,
        now_us=NOW,
    )
    (status,) = ledger.queries.sources()
    assert (status.problem, status.last_failure_us) == (None, NOW)


def test_absence_is_only_expected_of_what_may_be_absent(ledger):
    """Had a file, inside the window, and not being fetched or held."""
    meet(
        ledger,
        row(1),
        row(2, has_file=False),
        row(3, created_us=NOW - 9 * HOUR),
        row(4, created_us=None),
    )
    window = (NOW - HOUR, NOW)
    assert ledger.walks.expected("hq", *window)[0] == [key_of(ledger, 1)]
    assert ledger.walks.expected("hq2", *window) == ([], None)

    claim(ledger)
    assert ledger.walks.expected("hq", *window)[0] == []


def test_absence_does_not_touch_what_was_claimed_meanwhile(ledger):
    """The state decides at the time of writing, not when the sweep began."""
    meet(ledger, row(1), row(2))
    keys, _ = ledger.walks.expected("hq", 0, NOW)
    claimed = claim(ledger)
    assert claimed is not None
    lost = ledger.walks.absent(keys, vanished)

    assert [export.key for export in lost] == [*({*keys} - {claimed.key})]
    assert get(ledger, claimed.export_id).state is State.FETCHING


def test_only_rows_that_never_had_a_file_become_unavailable(ledger):
    """Old enough by the VMS's corrected clock, or by when they were first seen."""
    old, young = NOW - 9 * HOUR, NOW - HOUR
    meet(
        ledger,
        row(1, has_file=False, created_us=old),
        row(2, has_file=False, created_us=young),
        row(3, has_file=False, created_us=None),
        row(4, url="https://vms.example/", created_us=old),
        row(5, created_us=old),
        try_folders=False,
    )
    assert get(ledger, 4).state is State.WAITING

    def end(source: str, born_before_us: int, offset_us: int = 0) -> int:
        walk = builders.walk(
            source=source,
            at_us=born_before_us + 24 * HOUR,
            waiting_limit_us=24 * HOUR,
            clock_offset_us=offset_us,
        )
        return int(ledger.walks.mark_unavailable(walk).done)

    assert end("hq2", NOW) == 0
    assert end("hq", NOW - 2 * HOUR) == 1
    assert (get(ledger, 1).state, get(ledger, 1).reason) == (
        State.UNAVAILABLE,
        Reason.NEVER_HAD_A_FILE,
    )
    assert end("hq", young, MINUTE) == 1
    assert end("hq", NOW + 1) == 1
    assert get(ledger, 4).state is State.WAITING
    assert get(ledger, 5).state is State.READY
    assert ledger.queries.totals("lost") == {}


def test_bad_rows_are_kept_once_and_not_without_end(ledger):
    """One alike only counts; past a thousand the text is not kept."""

    def meet_bad(number: int) -> bool:
        text = f"{number} " + "x" * 20_000
        bad = BadRow(raw=text, error="no id")
        return bool(ledger.walks.bad_rows("hq", [bad], NOW))

    assert meet_bad(0)
    assert not meet_bad(0)
    with ledger._db.transaction() as connection:
        new = [meet_bad(number) for number in range(1, BAD_ROWS_KEPT + 30)]
    kept, longest, times = connection.execute(
        "SELECT count(*), max(length(raw)), max(times) FROM bad_rows"
    ).fetchone()

    assert kept == BAD_ROWS_KEPT
    assert sum(new) == BAD_ROWS_KEPT - 1
    assert (longest, times) == (16384, 2)


def test_a_bad_row_of_any_text_is_kept(ledger):
    """Also one that is no Unicode."""
    bad = BadRow(raw="\ud800\x00", error="no id")
    assert ledger.walks.bad_rows("hq", [bad], NOW) == [bad]
