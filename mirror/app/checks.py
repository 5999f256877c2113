"""Look at all that the configuration names, before any work."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from mirror.app import filesystems, ground
from mirror.app.engine import Engine
from mirror.errors import ListError, MirrorError, TargetError
from mirror.model import to_us, utc_now
from mirror.state import Ledger, LedgerThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.config import Settings, SourceSettings, TargetSettings
    from mirror.metrics import Metrics
    from mirror.mirroring.publish import Publisher

_DAY_US = 86_400_000_000
_CLOCK_WARN_S = 60.0
_TARGET_S = 60.0


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
    except ListError as exc:
        return [Finding(name=name, grade=Grade.FAIL, detail=str(exc))]
    listed = page.size if page.total is None else page.total
    findings = [
        Finding(
            name=name,
            grade=Grade.PASS,
            detail=f"the list answers; {listed} exports of the last day",
        )
    ]
    if page.clock_offset_us is None:
        return findings
    offset_s = page.clock_offset_us / 1e6
    far = abs(offset_s) > _CLOCK_WARN_S
    remedy = "; check the time on both machines (deadlines are corrected for it)"
    findings.append(
        Finding(
            name=f"clock of {name}",
            grade=Grade.WARN if far else Grade.PASS,
            detail=f"{offset_s:+.1f} s against ours{remedy if far else ''}",
        )
    )
    return findings


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
