"""The ledger on disk: what it remembers, hands out once, and refuses."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import sqlite3
import stat
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from mirror.errors import LedgerError
from mirror.ledger import LEDGER_NAME, Filter, Ledger, LedgerThread, Partial, writer
from mirror.ledger import database as databases
from mirror.ledger.fetches import ATTEMPTS_KEPT
from mirror.ledger.walks import BAD_ROWS_KEPT
from mirror.lifecycle import attempt as outcome
from mirror.lifecycle import loss
from mirror.lifecycle.row import plan
from mirror.model import Attempt, CopyState, Reason, Receipt, State
from mirror.ports import BadRow
from tests import builders
from tests.builders import HOUR, MINUTE, NOW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mirror.model import Copy, Export, Row

HORIZON = 6 * HOUR
PACE = outcome.Pace(initial=timedelta(seconds=1), maximum=timedelta(minutes=10))
RECEIPT = Receipt(size_bytes=100, sha256="ab" * 32, etag='"e"', last_modified=None)
FIRST = databases.migrations()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path)
    opened.walks.source("hq")
    yield opened
    opened.close()


def meet(ledger: Ledger, *listed: Row, at_us: int = NOW, **walk: Any):
    """Let a walk meet rows."""
    around = builders.walk(at_us=at_us, **walk)
    return ledger.walks.meet(
        around.source, listed, lambda prior, row: plan(prior, row, around)
    )


def row(number: int, **given: Any):
    """Return the row of one export."""
    return builders.row(export_id=number, created_key=f"k{number}", **given)


def get(ledger: Ledger, number: int = 1) -> Export:
    """Return an export by its id."""
    (found,) = ledger.queries.find(number)
    return found


def key_of(ledger: Ledger, number: int = 1) -> int:
    """Return the ledger's own number of an export."""
    key = get(ledger, number).key
    assert key is not None
    return key


def claim(ledger: Ledger, now_us: int = NOW, sources=("hq",)) -> Export | None:
    """Claim a fetch."""
    return ledger.fetches.claim(sources, now_us=now_us, horizon_us=HORIZON)


def attempt(number: int = 0, **given: Any) -> Attempt:
    """Return an attempt as a fetch ends it."""
    values: dict[str, Any] = {
        "number": 0,
        "times": 1,
        "started_us": NOW + number,
        "ended_us": NOW + number + 1,
        "outcome": "cut",
        "offset_bytes": 0,
        "held_bytes": 10,
        "error": "cut off",
    }
    return Attempt(**(values | given))


def vanished(export: Export, now_us: int | None = None) -> Export:
    """Return the export after the second complete sweep that did not show it."""
    once = dataclasses.replace(export, absent_sweeps=1)
    late_us = (export.deadline_us or 0) + 1 if now_us is None else now_us
    return loss.absent(once, late_us, 2**62)


def spool(ledger: Ledger, *targets: str, number: int = 1, folder: str = "/s") -> int:
    """Take an export all the way into the spool; return its key."""
    if not ledger.queries.find(number):
        meet(ledger, row(number))
    claimed = claim(ledger)
    assert claimed is not None and claimed.key is not None

    def whole(export: Export) -> Export:
        export = dataclasses.replace(export, spool_dir=folder)
        return outcome.whole(export, RECEIPT, attempt())

    ledger.fetches.settle(claimed.key, whole, attempt(outcome="whole"), targets)
    return claimed.key


def publish(ledger: Ledger, target: str, required=(), now_us: int = NOW):
    """Claim a copy and record it as proven; return what that saved."""
    duty = ledger.copies.claim(target, now_us=now_us, horizon_us=HORIZON)
    assert duty is not None
    assert duty.export.key is not None
    return ledger.copies.saved(
        duty.export.key, target, verified=True, now_us=now_us, required=required
    )


def copies(ledger: Ledger, number: int = 1) -> dict[str, Copy]:
    """Return the copies of an export by target."""
    return {one.target: one for one in ledger.copies.of(key_of(ledger, number))}


# --- listing ------------------------------------------------------------------


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


# --- the queue of fetches -----------------------------------------------------


def test_the_nearest_deadline_is_claimed_first(ledger):
    """Over all sources that have room, whatever the order of the list."""
    for number, hours in ((1, 1), (2, 9), (3, 5)):
        meet(ledger, row(number, created_us=NOW - 2 * MINUTE), at_us=NOW + hours)
    meet(ledger, row(4, created_us=NOW - HOUR), source="hq2")
    meet(ledger, row(5, created_us=NOW - 2 * HOUR), source="hq3")
    meet(ledger, row(6, created_us=NOW - 90 * MINUTE))

    order = []
    while (one := claim(ledger, sources=("hq", "hq2"))) is not None:
        order.append(one.export_id)
    assert order == [6, 4, 1, 2, 3]
    assert get(ledger, 5).state is State.READY


def test_a_claim_is_counted_and_not_given_twice(ledger):
    """Whoever claims has it alone."""
    meet(ledger, row(1))
    first = claim(ledger)
    assert first is not None
    assert (first.state, first.attempts) == (State.FETCHING, 1)
    assert claim(ledger) is None
    assert get(ledger) == first


@pytest.mark.parametrize(
    ("due_us", "claimed"),
    [
        (0, True),
        (NOW, True),
        (NOW + 1, False),
        (NOW + HORIZON, False),
        (NOW + HORIZON + 1, True),
    ],
)
@pytest.mark.parametrize("state", [State.READY, State.PARKED])
def test_due_times_and_a_clock_put_back(ledger, due_us, claimed, state):
    """Nothing is tried before it is due; a wait longer than any counts as over."""
    meet(ledger, row(1))
    claim(ledger)
    ledger.fetches.settle(
        key_of(ledger),
        lambda one: dataclasses.replace(one, state=state, due_us=due_us),
        attempt(),
    )
    assert ledger.fetches.next_due() == due_us
    times = {"now_us": NOW, "horizon_us": HORIZON}
    if state is State.PARKED:
        assert list(ledger.fetches.sources_with_work(**times)) == []
        assert ledger.fetches.unpark(**times) == claimed

    assert list(ledger.fetches.sources_with_work(**times)) == ["hq"] * claimed
    assert (claim(ledger) is not None) == claimed


def test_a_checkpoint_is_what_the_next_try_starts_from(ledger):
    """All that proves the partial is kept, also over a restart."""
    meet(ledger, row(1))
    claim(ledger)
    partial = Partial(
        spool_dir="/s",
        size_bytes=50,
        sha256="d",
        total_bytes=100,
        etag='"e"',
        last_modified="m",
    )
    ledger.fetches.checkpoint(key_of(ledger), partial)
    assert ledger.fetches.recover() == 1
    again = claim(ledger)
    assert again is not None

    assert (again.spool_dir, again.part_bytes, again.part_sha256) == ("/s", 50, "d")
    assert (again.part_total, again.part_etag, again.part_modified) == (100, '"e"', "m")
    assert again.attempts == 2
    assert ledger.queries.spooled_bytes() == 50


def test_settling_sees_the_export_as_it_stands_now(ledger):
    """What a walk changed meanwhile is not overwritten."""
    meet(ledger, row(1))
    claim(ledger)
    meet(ledger, row(1, name="renamed", url="https://vms.example/b/2.mp4"))
    settled = ledger.fetches.settle(
        key_of(ledger),
        lambda one: outcome.failed(one, error="cut", now_us=NOW, pace=PACE, jitter=0.5),
        attempt(),
    )
    after = settled.after

    assert after == get(ledger)
    assert (after.state, after.name) == (State.READY, "renamed")
    assert after.url == "https://vms.example/b/2.mp4"


def test_attempts_alike_are_one_record(ledger):
    """Another outcome, error or gain begins a new one."""
    meet(ledger, row(1))
    key = key_of(ledger)
    for number in range(4):
        ledger.fetches.settle(key, lambda one: one, attempt(number))
    ledger.fetches.settle(key, lambda one: one, attempt(4, held_bytes=11))
    ledger.fetches.settle(key, lambda one: one, attempt(5, error="other"))
    ledger.fetches.settle(key, lambda one: one, attempt(6))
    found = ledger.queries.details(get(ledger)).attempts

    assert [(one.number, one.times) for one in found] == [
        (1, 4),
        (2, 1),
        (3, 1),
        (4, 1),
    ]
    assert (found[0].started_us, found[0].ended_us) == (NOW, NOW + 4)


def test_attempts_are_bounded_and_the_first_stays(ledger):
    """The first and the latest are what is asked for afterwards."""
    meet(ledger, row(1))
    total = ATTEMPTS_KEPT + 50
    for number in range(total):
        ledger.fetches.settle(
            key_of(ledger), lambda one: one, attempt(held_bytes=number)
        )
    found = [one.number for one in ledger.queries.details(get(ledger)).attempts]

    assert len(found) <= ATTEMPTS_KEPT + 1
    assert found == [1, *range(total - len(found) + 2, total + 1)]


# --- copies -------------------------------------------------------------------


def test_a_spooled_export_is_owed_to_each_target(ledger):
    """And only then."""
    meet(ledger, row(1))
    claim(ledger)
    ledger.fetches.settle(key_of(ledger), outcome.interrupted, attempt(), ["nas"])
    assert copies(ledger) == {}
    spool(ledger, "nas", "usb")

    assert {one.state for one in copies(ledger).values()} == {CopyState.PENDING}
    assert set(copies(ledger)) == {"nas", "usb"}
    assert ledger.queries.owed_copies() == {"nas": (1, 100), "usb": (1, 100)}


def test_a_copy_is_claimed_by_one(ledger):
    """With all that its publishing needs, and never twice at once."""
    spool(ledger, "nas")
    duty = ledger.copies.claim("nas", now_us=NOW, horizon_us=HORIZON)
    assert duty is not None
    assert (duty.export.export_id, duty.item, duty.siblings) == (1, b"{}", ())
    assert duty.copy.target == "nas"

    assert ledger.copies.claim("nas", now_us=NOW, horizon_us=HORIZON) is None
    assert ledger.copies.claim("usb", now_us=NOW, horizon_us=HORIZON) is None


@pytest.mark.parametrize(
    ("due_us", "claimed"),
    [(NOW, True), (NOW + 1, False), (NOW + HORIZON, False), (NOW + HORIZON + 1, True)],
)
def test_a_failed_copy_waits_for_its_time(ledger, due_us, claimed):
    """With the same guard against a clock put back."""
    key = spool(ledger, "nas")
    ledger.copies.claim("nas", now_us=NOW, horizon_us=HORIZON)
    ledger.copies.failed(key, "nas", error="full", due_us=due_us)
    assert ledger.copies.next_due(["nas", "usb"]) == due_us
    duty = ledger.copies.claim("nas", now_us=NOW, horizon_us=HORIZON)

    assert (duty is not None) == claimed
    assert copies(ledger)["nas"].last_error == "full"


def test_the_copy_that_waited_longest_is_claimed_first(ledger):
    """By due time."""
    for number, due_us in ((1, 30), (2, 10), (3, 20)):
        key = spool(ledger, "nas", number=number)
        ledger.copies.failed(key, "nas", error="x", due_us=due_us)
    order = []
    while (
        duty := ledger.copies.claim("nas", now_us=NOW, horizon_us=HORIZON)
    ) is not None:
        order.append(duty.export.export_id)

    assert order == [2, 3, 1]


def test_a_released_copy_was_not_tried(ledger):
    """A target that is away does not count against the copy."""
    key = spool(ledger, "nas")
    ledger.copies.claim("nas", now_us=NOW, horizon_us=HORIZON)
    ledger.copies.release(key, "nas", error="away")
    ledger.copies.claim("nas", now_us=NOW, horizon_us=HORIZON)
    ledger.copies.release(key, "nas")
    one = copies(ledger)["nas"]

    assert (one.state, one.attempts, one.last_error) == (CopyState.PENDING, 0, "away")


def test_two_copies_never_have_one_path(ledger):
    """Compared by the case-folded key, on one target, for ever."""
    one, two = spool(ledger, "nas", "usb"), spool(ledger, "nas", "usb", number=2)
    assert ledger.copies.fix_path(one, "nas", "A/b.mp4")
    assert ledger.copies.fix_path(one, "nas", "A/b.mp4")
    assert not ledger.copies.fix_path(two, "nas", "a/B.mp4")
    assert ledger.copies.fix_path(two, "usb", "a/B.mp4")
    assert ledger.copies.fix_path(two, "nas", "a/B~2.mp4")

    assert copies(ledger, 1)["nas"].path == "A/b.mp4"
    assert copies(ledger, 2)["nas"].path == "a/B~2.mp4"


@pytest.mark.parametrize(
    ("required", "order", "saved_by"),
    [
        (("nas",), ("nas", "usb"), "nas"),
        (("nas",), ("usb", "nas"), "nas"),
        (("nas", "usb"), ("nas", "usb"), "usb"),
        ((), ("nas", "usb"), "nas"),
        ((), ("usb", "nas"), "usb"),
    ],
)
def test_what_saves_an_export(ledger, required, order, saved_by):
    """Every required target; where none is required, the first of any."""
    spool(ledger, "nas", "usb")
    for target in order:
        before = get(ledger).state
        after = publish(ledger, target, required, NOW + 5)
        assert (after is not None) == (target == saved_by)
        assert (before is State.SPOOLED) == (
            order.index(target) <= order.index(saved_by)
        )
    export = get(ledger)

    assert (export.state, export.saved_us) == (State.SAVED, NOW + 5)
    assert ledger.queries.totals("saved") == {("hq", ""): 1}
    assert copies(ledger)["nas"].verified_us == NOW + 5


def test_a_required_target_without_a_copy_yet_saves_nothing(ledger):
    """A target added to the configuration counts before it is filled."""
    key = spool(ledger, "nas")
    assert ledger.copies.settle_spooled((), NOW).done == 0
    assert publish(ledger, "nas", ("nas", "usb")) is None
    assert get(ledger).state is State.SPOOLED
    assert ledger.copies.may_free(key, {"nas"}) is None

    assert ledger.copies.settle_spooled(("nas",), NOW).done == 1
    assert get(ledger).state is State.SAVED
    assert ledger.copies.settle_spooled(("nas",), NOW).done == 0


def test_a_spooled_file_goes_when_no_target_waits_for_it(ledger):
    """Saved is not enough: an optional target may still need the bytes."""
    key = spool(ledger, "nas", "usb")
    both = {"nas", "usb"}
    assert ledger.copies.may_free(key, both) is None
    publish(ledger, "nas", ("nas",))
    assert get(ledger).state is State.SAVED
    assert ledger.copies.may_free(key, both) is None
    assert ledger.copies.freeable(both) == []
    assert [one.key for one in ledger.copies.freeable({"nas"})] == [key]
    publish(ledger, "usb", ("nas",))
    assert [one.key for one in ledger.copies.freeable(both)] == [key]
    assert ledger.copies.may_free(key, both) is not None
    ledger.copies.freed(key)

    assert ledger.copies.freeable(both) == []
    assert ledger.copies.may_free(key, both) is None
    assert (get(ledger).spool_dir, get(ledger).part_bytes) == (None, 0)
    assert get(ledger).sha256 == RECEIPT.sha256


def test_a_new_target_is_filled_and_unsaves_nothing(ledger):
    """It is owed each export we keep, once, and told where to find the bytes."""
    spool(ledger, "nas", number=1)
    publish(ledger, "nas", ("nas",))
    ledger.copies.fix_path(key_of(ledger), "nas", "p.mp4")
    spool(ledger, "nas", number=2)
    meet(ledger, row(3))
    assert ledger.copies.fill("usb").done == 2
    assert ledger.copies.fill("usb").done == 0
    assert get(ledger, 1).state is State.SAVED

    duty = ledger.copies.claim("usb", now_us=NOW, horizon_us=HORIZON)
    assert duty is not None
    assert duty.siblings == (("nas", "p.mp4"),)


def test_a_lost_spool_file_is_fetched_anew(ledger):
    """The copies wait for it; those that are proven stay."""
    key = spool(ledger, "nas", "usb", "tape")
    ledger.copies.claim("usb", now_us=NOW, horizon_us=HORIZON)
    publish(ledger, "nas", ("nas", "usb"))
    ledger.copies.spool_lost(key, "gone")
    export = get(ledger)

    assert (export.state, export.reason) == (State.READY, Reason.SPOOL_LOST)
    assert (export.spool_dir, export.part_bytes, export.due_us) == (None, 0, 0)
    assert export.last_error == "gone"
    assert ledger.copies.claim("usb", now_us=NOW, horizon_us=HORIZON) is None
    spool(ledger, "nas", "usb", "tape")
    states = {name: one.state for name, one in copies(ledger).items()}
    assert states == {
        "nas": CopyState.SAVED,
        "usb": CopyState.PENDING,
        "tape": CopyState.PENDING,
    }


def test_a_copy_that_ends_after_the_spool_was_lost_saves_nothing_yet(ledger):
    """The export is being fetched anew; the copy that was proven stays proven."""
    key = spool(ledger, "nas", "usb")
    ledger.copies.claim("nas", now_us=NOW, horizon_us=HORIZON)
    ledger.copies.spool_lost(key, "gone")
    after = ledger.copies.saved(key, "nas", verified=True, now_us=NOW, required=())

    assert after is None
    assert get(ledger).state is State.READY
    assert copies(ledger)["nas"].state is CopyState.SAVED


def test_only_proven_copies_are_siblings(ledger):
    """A copy that has a path but failed gives no bytes to another."""
    key = spool(ledger, "nas", "usb")
    ledger.copies.fix_path(key, "nas", "p.mp4")
    ledger.copies.failed(key, "nas", error="x", due_us=0)
    duty = ledger.copies.claim("usb", now_us=NOW, horizon_us=HORIZON)

    assert duty is not None
    assert duty.siblings == ()


def test_a_lost_spool_file_of_a_saved_export_unsaves_nothing(ledger):
    """A late target then takes the bytes from its sibling."""
    key = spool(ledger, "nas", "usb")
    publish(ledger, "nas", ("nas",))
    ledger.copies.spool_lost(key, "gone")

    assert (get(ledger).state, get(ledger).spool_dir) == (State.SAVED, None)


# --- totals -------------------------------------------------------------------


def test_only_our_losses_are_counted(ledger):
    """What was there before our first complete sweep is no loss of ours."""
    meet(ledger, row(1), row(2))
    meet(ledger, row(3), counts_as_ours=False)
    keys = [key_of(ledger, number) for number in (1, 2, 3)]
    ledger.walks.absent(keys, vanished)

    assert ledger.queries.totals("lost") == {("hq", "row_gone"): 2}
    assert ledger.queries.lost() == 3


def test_totals_never_fall(ledger, tmp_path):
    """Not when an export is made again, nor over a restart."""
    meet(ledger, row(1))
    ledger.walks.absent([key_of(ledger)], vanished)
    ledger.retry([get(ledger)], NOW)
    spool(ledger, "nas")
    publish(ledger, "nas")
    ledger.close()
    again = Ledger.open(tmp_path)

    assert again.queries.totals("lost") == {("hq", "row_gone"): 1}
    assert again.queries.totals("saved") == {("hq", ""): 1}
    assert again.queries.counts() == {("hq", "saved"): 1}
    again.close()


def test_a_restart_returns_what_was_claimed(ledger, tmp_path):
    """Fetches and publishes alike, due at once."""
    spool(ledger, "nas", number=1)
    ledger.copies.claim("nas", now_us=NOW, horizon_us=HORIZON)
    meet(ledger, row(2))
    claim(ledger)
    ledger.close()
    again = Ledger.open(tmp_path)
    assert again.fetches.recover() == 1

    assert claim(again) is not None
    assert again.copies.claim("nas", now_us=NOW, horizon_us=HORIZON) is not None
    again.close()


# --- random sequences ---------------------------------------------------------

TARGETS = ("nas", "usb", "tape")


class Chaos:
    """Does random things to a ledger, and knows what is claimed."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self.ledger = ledger
        self.random = random.Random(seed)
        self.now_us = NOW
        self.fetching: set[int] = set()
        self.publishing: set[tuple[int, str]] = set()
        self.required = self.random.choice([(), ("nas",), ("nas", "usb")])
        self.ever_saved: set[int] = set()

    def step(self) -> None:
        """Do one random thing."""
        name = self.random.choice(
            [
                *("walk", "claim", "claim", "end", "end", "end"),
                *("take", "take", "kept", "kept", "fail", "lost", "free"),
                *("sweep", "fill", "unpark", "recover"),
                *("retry", "settle", "checkpoint"),
            ]
        )
        self.now_us += self.random.choice([0, 1, MINUTE, -MINUTE, HOUR])
        getattr(self, name)()

    def walk(self) -> None:
        listed = [
            row(
                self.random.randrange(5),
                has_file=self.random.random() < 0.8,
                updated_at=str(self.random.randrange(3)),
                created_us=self.random.choice([None, NOW - MINUTE, NOW - 9 * HOUR]),
            )
            for _ in range(self.random.randrange(4))
        ]
        meet(
            self.ledger,
            *listed,
            at_us=self.now_us,
            counts_as_ours=self.random.random() < 0.5,
        )

    def claim(self) -> None:
        one = claim(self.ledger, self.now_us)
        if one is not None:
            assert one.key is not None
            assert one.key not in self.fetching, "claimed twice"
            assert one.state is State.FETCHING
            self.fetching.add(one.key)

    def checkpoint(self) -> None:
        for key in self.fetching:
            partial = Partial(
                spool_dir="/s",
                size_bytes=self.random.randrange(100),
                sha256="d",
                total_bytes=None,
                etag=None,
                last_modified=None,
            )
            self.ledger.fetches.checkpoint(key, partial)

    def end(self) -> None:
        if not self.fetching:
            return
        key = self.random.choice(sorted(self.fetching))
        self.fetching.discard(key)
        now, pace = self.now_us, PACE

        def whole(one: Export) -> Export:
            one = dataclasses.replace(one, spool_dir="/s")
            return outcome.whole(one, RECEIPT, attempt())

        decide: Callable[[Export], Export] = self.random.choice(
            [
                whole,
                whole,
                outcome.interrupted,
                lambda one: outcome.failed(
                    one, error="cut", now_us=now, pace=pace, jitter=0.5
                ),
                lambda one: outcome.refused(one, error="no", now_us=now, pace=pace),
                lambda one: outcome.gone(
                    one,
                    reason=Reason.FILE_GONE,
                    error="404",
                    now_us=now,
                    oldest_us=now,
                    pace=pace,
                ),
            ]
        )
        self.ledger.fetches.settle(key, decide, attempt(), TARGETS[:2])

    def take(self) -> None:
        target = self.random.choice(TARGETS)
        duty = self.ledger.copies.claim(target, now_us=self.now_us, horizon_us=HORIZON)
        if duty is not None:
            assert duty.export.key is not None
            mine = (duty.export.key, target)
            assert mine not in self.publishing, "claimed twice"
            assert duty.export.state in {State.SPOOLED, State.SAVED}
            self.publishing.add(mine)

    def _one(self) -> tuple[int, str] | None:
        if not self.publishing:
            return None
        one = self.random.choice(sorted(self.publishing))
        self.publishing.discard(one)
        return one

    def kept(self) -> None:
        if (one := self._one()) is not None:
            self.ledger.copies.saved(
                *one,
                verified=self.random.random() < 0.5,
                now_us=self.now_us,
                required=self.required,
            )

    def fail(self) -> None:
        if (one := self._one()) is not None:
            if self.random.random() < 0.5:
                self.ledger.copies.release(*one, error="away")
            else:
                self.ledger.copies.failed(*one, error="x", due_us=self.now_us + 9)

    def lost(self) -> None:
        if (one := self._one()) is not None:
            key = one[0]
            self.publishing = {p for p in self.publishing if p[0] != key}
            self.ledger.copies.spool_lost(key, "gone")

    def free(self) -> None:
        for one in self.ledger.copies.freeable(TARGETS[:2]):
            assert one.key is not None
            assert one.state is State.SAVED
            self.ledger.copies.freed(one.key)

    def sweep(self) -> None:
        keys, _ = self.ledger.walks.expected("hq", 0, self.now_us)
        self.ledger.walks.absent(
            keys,
            lambda one: vanished(one, self.now_us),
        )
        self.ledger.walks.mark_unavailable(
            builders.walk(at_us=self.now_us, waiting_limit_us=5 * HOUR)
        )

    def fill(self) -> None:
        self.ledger.copies.fill("tape")

    def unpark(self) -> None:
        self.ledger.fetches.unpark(now_us=self.now_us, horizon_us=HORIZON)

    def recover(self) -> None:
        if self.random.random() < 0.2:
            self.ledger.fetches.recover()
            self.fetching.clear()
            self.publishing.clear()

    def retry(self) -> None:
        ended = {State.LOST, State.UNAVAILABLE, State.PARKED}
        found = [
            e for e, _ in self.ledger.queries.exports(Filter()) if e.state in ended
        ]
        self.ledger.retry(found, self.now_us)

    def settle(self) -> None:
        self.ledger.copies.settle_spooled(self.required, self.now_us)

    def check(self) -> None:
        """Assert what must always hold."""
        fetching, publishing = set(), set()
        for export, held in self.ledger.queries.exports(Filter()):
            assert export.key is not None
            saved = {one.target for one in held if one.state is CopyState.SAVED}
            publishing |= {
                (export.key, one.target)
                for one in held
                if one.state is CopyState.PUBLISHING
            }
            if export.state is State.FETCHING:
                fetching.add(export.key)
            if export.state is State.SAVED:
                assert saved >= set(self.required), "saved without a required copy"
                assert saved, "saved without a copy"
                self.ever_saved.add(export.key)
            else:
                assert export.key not in self.ever_saved, "a saved export came undone"
            if export.state is State.SPOOLED:
                assert export.spool_dir, "spooled without a file"
                assert export.sha256 and export.size_bytes
            for one in held:
                assert one.attempts >= 0
                assert (one.saved_us is not None) == (one.target in saved)
        assert fetching == self.fetching
        assert publishing == self.publishing
        totals = self.ledger.queries.totals("saved")
        assert totals.get(("hq", ""), 0) == len(self.ever_saved)


@pytest.mark.parametrize("block", range(10))
def test_random_sequences_keep_the_invariants(tmp_path, block):
    """Never saved without a saved copy, never claimed twice, totals true."""
    reached = set()
    for seed in range(block * 100, block * 100 + 100):
        database = databases.Database._empty(tmp_path)

        ledger = Ledger(database)
        ledger.walks.source("hq")
        chaos = Chaos(ledger, seed)
        for number in range(60):
            try:
                chaos.step()
                chaos.check()
            except AssertionError as exc:
                raise AssertionError(f"seed {seed}, step {number}: {exc}") from exc
        reached |= {e.state for e, _ in ledger.queries.exports(Filter())}
        ledger.close()

    assert {State.SAVED, State.SPOOLED, State.LOST, State.PARKED} <= reached


# --- the file -----------------------------------------------------------------


def test_an_absent_ledger_reads_as_empty_and_is_not_made(tmp_path):
    """Looking changes nothing."""
    ledger = Ledger.read(tmp_path)
    assert ledger.queries.counts() == {}
    assert list(ledger.queries.exports(Filter())) == []
    ledger.close()

    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_reads_as_empty(tmp_path):
    """A service that was killed before its first write."""
    (tmp_path / LEDGER_NAME).touch()
    ledger = Ledger.read(tmp_path)
    assert ledger.queries.counts() == {}
    ledger.close()


def test_the_ledger_is_for_its_owner_alone(ledger, tmp_path):
    """It holds file urls, which are capabilities; so do the files beside it."""
    meet(ledger, row(1))
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()
    }

    assert LEDGER_NAME in modes
    assert set(modes.values()) == {0o600}


def test_a_reader_beside_a_writer(ledger, tmp_path):
    """It sees what is committed, sees that it changed, and never waits."""
    mode = ledger._db.connection.execute("PRAGMA journal_mode").fetchone()
    assert mode == ("wal",)
    reader = Ledger.read(tmp_path)
    before = reader.changed_elsewhere()
    meet(ledger, row(1))
    assert reader.queries.counts() == {("hq", "ready"): 1}
    assert reader.changed_elsewhere() != before
    with ledger._db.transaction() as connection:
        connection.execute("UPDATE exports SET state = 'parked'")
        began = time.monotonic()
        assert reader.queries.counts() == {("hq", "ready"): 1}
        assert time.monotonic() - began < 1.0
    assert reader.queries.counts() == {("hq", "parked"): 1}
    reader.close()


def test_readers_see_whole_pages_only(ledger, tmp_path):
    """While a walk writes page after page, a reader never sees half of one."""
    stop, seen = threading.Event(), set()

    def read() -> None:
        reader = Ledger.read(tmp_path)
        while not stop.is_set():
            seen.add(sum(reader.queries.counts().values()))
        reader.close()

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(40):
        meet(ledger, *(row(number * 10 + one) for one in range(10)))
    stop.set()
    thread.join()

    assert len(seen) > 1
    assert all(count % 10 == 0 for count in seen)


@pytest.mark.parametrize("how", [Ledger.open, Ledger.read])
def test_a_ledger_of_a_newer_program_is_refused(ledger, tmp_path, how):
    """With its version and what to do; it is left as it is."""
    ledger._db.connection.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerError, match=r"version 99.*(newer|program that wrote)"):
        how(tmp_path)

    assert ledger._db.connection.execute("PRAGMA user_version").fetchone()[0] == 99


def spoiled(path: Path, where: str) -> None:
    """Damage a closed ledger."""
    content = bytearray(path.read_bytes())
    if where == "head":
        content[:100] = b"\xff" * 100
    elif where == "pages":
        for start in range(4096, len(content), 4096):
            content[start : start + 200] = b"\xff" * 200
    else:
        content = content[: len(content) // 2]
    path.write_bytes(content)


@pytest.mark.parametrize("where", ["head", "pages", "cut"])
def test_a_damaged_ledger_is_refused(ledger, tmp_path, where):
    """The error names the file and says that it is damaged; nothing is mended."""
    meet(ledger, *(row(number) for number in range(300)))
    ledger.close()
    path = tmp_path / LEDGER_NAME
    spoiled(path, where)
    before = path.read_bytes()
    with pytest.raises(LedgerError) as caught:
        Ledger.open(tmp_path)

    text = str(caught.value)
    assert str(path) in text
    assert "damaged" in text or "malformed" in text or "not a database" in text
    assert path.read_bytes() == before


def test_a_ledger_that_cannot_be_opened_says_so(tmp_path):
    """A folder in its place, or a folder that is not there."""
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger.open(tmp_path / "absent")
    (tmp_path / LEDGER_NAME).mkdir()
    with pytest.raises(LedgerError, match="it is no file"):
        Ledger.open(tmp_path)


SCRIPT = """\
-- A new column; with a semicolon in the comment.
ALTER TABLE exports ADD COLUMN extra TEXT;
UPDATE exports SET extra = 'a;b';
"""
NEWEST = FIRST[-1][0]
NEXT = (NEWEST + 1, SCRIPT)


def test_a_migration_keeps_all_and_a_backup(ledger, tmp_path, monkeypatch):
    """The backup is whole, of the old version, and for its owner alone."""
    meet(ledger, row(1), row(2))
    ledger.close()
    monkeypatch.setattr(databases, "migrations", lambda: [*FIRST, NEXT])
    migrated = Ledger.open(tmp_path)
    connection = migrated._db.connection
    assert connection.execute("SELECT extra FROM exports").fetchall() == [("a;b",)] * 2
    assert connection.execute("PRAGMA user_version").fetchone() == (NEXT[0],)
    assert migrated.queries.counts() == {("hq", "ready"): 2}
    migrated.close()

    backup = tmp_path / f"ledger.v{NEWEST}.sqlite3"
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    with contextlib.closing(sqlite3.connect(backup)) as old:
        assert old.execute("PRAGMA user_version").fetchone() == (NEWEST,)
        assert old.execute("SELECT count(*) FROM exports").fetchone() == (2,)
        columns = [one[1] for one in old.execute("PRAGMA table_info(exports)")]
    assert "extra" not in columns


def test_a_migration_that_fails_changes_nothing(ledger, tmp_path, monkeypatch):
    """All of a script or none; the old program still reads the ledger."""
    meet(ledger, row(1))
    ledger.close()
    broken = (NEXT[0], f"{SCRIPT}INSERT INTO nowhere VALUES (1);\n")
    monkeypatch.setattr(databases, "migrations", lambda: [*FIRST, broken])
    with pytest.raises(LedgerError, match="nowhere"):
        Ledger.open(tmp_path)
    monkeypatch.setattr(databases, "migrations", lambda: FIRST)
    again = Ledger.open(tmp_path)
    found = again._db.connection.execute("PRAGMA table_info(exports)")

    assert "extra" not in [one[1] for one in found]
    assert again.queries.counts() == {("hq", "ready"): 1}
    again.close()


def test_a_reader_meets_no_version_between(tmp_path, monkeypatch):
    """A new ledger is there with all its migrations, or reads as an empty one."""
    broken = (NEXT[0], "INSERT INTO nowhere VALUES (1);\n")
    monkeypatch.setattr(databases, "migrations", lambda: [*FIRST, broken])
    with pytest.raises(LedgerError, match="nowhere"):
        Ledger.open(tmp_path)
    monkeypatch.setattr(databases, "migrations", lambda: [*FIRST, NEXT])
    reader = Ledger.read(tmp_path)

    assert reader.queries.counts() == {}
    reader.close()


def test_a_reader_does_not_migrate(ledger, tmp_path, monkeypatch):
    """It says that the service must be restarted."""
    ledger.close()
    monkeypatch.setattr(databases, "migrations", lambda: [*FIRST, NEXT])
    with pytest.raises(LedgerError, match="restart the service"):
        Ledger.read(tmp_path)

    assert [path.name for path in tmp_path.glob("*.v*.*")] == []


def test_the_node_and_the_markers_are_remembered(ledger, tmp_path):
    """Made once; None keeps what was known before."""
    node = ledger.node_id(NOW)
    given: dict[str, Any] = {"problem": None, "now_us": NOW}
    ledger.targets.checked("nas", marker_id="m", free_bytes=5, **given)
    ledger.targets.checked("nas", marker_id=None, free_bytes=None, **given)
    ledger.close()
    again = Ledger.open(tmp_path)

    assert again.node_id(NOW + 1) == node
    assert (again.targets.marker("nas"), again.targets.marker("usb")) == ("m", None)
    assert again.queries.targets()[0].free_bytes == 5
    again.close()


# --- the thread ---------------------------------------------------------------


@pytest.fixture
async def thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writer, "_REPEAT_S", 0.01)
    made = LedgerThread(Ledger.open(tmp_path))
    yield made
    await made.close()


async def test_a_full_disk_is_waited_out(thread):
    """The call is repeated until it succeeds, has changed nothing until then."""
    tries = []

    def call(ledger: Ledger) -> str:
        with ledger._db.transaction() as connection:
            connection.execute(
                "INSERT INTO totals (source, event, total) VALUES ('a', 'b', 1)"
            )
            tries.append(1)
            if len(tries) < 5:
                raise sqlite3.OperationalError("database or disk is full")
        return "done"

    seen = []

    async def watch() -> None:
        while len(tries) < 5:
            seen.append(thread.problem)
            await asyncio.sleep(0.005)

    watching = asyncio.create_task(watch())
    assert await thread(call) == "done"
    await watching

    assert len(tries) == 5
    assert "database or disk is full" in seen
    assert thread.problem is None
    assert await thread(lambda ledger: ledger.queries.totals("b")) == {("a", ""): 1}


async def test_a_ledger_that_is_really_full_recovers(thread):
    """SQLite's own error, from its own limit on pages."""

    def limit(ledger: Ledger, pages: int) -> None:
        ledger._db.connection.execute(f"PRAGMA max_page_count = {pages}").fetchone()

    await thread(limit, 1)
    many = [
        row(number, raw=random.Random(number).randbytes(900)) for number in range(90)
    ]
    meeting = asyncio.create_task(thread(meet, *many))
    async with asyncio.timeout(60):
        while thread.problem is None:
            await asyncio.sleep(0.01)
    assert "full" in thread.problem
    assert await thread(lambda ledger: ledger.queries.counts()) == {}
    await thread(limit, 1 << 30)
    met, _ = await meeting

    assert met.new == 90


async def test_patience_runs_out(tmp_path, monkeypatch):
    """A command for people does not wait for ever."""
    monkeypatch.setattr(writer, "_REPEAT_S", 0.01)
    thread = LedgerThread(Ledger.open(tmp_path), patience_s=0.05)

    def call(_: Ledger) -> None:
        raise sqlite3.OperationalError("database is locked")

    with pytest.raises(LedgerError, match="cannot be written: database is locked"):
        await thread(call)
    await thread.close()


async def test_a_damaged_ledger_is_not_retried(thread):
    """It is told at once."""
    tries = []

    def call(_: Ledger) -> None:
        tries.append(1)
        raise sqlite3.DatabaseError("database disk image is malformed")

    with pytest.raises(LedgerError, match="damaged"):
        await thread(call)
    assert len(tries) == 1


async def test_other_errors_reach_the_caller_and_change_nothing(thread):
    """A fault in a call is rolled back; the next call works."""

    def call(ledger: Ledger) -> None:
        with ledger._db.transaction() as connection:
            connection.execute(
                "INSERT INTO totals (source, event, total) VALUES ('a', 'b', 1)"
            )
            raise ValueError("planned")

    with pytest.raises(ValueError, match="planned"):
        await thread(call)
    assert await thread(lambda ledger: ledger.queries.totals("b")) == {}


async def test_calls_run_in_one_thread_in_order(thread):
    """The connection belongs to it."""
    order: list[int] = []
    owners: set[int] = set()

    def call(_: Ledger, number: int) -> None:
        time.sleep(0.001)
        order.append(number)
        owners.add(threading.get_ident())

    await asyncio.gather(*(thread(call, number) for number in range(30)))

    assert order == list(range(30))
    assert len(owners) == 1
    assert owners != {threading.get_ident()}


async def test_a_call_begun_ends_though_its_caller_is_cancelled(thread):
    """It is committed, and the ledger goes on for others."""
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def call(ledger: Ledger) -> None:
        loop.call_soon_threadsafe(begun.set)
        time.sleep(0.05)
        meet(ledger, row(1))

    calling = asyncio.create_task(thread(call))
    await begun.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling

    counts = await thread(lambda ledger: ledger.queries.counts())
    assert counts == {("hq", "ready"): 1}


async def test_a_caller_cancelled_while_the_disk_is_full_stops_waiting(thread):
    """A stop is not held up, and nothing is written afterwards."""
    tries = []

    def call(_: Ledger) -> None:
        tries.append(1)
        raise sqlite3.OperationalError("database or disk is full")

    calling = asyncio.create_task(thread(call))
    while not tries:
        await asyncio.sleep(0.005)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await asyncio.sleep(0.05)
    count = len(tries)
    await asyncio.sleep(0.05)

    assert len(tries) == count
    await thread(lambda ledger: ledger.ping())
    assert thread.problem is None
