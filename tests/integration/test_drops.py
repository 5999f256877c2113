"""What brings the same bytes again bounds what the VMS may cause, not what we ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.lifecycle import version as versions
from mirror.model import Reason
from tests.builders import NOW
from tests.integration.test_versions import (
    all_of,
    change,
    fetch,
    ledger,
    meet,
    publish,
)

if TYPE_CHECKING:
    from mirror.ledger import Ledger

__all__ = ["ledger"]


def ask_for(ledger: Ledger, digit: str) -> bool:
    """Let somebody `retry` the newest version; tell whether what came was dropped."""
    assert ledger.retry([all_of(ledger)[-1]], NOW) == 1
    dropped = fetch(ledger, digit, doubt="x").dropped
    publish(ledger)
    return bool(dropped)


def test_the_same_bytes_by_hand_count_for_nothing(ledger):
    """A change that the VMS shows later is fetched all the same, twice."""
    meet(ledger)
    fetch(ledger, "a", doubt="x")
    publish(ledger)
    by_hand = [ask_for(ledger, "a") for _ in range(3)]
    [kept] = all_of(ledger)
    may = [versions.may_follow(kept)]
    for reason in (Reason.CHANGED, Reason.MADE_AGAIN):
        change(ledger, reason)
        assert fetch(ledger, "a", doubt="x").dropped
        may.append(versions.may_follow(all_of(ledger)[-1]))

    assert by_hand == [True] * 3
    assert kept.drops == 0
    assert may == [True, True, False]
    assert ask_for(ledger, "a"), "by hand it is asked for all the same"


def test_other_bytes_by_hand_are_a_version(ledger):
    meet(ledger)
    fetch(ledger, "a", doubt="x")
    publish(ledger)
    assert not ask_for(ledger, "b")
    change(ledger)
    assert fetch(ledger, "b", doubt="x").dropped

    assert [(one.sha256 or "-")[0] for one in all_of(ledger)] == ["a", "b"]
    assert versions.may_follow(all_of(ledger)[-1])


def test_what_is_kept_by_hand_gives_no_drop_back(ledger):
    """The VMS may make no more of them than before."""
    meet(ledger)
    fetch(ledger, "a", doubt="x")
    publish(ledger)
    for _ in range(2):
        change(ledger)
        assert fetch(ledger, "a", doubt="x").dropped
    assert not ask_for(ledger, "b")

    assert [one.drops for one in all_of(ledger)] == [2, 2]
    assert not versions.may_follow(all_of(ledger)[-1])
