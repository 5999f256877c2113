"""Read kept copies, one after another on each target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.ledger import CopyToRead
    from mirror.ports import StoredFile, Target


@dataclass(slots=True, kw_only=True)
class ReadProgress:
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


class CopyReader:
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

    async def read(
        self, subject: CopyToRead, target: str, path: str, progress: ReadProgress
    ) -> StoredFile:
        """Read one of an export's copies; `progress` counts the bytes as they come.

        Raises:
            TargetError: Nothing may be concluded.
        """
        return await self.targets[target].examine(
            path,
            size_bytes=subject.export.size_bytes or 0,
            marker_id=self.marker(target),
            came=progress.came,
        )
