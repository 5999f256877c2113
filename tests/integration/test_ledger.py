"""What always holds of a ledger: totals, restarts, random sequences."""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING

import pytest

from mirror.ledger import Filter, Ledger, Partial
from mirror.ledger import database as databases
from mirror.lifecycle import attempt as outcome
from mirror.model import CopyState, Reason, State
from tests import builders
from tests.builders import HOUR, MINUTE, NOW
from tests.ledger_bench import (
    HORIZON,
    PACE,
    RECEIPT,
    attempt,
    claim,
    get,
    key_of,
    meet,
    publish,
    row,
    spool,
    vanished,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.model import Export


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
                    looked_for=True,
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
            self.ledger.copies.freed([one])

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
