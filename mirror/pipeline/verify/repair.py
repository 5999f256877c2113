"""Make a damaged copy whole again from a copy that was just proven good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror import sidecar
from mirror.errors import TargetError
from mirror.model import to_us
from mirror.pipeline.verify.judge import (
    IN_THE_WAY,
    Problem,
    broken,
    judge,
    no_sibling,
)
from mirror.pipeline.verify.read_copy import Reading
from mirror.ports import PathTakenError, Publication, SpoolFileError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from mirror.ledger import CopyToRead, LedgerThread
    from mirror.pipeline.verify.judge import Fault
    from mirror.pipeline.verify.read_copy import Examiner


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """How a repair ended, in words."""

    done: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sibling:
    target: str
    file: Path
    sidecar: bytes | None


class Repairer:
    """Moves aside what is damaged, never deletes it, and publishes in its place.

    Args:
        path_of: Where a target's copy can be read by others; None if it cannot.
        source_url: Base URL of a source, by its name.
        node_id: Of this machine.
    """

    def __init__(
        self,
        examiner: Examiner,
        *,
        ledger: LedgerThread,
        path_of: Callable[[str, str], Path | None],
        source_url: Callable[[str], str],
        node_id: str,
        now: Callable[[], datetime],
    ) -> None:
        self._examiner = examiner
        self._ledger = ledger
        self._path_of = path_of
        self._source_url = source_url
        self._node_id = node_id
        self._now = now
        self._opened: set[str] = set()

    async def repair(self, key: int, target: str) -> Repaired:
        """Repair one copy; what was found is looked at once more before."""
        subject = await self._ledger(
            lambda ledger: ledger.verification.copy_to_read(key, target)
        )
        if subject is None:
            return Repaired(done=False, text="it is another copy by now; nothing done")
        aside: list[str] = []
        try:
            return await self._repair(subject, aside)
        except (TargetError, PathTakenError, SpoolFileError) as exc:
            text = f"not repaired: {exc}"
            if aside:
                text += f"; what lay there is now at {' and '.join(aside)}"
            return Repaired(done=False, text=text)

    async def _repair(self, subject: CopyToRead, aside: list[str]) -> Repaired:
        target, path = subject.copy.target, subject.path
        found = await self._examiner.examine(subject, target, path, Reading())
        faults = judge(subject.export, found)
        if not faults:
            await self._good(subject)
            return Repaired(
                done=True,
                text="read a second time it is right, and nothing was moved; check the "
                "disk, its cable and the memory",
            )
        key = subject.export.stored_key
        item = await self._ledger(lambda ledger: ledger.verification.item(key))
        sibling = None
        if broken(faults) or item is None:
            sibling = await self._sibling(subject)
        if broken(faults) and sibling is None:
            text = no_sibling(subject.export, to_us(self._now()))
            return Repaired(done=False, text=f"not repaired: {text}")
        await self._open(target)
        await self._set_aside(subject, faults, aside)
        origin = self._path_of(target, path)
        if broken(faults) and sibling is not None:
            origin = sibling.file
        record = self._record(subject, item, sibling)
        await self._publish(subject, origin, record)
        await self._good(subject)
        return Repaired(done=True, text=_done(faults, sibling, aside))

    async def _sibling(self, subject: CopyToRead) -> _Sibling | None:
        """Return a copy on another target whose file is good, read just now."""
        for other in subject.others:
            file = None
            if other.target in self._examiner.targets and other.path is not None:
                file = self._path_of(other.target, other.path)
            if file is None or other.path is None:
                continue
            try:
                found = await self._examiner.examine(
                    subject, other.target, other.path, Reading()
                )
            except TargetError:
                continue
            faults = judge(subject.export, found)
            if not broken(faults):
                record = None if faults else found.sidecar
                return _Sibling(target=other.target, file=file, sidecar=record)
        return None

    async def _open(self, target: str) -> None:
        """Make a target ready to be written to, once."""
        if target not in self._opened:
            marker_id = self._examiner.marker(target)
            await self._examiner.targets[target].open(marker_id)
            self._opened.add(target)

    async def _set_aside(
        self, subject: CopyToRead, faults: tuple[Fault, ...], aside: list[str]
    ) -> None:
        target = self._examiner.targets[subject.copy.target]
        for fault in faults:
            if fault.problem in IN_THE_WAY:
                is_sidecar = fault.problem is Problem.SIDECAR_WRONG
                aside.append(await target.set_aside(subject.path, sidecar=is_sidecar))

    def _record(
        self, subject: CopyToRead, item: bytes | None, sibling: _Sibling | None
    ) -> bytes:
        """Return the sidecar: from the ledger, else from the sibling's."""
        target, path = subject.copy.target, subject.path
        if item is None and sibling is not None and sibling.sidecar is not None:
            return sidecar.moved(sibling.sidecar, target=target, path=path)
        return sidecar.record(
            subject.export,
            item=item or b"null",
            source_url=self._source_url(subject.export.source),
            node_id=self._node_id,
            target=target,
            path=path,
        )

    async def _publish(
        self, subject: CopyToRead, origin: Path | None, record: bytes
    ) -> None:
        if origin is None:
            raise TargetError("no_origin", "its bytes cannot be read from here")
        export = subject.export
        await self._examiner.targets[subject.copy.target].publish(
            Publication(
                spooled=origin,
                path=subject.path,
                sidecar=record,
                size_bytes=export.size_bytes or 0,
                sha256=export.sha256 or "",
                token=f"{self._node_id}-{export.key}",
                may_link=False,
            )
        )

    async def _good(self, subject: CopyToRead) -> None:
        now_us = to_us(self._now())
        await self._ledger(
            lambda ledger: ledger.verification.good(subject, note=None, now_us=now_us)
        )


def _done(faults: tuple[Fault, ...], sibling: _Sibling | None, aside: list[str]) -> str:
    text = "its sidecar was written anew"
    if broken(faults) and sibling is not None:
        text = f"it was brought back from the copy on {sibling.target}"
    return f"{text}; what lay there is now at {' and '.join(aside)}" if aside else text
