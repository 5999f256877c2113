"""Leave a source or a target alone for a while, and say what that endangers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from mirror.app import lock
from mirror.app.instance import spool_folders
from mirror.disk import filesystem, mounts
from mirror.errors import MirrorError
from mirror.ledger import LEDGER_NAME, Ledger
from mirror.model import iso
from mirror.wording import size, span

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from datetime import timedelta
    from pathlib import Path

    from mirror.config import Settings, SourceSettings

_SECOND_US = 1_000_000
_DAY_US = 86_400 * _SECOND_US
_NAMED = 10

Kind = Literal["source", "target"]


def pause(
    settings: Settings, kind: Kind, name: str, length: timedelta, now_us: int
) -> list[str]:
    """Begin a pause; return lines that describe it, with its dangers in capitals.

    Raises:
        MirrorError: There is no ledger yet.
        LedgerError: The ledger cannot be used.
    """
    until_us = now_us + round(length.total_seconds()) * _SECOND_US
    until_us -= until_us % _SECOND_US
    with _ledger(settings.state_dir) as ledger:
        if kind == "source":
            ledger.pauses.pause_source(name, from_us=now_us, until_us=until_us)
            lines = _of_source(ledger, settings.sources[name], until_us)
        else:
            ledger.pauses.pause_target(name, from_us=now_us, until_us=until_us)
            lines = _of_target(ledger, settings, now_us, until_us)
    return [f"{kind} {name} is paused until {iso(until_us)}, then goes on", *lines]


def resume(settings: Settings, kind: Kind, name: str, now_us: int) -> bool:
    """End a pause; tell whether there was one.

    Raises:
        MirrorError: There is no ledger yet.
        LedgerError: The ledger cannot be used.
    """
    with _ledger(settings.state_dir) as ledger:
        if kind == "source":
            return ledger.pauses.resume_source(name, now_us)
        return ledger.pauses.resume_target(name, now_us)


def _of_source(ledger: Ledger, source: SourceSettings, until_us: int) -> list[str]:
    """Return what a pause of a source does, and what it endangers."""
    lines = ["nothing is listed or fetched there; fetches under way end first"]
    due = ledger.pauses.endangered(source.name, until_us)
    if due:
        number = f"{len(due)} exports reach" if len(due) > 1 else "1 export reaches"
        lines.append(f"DANGER: {number} the deadline before the pause ends:")
        lines += [f"  {source.name}/{id_}  {iso(us)}" for us, id_ in due[:_NAMED]]
        if len(due) > _NAMED:
            lines.append(f"  and {len(due) - _NAMED} more")
    lifetime_us = round(source.file_lifetime.total_seconds() * _SECOND_US)
    read = {each.name: each.last_success_us for each in ledger.queries.sources()}
    read_us = read.get(source.name)
    if read_us is None:
        lines.append("DANGER: its list was never read: what it holds is not known")
    elif read_us + lifetime_us <= until_us:
        lines.append(
            f"DANGER: what it makes from now on is not seen, and is deleted from "
            f"{iso(read_us + lifetime_us)} on: {span(lifetime_us / _SECOND_US)} after "
            "it was made. Resume before that, or it is lost"
        )
    return lines


def _of_target(
    ledger: Ledger, settings: Settings, now_us: int, until_us: int
) -> list[str]:
    """Return what a pause of a target does, and what it endangers."""
    spool = spool_folders(settings)[0]
    free = filesystem.free_bytes(os.statvfs(mounts.nearest(spool)))
    room = "nobody knows how much is free" if free is None else f"{size(free)} are free"
    lines = [
        "nothing new is copied there; copies under way end first",
        f"files are fetched as before and wait in {spool}, where {room}",
    ]
    day = ledger.pauses.received(now_us - _DAY_US)
    expected = day * (until_us - now_us) // _DAY_US
    if free is not None and expected > free // 2:
        lines.append(
            f"DANGER: at the rate of the last day {size(expected)} come in meanwhile; "
            "when the spool is full nothing is fetched, and footage is lost"
        )
    if len(settings.targets) == 1:
        lines.append("it is the only target: the spool holds the only copies meanwhile")
    return lines


def _ledger(state_dir: Path) -> AbstractContextManager[Ledger]:
    if not (state_dir / LEDGER_NAME).exists():
        raise MirrorError(
            f"there is no ledger in {state_dir} yet to remember a pause in; start the "
            "service first"
        )
    return Ledger.reading(state_dir, check=not lock.is_held(state_dir))
