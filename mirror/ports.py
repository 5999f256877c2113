"""The contract of a target, the one edge with several implementations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What a target is asked to keep.

    Attributes:
        spooled: The whole, proven, fsynced file in the spool.
        path: Where it shall lie, relative to the target's root, `/` between
            segments, already sanitised, ends in `.mp4`.
        sidecar: The provenance record's bytes, to lie at `path` + `.json`.
        size_bytes: Length of the file.
        sha256: Lower-case hex digest of the file.
        token: A name for temporary files, unique to this node and export; safe
            in a file name.
    """

    spooled: Path
    path: str
    sidecar: bytes
    size_bytes: int
    sha256: str
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a publish proved.

    Attributes:
        path: As asked.
        verified: The kept bytes were read back and their digest compared; False
            where the file was moved within one file system.
    """

    path: str
    verified: bool


class PathTakenError(Exception):
    """Another file lies at the path; nothing was changed."""


class SpoolFileError(Exception):
    """The spooled file is gone, or its bytes are not what the ledger says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetHealth:
    """What a probe of a target found.

    Attributes:
        marker_id: The id in the target's marker.
        free_bytes: Space left for us.
    """

    marker_id: str
    free_bytes: int


class Target(Protocol):
    """A place that keeps copies. Methods are safe to repeat after a crash."""

    @property
    def name(self) -> str:
        """The name in the configuration."""

    async def open(self, remembered: str | None) -> TargetHealth:
        """Check that this is the target we know, and make it ready.

        Args:
            remembered: The marker id the ledger holds; None adopts what is found,
                or makes a marker where there is none.

        Raises:
            TargetError: Not mounted, another disk, not writable, or away. The
                text says what to do.
        """

    async def publish(self, publication: Publication) -> Kept:
        """Keep one file and its sidecar durably, under the final name at once.

        Idempotent: a file already at the path with the right bytes is taken as
        ours. Nothing is ever overwritten.

        Raises:
            PathTakenError: Different bytes lie at the path.
            SpoolFileError: The spooled file is gone or damaged.
            TargetError: The target cannot take it now.
        """

    async def close(self) -> None:
        """Release threads and descriptors; never blocks on a hung mount."""
