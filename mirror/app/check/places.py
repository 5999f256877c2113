"""Look at the places on this machine: state directory, spool, targets."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from mirror.app.check.finding import FILES_S, Finding, Grade, bounded
from mirror.app.instance import spool_folders
from mirror.disk import filesystem, mounts
from mirror.errors import MirrorError, TargetError
from mirror.ledger import LEDGER_NAME
from mirror.model import to_us, utc_now
from mirror.pipeline.spool.reserve import room_of
from mirror.targets.directory.errors import user
from mirror.wording import size, span

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mirror.config import Settings
    from mirror.ledger import LedgerThread
    from mirror.pipeline.spool.spool import Place
    from mirror.ports import Target

_DAY_S = 86_400
_DAY_US = 86_400_000_000
_TARGET_S = 60.0
_HOLDUP_H = 12.0
_USABLE = os.W_OK | os.X_OK


async def state_dir(folder: Path) -> tuple[Finding, bool]:
    """Judge where the ledger lies, and tell whether it can be asked."""
    try:
        there, barred, readable = await bounded(partial(_barred, folder))
    except TimeoutError:
        detail = f"{folder}: no answer for {FILES_S:.0f} s, its disk hangs; put it on "
        detail += "a sound local disk. Nothing else was looked at"
        return Finding(name="state_dir", grade=Grade.FAIL, detail=detail), False
    except OSError as exc:
        remedy = _remedy(exc)
        detail = f"{folder} cannot be looked at: {exc.strerror}; {remedy}. "
        detail += "Nothing else was looked at"
        return Finding(name="state_dir", grade=Grade.FAIL, detail=detail), False
    if mounts.is_network(folder):
        detail = f"{folder} lies on a network file system; put it on a local one"
        return Finding(name="state_dir", grade=Grade.FAIL, detail=detail), readable
    if barred is not None:
        detail = f"{barred} cannot be written by this user; make it belong to the "
        detail += "service's user, and run `check` as root or as that user"
        return Finding(name="state_dir", grade=Grade.FAIL, detail=detail), readable
    detail = f"{folder} {'is there' if there == folder else 'is made at the first run'}"
    return Finding(name="state_dir", grade=Grade.PASS, detail=detail), True


def _remedy(exc: OSError) -> str:
    if isinstance(exc, PermissionError):
        return "let the service's user use it, and run this as root or as that user"
    return "check its disk"


def _barred(folder: Path) -> tuple[Path, Path | None, bool]:
    """Return the folder that is there, what cannot be written, and whether it reads."""
    there = mounts.nearest(folder)
    parts = [*folder.glob(f"{LEDGER_NAME}*")] if there == folder else []
    readable = all(os.access(one, os.R_OK) for one in parts)
    if not there.is_dir() or not os.access(there, _USABLE):
        return there, folder, readable
    barred = [one for one in parts if not os.access(one, os.R_OK | os.W_OK)]
    return there, barred[0] if barred else None, readable


async def spool(
    settings: Settings, places: Callable[[], list[Place]], ledger: LedgerThread
) -> list[Finding]:
    """Judge where files are received, and how long they can wait without a target."""
    try:
        best, *others = await bounded(places)
    except TimeoutError:
        # The finding of what hangs tells it.
        return [await _folder(spool_folders(settings)[0], ledger)]
    if best.guard is None:
        return [await _folder(best.path, ledger)]
    # The target's own finding tells whether that can be written.
    try:
        free = filesystem.free_bytes((await bounded(partial(_room, best.path)))[0])
        here = f"{best.path}" if free is None else f"{best.path} has {size(free)} free"
    except (TimeoutError, OSError):
        here = f"{best.path} cannot be looked at"
    found = await _folder(others[0].path, ledger)
    away = f"while target {next(iter(settings.targets))} is away, "
    return [replace(found, detail=f"{here}; {away}{found.detail}")]


async def _folder(folder: Path, ledger: LedgerThread) -> Finding:
    name = "spool"
    try:
        if await bounded(partial(mounts.is_network, folder)):
            detail = f"{folder} lies on a network file system: while that is away "
            detail += "nothing can be received; set spool_dir to a folder on a "
            detail += "local disk"
            return Finding(name=name, grade=Grade.WARN, detail=detail)
        found, writable, is_open = await bounded(partial(_room, folder))
    except TimeoutError:
        detail = f"{folder} cannot be used: no answer for {FILES_S:.0f} s; check its "
        detail += "disk, or set spool_dir to another one"
        return Finding(name=name, grade=Grade.FAIL, detail=detail)
    except OSError as exc:
        detail = f"{folder} cannot be used: {exc.strerror}; {_remedy(exc)}"
        return Finding(name=name, grade=Grade.FAIL, detail=detail)
    if not writable:
        detail = f"{folder} cannot be written by this user; make it belong to the "
        detail += "service's user"
        return Finding(name=name, grade=Grade.FAIL, detail=detail)
    if is_open:
        detail = f"others may write to {folder}, where files lie that are not kept "
        detail += f"yet: `chown {user()} {folder} && chmod go-w {folder}`"
        return Finding(name=name, grade=Grade.FAIL, detail=detail)
    free = filesystem.free_bytes(found)
    if free is None:
        detail = f"{folder} is writable; its file system does not say how large it is"
        return Finding(name=name, grade=Grade.PASS, detail=detail)
    day = await _of_a_day(ledger)
    short = free < day * _HOLDUP_H / 24
    lasts = f", enough for {span(free / day * _DAY_S)} without a target" if day else ""
    remedy = "; make room there, or set spool_dir to a larger local disk"
    return Finding(
        name=name,
        grade=Grade.WARN if short else Grade.PASS,
        detail=f"{folder} has {size(free)} free{lasts}{remedy if short else ''}",
    )


async def spool_room(
    settings: Settings, places: Callable[[], list[Place]], ledger: LedgerThread
) -> list[Finding]:
    """Judge whether the largest files fit as often as they are fetched at once.

    Nothing is said before a file was seen, nor of a spool that `spool` cannot judge.
    """
    largest = await ledger(lambda opened: opened.queries.largest())
    try:
        room = await bounded(partial(_room_in, places))
    except (TimeoutError, OSError):
        return []
    if not largest:
        return []
    asked = sum(source.concurrency for source in settings.sources.values())
    at_once = min(asked, settings.transfer.concurrency)
    detail = f"{at_once} fetches at once of files like the largest seen, "
    detail += f"{size(largest)}, take {size(at_once * largest)}; "
    detail += f"{size(max(0, room))} are free above the reserve"
    short = room < at_once * largest
    if room < largest:
        detail += ": such a file cannot be fetched; set spool_dir to a larger "
        detail += "local disk"
    elif short:
        detail += ": the later ones wait for room; make some there, or lower "
        detail += "concurrency"
    grade = Grade.WARN if short else Grade.PASS
    return [Finding(name="room in the spool", grade=grade, detail=detail)]


def _room_in(places: Callable[[], list[Place]]) -> int:
    best = places()[0]
    return room_of(
        os.statvfs(mounts.nearest(best.path)),
        min_free=best.min_free,
        beside_ledger=best.beside_ledger,
    )


def _room(folder: Path) -> tuple[os.statvfs_result, bool, bool]:
    """Return the room of a folder, whether we may write there, whether others may."""
    there = mounts.nearest(folder)
    writable = os.access(there, _USABLE)
    is_open = writable and there == folder and filesystem.is_open(there)
    return os.statvfs(there), writable, is_open


async def _of_a_day(ledger: LedgerThread) -> int:
    """Return how many bytes came in on the last day."""
    since_us = to_us(utc_now()) - _DAY_US
    return await ledger(lambda opened: opened.pauses.received(since_us))


async def check_target(
    target: Target, ledger: LedgerThread, *, adopt: bool
) -> list[Finding]:
    """Write to a target, read that and remove it; one never used gets its marker."""
    name = f"target {target.name}"
    remembered = await ledger(lambda opened: opened.targets.marker(target.name))
    try:
        first = await target.first_use() if remembered is None else None
        if first is not None:
            detail = f"{first} at the first run. "
            detail += "Mount it first if it is to be a mount, and set mount = true"
            return [Finding(name=name, grade=Grade.WARN, detail=detail)]
        marker_id = None if adopt else remembered
        health = await target.probe(marker_id, write=True, patience_s=_TARGET_S)
    except TargetError as exc:
        detail = str(exc).removeprefix(f"{name}: ")
        if exc.reason == "hung":
            detail = "it does not answer; is the mount dead?"
        return [Finding(name=name, grade=Grade.FAIL, detail=detail)]
    if health.full is not None:
        detail = f"{target.place} has no space left above min_free; free some there"
        return [Finding(name=name, grade=Grade.FAIL, detail=detail)]
    day = await _of_a_day(ledger)
    free = health.free_bytes
    left = "it does not say how much is free" if free is None else f"{size(free)} free"
    detail = f"writable, {left}"
    if adopt:
        detail += await _adopted(ledger, target.name, health.marker_id, remembered)
    if free is not None and free < day:
        detail += f"; {size(day)} came in on the last day: free some space there"
        return [Finding(name=name, grade=Grade.WARN, detail=detail)]
    if health.warning is not None:
        detail += f"; {health.warning}"
        return [Finding(name=name, grade=Grade.WARN, detail=detail)]
    return [Finding(name=name, grade=Grade.PASS, detail=detail)]


async def _adopted(
    ledger: LedgerThread, name: str, marker_id: str, remembered: str | None
) -> str:
    now_us = to_us(utc_now())
    try:
        await ledger(
            lambda opened: opened.targets.checked(
                name, marker_id=marker_id, free_bytes=None, problem=None, now_us=now_us
            )
        )
    except MirrorError as exc:
        raise MirrorError(f"the new disk could not be remembered: {exc}") from exc
    kept = await ledger(lambda opened: opened.queries.kept_on(name))
    if not kept or marker_id == remembered:
        return "; the disk there is adopted"
    return (
        f"; the disk there is adopted. The ledger knows of {kept} copies on the former "
        "disk: bring them over, they are not copied again by themselves"
    )
