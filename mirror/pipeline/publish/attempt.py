"""One attempt to publish one copy, and how its end is recorded."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from mirror import backoff, sidecar
from mirror.errors import LedgerError, SpoolError, TargetError
from mirror.layout import doubtful_form, whole_form, with_number
from mirror.model import to_us
from mirror.ports import (
    ContentError,
    Kept,
    KeptCopy,
    PathTakenError,
    Publication,
    SpooledFile,
)
from mirror.tasks import run_to_end

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from mirror.backoff import Pace
    from mirror.ledger import CopyToPublish, Ledger, LedgerThread
    from mirror.metrics import Metrics
    from mirror.model import Export
    from mirror.pipeline.progress import Progress
    from mirror.pipeline.publish.target_health import TargetMonitor
    from mirror.pipeline.spool.spool import Spool
    from mirror.ports import Target

MAX_NUMBER = 10_000
"""So many exports may meet at one path."""
_log = structlog.get_logger()


@dataclass(slots=True)
class _Try:
    """A copy that is being published.

    Attributes:
        contents: What the bytes may still be taken from, best first.
        result: How it ended.
    """

    duty: CopyToPublish
    contents: list[SpooledFile | KeptCopy]
    result: Kept | Exception | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if not self.contents:
            self.result = TargetError(
                "no_origin",
                "no spooled file and no readable copy to take the bytes from",
            )

    def ended(self, result: Kept | Exception) -> None:
        """Go on with another path, or another content; else it is the end."""
        if isinstance(result, PathTakenError):
            taken = self.duty.taken | {self.duty.path or ""}
            self.duty = dataclasses.replace(self.duty, path=None, taken=taken)
            return
        if isinstance(result, TargetError | ContentError):
            del self.contents[0]
            if self.contents:
                return
        self.result = result


class CopyPublisher:
    """Publishes copies on one target, one after another or side by side.

    Args:
        monitor: Of the target; learns how each attempt ended.
        node_id: Of this machine.
        path_for: Renders an export's path by the target's layout.
        may_link: A kept file may be the spooled file itself; for one target only.
        source_urls: Base URL of each source, by its name.
        required: Targets that an export must lie on to be saved.
        targets: All configured targets, by name.
        pace: Of the retries.
    """

    def __init__(
        self,
        target: Target,
        *,
        ledger: LedgerThread,
        spool: Spool,
        metrics: Metrics,
        progress: Progress,
        monitor: TargetMonitor,
        node_id: str,
        path_for: Callable[[Export], str],
        may_link: Callable[[], bool],
        source_urls: Mapping[str, str],
        required: frozenset[str],
        targets: Mapping[str, Target],
        pace: Pace,
        now: Callable[[], datetime],
    ) -> None:
        self._target = target
        self._name = target.name
        self._ledger = ledger
        self._spool = spool
        self._metrics = metrics
        self._progress = progress
        self._monitor = monitor
        self._node_id = node_id
        self.path_for = path_for
        self._may_link = may_link
        self._source_urls = source_urls
        self._required = required
        self._targets = targets
        self._pace = pace
        self._now = now

    async def publish(self, duties: Sequence[CopyToPublish]) -> None:
        """Publish copies together, and record how each ended."""
        try:
            results = await run_to_end(self._keep(duties))
        except asyncio.CancelledError:
            for duty in duties:
                await run_to_end(self._release(duty.export.stored_key))
            raise
        except LedgerError:
            raise
        except Exception as exc:  # noqa: BLE001 -- a fault of ours stops these only
            results = [exc] * len(duties)
        await run_to_end(self._end(duties, results))

    async def _end(
        self, duties: Sequence[CopyToPublish], results: Sequence[Kept | Exception]
    ) -> None:
        kept = []
        for duty, result in zip(duties, results, strict=True):
            if isinstance(result, Kept):
                kept.append((duty.export, result))
            elif isinstance(result, ContentError):
                await self._content_failed(duty, result)
            elif isinstance(result, TargetError):
                await self._failed(duty, result)
            else:
                # A fault of ours stops this copy only.
                label, name = duty.export.label, type(result).__name__
                _log.error("publish.crashed", export=label, exc_info=result)
                # By its name alone: its text may hold the list item, with its url.
                text = f"the publish failed: {name}"
                await self._failed(duty, TargetError("unexpected", text))
        if kept:
            await self._saved(kept)

    async def free(self, key: int) -> None:
        """Free the spool of a file that no target waits for any more."""
        done = await self._ledger(
            lambda ledger: ledger.copies.may_free(key, self._targets)
        )
        if done is not None:
            await self._free([done])

    async def _free(self, exports: Sequence[Export]) -> None:
        try:
            await self._spool.remove(exports)
        except SpoolError as exc:
            label = exports[0].label
            _log.warning("spool.failed", export=label, error=str(exc))
            return
        await self._ledger(lambda ledger: ledger.copies.freed(exports))

    async def _keep(self, duties: Sequence[CopyToPublish]) -> list[Kept | Exception]:
        """Publish each from the first content that can be read and is whole."""
        tries = [_Try(duty, await self._contents(duty)) for duty in duties]
        while under_way := [each for each in tries if each.result is None]:
            publications = []
            for each in under_way:
                try:
                    publications.append(await self._publication(each))
                except LedgerError:
                    raise
                except Exception as exc:  # noqa: BLE001 -- it harms no other copy
                    each.result = exc
            if not publications:
                break
            under_way = [each for each in under_way if each.result is None]
            results = await self._target.publish(publications)
            for each, result in zip(under_way, results, strict=True):
                each.ended(result)
                if isinstance(result, PathTakenError):
                    label = each.duty.export.label
                    _log.warning("path.taken", target=self._name, export=label)
        return [each.result for each in tries if each.result is not None]

    async def _contents(self, duty: CopyToPublish) -> list[SpooledFile | KeptCopy]:
        """Return what to take the bytes from: the spool, else copies elsewhere."""
        path = self._spool.path_of(duty.export)
        if path is not None:
            # A copy that was kept once was found damaged: what lies there now, be it
            # the spooled file itself, is taken for ours only after it was read.
            again = duty.copy.saved_us is not None
            return [SpooledFile(path=path, may_link=self._may_link() and not again)]
        copies: list[SpooledFile | KeptCopy] = []
        for name, path_there in duty.siblings:
            marker_id = await self._ledger(
                lambda ledger, name: ledger.targets.marker(name), name
            )
            if name in self._targets and marker_id is not None:
                copies.append(
                    KeptCopy(
                        target=self._targets[name], marker_id=marker_id, path=path_there
                    )
                )
        return copies

    async def _publication(self, under_way: _Try) -> Publication:
        """Return what is to be published now, with its path fixed."""
        duty, export = under_way.duty, under_way.duty.export
        path = duty.path
        if path is None:
            path = await self._ledger(self.fix_path, duty)
            under_way.duty = dataclasses.replace(duty, path=path)
        return Publication.of(
            export,
            content=under_way.contents[0],
            path=path,
            sidecar=sidecar.record(
                export,
                item=duty.item,
                source_url=self._source_urls.get(export.source, ""),
                node_id=self._node_id,
                target=self._name,
                path=path,
            ),
            node_id=self._node_id,
        )

    def fix_path(self, ledger: Ledger, duty: CopyToPublish) -> str:
        """Fix where a copy shall lie: the first path that nothing else has.

        Raises:
            TargetError: There is none.
        """
        export = duty.export
        first = whole_form(duty.copy.path or self.path_for(export))
        for number in range(1, MAX_NUMBER):
            base = with_number(first, number)
            path = doubtful_form(base) if export.doubtful else base
            if path not in duty.taken and ledger.copies.fix_path(
                export.stored_key, self._name, path
            ):
                return path
        raise TargetError("path_taken", f"{MAX_NUMBER} files lie at the same path")

    async def _saved(self, kept: Sequence[tuple[Export, Kept]]) -> None:
        now_us = to_us(self._now())

        def record(ledger: Ledger) -> list[tuple[Export | None, Export | None]]:
            return [
                (
                    ledger.copies.saved(
                        export.stored_key,
                        self._name,
                        verified=result.verified,
                        now_us=now_us,
                        required=self._required,
                    ),
                    ledger.copies.may_free(export.stored_key, self._targets),
                )
                for export, result in kept
            ]

        recorded = await self._ledger(record)
        for (export, _), (saved, _) in zip(kept, recorded, strict=True):
            await self._monitor.took(export.stored_key, export.size_bytes or 0)
            self._metrics.copy_ended(self._name, "saved")
            if saved is not None:
                self._log_saved(saved, now_us)
        idle = [export for _, export in recorded if export is not None]
        if idle:
            await self._free(idle)

    def _log_saved(self, saved: Export, now_us: int) -> None:
        facts = _facts(saved, self._name, now_us)
        if saved.doubtful:
            _log.warning("export.doubtful", doubt=saved.doubt, **facts)
        else:
            self._progress.saved_files += 1
            _log.info("export.saved", **facts)

    async def _failed(self, duty: CopyToPublish, exc: TargetError | SpoolError) -> None:
        """Record a failure; the target is looked at again before the next claim."""
        key, now_us = duty.export.stored_key, to_us(self._now())
        size_bytes = duty.export.size_bytes or 0
        if isinstance(exc, TargetError) and await self._monitor.failed(
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
                key, self._name, error=str(exc), due_us=due_us
            )
        )
        self._metrics.copy_ended(self._name, "failed")
        _log.warning(
            "copy.postponed",
            export=duty.export.label,
            target=self._name,
            reason=exc.reason,
            error=str(exc),
        )
        self._monitor.recheck()

    async def _refused(self, duty: CopyToPublish, exc: TargetError) -> None:
        """Give a copy back that the target did not take, by no fault of the copy's."""
        rest_us = round(self._monitor.rest.total_seconds() * 1e6)
        await self._release(
            duty.export.stored_key, str(exc), to_us(self._now()) + rest_us
        )
        _log.debug(
            "copy.refused",
            export=duty.export.label,
            target=self._name,
            reason=exc.reason,
        )

    async def _content_failed(self, duty: CopyToPublish, exc: ContentError) -> None:
        """Have a file fetched again if it is truly lost from the spool."""
        if duty.export.spool_dir is None:
            # The bytes were to come from copies elsewhere, all damaged or gone.
            await self._failed(duty, TargetError("no_origin", str(exc)))
            return
        if not await self._ledger(lambda ledger: ledger.copies.is_spooled(duty.export)):
            # Another target met the same fault before: it is fetched again already.
            return
        try:
            await self._spool.check_there(duty.export)
            await self._spool.remove([duty.export])
        except SpoolError as away:
            await self._failed(duty, away)
            return
        key = duty.export.stored_key
        self._metrics.copy_ended(self._name, "spool_lost")
        _log.error("spool.file_lost", export=duty.export.label, error=str(exc))
        await self._ledger(lambda ledger: ledger.copies.spool_lost(key, str(exc)))

    async def _release(
        self, key: int, error: str | None = None, due_us: int = 0
    ) -> None:
        await self._ledger(
            lambda ledger: ledger.copies.release(
                key, self._name, error=error, due_us=due_us
            )
        )


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
