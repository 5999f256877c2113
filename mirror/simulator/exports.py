"""Simulated exports: what the list says of each, and every file it ever had."""

from __future__ import annotations

from dataclasses import dataclass, field
from email.utils import format_datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from mirror.simulator.footage import Content, Literal, footage, load_clip

if TYPE_CHECKING:
    from datetime import datetime

    from mirror.simulator.faults import Script


class Stage(StrEnum):
    """Where in its life an export is."""

    ASKED = "asked"
    MADE = "made"
    DELETED = "deleted"


@dataclass(frozen=True)
class Version:
    """One file an export had; a repeat makes the next one.

    Attributes:
        number: 1 for the first file of this export.
        validator_number: Of the version whose ETag and date this one shows; less
            than `number` only for a change that the server hides.
    """

    number: int
    made_at: datetime
    content: Content
    validator_number: int
    validator_at: datetime
    seed: int

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return self.content.size_bytes

    @property
    def sha256(self) -> str:
        """Digest of the file; reads all of it the first time."""
        return self.content.sha256

    @property
    def etag(self) -> str:
        """The strong validator, quoted."""
        stamp = int(self.validator_at.timestamp())
        return f'"{stamp:x}-{self.seed & 0xFFFFFFFF:08x}-{self.validator_number:x}"'

    @property
    def last_modified(self) -> str:
        """The time it was made, as an HTTP date."""
        return format_datetime(self.validator_at, usegmt=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What a whole copy of an export must be.

    Attributes:
        size_bytes: Of the current file; None if it never had one.
        sha256: Of the current file, lower-case hex; None if it never had one.
        versions: (size, SHA-256) of every file it ever had, oldest first.
    """

    size_bytes: int | None
    sha256: str | None
    versions: tuple[tuple[int, str], ...]


@dataclass(slots=True, kw_only=True, eq=False)
class Export:
    """One row and its file. Change its life through `Vms`, the rest freely.

    Attributes:
        url: Listed instead of the true url, once there is a file; `...` means the
            true one.
        literal: Listed as it is, whatever else is said here.
        due_at: When the automatic life does its next step to it.
        script: What the next requests for its file meet.
    """

    export_id: int
    name: str
    camera_id: int
    stream_type: str
    footage_from: datetime
    footage_to: datetime
    created_at: datetime
    updated_at: datetime
    clip: str
    size_bytes: int | None
    seed: int
    script: Script
    user_id: int = 5
    stage: Stage = Stage.ASKED
    url: Any = ...
    literal: dict[str, Any] | None = None
    versions: list[Version] = field(default_factory=list)
    due_at: datetime | None = None

    @property
    def current(self) -> Version | None:
        """The newest file, deleted or not."""
        return self.versions[-1] if self.versions else None

    @property
    def file_name(self) -> str:
        """The name of the file, always with its suffix."""
        return self.name if self.name.endswith(".mp4") else f"{self.name}.mp4"

    def make(
        self,
        now: datetime,
        *,
        size_bytes: int | None = None,
        body: bytes | None = None,
        hidden: bool = False,
    ) -> Version:
        """Put a new file there.

        Args:
            now: When it is made.
            size_bytes: Its length; None means as planned for this export. What the
                clip cannot be made into becomes the nearest size it can.
            body: Its very bytes, instead.
            hidden: Keep the validators of the file before it.
        """
        wanted = self.size_bytes if size_bytes is None else size_bytes
        number = len(self.versions) + 1
        clip_bytes = len(load_clip(self.clip).data)
        if self.versions and wanted is not None and wanted < clip_bytes + 8:
            wanted = clip_bytes
        seed = self.seed * 1_000_003 + number
        before = self.current if hidden else None
        version = Version(
            number=number,
            made_at=now,
            content=footage(self.clip, wanted, seed)
            if body is None
            else Content((Literal(memoryview(body)),)),
            validator_number=before.validator_number if before else number,
            validator_at=before.validator_at if before else now,
            seed=before.seed if before else seed,
        )
        self.versions.append(version)
        self.stage = Stage.MADE
        self.updated_at = now
        return version

    def delete(self) -> None:
        """Remove the file; the row stays, and nothing else of it changes."""
        self.stage = Stage.DELETED

    @property
    def truth(self) -> Truth:
        """Size and digest of all its files; reads each the first time."""
        files = tuple((each.size_bytes, each.sha256) for each in self.versions)
        size_bytes, sha256 = files[-1] if files else (None, None)
        return Truth(size_bytes=size_bytes, sha256=sha256, versions=files)
