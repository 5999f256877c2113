"""Rows of the list as the VMS writes them, every field of its sample in order."""

from __future__ import annotations

import json
from datetime import UTC
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mirror.simulator.behaviour import INTERNAL_ORIGIN, Behaviour, Unmade
from mirror.simulator.exports import Stage

if TYPE_CHECKING:
    from datetime import datetime

    from mirror.simulator.exports import Export

FOLDER = "/storage/"
ARCHIVE = f"{FOLDER}archive/"


def seed_rows() -> list[dict[str, Any]]:
    """Return the rows printed in the vendor's API page."""
    text = (resources.files(__package__) / "seed.json").read_text("utf-8")
    rows: list[dict[str, Any]] = json.loads(text)["data"]
    return rows


def stamp(moment: datetime) -> str:
    """Return a moment as Laravel does: UTC, microseconds, `Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def archive_path(export: Export, *, quoted: bool) -> str:
    """Return the path its file has when urls name files."""
    name = (
        quote(export.file_name, safe="", errors="surrogatepass")
        if quoted
        else export.file_name
    )
    bucket = f"{export.export_id % 100:02d}"
    return f"{ARCHIVE}{export.camera_id}/{bucket}/{export.export_id}/{name}"


def file_url(export: Export, behaviour: Behaviour, origin: str) -> str:
    """Return the url its row shows while it has a file."""
    base = INTERNAL_ORIGIN if behaviour.internal_host else origin
    if behaviour.relative_urls:
        base = ""
    if behaviour.folder_urls:
        return base + FOLDER
    return base + archive_path(export, quoted=behaviour.quote_urls)


def _listed_url(export: Export, behaviour: Behaviour, origin: str) -> Any:  # noqa: ANN401 -- any JSON may be listed
    if export.stage is Stage.ASKED:
        if behaviour.unmade is Unmade.NULL_URL:
            return None
        if behaviour.unmade is Unmade.EMPTY_URL:
            return ""
        base = INTERNAL_ORIGIN if behaviour.internal_host else origin
        return ("" if behaviour.relative_urls else base) + FOLDER
    return file_url(export, behaviour, origin) if export.url is ... else export.url


def _flag(export: Export, behaviour: Behaviour) -> bool:
    if export.stage is Stage.ASKED:
        return behaviour.unmade is Unmade.FLAGGED_FOLDER_URL
    return export.stage is Stage.MADE


def row_json(export: Export, behaviour: Behaviour, origin: str) -> str:
    """Return one row as JSON."""
    if export.literal is not None:
        return json.dumps(export.literal, ensure_ascii=False)
    is_high = export.stream_type == "high"
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
        "is_file_exists": _flag(export, behaviour),
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
