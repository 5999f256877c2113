"""Look at all that the configuration names, before any work."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from mirror.app import filesystems, ground
from mirror.app.engine import Engine
from mirror.errors import (
    FileGoneError,
    ListError,
    MirrorError,
    TargetError,
)
from mirror.model import to_us, utc_now
from mirror.ports import Held
from mirror.state import Ledger, LedgerThread
from mirror.wording import size, span

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.config import Settings, SourceSettings, TargetSettings
    from mirror.metrics import Metrics
    from mirror.mirroring.publish import Publisher
    from mirror.ports import Page
    from mirror.vms import VmsClient

_DAY_US = 86_400_000_000
_DAY_S = 86_400
_CLOCK_WARN_S = 60.0
_TARGET_S = 60.0
_FILE_S = 60.0
_ENDS_SOON_S = 14 * _DAY_S
_HOLDUP_H = 12.0


_NOTHING_HELD = Held(size_bytes=0, total_bytes=None, etag=None, last_modified=None)


class Grade(StrEnum):
    """How a check ended."""

    PASS = "pass"  # noqa: S105 -- no password
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found, with the remedy where one is needed."""

    name: str
    grade: Grade
    detail: str


async def run(
    settings: Settings,
    *,
    metrics: Metrics,
    secret: Callable[[str], None],
    adopt: str | None = None,
) -> list[Finding]:
    """Check sources, targets and the state directory.

    A target that was never used gets its marker.

    Args:
        settings: The configuration.
        metrics: Not shown.
        secret: Told each token that must never be shown.
        adopt: A target whose present disk is to be taken as the right one.
    """
    findings = [_state_dir(settings)]
    ledger = LedgerThread(Ledger.read(settings.state_dir))
    try:
        async with ground.sessions_for(settings) as sessions:
            engine = Engine(
                settings,
                ledger=ledger,
                node_id="check",
                sessions=sessions,
                metrics=metrics,
                secret=secret,
                device_uuids=dict.fromkeys(settings.sources, "archive-mirror-check"),
            )
            sources = [_source(engine, source) for source in settings.sources.values()]
            targets = [
                _target(publisher, settings.targets[name], ledger, adopt=adopt == name)
                for name, publisher in engine.publishers.items()
            ]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one) for one in (*sources, *targets)]
            findings += [finding for task in tasks for finding in task.result()]
            findings.append(await _spool(settings, ledger))
            await engine.close()
    finally:
        await ledger.close()
    return findings


def _state_dir(settings: Settings) -> Finding:
    folder = settings.state_dir
    if filesystems.is_network(folder):
        return Finding(
            name="state_dir",
            grade=Grade.FAIL,
            detail=f"{folder} lies on a network file system; put it on a local one",
        )
    there = filesystems.nearest(folder)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(
            name="state_dir",
            grade=Grade.FAIL,
            detail=f"{folder} cannot be written by this user; make it a directory of "
            "the service's user",
        )
    detail = "is there" if there == folder else "is made at the first run"
    return Finding(name="state_dir", grade=Grade.PASS, detail=f"{folder} {detail}")


async def _source(engine: Engine, source: SourceSettings) -> list[Finding]:
    name = f"source {source.name}"
    client = engine.sources[source.name]
    now_us = to_us(utc_now())
    try:
        page = await client.page(
            1, since_us=now_us - _DAY_US, until_us=now_us + _DAY_US
        )
        certificate_s = await client.certificate_end_s()
    except ListError as exc:
        return [Finding(name=name, grade=Grade.FAIL, detail=str(exc))]
    listed = page.size if page.total is None else page.total
    return [
        Finding(
            name=name,
            grade=Grade.PASS,
            detail=f"the list answers; {listed} exports of the last day",
        ),
        *_token(source.name, client.token_expiry_s),
        *_certificate(source.name, certificate_s),
        *_clock(source.name, page),
        *await _first_byte(client, source.name, page),
    ]


def _token(source: str, end_s: int | None) -> list[Finding]:
    if end_s is None:
        return []
    soon = _left_s(end_s) < _ENDS_SOON_S
    remedy = f"; make a new one on the VMS, then `archive-mirror token set {source}`"
    return [
        Finding(
            name=f"token of source {source}",
            grade=Grade.WARN if soon else Grade.PASS,
            detail=f"good for {span(_left_s(end_s))}{remedy if soon else ''}",
        )
    ]


def _certificate(source: str, end_s: int | None) -> list[Finding]:
    if end_s is None:
        return []
    soon = _left_s(end_s) < _ENDS_SOON_S
    remedy = "; renew it on the VMS: without it nothing can be fetched"
    return [
        Finding(
            name=f"certificate of source {source}",
            grade=Grade.WARN if soon else Grade.PASS,
            detail=f"good for {span(_left_s(end_s))}{remedy if soon else ''}",
        )
    ]


def _left_s(end_s: int) -> float:
    return max(0.0, end_s - to_us(utc_now()) / 1e6)


def _clock(source: str, page: Page) -> list[Finding]:
    if page.clock_offset_us is None:
        return []
    offset_s = page.clock_offset_us / 1e6
    far = abs(offset_s) > _CLOCK_WARN_S
    remedy = "; check the time on both machines (deadlines are corrected for it)"
    return [
        Finding(
            name=f"clock of source {source}",
            grade=Grade.WARN if far else Grade.PASS,
            detail=f"{offset_s:+.1f} s against ours{remedy if far else ''}",
        )
    ]


async def _first_byte(client: VmsClient, source: str, page: Page) -> list[Finding]:
    """Ask for the newest file on the page, and for no more than its beginning."""
    with_file = [row for row in page.rows if row.has_file and row.url]
    if not with_file:
        return []
    newest = max(with_file, key=lambda row: (row.created_us or 0, row.export_id))
    name, what = f"file of source {source}", f"export {newest.export_id}"
    try:
        async with (
            asyncio.timeout(_FILE_S),
            client.open_file(newest.url or "", newest.name, _NOTHING_HELD) as body,
        ):
            arrived = await body.read()
    except TimeoutError:
        detail = f"{what}: no byte within {_FILE_S:.0f} s; look at the VMS and the line"
        return [Finding(name=name, grade=Grade.FAIL, detail=detail)]
    except FileGoneError as exc:
        detail = f"{what}: {exc}; right if the VMS has just deleted it"
        return [Finding(name=name, grade=Grade.WARN, detail=detail)]
    except MirrorError as exc:
        return [Finding(name=name, grade=Grade.FAIL, detail=f"{what}: {exc}")]
    if not arrived:
        return [Finding(name=name, grade=Grade.FAIL, detail=f"{what}: it is empty")]
    detail = f"{what}: its first bytes come"
    return [Finding(name=name, grade=Grade.PASS, detail=detail)]


async def _spool(settings: Settings, ledger: LedgerThread) -> Finding:
    """Judge where files wait while a target is away, and for how long they can."""
    folder = settings.spool_dir or settings.state_dir / "spool"
    if filesystems.is_network(folder):
        detail = f"{folder} lies on a network file system: while that is away nothing "
        detail += "can be received; set spool_dir to a folder on a local disk"
        return Finding(name="spool", grade=Grade.WARN, detail=detail)
    try:
        found = os.statvfs(filesystems.nearest(folder))
    except OSError as exc:
        detail = f"{folder} cannot be used: {exc.strerror}; check its disk"
        return Finding(name="spool", grade=Grade.FAIL, detail=detail)
    free = found.f_bavail * found.f_frsize
    since_us = to_us(utc_now()) - _DAY_US
    day = await ledger(lambda opened: opened.pauses.received(since_us))
    short = free < day * _HOLDUP_H / 24
    lasts = f", enough for {span(free / day * _DAY_S)} without a target" if day else ""
    remedy = "; make room there, or set spool_dir to a larger local disk"
    return Finding(
        name="spool",
        grade=Grade.WARN if short else Grade.PASS,
        detail=f"{folder} has {size(free)} free{lasts}{remedy if short else ''}",
    )


async def _target(
    publisher: Publisher,
    settings: TargetSettings,
    ledger: LedgerThread,
    *,
    adopt: bool,
) -> list[Finding]:
    name = publisher.name
    remembered = await ledger(lambda opened: opened.marker(name))
    if remembered is None and not settings.mount and not settings.path.exists():
        detail = f"{settings.path} is not there; it is made at the first run. Mount it "
        detail += "first if it is to be a mount, and set mount = true"
        return [Finding(name=f"target {name}", grade=Grade.WARN, detail=detail)]
    try:
        async with asyncio.timeout(_TARGET_S):
            health = await publisher.target.open(None if adopt else remembered)
    except TimeoutError:
        detail = f"no answer for {_TARGET_S:.0f} s; is the mount dead?"
        return [Finding(name=f"target {name}", grade=Grade.FAIL, detail=detail)]
    except TargetError as exc:
        return [Finding(name=f"target {name}", grade=Grade.FAIL, detail=str(exc))]
    detail = f"writable, {health.free_bytes / 2**20:,.0f} MiB free"
    if adopt:
        await _remember(ledger, name, health.marker_id)
        kept = await ledger(lambda opened: opened.reads.kept_on(name))
        detail += "; the disk there is adopted"
        if kept and health.marker_id != remembered:
            detail += (
                f". The ledger knows of {kept} copies on the former disk: bring them "
                "over, they are not copied again by themselves"
            )
    return [Finding(name=f"target {name}", grade=Grade.PASS, detail=detail)]


async def _remember(ledger: LedgerThread, name: str, marker_id: str) -> None:
    now_us = to_us(utc_now())
    try:
        await ledger(
            lambda opened: opened.target_checked(
                name, marker_id=marker_id, free_bytes=None, problem=None, now_us=now_us
            )
        )
    except MirrorError as exc:
        raise MirrorError(f"the new disk could not be remembered: {exc}") from exc
