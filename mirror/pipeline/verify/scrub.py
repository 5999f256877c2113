"""Read kept copies again and compare them with the ledger; repair where asked."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.errors import TargetError
from mirror.model import to_us
from mirror.pipeline.verify import judge
from mirror.pipeline.verify.judge import CopyFinding, Problem, VerifyTally
from mirror.pipeline.verify.read_copy import ReadProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from datetime import datetime

    from mirror.ledger import CopyToRead, LedgerThread, Selection
    from mirror.pipeline.verify.judge import Fault
    from mirror.pipeline.verify.read_copy import CopyReader
    from mirror.pipeline.verify.repair import Repairer


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """How many copies to read: so many, or a share of all of them."""

    count: int | None = None
    percent: float | None = None

    def of(self, total: int) -> int | None:
        """Return how many of `total`; None is all."""
        if self.percent is not None:
            return math.ceil(total * self.percent / 100)
        return None if self.count is None else min(self.count, total)


class Scrub:
    """One run: one reader per target, targets side by side, then the repairs.

    Args:
        reader: Reads copies.
        targets: Names of all configured targets.
        tell: Called with each finding as it comes.
        repairer: Repairs what is damaged; None changes nothing on any target.

    Attributes:
        progress: How far each target is read.
        tally: What it came to so far.
    """

    def __init__(
        self,
        reader: CopyReader,
        *,
        ledger: LedgerThread,
        targets: Collection[str],
        tell: Callable[[CopyFinding], None],
        repairer: Repairer | None,
        now: Callable[[], datetime],
    ) -> None:
        self._reader = reader
        self._ledger = ledger
        self._targets = tuple(targets)
        self._tell = tell
        self._repairer = repairer
        self._now = now
        self._damaged: list[tuple[CopyToRead, tuple[Fault, ...]]] = []
        self.progress: dict[str, ReadProgress] = {}
        self.tally = VerifyTally()

    async def run(self, targets: Collection[str], sample: Sample) -> VerifyTally:
        """Read the copies on these targets, those not read for longest first."""
        total = await self._ledger(lambda ledger: ledger.verification.total(targets))
        limit = sample.of(total)
        chosen = await self._ledger(
            lambda ledger: ledger.verification.choose(targets, limit)
        )
        async with asyncio.TaskGroup() as group:
            for target, copies in chosen.items():
                if copies.keys:
                    group.create_task(
                        self._read_all(target, copies), name=f"read {target}"
                    )
        for subject, faults in self._damaged:
            await self._repair(subject, faults)
        return self.tally

    async def _read_all(self, target: str, chosen: Selection) -> None:
        progress = self.progress[target] = ReadProgress(
            total_files=len(chosen.keys), total_bytes=chosen.size_bytes
        )
        for number, key in enumerate(chosen.keys):
            subject = await self._ledger(
                lambda ledger, key: ledger.verification.copy_to_read(key, target), key
            )
            before = progress.done_bytes
            if subject is not None:
                try:
                    await self._read(subject, progress)
                except TargetError as exc:
                    if await self._is_away(target):
                        self._give_up(target, len(chosen.keys) - number, exc)
                        return
                    await self._unread(subject, exc)
                progress.done_bytes = before + (subject.export.size_bytes or 0)
            progress.done_files += 1

    async def _read(self, subject: CopyToRead, progress: ReadProgress) -> None:
        """Read one copy and record what it is worth."""
        stored = await self._reader.read(
            subject, subject.copy.target, subject.path, progress
        )
        faults = judge.judge(subject.export, stored)
        if not await self._recorded(subject, faults):
            return
        self.tally.checked += 1
        if not faults:
            self.tally.good += 1
            return
        self.tally.damaged += 1
        if self._repairer is not None:
            self._damaged.append((subject, faults))
            return
        now_us = to_us(self._now())
        for fault in faults:
            helps = judge.advice(subject, fault.problem, now_us)
            text = f"{fault.what}; {helps}"
            self._tell(judge.finding(subject, fault.problem, text))

    async def _recorded(self, subject: CopyToRead, faults: tuple[Fault, ...]) -> bool:
        """Write to the ledger what was found; False if it is another copy by now."""
        now_us = to_us(self._now())
        error = "; ".join(fault.what for fault in faults) or None
        if error is None or not judge.broken(faults):
            return await self._ledger(
                lambda ledger: ledger.verification.good(
                    subject, note=error, now_us=now_us
                )
            )
        return await self._ledger(
            lambda ledger, error: ledger.verification.bad(
                subject, error=error, targets=self._targets, now_us=now_us
            ),
            error,
        )

    async def _repair(self, subject: CopyToRead, faults: tuple[Fault, ...]) -> None:
        if self._repairer is None:
            return
        if subject.spooled and judge.broken(faults):
            done = False
            text = judge.advice(subject, faults[0].problem, to_us(self._now()))
        else:
            key, target = subject.export.stored_key, subject.copy.target
            repaired = await self._repairer.repair(key, target)
            done, text = repaired.done, repaired.text
        self.tally.repaired += done
        for fault in faults:
            said = f"{fault.what}; {text}"
            self._tell(judge.finding(subject, fault.problem, said, repaired=done))

    async def _is_away(self, target: str) -> bool:
        try:
            marker_id = self._reader.marker(target)
            await self._reader.targets[target].probe(marker_id, write=False)
        except TargetError:
            return True
        return False

    def _give_up(self, target: str, left: int, exc: TargetError) -> None:
        """Stop reading a target that is away: that is no damage."""
        self.tally.not_checked += left
        text = f"{exc}; {left} copies there were not checked"
        self._tell(CopyFinding(problem=Problem.NOT_CHECKED, target=target, text=text))

    async def _unread(self, subject: CopyToRead, exc: TargetError) -> None:
        """Say of one copy that it cannot be read just now: that is no damage."""
        self.tally.not_checked += 1
        now_us = to_us(self._now())
        await self._ledger(lambda ledger: ledger.verification.unread(subject, now_us))
        text = f"not checked: {exc}"
        self._tell(judge.finding(subject, Problem.NOT_CHECKED, text))
