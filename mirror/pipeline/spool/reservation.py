"""Decide how much a transfer may write to the spool: pure, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LEAST_BYTES = 64 * 1024 * 1024
SPAN_S = 300.0
_AFTERWARDS_S = 3600.0
"""What is past its deadline, or has none, is believed to be there for so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A transfer that asks for room.

    Attributes:
        order_us: Its deadline, or a guess at it.
        held_bytes: What it has in the spool.
        rest_bytes: Still to come; None while unknown.
        next_bytes: What it is about to write.
        rate: Bytes per second as measured; 0 if nothing was.
        begun: Its body has begun.
        favoured: Others gave way to it not long ago.
        finishing: Others give way to it now, so that it can finish.
    """

    key: int
    source: str
    order_us: int
    held_bytes: int = 0
    rest_bytes: int | None = None
    next_bytes: int = 0
    rate: float = 0.0
    begun: bool = True
    favoured: bool = False
    finishing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Another transfer, or what an earlier one left in the spool.

    Attributes:
        reserved_bytes: What it may still write.
        running: It is under way.
        ends: It may write all that is still to come of it.
    """

    key: int
    source: str
    order_us: int
    held_bytes: int
    reserved_bytes: int = 0
    running: bool = False
    ends: bool = False

    @property
    def bytes(self) -> int:
        """What it takes of the spool."""
        return self.held_bytes + self.reserved_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What a transfer was refused not long ago."""

    source: str
    order_us: int
    wanted_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolState:
    """What is free in the spool, and who has or wants what.

    Attributes:
        room_bytes: Free above the reserve.
        holders: All but the asker that can give way or have something reserved.
        kept_bytes: What lies there, whole files too, by source.
        busy: Sources that have something to fetch.
        waits: All others that wait.
    """

    room_bytes: int
    holders: Sequence[Holder] = ()
    kept_bytes: Mapping[str, int] = field(default_factory=dict)
    busy: frozenset[str] = frozenset()
    waits: Sequence[Wait] = ()

    @property
    def whole_bytes(self) -> int:
        """What the spool can hold in all."""
        return max(0, self.room_bytes) + sum(self.kept_bytes.values())

    @property
    def spare_bytes(self) -> int:
        """Free, and reserved for nobody."""
        return self.room_bytes - sum(holder.reserved_bytes for holder in self.holders)

    def beyond_half(self, source: str, more: int = 0) -> bool:
        """Tell whether a source takes over half the spool while another has work."""
        if not self.busy - {source}:
            return False
        reserved = sum(
            holder.reserved_bytes for holder in self.holders if holder.source == source
        )
        taken = self.kept_bytes.get(source, 0) + reserved + more
        return taken > self.whole_bytes // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What becomes of a request for room.

    Attributes:
        granted_bytes: To be written; None if there is no room now.
        drop: Keys whose parts give way.
        stop: Keys of fetches that must end first.
        never: It would not fit if the spool were empty.
        finishing: What gives way does so that the asker can finish.
    """

    granted_bytes: int | None = None
    drop: tuple[int, ...] = ()
    stop: tuple[int, ...] = ()
    never: bool = False
    finishing: bool = False


def wanted(asker: Request) -> int:
    """Return what a transfer can receive in five minutes, or its rest."""
    if asker.finishing and asker.rest_bytes is not None:
        return asker.rest_bytes
    step = max(LEAST_BYTES, int(asker.rate * SPAN_S))
    return step if asker.rest_bytes is None else min(asker.rest_bytes, step)


def decide(asker: Request, state: SpoolState, now_us: int) -> Answer:
    """Return what a transfer may write, or what must happen before it may."""
    others = sum(state.kept_bytes.values()) - asker.held_bytes
    rest = asker.rest_bytes
    if rest is not None and rest > max(0, state.room_bytes) + max(0, others):
        return Answer(never=True)
    spare = state.spare_bytes - _left_to_others(asker, state)
    granted = _granted(asker, spare)
    if granted is not None and not _goes_before(asker, granted, spare, state):
        return Answer(granted_bytes=granted)
    return _make_way(asker, spare, state, now_us)


def _left_to_others(asker: Request, state: SpoolState) -> int:
    """Return what a source must leave that takes more than half the spool."""
    more = 0 if not asker.begun and asker.rest_bytes is None else wanted(asker)
    if not state.beyond_half(asker.source, more):
        return 0
    return min(LEAST_BYTES, state.whole_bytes // 4)


def _granted(asker: Request, spare: int) -> int | None:
    want = wanted(asker)
    if asker.rest_bytes is not None:
        return want if want <= spare else None
    if spare < 0:
        return None
    if not asker.begun:
        # An answer that does not come must not hold what others could use.
        return 0
    return max(asker.next_bytes, min(want, spare // 2))


def _goes_before(asker: Request, granted: int, spare: int, state: SpoolState) -> bool:
    """Tell whether a nearer deadline of its source waits for what would be given.

    And can have it, once what is under way has ended.
    """
    coming = spare + sum(holder.bytes for holder in state.holders if holder.running)
    return any(
        wait.source == asker.source
        and wait.order_us < asker.order_us
        and spare - granted < wait.wanted_bytes <= coming
        for wait in state.waits
    )


def _make_way(asker: Request, spare: int, state: SpoolState, now_us: int) -> Answer:
    """Return what must give way; nothing does where that would not be enough."""
    able = _can_finish(asker, now_us)
    missing = _needed(asker, state, able=able) - spare
    chosen: list[Holder] = []
    for holder in _candidates(asker, state, able=able):
        if missing <= 0:
            break
        chosen.append(holder)
        missing -= holder.bytes
    if missing > 0 or not chosen:
        return Answer()
    return Answer(
        drop=tuple(holder.key for holder in chosen if not holder.running),
        stop=tuple(holder.key for holder in chosen if holder.running),
        finishing=able,
    )


def _needed(asker: Request, state: SpoolState, *, able: bool) -> int:
    """Return how much room is worth that something gives way."""
    if asker.rest_bytes is None:
        return min(LEAST_BYTES, state.whole_bytes // 4)
    return asker.rest_bytes if able else wanted(asker)


def _candidates(asker: Request, state: SpoolState, *, able: bool) -> list[Holder]:
    """Return what may give way to a transfer, the first to do so first.

    Sources that take more than half the spool, whatever their deadlines; then, to one
    that can finish, the latest deadlines.
    """
    own_only = state.beyond_half(asker.source, asker.rest_bytes or 0)
    found = []
    for holder in state.holders:
        if not holder.bytes or (own_only and holder.source != asker.source):
            continue
        greedy = holder.source != asker.source and state.beyond_half(holder.source)
        later = able and holder.order_us > asker.order_us
        if greedy or (later and not holder.ends):
            found.append((greedy, holder))
    found.sort(key=lambda each: (each[0], each[1].order_us), reverse=True)
    return [holder for _, holder in found]


def _can_finish(asker: Request, now_us: int) -> bool:
    """Tell whether a transfer that got room would be whole before its deadline.

    Only what came counts: what is announced may never come.
    """
    if asker.favoured or asker.rest_bytes is None or asker.rate <= 0:
        return False
    left_s = (asker.order_us - now_us) / 1e6
    if left_s <= 0:
        left_s = _AFTERWARDS_S
    return asker.rest_bytes <= asker.rate * left_s
