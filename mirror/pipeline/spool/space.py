"""Give room in the spool: who may still write how much, and who gives way."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from mirror.errors import NoRoomError, SpoolError
from mirror.model import to_us, utc_now
from mirror.pipeline.spool import reservation
from mirror.pipeline.spool.refusals import Refusals
from mirror.pipeline.spool.usage import SpoolUsage
from mirror.tasks import run_to_end

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Collection,
        Iterable,
        Mapping,
    )
    from datetime import datetime
    from pathlib import Path

    from mirror.ledger import LedgerThread, SpoolUse
    from mirror.model import Export
    from mirror.pipeline.spool.part import Part

FAVOUR_S = 600.0
"""Others give way to one transfer no more often than this."""
YIELD_S = 10.0
"""What is asked to end has done so by then."""
_ROUNDS = 5
_LEAST_S = 1.0
_WINDOW_S = 300.0
SPARE_S = 1.0
"""What is free on a disk, less all that was given since, is believed for so long."""


@dataclass(slots=True, kw_only=True)
class _PartInUse:
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


class Space:
    """Gives room in the spool by reservation.

    Args:
        ledger: Knows what else lies there; None knows of nothing.
        retry: The first wait of what found no room.
        retry_max: The longest wait of what never will find any.
        yield_s: How long it waits for a fetch to end that must.

    Attributes:
        remove: Removes exports' parts.
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
        self._yield_s = yield_s
        self._clock = clock
        self._now = now
        self.remove: Callable[[Iterable[Export]], Awaitable[None]] | None = None
        self.stop: Callable[[int], None] = lambda _: None
        self.needed: Callable[[], None] = lambda: None
        self.leaving: set[int] = set()
        self._transfers: dict[Part, _PartInUse] = {}
        self._turns = asyncio.Condition()
        self._asking: set[Path] = set()
        self._left = asyncio.Event()
        self._spare: dict[Path, tuple[float, int]] = {}
        self._usage = SpoolUsage(ledger, clock)
        self._favoured: dict[int, float] = {}
        self._refusals = Refusals(retry, retry_max, clock)

    def register(self, part: Part, export: Export) -> None:
        """Add a part that was opened."""
        self._transfers[part] = _PartInUse(export=export, part=part)
        self._usage.forget(part.path.parent)

    def unregister(self, part: Part) -> None:
        """Take back what was promised to a part."""
        transfer = self._transfers.pop(part, None)
        if transfer is not None:
            self._measure(transfer)
        self._usage.forget(part.path.parent)
        self._left.set()

    def expect(self, part: Part, rest: int | None, *, begun: bool) -> None:
        """Record how many bytes of a file are still to come; None while unknown."""
        transfer = self._transfers.get(part)
        if transfer is None:
            return
        transfer.rest_bytes, transfer.rest_at, transfer.begun = rest, part.size, begun
        transfer.since, transfer.since_bytes = self._clock(), part.size
        transfer.finishing = transfer.finishing and begun

    def holds(self, part: Part, more: int) -> bool:
        """Tell whether a part may grow by so much without asking."""
        transfer = self._transfers.get(part)
        if transfer is None or transfer.until_bytes is None:
            return True
        return part.size + more <= transfer.until_bytes

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
        transfer = self._transfers[part]
        self._measure(transfer)
        began = self._clock()
        try:
            await self._reserve(transfer, more, room, renew=renew)
        finally:
            # What waits for room is not slow.
            transfer.since += self._clock() - began

    async def _reserve(
        self,
        transfer: _PartInUse,
        more: int,
        room: Callable[[], Awaitable[int]],
        *,
        renew: bool,
    ) -> None:
        part = transfer.part
        folder = part.path.parent
        if await self._is_plenty(transfer, more, room):
            return
        # Held to the end, so that nobody else takes what is freed for this one.
        async with self._turn(folder, transfer):
            stopped: set[int] = set()
            try:
                answer, free = await self._ask_again(transfer, more, room, stopped)
            finally:
                self.leaving -= stopped
            if answer.granted_bytes is not None:
                self._grant(transfer, answer.granted_bytes)
                self._refusals.found_room(transfer.key, begun=transfer.begun)
                return
        if renew and free >= 0 and self._lasts(transfer, more):
            return
        if not answer.never:
            self.needed()
        raise self._refuse(transfer, free, never=answer.never)

    async def _is_plenty(
        self, transfer: _PartInUse, more: int, room: Callable[[], Awaitable[int]]
    ) -> bool:
        """Give room at once where there is so much that nobody else need be asked."""
        if self._refusals:
            return False
        folder = transfer.part.path.parent
        at, spare = self._spare.get(folder, (0.0, 0))
        if self._clock() - at < SPARE_S and self._give(transfer, more, spare):
            return True
        before, at = self._reserved(), self._clock()
        free = await room()
        spare = free - sum(reserved for _, reserved in self._others(transfer, before))
        self._spare[folder] = at, spare - transfer.reserved
        return not self._refusals and self._give(
            transfer, more, spare - transfer.reserved
        )

    def _give(self, transfer: _PartInUse, more: int, spare: int) -> bool:
        """Give room of what is free and reserved for nobody, if that is plenty."""
        asker = self._asker(transfer, more, self._usage.known_rate(transfer.key))
        room_bytes = spare + transfer.reserved - reservation.LEAST_BYTES
        granted = reservation.decide(
            asker, reservation.SpoolState(room_bytes=room_bytes), 0
        ).granted_bytes
        if granted is not None:
            self._grant(transfer, granted)
        return granted is not None

    def _grant(self, transfer: _PartInUse, granted: int) -> None:
        """Let a part grow by so much; nobody else is given that."""
        folder = transfer.part.path.parent
        at, spare = self._spare.get(folder, (0.0, 0))
        self._spare[folder] = at, spare + transfer.reserved - granted
        transfer.until_bytes = transfer.part.size + granted

    def _reserved(self) -> dict[Part, int]:
        return {part: each.reserved for part, each in self._transfers.items()}

    def _others(
        self, transfer: _PartInUse, before: Mapping[Part, int]
    ) -> list[tuple[_PartInUse, int]]:
        """Return the others in the same folder, and what is reserved for each.

        Args:
            transfer: That asks.
            before: What was reserved before the disk was asked: what is written or
                given meanwhile counts twice, not never.
        """
        return [
            (other, max(before.get(part, 0), other.reserved))
            for part, other in self._transfers.items()
            if other is not transfer and part.path.parent == transfer.part.path.parent
        ]

    @staticmethod
    def _asker(transfer: _PartInUse, more: int, rate: float) -> reservation.Request:
        return reservation.Request(
            key=transfer.key,
            source=transfer.export.source,
            order_us=transfer.export.order_us,
            held_bytes=transfer.part.size,
            rest_bytes=transfer.rest,
            next_bytes=more,
            rate=rate,
            begun=transfer.begun,
            finishing=transfer.finishing,
        )

    @contextlib.asynccontextmanager
    async def _turn(self, folder: Path, transfer: _PartInUse) -> AsyncIterator[None]:
        """Let one transfer at a time ask about a folder, none that must end.

        Raises:
            NoRoomError: The transfer ends for another.
        """
        async with self._turns:
            await self._turns.wait_for(
                lambda: transfer.ends or folder not in self._asking
            )
            if transfer.ends:
                raise self._refuse(transfer, 0, never=False)
            self._asking.add(folder)
        try:
            yield
        finally:
            self._asking.discard(folder)
            await run_to_end(self._wake_others())

    async def _wake_others(self) -> None:
        async with self._turns:
            self._turns.notify_all()

    async def _ask_again(
        self,
        transfer: _PartInUse,
        more: int,
        room: Callable[[], Awaitable[int]],
        stopped: set[int],
    ) -> tuple[reservation.Answer, int]:
        """Ask until nothing more gives way; return the answer and the disk's room.

        Args:
            transfer: That asks.
            more: See `reserve`.
            room: See `reserve`.
            stopped: Takes the keys of fetches that were ended; not to be claimed.
        """
        since = self._clock() - self._favoured.get(transfer.key, -FAVOUR_S)
        favoured = since < FAVOUR_S
        answer, free = reservation.Answer(), 0
        for _ in range(_ROUNDS):
            answer, free = await self._ask(transfer, more, room, favoured=favoured)
            if not (answer.drop or answer.stop):
                break
            transfer.finishing = transfer.finishing or answer.finishing
            await self._drop(answer.drop, transfer.part.path.parent)
            if answer.stop:
                stopped.update(answer.stop)
                self.leaving.update(answer.stop)
                await self._end(answer.stop)
        if transfer.finishing and answer.granted_bytes is not None:
            self._favour(transfer.key)
        return answer, free

    def _lasts(self, transfer: _PartInUse, more: int) -> bool:
        """Tell whether what was reserved earlier is enough for now."""
        if transfer.until_bytes is None:
            return False
        return transfer.rest == 0 or max(more, 1) <= transfer.reserved

    async def _ask(
        self,
        transfer: _PartInUse,
        more: int,
        room: Callable[[], Awaitable[int]],
        *,
        favoured: bool,
    ) -> tuple[reservation.Answer, int]:
        """Return the answer to a request, and the room there is on the disk."""
        folder = transfer.part.path.parent
        before = self._reserved()
        free = await room()
        use = await self._usage.of(folder)
        rate = await self._usage.rate(transfer.key)
        holders = [
            other.holder(reserved) for other, reserved in self._others(transfer, before)
        ]
        asker = dataclasses.replace(
            self._asker(transfer, more, rate), favoured=favoured
        )
        state = reservation.SpoolState(
            room_bytes=free,
            holders=[*holders, *map(_idle, use.idle)],
            kept_bytes=self._kept(use, folder),
            busy=use.busy,
            waits=self._refusals.waits(),
        )
        return reservation.decide(asker, state, to_us(self._now())), free

    def _kept(self, use: SpoolUse, folder: Path) -> dict[str, int]:
        """Return what lies in a folder of the spool, by source."""
        kept = dict(use.kept_bytes)
        here = [
            each for each in self._transfers.values() if each.part.path.parent == folder
        ]
        keys = {each.key for each in here}
        sizes = [(each.export.source, each.part.size) for each in here]
        sizes += [
            (export.source, export.part_bytes)
            for export in use.fetching
            if export.key not in keys
        ]
        for source, size_bytes in sizes:
            kept[source] = kept.get(source, 0) + size_bytes
        return kept

    def _measure(self, transfer: _PartInUse) -> None:
        """Record how fast bytes come."""
        took_s = self._clock() - transfer.since
        gained = transfer.part.size - transfer.since_bytes
        if transfer.begun and (gained > 0 or took_s >= _LEAST_S):
            rate = max(0, gained) / max(took_s, _LEAST_S)
            self._usage.measured(transfer.key, rate)
        if took_s > _WINDOW_S:
            transfer.since, transfer.since_bytes = self._clock(), transfer.part.size

    async def _drop(self, keys: Iterable[int], folder: Path) -> None:
        """Remove the parts of exports that nobody works on."""
        for key in keys:
            was_leaving = key in self.leaving
            self.leaving.add(key)
            try:
                await self._drop_one(key)
            finally:
                self._usage.forget(folder)
                if not was_leaving:
                    self.leaving.discard(key)

    async def _drop_one(self, key: int) -> None:
        if self._ledger is None or self.remove is None:
            return
        dropped = await self._ledger(lambda ledger: ledger.fetches.drop_part(key))
        if dropped is not None:
            with contextlib.suppress(SpoolError):
                await self.remove([dropped])

    async def _end(self, keys: Collection[int]) -> None:
        """End fetches, and wait a while until one has."""
        for transfer in self._transfers.values():
            transfer.ends = transfer.ends or transfer.key in keys
        await self._wake_others()
        for key in keys:
            self.stop(key)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._yield_s):
                while self._open_keys() & set(keys):
                    self._left.clear()
                    await self._left.wait()

    def _open_keys(self) -> set[int]:
        return {each.key for each in self._transfers.values()}

    def _favour(self, key: int) -> None:
        """Remember that others gave way to an export."""
        now = self._clock()
        self._favoured = {
            other: at for other, at in self._favoured.items() if now - at < FAVOUR_S
        }
        self._favoured[key] = now

    def _refuse(self, transfer: _PartInUse, free: int, *, never: bool) -> NoRoomError:
        return self._refusals.refuse(
            transfer.key,
            reservation.Wait(
                source=transfer.export.source,
                order_us=transfer.export.order_us,
                wanted_bytes=transfer.rest or reservation.LEAST_BYTES,
            ),
            folder=transfer.part.path.parent,
            rest_bytes=transfer.rest,
            free_bytes=free,
            never=never,
        )


def _idle(export: Export) -> reservation.Holder:
    return reservation.Holder(
        key=export.stored_key,
        source=export.source,
        order_us=export.order_us,
        held_bytes=export.part_bytes,
    )
