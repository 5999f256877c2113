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
from mirror.pipeline.verify.read_copy import ReadProgress
from mirror.ports import ContentError, KeptCopy, PathTakenError, Publication

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from mirror.ledger import CopyToRead, LedgerThread
    from mirror.pipeline.verify.judge import Fault
    from mirror.pipeline.verify.read_copy import CopyReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """How a repair ended, in words."""

    done: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sibling:
    copy: KeptCopy
    sidecar: bytes | None


class Repairer:
    """Moves aside what is damaged, never deletes it, and publishes in its place.

    `source_urls` has the base URL of each source, by its name.
    """

    def __init__(
        self,
        reader: CopyReader,
        *,
        ledger: LedgerThread,
        source_urls: Mapping[str, str],
        node_id: str,
        now: Callable[[], datetime],
    ) -> None:
        self._reader = reader
        self._ledger = ledger
        self._source_urls = source_urls
        self._node_id = node_id
        self._now = now
        self._writable: set[str] = set()

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
        except (TargetError, PathTakenError, ContentError) as exc:
            text = f"not repaired: {exc}"
            if aside:
                text += f"; what lay there is now at {' and '.join(aside)}"
            return Repaired(done=False, text=text)

    async def _repair(self, subject: CopyToRead, aside: list[str]) -> Repaired:
        target, path = subject.copy.target, subject.path
        stored = await self._reader.read(subject, target, path, ReadProgress())
        faults = judge(subject.export, stored)
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
        await self._make_writable(target)
        await self._set_aside(subject, faults, aside)
        content = self._copy(target, path)
        if broken(faults) and sibling is not None:
            content = sibling.copy
        record = self._record(subject, item, sibling)
        await self._publish(subject, content, record)
        await self._good(subject)
        return Repaired(done=True, text=_done(faults, sibling, aside))

    async def _sibling(self, subject: CopyToRead) -> _Sibling | None:
        """Return a copy on another target whose file is good, read just now."""
        for other in subject.others:
            if other.target not in self._reader.targets or other.path is None:
                continue
            try:
                stored = await self._reader.read(
                    subject, other.target, other.path, ReadProgress()
                )
            except TargetError:
                continue
            faults = judge(subject.export, stored)
            if not broken(faults):
                record = None if faults else stored.sidecar
                copy = self._copy(other.target, other.path)
                return _Sibling(copy=copy, sidecar=record)
        return None

    def _copy(self, target: str, path: str) -> KeptCopy:
        return KeptCopy(
            target=self._reader.targets[target],
            marker_id=self._reader.marker(target),
            path=path,
        )

    async def _make_writable(self, target: str) -> None:
        """Make a target ready to be written to, once."""
        if target not in self._writable:
            known = self._reader.marker(target)
            await self._reader.targets[target].probe(known, write=True)
            self._writable.add(target)

    async def _set_aside(
        self, subject: CopyToRead, faults: tuple[Fault, ...], aside: list[str]
    ) -> None:
        target = self._reader.targets[subject.copy.target]
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
            source_url=self._source_urls.get(subject.export.source, ""),
            node_id=self._node_id,
            target=target,
            path=path,
        )

    async def _publish(
        self, subject: CopyToRead, content: KeptCopy, record: bytes
    ) -> None:
        publication = Publication.of(
            subject.export,
            content=content,
            path=subject.path,
            sidecar=record,
            node_id=self._node_id,
        )
        target = self._reader.targets[subject.copy.target]
        (result,) = await target.publish([publication])
        if isinstance(result, Exception):
            raise result

    async def _good(self, subject: CopyToRead) -> None:
        now_us = to_us(self._now())
        await self._ledger(
            lambda ledger: ledger.verification.good(subject, note=None, now_us=now_us)
        )


def _done(faults: tuple[Fault, ...], sibling: _Sibling | None, aside: list[str]) -> str:
    text = "its sidecar was written anew"
    if broken(faults) and sibling is not None:
        text = f"it was brought back from the copy on {sibling.copy.target.name}"
    return f"{text}; what lay there is now at {' and '.join(aside)}" if aside else text
