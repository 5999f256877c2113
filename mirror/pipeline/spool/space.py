"""Keep the books of the spool: who may still write how much, and who waits."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from mirror import backoff
from mirror.errors import NoRoomError, SpoolError
from mirror.ledger import SpoolUse
from mirror.model import to_us, utc_now
from mirror.pipeline.spool import reservation
from mirror.tasks import finish
from mirror.wording import size

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Collection,
        Iterable,
    )
    from datetime import datetime
    from pathlib import Path

    from mirror.ledger import LedgerThread
    from mirror.model import Export
    from mirror.pipeline.spool.part import Part

FAVOUR_S = 600.0
"""Others give way to one transfer no more often than this."""
WAITS_S = 60.0
"""What waits for room asks again at least as often."""
YIELD_S = 10.0
"""What is asked to end has done so by then."""
_ROUNDS = 5
_COST_SHARE = 0.02
_LEAST_S = 1.0
_WINDOW_S = 300.0
_REMEMBERED = 4096


@dataclass(slots=True, kw_only=True)
class _Tenant:
    """A part that is open, and what was promised to it.

    Attributes:
        rest_bytes: Still to come when the part had `rest_at`; None while unknown.
        until_bytes: It may grow to this; None as long as nothing was reserved.
        ends: It is being ended for another.
        finishing: Others gave way to it, so that it can finish.
        since: When the part had `since_bytes`; its rate is measured from there.
    """

    export: Export
    part: Part
    rest_bytes: int | None = None
    rest_at: int = 0
    until_bytes: int | None = None
    begun: bool = False
    ends: bool = False
    finishing: bool = False
    since: float = 0.0
    since_bytes: int = 0

    @property
    def key(self) -> int:
        return self.export.stored_key

    @property
    def rest(self) -> int | None:
        if self.rest_bytes is None:
            return None
        return max(0, self.rest_bytes - (self.part.size - self.rest_at))

    @property
    def reserved(self) -> int:
        return max(0, (self.until_bytes or 0) - self.part.size)

    def holder(self, reserved_bytes: int) -> reservation.Holder:
        rest = self.rest
        return reservation.Holder(
            key=self.key,
            source=self.export.source,
            order_us=self.export.order_us,
            held_bytes=self.part.size,
            reserved_bytes=reserved_bytes,
            running=True,
            ends=rest is not None and rest <= reserved_bytes,
        )


@dataclass(slots=True, kw_only=True)
class _Refused:
    """How often, and when last, an export found no room."""

    times: int = 0
    at: float = 0.0
    wait: reservation.Wait


class Space:
    """Gives room in the spool by reservation.

    Args:
        ledger: Knows what else lies there; None knows of nothing.
        retry: The first wait of what found no room.
        retry_max: The longest wait of what never will find any.
        yield_s: How long it waits for a fetch to end that must.

    Attributes:
        remove: Removes an export's part.
        stop: Ends a fetch, by its export's key.
        needed: Called when something waits and no part can give way to it.
        leaving: Keys of exports whose parts are being removed.
    """

    def __init__(
        self,
        *,
        ledger: LedgerThread | None = None,
        retry: timedelta = timedelta(seconds=5),
        retry_max: timedelta = timedelta(minutes=10),
        yield_s: float = YIELD_S,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._ledger = ledger
        self._retry = retry
        self._retry_max = retry_max
        self._yield_s = yield_s
        self._clock = clock
        self._now = now
        self.remove: Callable[[Export], Awaitable[None]] | None = None
        self.stop: Callable[[int], None] = lambda _: None
        self.needed: Callable[[], None] = lambda: None
        self.leaving: set[int] = set()
        self._tenants: dict[Part, _Tenant] = {}
        self._turns = asyncio.Condition()
        self._asking: set[Path] = set()
        self._left = asyncio.Event()
        self._uses: dict[Path, tuple[float, SpoolUse]] = {}
        self._rates: dict[int, float] = {}
        self._favoured: dict[int, float] = {}
        self._refused: dict[int, _Refused] = {}

    def enter(self, part: Part, export: Export) -> None:
        """Take note of a part that was opened."""
        self._tenants[part] = _Tenant(export=export, part=part)
        self._uses.pop(part.path.parent, None)

    def leave(self, part: Part) -> None:
        """Take back what was promised to a part."""
        tenant = self._tenants.pop(part, None)
        if tenant is not None:
            self._measure(tenant)
        self._uses.pop(part.path.parent, None)
        self._left.set()

    def expect(self, part: Part, rest: int | None, *, begun: bool) -> None:
        """Take note of how much of a file is still to come; None while unknown."""
        tenant = self._tenants.get(part)
        if tenant is None:
            return
        tenant.rest_bytes, tenant.rest_at, tenant.begun = rest, part.size, begun
        tenant.since, tenant.since_bytes = self._clock(), part.size
        tenant.finishing = tenant.finishing and begun

    def holds(self, part: Part, more: int) -> bool:
        """Tell whether a part may grow by so much without asking."""
        tenant = self._tenants.get(part)
        if tenant is None or tenant.until_bytes is None:
            return True
        return part.size + more <= tenant.until_bytes

    async def reserve(
        self,
        part: Part,
        room: Callable[[], Awaitable[int]],
        *,
        more: int = 0,
        renew: bool = False,
    ) -> None:
        """Reserve what a part can receive for a while.

        Args:
            part: That is open.
            room: Tells how much may be written before the reserve is touched.
            more: What it is about to write.
            renew: What was reserved earlier is used up before there is too little.

        Raises:
            NoRoomError: There is not so much.
        """
        tenant = self._tenants[part]
        self._measure(tenant)
        began = self._clock()
        try:
            await self._reserve(tenant, more, room, renew=renew)
        finally:
            # What waits for room is not slow.
            tenant.since += self._clock() - began

    async def _reserve(
        self,
        tenant: _Tenant,
        more: int,
        room: Callable[[], Awaitable[int]],
        *,
        renew: bool,
    ) -> None:
        part = tenant.part
        folder = part.path.parent
        if await self._is_plenty(tenant, more, room):
            return
        # Held to the end, so that nobody else takes what is freed for this one.
        async with self._turn(folder, tenant):
            stopped: set[int] = set()
            try:
                answer, free = await self._ask_again(tenant, more, room, stopped)
            finally:
                self.leaving -= stopped
            if answer.granted_bytes is not None:
                tenant.until_bytes = part.size + answer.granted_bytes
                self._refused.pop(tenant.key, None)
                return
        if renew and free >= 0 and self._lasts(tenant, more):
            return
        if not answer.never:
            self.needed()
        raise self._refuse(tenant, free, never=answer.never)

    async def _is_plenty(
        self, tenant: _Tenant, more: int, room: Callable[[], Awaitable[int]]
    ) -> bool:
        """Give room at once where there is so much that nobody else need be asked."""
        folder = tenant.part.path.parent
        before = {part: one.reserved for part, one in self._tenants.items()}
        free = await room()
        spare = free - sum(
            max(before.get(part, 0), one.reserved)
            for part, one in self._tenants.items()
            if one is not tenant and part.path.parent == folder
        )
        asker = self._asker(tenant, more, self._rates.get(tenant.key, 0.0))
        granted = reservation.decide(
            asker, reservation.Books(room_bytes=spare - reservation.LEAST_BYTES), 0
        ).granted_bytes
        if self._refused or granted is None:
            return False
        tenant.until_bytes = tenant.part.size + granted
        return True

    @staticmethod
    def _asker(tenant: _Tenant, more: int, rate: float) -> reservation.Request:
        return reservation.Request(
            key=tenant.key,
            source=tenant.export.source,
            order_us=tenant.export.order_us,
            held_bytes=tenant.part.size,
            rest_bytes=tenant.rest,
            next_bytes=more,
            rate=rate,
            begun=tenant.begun,
            finishing=tenant.finishing,
        )

    @contextlib.asynccontextmanager
    async def _turn(self, folder: Path, tenant: _Tenant) -> AsyncIterator[None]:
        """Let one ask at a time about a folder, and nobody who is to end.

        Raises:
            NoRoomError: The tenant ends for another.
        """
        async with self._turns:
            await self._turns.wait_for(
                lambda: tenant.ends or folder not in self._asking
            )
            if tenant.ends:
                raise self._refuse(tenant, 0, never=False)
            self._asking.add(folder)
        try:
            yield
        finally:
            self._asking.discard(folder)
            await finish(self._wake_others())

    async def _wake_others(self) -> None:
        async with self._turns:
            self._turns.notify_all()

    async def _ask_again(
        self,
        tenant: _Tenant,
        more: int,
        room: Callable[[], Awaitable[int]],
        stopped: set[int],
    ) -> tuple[reservation.Answer, int]:
        """Ask until nothing more gives way; return the answer and the disk's room.

        Args:
            tenant: That asks.
            more: See `reserve`.
            room: See `reserve`.
            stopped: Takes the keys of fetches that were ended; not to be claimed.
        """
        since = self._clock() - self._favoured.get(tenant.key, -FAVOUR_S)
        favoured = since < FAVOUR_S
        answer, free = reservation.Answer(), 0
        for _ in range(_ROUNDS):
            answer, free = await self._ask(tenant, more, room, favoured=favoured)
            if not (answer.drop or answer.stop):
                break
            tenant.finishing = tenant.finishing or answer.finishing
            await self._drop(answer.drop, tenant.part.path.parent)
            if answer.stop:
                stopped.update(answer.stop)
                self.leaving.update(answer.stop)
                await self._end(answer.stop)
        if tenant.finishing and answer.granted_bytes is not None:
            self._favour(tenant.key)
        return answer, free

    def _lasts(self, tenant: _Tenant, more: int) -> bool:
        """Tell whether what was reserved earlier is enough for now."""
        if tenant.until_bytes is None:
            return False
        return tenant.rest == 0 or max(more, 1) <= tenant.reserved

    async def _ask(
        self,
        tenant: _Tenant,
        more: int,
        room: Callable[[], Awaitable[int]],
        *,
        favoured: bool,
    ) -> tuple[reservation.Answer, int]:
        """Return the answer to a request, and the room there is on the disk."""
        folder = tenant.part.path.parent
        # Of before the disk is asked and of now: what is written or given meanwhile
        # counts twice, not never.
        before = {part: one.reserved for part, one in self._tenants.items()}
        free = await room()
        use = await self._used(folder)
        rate = await self._rate(tenant.key)
        holders = [
            one.holder(max(before.get(part, 0), one.reserved))
            for part, one in self._tenants.items()
            if one is not tenant and part.path.parent == folder
        ]
        asker = dataclasses.replace(self._asker(tenant, more, rate), favoured=favoured)
        recent = self._clock() - 2 * WAITS_S
        state = reservation.Books(
            room_bytes=free,
            holders=[*holders, *(_idle(one) for one in use.idle)],
            kept_bytes=self._kept(use, folder),
            busy=use.busy,
            waits=[one.wait for one in self._refused.values() if one.at > recent],
        )
        return reservation.decide(asker, state, to_us(self._now())), free

    def _kept(self, use: SpoolUse, folder: Path) -> dict[str, int]:
        """Return what lies in a folder of the spool, by source."""
        kept = dict(use.kept_bytes)
        open_here = {p: o for p, o in self._tenants.items() if p.path.parent == folder}
        keys = {one.key for one in open_here.values()}
        sizes = [(one.export.source, part.size) for part, one in open_here.items()]
        sizes += [
            (one.source, one.part_bytes) for one in use.fetching if one.key not in keys
        ]
        for source, size_bytes in sizes:
            kept[source] = kept.get(source, 0) + size_bytes
        return kept

    async def _used(self, folder: Path) -> SpoolUse:
        """Return what lies in the spool; a little old where that is costly to know."""
        until, use = self._uses.get(folder, (0.0, SpoolUse()))
        if self._ledger is not None and self._clock() >= until:
            began = self._clock()
            use = await self._ledger(
                lambda ledger: ledger.fetches.spool_use(str(folder))
            )
            ended = self._clock()
            until = ended + (ended - began) / _COST_SHARE
            self._uses[folder] = (until, use)
        return use

    async def _rate(self, key: int) -> float:
        """Return how fast an export's bytes came, now or at an earlier attempt."""
        if key not in self._rates and self._ledger is not None:
            if len(self._rates) >= _REMEMBERED:
                self._rates.clear()
            self._rates[key] = await self._ledger(
                lambda ledger: ledger.fetches.rate(key)
            )
        return self._rates.get(key, 0.0)

    def _measure(self, tenant: _Tenant) -> None:
        """Take note of how fast bytes come."""
        took_s = self._clock() - tenant.since
        gained = tenant.part.size - tenant.since_bytes
        if tenant.begun and (gained > 0 or took_s >= _LEAST_S):
            self._rates[tenant.key] = max(0, gained) / max(took_s, _LEAST_S)
        if took_s > _WINDOW_S:
            tenant.since, tenant.since_bytes = self._clock(), tenant.part.size

    async def _drop(self, keys: Iterable[int], folder: Path) -> None:
        """Remove the parts of exports that nobody works on."""
        for key in keys:
            was_leaving = key in self.leaving
            self.leaving.add(key)
            try:
                await self._drop_one(key)
            finally:
                self._uses.pop(folder, None)
                if not was_leaving:
                    self.leaving.discard(key)

    async def _drop_one(self, key: int) -> None:
        if self._ledger is None or self.remove is None:
            return
        dropped = await self._ledger(lambda ledger: ledger.fetches.drop_part(key))
        if dropped is not None:
            with contextlib.suppress(SpoolError):
                await self.remove(dropped)

    async def _end(self, keys: Collection[int]) -> None:
        """End fetches, and wait a while until one has."""
        for tenant in self._tenants.values():
            tenant.ends = tenant.ends or tenant.key in keys
        await self._wake_others()
        for key in keys:
            self.stop(key)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._yield_s):
                while self._open_keys() & set(keys):
                    self._left.clear()
                    await self._left.wait()

    def _open_keys(self) -> set[int]:
        return {one.key for one in self._tenants.values()}

    def _favour(self, key: int) -> None:
        """Remember that others gave way to an export."""
        now = self._clock()
        self._favoured = {
            other: at for other, at in self._favoured.items() if now - at < FAVOUR_S
        }
        self._favoured[key] = now

    def _refuse(self, tenant: _Tenant, free: int, *, never: bool) -> NoRoomError:
        rest, now = tenant.rest, self._clock()
        wanted = rest or reservation.LEAST_BYTES
        wait = reservation.Wait(
            source=tenant.export.source,
            order_us=tenant.export.order_us,
            wanted_bytes=wanted,
        )
        self._refused = {
            key: one for key, one in self._refused.items() if now - one.at < FAVOUR_S
        }
        refused = self._refused.setdefault(tenant.key, _Refused(wait=wait))
        refused.times += 1
        if not never:
            refused.at, refused.wait = now, wait
        longest = self._retry_max if never else timedelta(seconds=WAITS_S)
        again = backoff.delay(
            refused.times,
            initial=self._retry,
            maximum=min(longest, self._retry_max),
            jitter=1.0,
        )
        folder = tenant.part.path.parent
        text = f"the spool in {folder} has room for {size(max(0, free))} above its "
        text += "reserve"
        if rest is not None:
            text += f", and {size(rest)} are to come"
        text += "; it can never hold that file" if never else ""
        return NoRoomError(
            "spool_full",
            f"{text}; free some space there, or set spool_dir to a larger disk",
            retry_after_s=again.total_seconds(),
            never=never,
        )


def _idle(one: Export) -> reservation.Holder:
    return reservation.Holder(
        key=one.stored_key,
        source=one.source,
        order_us=one.order_us,
        held_bytes=one.part_bytes,
    )
