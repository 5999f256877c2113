"""A ledger, and what walks, fetches and publishes do to it."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mirror.backoff import Pace
from mirror.lifecycle import attempt as outcome
from mirror.lifecycle import loss
from mirror.lifecycle.list_row import plan
from mirror.model import Attempt, Receipt
from tests import builders
from tests.builders import HOUR, NOW

if TYPE_CHECKING:
    from mirror.ledger import Ledger
    from mirror.model import Copy, Export, Row


HORIZON = 6 * HOUR
PACE = Pace(initial=timedelta(seconds=1), maximum=timedelta(minutes=10))
RECEIPT = Receipt(size_bytes=100, sha256="ab" * 32, etag='"e"', last_modified=None)


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
    return loss.absent(once, late_us, 2**62, looked_for=True)


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
