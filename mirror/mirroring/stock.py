"""Turn a sidecar into the export that it tells of: pure, no I/O."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import TYPE_CHECKING

from mirror.mirroring import sidecar
from mirror.mirroring.looks import first_due
from mirror.model import Export, Reason, State, Verdict, to_us

if TYPE_CHECKING:
    from mirror.mirroring.sidecar import Record
    from mirror.ports import Beside


def told(found: Beside, now_us: int) -> Export:
    """Return the version of an export that a sidecar tells of, as kept.

    Args:
        found: On a target.
        now_us: Stands in for times that the sidecar does not tell.

    Raises:
        SidecarError: It is none that we wrote, or it contradicts itself.
    """
    if found.sidecar is None:
        raise sidecar.SidecarError(found.problem or "it is gone")
    record = sidecar.read(found.sidecar)
    saved_us = record.spooled_us or now_us
    doubtful = record.proof is Verdict.DOUBTFUL
    seen_us = record.first_seen_us or saved_us
    export = Export(
        source=record.source,
        export_id=record.export_id,
        created_key=record.created_key,
        version=record.version,
        created_at=record.created_at,
        created_us=_created_us(record),
        updated_at=record.updated_at,
        state=State.DOUBTFUL if doubtful else State.SAVED,
        reason=Reason.DOUBTFUL if doubtful else None,
        name=record.name,
        camera_id=record.camera_id,
        stream_type=record.stream_type,
        footage_from=record.footage_from,
        footage_to=record.footage_to,
        user_id=record.user_id,
        first_seen_us=seen_us,
        has_file=True,
        ours=True,
        had_file=True,
        deadline_us=record.deadline_us,
        order_us=record.deadline_us or seen_us,
        attempts=record.attempts or 0,
        part_etag=record.etag,
        part_modified=record.last_modified,
        size_bytes=record.size_bytes,
        sha256=record.sha256,
        proof=record.proof,
        doubt=record.doubt,
        started_us=record.started_us,
        spooled_us=record.spooled_us,
        saved_us=saved_us,
    )
    return dataclasses.replace(export, look_due_us=first_due(export, now_us, 0))


def is_whole(found: Beside, export: Export) -> bool:
    """Tell whether the file beside a sidecar has the length that it tells."""
    return found.size_bytes is not None and found.size_bytes == export.size_bytes


def is_of(told: Export, export: Export) -> bool:
    """Tell whether a sidecar is that of an export."""
    return (told.source, told.export_id, told.created_key) == (
        export.source,
        export.export_id,
        export.created_key,
    )


def _created_us(record: Record) -> int | None:
    """Return the instant in the identity; None where it is no instant.

    Raises:
        SidecarError: It should be one and is not.
    """
    if record.created_at is None:
        return None
    try:
        return to_us(datetime.fromisoformat(record.created_key))
    except (ValueError, TypeError, OverflowError) as exc:
        raise sidecar.SidecarError(
            "it contradicts itself: created_at is a time and created_key is none"
        ) from exc
