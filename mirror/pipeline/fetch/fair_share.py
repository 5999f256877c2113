"""Decide who may start a fetch, and which fetch must end for another: pure, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

LEAST_RATE = 1024.0
"""Bytes per second; a fetch that brings less gives its slot to what waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDemand:
    """A source, what it has to fetch and how much it may.

    Attributes:
        origin: Of the source; sources may share one.
        allowed: How many fetches that origin may have at once.
        has_room: Its origin may have one more now.
        running: Its fetches under way.
        due: It has an export that is due.
        untried: It has one that is due and did not time out before.
    """

    name: str
    origin: Hashable
    allowed: int
    has_room: bool
    running: int
    due: bool
    untried: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningFetch:
    """A fetch under way.

    Attributes:
        since: When it began, in seconds.
        late: The attempt before took too long.
        began: Its body has begun.
        slow: It brought less than `LEAST_RATE` over the last span it was measured.
    """

    key: int
    source: str
    origin: Hashable
    since: float
    late: bool
    began: bool
    slow: bool


def may_start(demands: Sequence[SourceDemand], concurrency: int) -> list[str]:
    """Return the sources that may start one more fetch.

    Sources without a fetch under way come first, and may always start one. No source
    starts one beyond its share while another that could start one is below its own.

    Args:
        demands: Of all sources.
        concurrency: Fetches at once over all sources.
    """
    ready = [demand for demand in demands if demand.due and demand.has_room]
    unserved = [demand.name for demand in ready if not demand.running]
    if unserved:
        return unserved
    if sum(demand.running for demand in demands) >= concurrency:
        return []
    below = [
        demand
        for demand in ready
        if demand.running < share_of(demand, demands, concurrency)
    ]
    return [demand.name for demand in below or ready]


def share_of(
    source: SourceDemand, demands: Sequence[SourceDemand], concurrency: int
) -> int:
    """Return how many fetches at once are a source's share, at least one."""
    active = [demand for demand in demands if demand.due or demand.running]
    beside = sum(demand.origin == source.origin for demand in active)
    by_origin = source.allowed // max(1, beside)
    return max(1, min(concurrency // max(1, len(active)), by_origin))


def late_may_start(source: SourceDemand, running: Sequence[RunningFetch]) -> bool:
    """Tell whether a source may try again an export whose attempt took too long.

    One slot of its origin is always kept for exports that did not. While such an export
    waits, those that took too long have one slot at most, and none of an only one.
    """
    late = sum(fetch.late for fetch in running if fetch.origin == source.origin)
    if source.untried:
        return source.allowed > 1 and late < 1
    return late < max(1, source.allowed - 1)


def to_end(
    demands: Sequence[SourceDemand],
    running: Sequence[RunningFetch],
    *,
    concurrency: int,
    before: float,
) -> int | None:
    """Return the key of the fetch that must end for work that waits; None if none must.

    Args:
        demands: Of all sources.
        running: All fetches under way.
        concurrency: Fetches at once over all sources.
        before: Only fetches that run since then may have to end.
    """
    old = sorted(
        (fetch for fetch in running if fetch.since <= before),
        key=lambda fetch: fetch.since,
    )
    for demand in demands:
        if not demand.untried or demand.has_room:
            continue
        here = [fetch for fetch in running if fetch.origin == demand.origin]
        idle = [
            fetch.key
            for fetch in old
            if fetch.origin == demand.origin
            and (fetch.slow or (fetch.late and not fetch.began))
        ]
        if idle and all(fetch.late or fetch.slow for fetch in here):
            return idle[0]
    if sum(demand.running for demand in demands) < concurrency:
        return None
    excess = {
        demand.name: demand.running - share_of(demand, demands, concurrency)
        for demand in demands
    }
    if not any(
        demand.untried and demand.has_room and excess[demand.name] < 0
        for demand in demands
    ):
        return None
    slow = (fetch.key for fetch in old if fetch.slow and excess[fetch.source] > 0)
    return next(slow, None)
