"""Decide who may start a fetch, and which fetch must end for another: pure, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

LEAST_RATE = 1024.0
"""Bytes per second; what brings less gives its slot to what waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """A source, and what it has to do.

    Attributes:
        origin: Whom it asks; sources may share one.
        allowed: How many fetches that origin is asked for at once.
        asks: It may start one more at its origin.
        running: Fetches of it under way.
        due: It has an export that is due.
        untried: It has one that did not time out.
    """

    name: str
    origin: Hashable
    allowed: int
    asks: bool
    running: int
    due: bool
    untried: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A fetch under way.

    Attributes:
        late: The attempt before took too long.
        began: Its body has begun.
        slow: It brought less than `LEAST_RATE` for as long as one must be patient.
    """

    key: int
    source: str
    origin: Hashable
    since: float
    late: bool
    began: bool
    slow: bool


def may_start(claimants: Sequence[Claimant], concurrency: int) -> list[str]:
    """Return the sources that may start one more; those with none running first.

    A source without any may always start one. Beyond its share none starts one as long
    as another that could start one is below its own.

    Args:
        claimants: All sources.
        concurrency: Fetches at once over all sources.
    """
    free = [one for one in claimants if one.due and one.asks]
    unserved = [one for one in free if not one.running]
    if unserved:
        return [one.name for one in unserved]
    if sum(one.running for one in claimants) >= concurrency:
        return []
    below = [one for one in free if one.running < share_of(one, claimants, concurrency)]
    return [one.name for one in below or free]


def share_of(one: Claimant, claimants: Sequence[Claimant], concurrency: int) -> int:
    """Return how many fetches at once are a source's share, at least one."""
    active = [other for other in claimants if other.due or other.running]
    beside = [other for other in active if other.origin == one.origin]
    return max(
        1,
        min(concurrency // max(1, len(active)), one.allowed // max(1, len(beside))),
    )


def late_may_start(one: Claimant, running: Sequence[Running]) -> bool:
    """Tell whether a source may try again what took too long.

    One slot of its origin is always kept for what was not tried; while such work
    waits, what took too long has one slot at most, and none of an only one.
    """
    late = sum(each.late for each in running if each.origin == one.origin)
    if one.untried:
        return one.allowed > 1 and late < 1
    return late < max(1, one.allowed - 1)


def to_end(
    claimants: Sequence[Claimant],
    running: Sequence[Running],
    *,
    concurrency: int,
    before: float,
) -> int | None:
    """Return the fetch that must end for work that waits; None if none must.

    Args:
        claimants: All sources.
        running: All fetches under way.
        concurrency: Fetches at once over all sources.
        before: Only what runs since then may have to end.
    """
    old = sorted((one for one in running if one.since <= before), key=_since)
    for waiting in claimants:
        here = [one for one in running if one.origin == waiting.origin]
        kept = any(not one.late and not one.slow for one in here)
        if waiting.untried and not waiting.asks and not kept:
            found = _of_origin(waiting, old)
            if found is not None:
                return found.key
    if sum(one.running for one in claimants) < concurrency:
        return None
    shares = {one.name: share_of(one, claimants, concurrency) for one in claimants}
    waits = any(
        one.untried and one.asks and one.running < shares[one.name] for one in claimants
    )
    over = {one.name for one in claimants if one.running > shares[one.name]}
    slow = (one.key for one in old if waits and one.slow and one.source in over)
    return next(slow, None)


def _of_origin(waiting: Claimant, old: Sequence[Running]) -> Running | None:
    """Return what holds the last slot of an origin and brings nothing."""
    idle = (
        one
        for one in old
        if one.origin == waiting.origin and (one.slow or (one.late and not one.began))
    )
    return next(idle, None)


def _since(one: Running) -> float:
    return one.since
