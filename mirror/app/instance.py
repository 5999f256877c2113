"""This node's state directory: its lock, its ledger, its id."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.app import lock
from mirror.ledger import Ledger, LedgerThread
from mirror.model import to_us, utc_now

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from mirror.config import Settings

_INTERRUPT_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """What this process alone has for as long as it runs.

    Attributes:
        reader: A second connection, for questions that must not delay the work.
    """

    ledger: LedgerThread
    reader: LedgerThread
    node_id: str


@contextlib.asynccontextmanager
async def open_instance(
    settings: Settings, *, patience_s: float | None = None, check: bool = True
) -> AsyncIterator[Instance]:
    """Lock the state directory and open the ledger.

    Args:
        settings: The configuration.
        patience_s: As for `LedgerThread`.
        check: Read all of the ledger first; else `check_in_background` finds damage.

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
            yield Instance(ledger=ledger, reader=reader, node_id=node_id)
        finally:
            await ledger.close()
            await reader.close()


@contextlib.asynccontextmanager
async def check_in_background(
    state_dir: Path,
) -> AsyncIterator[asyncio.Future[None]]:
    """Read all of the ledger in a thread, for a large one takes a minute.

    The future ends with DamagedLedgerError if the ledger is damaged. A row that is
    used before is checked then.

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


async def device_uuids(ledger: LedgerThread, sources: Iterable[str]) -> dict[str, str]:
    """Return the id by which each source's VMS knows us, made at first use."""
    return await ledger(
        lambda opened: {name: opened.walks.source(name).device_uuid for name in sources}
    )


def spool_folders(settings: Settings) -> tuple[Path, ...]:
    """Return the local folders of the spool, best first.

    The one that was chosen, if one was, and the one beside the ledger.
    """
    beside = settings.state_dir / "spool"
    return (beside,) if settings.spool_dir is None else (settings.spool_dir, beside)
