"""The ledger as the queue of fetches."""

from __future__ import annotations

import dataclasses

import pytest

from mirror.ledger import Partial
from mirror.ledger.fetch_queue import ATTEMPTS_KEPT
from mirror.lifecycle import attempt as outcome
from mirror.model import State
from tests.builders import HOUR, MINUTE, NOW
from tests.ledger_bench import (
    HORIZON,
    PACE,
    attempt,
    claim,
    get,
    key_of,
    meet,
    row,
)


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
