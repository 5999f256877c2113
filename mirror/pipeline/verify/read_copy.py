"""Read kept copies, one after another on each target, and never wait for ever."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from mirror.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from mirror.ledger import CopyToRead
    from mirror.ports import Examined, Target

T = TypeVar("T")
HUNG_S = 60.0
"""A read of which nothing came for so long hangs in a dead mount."""


@dataclass(slots=True, kw_only=True)
class Reading:
    """How far one target is read, for whoever wants to show it.

    Attributes:
        total_files: To be read; likewise `total_bytes`.
        done_files: Read, or known not to be readable.
        done_bytes: Likewise, and those of the file under way.
    """

    total_files: int = 0
    total_bytes: int = 0
    done_files: int = 0
    done_bytes: int = 0

    def came(self, number: int) -> None:
        """Count bytes as they come."""
        self.done_bytes += number


class Examiner:
    """Reads copies on the targets they were published to.

    Args:
        targets: By name.
        markers: The id each target is known by; None if it was never used.
    """

    def __init__(
        self, targets: Mapping[str, Target], markers: Mapping[str, str | None]
    ) -> None:
        self.targets = targets
        self._markers = markers

    def marker(self, target: str) -> str:
        """Return what a target is known by.

        Raises:
            TargetError: It was never used.
        """
        marker_id = self._markers.get(target)
        if marker_id is None:
            raise TargetError(
                "not_open",
                f"target {target}: the ledger knows no marker of it; run the service "
                f"once, or `archive-mirror check --adopt {target}`",
            )
        return marker_id

    async def look(self, target: str) -> None:
        """Check that a target is there.

        Raises:
            TargetError: It is not, or hangs.
        """
        wanted = self.marker(target)
        await unless_hung(self.targets[target].look(wanted), target)

    async def examine(
        self, subject: CopyToRead, target: str, path: str, reading: Reading
    ) -> Examined:
        """Read one of an export's copies.

        Args:
            subject: Of the export.
            target: Where the copy is.
            path: Of the copy.
            reading: Told each batch of bytes.

        Raises:
            TargetError: Nothing may be concluded.
        """
        work = self.targets[target].examine(
            path,
            size_bytes=subject.export.size_bytes or 0,
            marker_id=self.marker(target),
            read=reading.came,
        )
        return await unless_hung(work, target, reading)


async def unless_hung(
    work: Awaitable[T], target: str, reading: Reading | None = None
) -> T:
    """Return what work on a target gives.

    Args:
        work: In a thread that may never end.
        target: The target's name.
        reading: Told bytes as they come, so that a long read does not count as hung.

    Raises:
        TargetError: Nothing came for too long.
    """
    reading = reading or Reading()
    task = asyncio.ensure_future(work)
    try:
        while True:
            before = reading.done_bytes
            done, _ = await asyncio.wait([task], timeout=HUNG_S)
            if done:
                return task.result()
            if reading.done_bytes == before:
                raise TargetError(
                    "hung",
                    f"target {target}: not a byte came for {HUNG_S:.0f} s; its disk or "
                    "mount hangs",
                )
    finally:
        task.cancel()
