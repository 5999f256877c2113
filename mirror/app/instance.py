"""What every engine stands on: the lock, the ledger, the sessions."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.app import lock
from mirror.ledger import Ledger, LedgerThread
from mirror.model import to_us, utc_now
from mirror.vms import Proxies, Sessions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from mirror.config import Settings, SourceSettings

_INTERRUPT_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Held for as long as the process works.

    Attributes:
        reader: A second connection, for questions that must not hold up the work.
    """

    ledger: LedgerThread
    reader: LedgerThread
    node_id: str

    async def device_uuids(self, sources: Sequence[str]) -> dict[str, str]:
        """Return the id each source's VMS knows us by, made at first use."""

        def ask(ledger: Ledger) -> dict[str, str]:
            return {name: ledger.walks.source(name).device_uuid for name in sources}

        return await self.ledger(ask)


@contextlib.asynccontextmanager
async def held(
    settings: Settings, *, patience_s: float | None = None, check: bool = True
) -> AsyncIterator[Ground]:
    """Hold the state directory and open the ledger.

    Args:
        settings: The configuration.
        patience_s: As for `LedgerThread`.
        check: Read all of the ledger first; else `proving` is to find damage.

    Raises:
        ConfigError: The state directory cannot be used.
        LockedError: Another process holds it.
        LedgerError: The ledger cannot be used.
    """
    with lock.held(settings.state_dir):
        opened = Ledger.open(settings.state_dir, check=check)
        ledger = LedgerThread(opened, patience_s=patience_s)
        reader = LedgerThread(Ledger.read(settings.state_dir), patience_s=patience_s)
        try:
            now_us = to_us(utc_now())
            node_id = await ledger(lambda opened: opened.node_id(now_us))
            yield Ground(ledger=ledger, reader=reader, node_id=node_id)
        finally:
            await ledger.close()
            await reader.close()


@contextlib.asynccontextmanager
async def proving(state_dir: Path) -> AsyncIterator[asyncio.Future[None]]:
    """Read through the ledger in a thread, for a large one takes a minute.

    What is yielded ends with DamagedLedgerError if it is damaged. A row that is met
    before is looked at then.

    Raises:
        LedgerError: It cannot be opened.
    """
    ledger = Ledger.read(state_dir)
    reading = asyncio.ensure_future(asyncio.to_thread(ledger.prove))
    try:
        yield reading
    finally:
        while not reading.done():
            ledger.interrupt()
            await asyncio.wait([reading], timeout=_INTERRUPT_S)
        reading.exception()
        ledger.close()


def sessions_for(settings: Settings) -> Sessions:
    """Return the HTTP sessions the configuration asks for, not yet open."""
    return Sessions(
        stall_timeout_s=settings.transfer.stall_timeout.total_seconds(),
        read_bytes=settings.transfer.hop_bytes // 2,
    )


def proxies_of(source: SourceSettings) -> Proxies:
    """Return which proxy each request of a source goes by."""
    if source.proxy is None:
        return Proxies()
    named = source.proxy.get_secret_value()
    if named == "environment":
        return Proxies.of_environment(os.environ)
    return Proxies.always(named)
