"""Bring spooled files to one target; one pool for each target."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from mirror import backoff, sidecar
from mirror.errors import LedgerError, SpoolError, TargetError
from mirror.layout import doubtful_form, whole_form, with_number
from mirror.model import to_us
from mirror.pipeline.publish.target_health import CHECK_S, Standing
from mirror.ports import PathTakenError, Publication, SpoolFileError
from mirror.tasks import finish

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from mirror.ledger import CopyToPublish, LedgerThread
    from mirror.lifecycle.attempt import Pace
    from mirror.metrics import Metrics
    from mirror.model import Export
    from mirror.pipeline.progress import Progress
    from mirror.pipeline.spool.spool import Spool
    from mirror.ports import Kept, Target

MAX_NUMBER = 10_000
"""So many exports may meet at one path."""
_MAX_DOWN = timedelta(seconds=60)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a publisher knows of the rest.

    Attributes:
        path_for: Renders an export's path by the target's layout.
        may_link: A kept file may be the spooled file itself; for one target only.
        sibling: Where another target's copy can be read, if it can.
        source_url: Base URL of a source, by its name.
        required: Targets that an export must lie on to be saved.
        targets: All configured targets.
    """

    node_id: str
    path_for: Callable[[Export], str]
    may_link: Callable[[], bool]
    sibling: Callable[[str, str], Path | None]
    source_url: Callable[[str], str]
    required: Callable[[], frozenset[str]]
    targets: Callable[[], frozenset[str]]


class Publisher:
    """Claims copies for one target and publishes them.

    Args:
        wake: Set by whoever made a copy pending.
        changed: Called after each publish.
        pace: Of the retries.

    Attributes:
        standing: Whether the target can be used.
        paused: Nothing new is published, and the target not looked at.
    """

    def __init__(
        self,
        target: Target,
        *,
        ledger: LedgerThread,
        spool: Spool,
        metrics: Metrics,
        progress: Progress,
        around: Surroundings,
        concurrency: int,
        pace: Pace,
        changed: Callable[[], None],
        now: Callable[[], datetime],
    ) -> None:
        self.target = target
        self._ledger = ledger
        self._spool = spool
        self._metrics = metrics
        self._progress = progress
        self._around = around
        self._concurrency = concurrency
        self._pace = pace
        self._changed = changed
        self._now = now
        self.wake = asyncio.Event()
        self.standing = Standing(target, ledger=ledger, metrics=metrics, now=now)
        self.paused = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        """The target's name."""
        return self.target.name

    def path_for(self, export: Export) -> str:
        """Return where the layout puts an export."""
        return self._around.path_for(export)

    @property
    def running(self) -> int:
        """Publishes under way."""
        return len(self._tasks)

    async def run(self) -> None:
        """Publish until cancelled; what a thread has begun ends first."""
        async with asyncio.TaskGroup() as group:
            while True:
                self.wake.clear()
                if self.paused:
                    await self._sleep(CHECK_S)
                elif await self.standing.check():
                    await self._start_all(group)
                    if self.standing.looked_at:
                        await self._sleep(await self._idle_s())
                else:
                    await asyncio.sleep(self._down_wait().total_seconds())

    @property
    def _most(self) -> int:
        """Publishes at once; one where it is not known whether the target takes it."""
        return 1 if self.standing.on_trial else self._concurrency

    def _down_wait(self) -> timedelta:
        """Return for how long a target is left alone that takes nothing."""
        return backoff.delay(
            self.standing.failures,
            initial=self._pace.initial,
            maximum=min(self._pace.maximum, _MAX_DOWN),
            jitter=random.random(),  # noqa: S311 -- spreads load
        )

    async def _start_all(self, group: asyncio.TaskGroup) -> None:
        while self.standing.looked_at and len(self._tasks) < self._most:
            duty = await self._claim()
            if duty is None:
                if self.standing.refuses:
                    await self.standing.forgive()
                return
            task = group.create_task(
                self._publish(duty), name=f"publish {duty.export.label} to {self.name}"
            )
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    async def _claim(self) -> CopyToPublish | None:
        now_us, name = to_us(self._now()), self.name
        horizon_us = round(self._pace.maximum.total_seconds() * 1e6)
        smallest = self.standing.refuses
        return await self._ledger(
            lambda ledger: ledger.copies.claim(
                name, now_us=now_us, horizon_us=horizon_us, smallest=smallest
            )
        )

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.wake.set()
        self._changed()

    async def _idle_s(self) -> float:
        name = self.name
        due_us = await self._ledger(lambda ledger: ledger.copies.next_due([name]))
        if due_us is None or len(self._tasks) >= self._concurrency:
            return CHECK_S
        return (due_us - to_us(self._now())) / 1e6

    async def _sleep(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(max(0.05, min(wait_s, CHECK_S))):
                await self.wake.wait()
        except TimeoutError:
            return

    async def _publish(self, duty: CopyToPublish) -> None:
        """Publish one copy and record how it ended."""
        key = duty.export.stored_key
        try:
            kept = await finish(self._keep(duty))
        except asyncio.CancelledError:
            await finish(self._release(key))
            raise
        except TargetError as exc:
            await self._failed(duty, exc)
        except SpoolFileError as exc:
            await self._spool_file_failed(duty, exc)
        except LedgerError:
            raise
        except Exception as exc:  # noqa: BLE001 -- a fault of ours stops this copy only
            _log.error("publish.crashed", export=duty.export.label, exc_info=exc)
            # By its name alone: its text may hold the list item, with its url.
            text = f"the publish failed: {type(exc).__name__}"
            failure = TargetError("unexpected", text)
            await self._failed(duty, failure)
        else:
            await finish(self._saved(duty, kept))

    async def _keep(self, duty: CopyToPublish) -> Kept:
        """Publish from the first file that can be read and is whole."""
        failure: TargetError | SpoolFileError = TargetError(
            "no_origin", "no spooled file and no readable copy to take the bytes from"
        )
        for path, linkable in self._origins(duty):
            try:
                return await self._place(duty, path, linkable=linkable)
            except (TargetError, SpoolFileError) as exc:
                failure = exc
        raise failure

    def _origins(self, duty: CopyToPublish) -> list[tuple[Path, bool]]:
        """Return the files to copy from, and whether each may be linked."""
        path = self._spool.path_of(duty.export)
        if path is not None:
            # A copy that was kept once was found damaged: what lies there now, be it
            # the spooled file itself, is taken for ours only after it was read.
            again = duty.copy.saved_us is not None
            return [(path, self._around.may_link() and not again)]
        siblings = [self._around.sibling(*one) for one in duty.siblings]
        return [(path, False) for path in siblings if path is not None]

    async def _place(
        self, duty: CopyToPublish, spooled: Path, *, linkable: bool
    ) -> Kept:
        """Find the path that is free or ours, and publish there."""
        export, around = duty.export, self._around
        key = export.stored_key
        first = whole_form(duty.copy.path or around.path_for(export))
        for number in range(1, MAX_NUMBER):
            base = with_number(first, number)
            path = doubtful_form(base) if export.doubtful else base
            fixed = await self._ledger(
                lambda ledger, path: ledger.copies.fix_path(key, self.name, path),
                path,
            )
            if not fixed:
                continue
            publication = Publication(
                spooled=spooled,
                path=path,
                sidecar=sidecar.record(
                    export,
                    item=duty.item,
                    source_url=around.source_url(export.source),
                    node_id=around.node_id,
                    target=self.name,
                    path=path,
                ),
                size_bytes=export.size_bytes or 0,
                sha256=export.sha256 or "",
                token=f"{around.node_id}-{key}",
                may_link=linkable,
            )
            try:
                return await self.target.publish(publication)
            except PathTakenError:
                _log.warning("path.taken", target=self.name, export=export.label)
        raise TargetError("path_taken", f"{MAX_NUMBER} files lie at the same path")

    async def _saved(self, duty: CopyToPublish, kept: Kept) -> None:
        key, now_us = duty.export.stored_key, to_us(self._now())
        required = self._around.required()
        saved = await self._ledger(
            lambda ledger: ledger.copies.saved(
                key,
                self.name,
                verified=kept.verified,
                now_us=now_us,
                required=required,
            )
        )
        await self.standing.took(key, duty.export.size_bytes or 0)
        self._metrics.copy_ended(self.name, "saved")
        if saved is not None:
            facts = _facts(saved, self.name, now_us)
            if saved.doubtful:
                _log.warning("export.doubtful", doubt=saved.doubt, **facts)
            else:
                self._progress.saved_files += 1
                _log.info("export.saved", **facts)
        await self.free(key)

    async def free(self, key: int) -> None:
        """Free the spool of a file that no target waits for any more."""
        targets = self._around.targets()
        done = await self._ledger(lambda ledger: ledger.copies.may_free(key, targets))
        if done is None:
            return
        try:
            await self._spool.remove(done)
        except SpoolError as exc:
            _log.warning("spool.failed", export=done.label, error=str(exc))
            return
        await self._ledger(lambda ledger: ledger.copies.freed(key))

    async def _failed(self, duty: CopyToPublish, exc: TargetError | SpoolError) -> None:
        """Record a failure; the target is looked at again before the next claim."""
        key, now_us = duty.export.stored_key, to_us(self._now())
        size_bytes = duty.export.size_bytes or 0
        if isinstance(exc, TargetError) and await self.standing.failed(
            exc, key, size_bytes
        ):
            await self._refused(duty, exc)
            return
        wait = backoff.delay(
            duty.copy.attempts + 1,
            initial=self._pace.initial,
            maximum=self._pace.maximum,
            jitter=random.random(),  # noqa: S311 -- spreads load, hides nothing
        )
        due_us = now_us + round(wait.total_seconds() * 1e6)
        await self._ledger(
            lambda ledger: ledger.copies.failed(
                key, self.name, error=str(exc), due_us=due_us
            )
        )
        self._metrics.copy_ended(self.name, "failed")
        _log.warning(
            "copy.postponed",
            export=duty.export.label,
            target=self.name,
            reason=exc.reason,
            error=str(exc),
        )
        self.standing.doubt()

    async def _refused(self, duty: CopyToPublish, exc: TargetError) -> None:
        """Give a copy back that the target did not take, by no fault of the copy's."""
        key = duty.export.stored_key
        due_us = to_us(self._now()) + round(self._down_wait().total_seconds() * 1e6)
        await self._ledger(
            lambda ledger: ledger.copies.release(
                key, self.name, error=str(exc), due_us=due_us
            )
        )
        _log.debug(
            "copy.refused",
            export=duty.export.label,
            target=self.name,
            reason=exc.reason,
        )

    async def _spool_file_failed(
        self, duty: CopyToPublish, exc: SpoolFileError
    ) -> None:
        """Fetch anew what is truly lost from the spool."""
        if duty.export.spool_dir is None:
            # The bytes were to come from sibling copies, all damaged or gone.
            await self._failed(duty, TargetError("no_origin", str(exc)))
            return
        if not await self._ledger(lambda ledger: ledger.copies.is_spooled(duty.export)):
            # Another target met the same fault before: it is being fetched anew.
            return
        try:
            await self._spool.check_there(duty.export)
            await self._spool.remove(duty.export)
        except SpoolError as away:
            await self._failed(duty, away)
            return
        key = duty.export.stored_key
        self._metrics.copy_ended(self.name, "spool_lost")
        _log.error("spool.file_lost", export=duty.export.label, error=str(exc))
        await self._ledger(lambda ledger: ledger.copies.spool_lost(key, str(exc)))

    async def _release(self, key: int) -> None:
        await self._ledger(lambda ledger: ledger.copies.release(key, self.name))


def _facts(export: Export, target: str, now_us: int) -> dict[str, object]:
    """Return what the one line per saved export says."""
    facts: dict[str, object] = {
        "export": export.label,
        "target": target,
        "size_bytes": export.size_bytes,
        "attempts": export.attempts,
    }
    if export.started_us is not None:
        facts["took_s"] = round((now_us - export.started_us) / 1e6, 3)
    if export.deadline_us is not None:
        facts["margin_s"] = round((export.deadline_us - now_us) / 1e6)
    return facts
