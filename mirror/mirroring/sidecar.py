"""The provenance record that lies beside each kept file: pure, no I/O."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from mirror import __version__
from mirror.errors import MirrorError
from mirror.model import iso

if TYPE_CHECKING:
    from mirror.model import Export

T = TypeVar("T")
FORMAT = 1


class SidecarError(MirrorError):
    """It is no record of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a record says of its file."""

    source: str
    export_id: int
    size_bytes: int
    sha256: str


def record(
    export: Export,
    *,
    item: bytes,
    source_url: str,
    node_id: str,
    target: str,
    path: str,
) -> bytes:
    """Return the record of one export on one target, as JSON.

    It holds enough to make the ledger's row again, and no secret: the file's url is
    cut to its origin, the user to its id.

    Args:
        export: Spooled, with size and digest.
        item: The list item as received.
        source_url: Base URL of the source.
        node_id: Of the machine that fetched it.
        target: Name of the target the record lies on.
        path: Of the file, relative to the target's root.
    """
    fields: dict[str, Any] = {
        "format": FORMAT,
        "source": export.source,
        "id": export.export_id,
        "created_at": export.created_at,
        "created_key": export.created_key,
        "size_bytes": export.size_bytes,
        "sha256": export.sha256,
        "name": export.name,
        "camera_id": export.camera_id,
        "stream_type": export.stream_type,
        "footage_from": export.footage_from,
        "footage_to": export.footage_to,
        "item": _item(item),
        "item_sha256": hashlib.sha256(item).hexdigest(),
        "source_url": source_url,
        "response": {
            "etag": export.part_etag,
            "last_modified": export.part_modified,
        },
        "first_seen": iso(export.first_seen_us),
        "deadline": iso(export.deadline_us),
        "fetch_started": iso(export.started_us),
        "fetched": iso(export.spooled_us),
        "attempts": export.attempts,
        "target": target,
        "path": path,
        "node": node_id,
        "tool": f"archive-mirror {__version__}",
    }
    return _dump(fields)


def _item(raw: bytes) -> object:
    """Return the item with what is secret or personal cut out of it."""
    try:
        # What is no UTF-8 becomes surrogates, and is written as their escapes.
        item = json.loads(raw.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(item, dict):
        return None
    url = item.get("url")
    if isinstance(url, str):
        item["url_sha256"] = hashlib.sha256(url.encode("utf-8", "replace")).hexdigest()
    if url is not None:
        item["url"] = _origin(url) if isinstance(url, str) else None
    if item.get("user") is not None:
        item["user"] = _only_id(item["user"])
    return item


def _only_id(user: object) -> dict[str, int] | None:
    """Return a user's id, if it is a number; all else of a user is personal."""
    found = user.get("id") if isinstance(user, dict) else None
    return {"id": found} if isinstance(found, int) else None


def _origin(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not parts.scheme or not host:
        return None
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")


def read(raw: bytes) -> Record:
    """Return what a record says.

    Raises:
        SidecarError: It is none that we wrote.
    """
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise SidecarError("it is not JSON") from exc
    if not isinstance(fields, dict):
        raise SidecarError("it is no JSON object")
    return Record(
        source=_field(fields, "source", str),
        export_id=_field(fields, "id", int),
        size_bytes=_field(fields, "size_bytes", int),
        sha256=_field(fields, "sha256", str),
    )


def _field(fields: dict[str, Any], name: str, kind: type[T]) -> T:
    found = fields.get(name)
    if not isinstance(found, kind) or isinstance(found, bool):
        raise SidecarError(f"{name} is missing or of the wrong type")
    return found


def moved(raw: bytes, *, target: str, path: str) -> bytes:
    """Return the record of another target's copy as that of the copy named.

    Args:
        raw: A record that was read without fault.
        target: Name of the target the new record lies on.
        path: Of the file there.
    """
    return _dump(json.loads(raw) | {"target": target, "path": path})


def _dump(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False, indent=1).encode(
        "utf-8", "backslashreplace"
    )
