"""Decide what it means that a complete sweep did not show an export: pure, no I/O."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from mirror.lifecycle import held_body
from mirror.lifecycle.row import GONE_SWEEPS, lose, past_deadline
from mirror.model import Reason

if TYPE_CHECKING:
    from mirror.model import Export


def absent(export: Export, now_us: int, oldest_us: int | None) -> Export:
    """Return the export after one more complete sweep that did not show it.

    Args:
        export: Waiting, ready or parked.
        now_us: By our clock.
        oldest_us: See `row.past_deadline`.
    """
    sweeps = min(export.absent_sweeps + 1, GONE_SWEEPS)
    after = dataclasses.replace(export, absent_sweeps=sweeps)
    if sweeps >= GONE_SWEEPS and past_deadline(export, now_us, oldest_us):
        return held_body.rather_kept(lose(after, Reason.ROW_GONE))
    return after
