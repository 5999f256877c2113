"""Simulated exports: the row of each, and every file it ever had."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import format_datetime
from enum import StrEnum
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mirror.simulator.behaviour import INTERNAL_ORIGIN, Behaviour, Unmade
from mirror.simulator.footage import Content, Literal, footage, load_clip

if TYPE_CHECKING:
    from datetime import datetime

    from mirror.simulator.faults import Script

FOLDER = "/storage/"
ARCHIVE = f"{FOLDER}archive/"


class Stage(StrEnum):
    """Whether an export has its file: not yet, now, no more."""

    ASKED = "asked"
    MADE = "made"
    DELETED = "deleted"


@dataclass(frozen=True)
class Version:
    """One file of an export; an export made again has a further one.

    Attributes:
        number: 1 for the first file of this export.
        validator_number: Number of the version whose ETag and date this one shows;
            less than `number` only for a change that the server hides.
    """

    number: int
    made_at: datetime
    content: Content
    validator_number: int
    validator_at: datetime
    seed: int

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
    """One row and its files. Change its stage through `Vms`, the rest freely.

    Attributes:
        url: Listed instead of the true url, once there is a file; `...` means the
            true one.
        literal: The row as listed, instead of one made of the other fields.
        due_at: When the clock brings it to its next stage.
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
        """Make a new file.

        Args:
            now: When.
            size_bytes: None means as planned for this export. A size the clip cannot
                have becomes that of the clip.
            body: Its bytes, instead of footage.
            hidden: Keep ETag and Last-Modified of the file before it.
        """
        if size_bytes is None:
            size_bytes = self.size_bytes
        number = len(self.versions) + 1
        clip_bytes = len(load_clip(self.clip).data)
        if self.versions and size_bytes is not None and size_bytes < clip_bytes + 8:
            size_bytes = clip_bytes
        seed = self.seed * 1_000_003 + number
        before = self.current if hidden else None
        version = Version(
            number=number,
            made_at=now,
            content=footage(self.clip, size_bytes, seed)
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
        contents = (each.content for each in self.versions)
        files = tuple((each.size_bytes, each.sha256) for each in contents)
        size_bytes, sha256 = files[-1] if files else (None, None)
        return Truth(size_bytes=size_bytes, sha256=sha256, versions=files)


def seed_rows() -> list[dict[str, Any]]:
    """Return the sample rows of the vendor's API page."""
    text = (resources.files(__package__) / "seed.json").read_text("utf-8")
    rows: list[dict[str, Any]] = json.loads(text)["data"]
    return rows


def stamp(moment: datetime) -> str:
    """Return a moment as Laravel does: UTC, microseconds, `Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def archive_path(export: Export, *, quoted: bool) -> str:
    """Return the path of its file where urls name files."""
    name = export.file_name
    if quoted:
        name = quote(name, safe="", errors="surrogatepass")
    bucket = f"{export.export_id % 100:02d}"
    return f"{ARCHIVE}{export.camera_id}/{bucket}/{export.export_id}/{name}"


def _listed_url(export: Export, behaviour: Behaviour, origin: str) -> Any:  # noqa: ANN401 -- any JSON may be listed
    is_asked = export.stage is Stage.ASKED
    if is_asked and behaviour.unmade is Unmade.NULL_URL:
        return None
    if is_asked and behaviour.unmade is Unmade.EMPTY_URL:
        return ""
    if not is_asked and export.url is not ...:
        return export.url
    base = INTERNAL_ORIGIN if behaviour.internal_host else origin
    if behaviour.relative_urls:
        base = ""
    if is_asked or behaviour.folder_urls:
        return base + FOLDER
    return base + archive_path(export, quoted=behaviour.quote_urls)


def row_json(export: Export, behaviour: Behaviour, origin: str) -> str:
    """Return one row as JSON."""
    if export.literal is not None:
        return json.dumps(export.literal, ensure_ascii=False)
    is_high = export.stream_type == "high"
    has_file = export.stage is Stage.MADE
    if export.stage is Stage.ASKED:
        has_file = behaviour.unmade is Unmade.FLAGGED_FOLDER_URL
    row = {
        "id": export.export_id,
        "attributes": [],
        "name": export.name,
        "type": "mp4",
        "url": _listed_url(export, behaviour, origin),
        "from": f"{export.footage_from:%Y-%m-%d %H:%M:%S}",
        "to": f"{export.footage_to:%Y-%m-%d %H:%M:%S}",
        "created_at": stamp(export.created_at),
        "updated_at": stamp(export.updated_at),
        "is_file_exists": has_file,
        "stream": {
            "id": 2 * export.camera_id - is_high,
            "type": export.stream_type,
            "camera_id": export.camera_id,
            "is_preview_from_server": True,
            "is_archive_from_server": None,
            "status": None,
            "has_sound": False,
            "width": None,
            "height": None,
        },
        "user_id": export.user_id,
        "user": {
            "id": export.user_id,
            "login": "user@mail.com",
            "name": "user",
            "parent_id": 3,
            "created_at": "2023-02-03T08:29:07.000000Z",
            "updated_at": "2023-02-06T09:19:35.000000Z",
            "access_token_id": None,
            "can_update_password": True,
        },
    }
    return json.dumps(row, ensure_ascii=False)
