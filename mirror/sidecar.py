"""The provenance record that lies beside each kept file: pure, no I/O."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from mirror import __version__
from mirror.errors import MirrorError
from mirror.lifecycle.copy import kept_as
from mirror.lifecycle.second_look import first_due
from mirror.model import Export, Verdict, iso, to_us
from mirror.ports import MAX_SIDECAR_BYTES

if TYPE_CHECKING:
    from mirror.ports import StoredFile

T = TypeVar("T")
FORMAT = 1
_SHA256 = re.compile("[0-9a-f]{64}")
_DIGITS = re.compile(r"[0-9]{1,19}", re.ASCII)
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_MAX_INT = 2**63 - 1
_MAX_TEXT = 65_536
_FIELDS = frozenset(
    {
        "id",
        "name",
        "url",
        "from",
        "to",
        "created_at",
        "updated_at",
        "is_file_exists",
        "stream",
        "user_id",
        "user",
    }
)
"""What we know of a list item; what a VMS puts there besides may be a secret."""
_OF_STREAM = frozenset({"camera_id", "type"})


class SidecarError(MirrorError):
    """It is no record of ours."""


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

    It holds enough to make the ledger's row again, and no secret: of the list item
    only what we know, the file's url cut to its origin, the user to its id. No record
    is longer than `MAX_SIDECAR_BYTES`; the item gives way.

    The export is spooled, the item as received, the path relative to the target's root.
    """
    fields: dict[str, Any] = {
        "format": FORMAT,
        "source": export.source,
        "id": export.export_id,
        "version": export.version,
        "created_at": export.created_at,
        "created_key": export.created_key,
        "size_bytes": export.size_bytes,
        "sha256": export.sha256,
        "proof": export.proof,
        "doubt": export.doubt,
        "etag": export.part_etag,
        "last_modified": export.part_modified,
        "name": export.name,
        "camera_id": export.camera_id,
        "stream_type": export.stream_type,
        "footage_from": export.footage_from,
        "footage_to": export.footage_to,
        "item": known_of(item),
        "item_sha256": hashlib.sha256(item).hexdigest(),
        "source_url": source_url,
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
    written = _dump(fields)
    fits = len(written) <= MAX_SIDECAR_BYTES
    return written if fits else _dump(fields | {"item": None})


def known_of(raw: bytes) -> dict[str, object] | None:
    """Return what we know of a list item as received, with nothing secret or personal.

    None if it is no JSON object.
    """
    try:
        # What is no UTF-8 becomes surrogates, and is written as their escapes.
        item = json.loads(raw.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(item, dict):
        return None
    known: dict[str, object] = {
        name: _plain(value) for name, value in item.items() if name in _FIELDS
    }
    url, stream, user = item.get("url"), item.get("stream"), item.get("user")
    known |= {name: None for name in ("url", "stream", "user") if name in known}
    if not _DIGITS.fullmatch(str(item.get("user_id"))):
        known.pop("user_id", None)
    if isinstance(url, str):
        known["url"] = _origin(url)
        known["url_sha256"] = hashlib.sha256(url.encode("utf-8", "replace")).hexdigest()
    if isinstance(stream, dict):
        known["stream"] = {
            name: _plain(stream[name]) for name in stream if name in _OF_STREAM
        }
    if isinstance(user, dict) and isinstance(user.get("id"), int):
        known["user"] = {"id": user["id"]}
    return known


def _plain(value: object) -> object:
    """Return a value that holds no others; None for one that does."""
    if isinstance(value, str):
        return value[:_MAX_TEXT]
    return value if isinstance(value, bool | int | float) else None


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


def read(raw: bytes, now_us: int) -> Export:
    """Return the version of an export that a record tells of, as kept.

    `now_us` stands in for times that it does not tell.

    Raises:
        SidecarError: It is none that we wrote, or it contradicts itself.
    """
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise SidecarError("it is not JSON") from exc
    if not isinstance(fields, dict):
        raise SidecarError("it is no JSON object")
    item = _table(fields, "item")
    # Records of before had the validators in it.
    response = _table(fields, "response")
    doubtful = fields.get("proof") == Verdict.DOUBTFUL
    state, reason = kept_as(doubtful=doubtful)
    created_at = _given(fields, "created_at", str)
    created_key = _needed(fields, "created_key", str)
    spooled_us = _moment(fields, "fetched")
    saved_us = spooled_us or now_us
    seen_us = _moment(fields, "first_seen") or saved_us
    deadline_us = _moment(fields, "deadline")
    created_us = None if created_at is None else _moment(fields, "created_key")
    if created_at is not None and created_us is None:
        raise SidecarError(
            "it contradicts itself: created_at is a time and created_key is none"
        )
    export = Export(
        source=_needed(fields, "source", str),
        export_id=_needed(fields, "id", int),
        created_key=created_key,
        version=_given(fields, "version", int) or 1,
        created_at=created_at,
        created_us=created_us,
        updated_at=_given(item, "updated_at", str),
        state=state,
        reason=reason,
        name=_given(fields, "name", str),
        camera_id=_given(fields, "camera_id", int),
        stream_type=_given(fields, "stream_type", str),
        footage_from=_given(fields, "footage_from", str),
        footage_to=_given(fields, "footage_to", str),
        user_id=_given(_table(item, "user"), "id", int),
        first_seen_us=seen_us,
        has_file=True,
        counts_as_ours=True,
        had_file=True,
        deadline_us=deadline_us,
        order_us=deadline_us or seen_us,
        attempts=_given(fields, "attempts", int) or 0,
        part_etag=_given(fields, "etag", str) or _given(response, "etag", str),
        part_modified=_given(fields, "last_modified", str)
        or _given(response, "last_modified", str),
        size_bytes=_needed(fields, "size_bytes", int),
        sha256=_needed(fields, "sha256", str),
        proof=Verdict.DOUBTFUL if doubtful else Verdict.WHOLE,
        doubt=_given(fields, "doubt", str),
        started_us=_moment(fields, "fetch_started"),
        spooled_us=spooled_us,
        saved_us=saved_us,
    )
    if not _SHA256.fullmatch(export.sha256 or "") or not export.size_bytes:
        raise SidecarError("its size or digest is none")
    ids = {export.export_id, str(export.export_id)}
    if item.get("id", export.export_id) not in ids:
        raise SidecarError("it contradicts itself: two ids")
    return dataclasses.replace(export, look_due_us=first_due(export, now_us, 0))


def _needed(fields: dict[str, Any], name: str, kind: type[T]) -> T:
    value = _given(fields, name, kind)
    if value is None:
        raise SidecarError(f"{name} is missing or of the wrong type")
    return value


def _given(fields: dict[str, Any], name: str, kind: type[T]) -> T | None:
    """Return a field that the ledger can hold; None where it is none."""
    value = fields.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        return None
    if isinstance(value, int) and not 0 <= value <= _MAX_INT:
        return None
    if isinstance(value, str) and _HALF_PAIR.search(value):
        return None
    return value


def _table(fields: dict[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def _moment(fields: dict[str, Any], name: str) -> int | None:
    """Return a time as microseconds since 1970 UTC."""
    text = _given(fields, name, str)
    try:
        return None if text is None else to_us(datetime.fromisoformat(text))
    except (ValueError, TypeError, OverflowError):
        return None


def moved(raw: bytes, *, target: str, path: str) -> bytes:
    """Return a record that was read without fault, as that of the copy named."""
    fields = json.loads(raw)
    given = _table(fields, "item")
    item = known_of(json.dumps(given).encode()) if given else None
    digest = _given(given, "url_sha256", str)
    if item is not None and digest and _SHA256.fullmatch(digest):
        item["url_sha256"] = digest
    return _dump(fields | {"item": item, "target": target, "path": path})


def _dump(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False, indent=1).encode(
        "utf-8", "backslashreplace"
    )


def export_of(beside: StoredFile, now_us: int) -> Export:
    """Return the version of an export that a sidecar tells of; as `read`.

    Raises:
        SidecarError: As `read`; or there is no sidecar.
    """
    if beside.sidecar is None:
        raise SidecarError(beside.problem or "it is gone")
    return read(beside.sidecar, now_us)


def is_whole(beside: StoredFile, export: Export) -> bool:
    """Tell whether the file beside a sidecar has the length that it tells."""
    return beside.size_bytes is not None and beside.size_bytes == export.size_bytes


def same_export(kept: Export, export: Export) -> bool:
    """Tell whether a sidecar is that of an export."""
    return kept.identity == export.identity
