"""The ledger as the queues of publishes."""

from __future__ import annotations

import pytest

from mirror.lifecycle import attempt as outcome
from mirror.model import CopyState, Reason, State
from tests.builders import NOW
from tests.ledger_bench import (
    HORIZON,
    RECEIPT,
    attempt,
    claim,
    copies,
    get,
    key_of,
    meet,
    publish,
    row,
    spool,
)


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
    ledger.copies.freed([get(ledger)])

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
