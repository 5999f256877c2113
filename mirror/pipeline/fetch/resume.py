"""Decide how to ask for the rest of a file, and what guards it: pure, no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.model import EtagUse
from mirror.ports import ResumePoint, Validators

if TYPE_CHECKING:
    from mirror.ports import FileBody

OVERLAP_BYTES = 64 * 1024


def validators_of(body: FileBody) -> Validators:
    """Return which version of a file a body is of."""
    return Validators(
        total_bytes=body.total_bytes,
        etag=body.etag,
        last_modified=body.last_modified,
        firm=body.firm,
    )


def point(size_bytes: int, validators: Validators, use: EtagUse) -> ResumePoint:
    """Return from where, and under which guard, to ask for the rest.

    If the ETag does not guard the rest, the date does: the last bytes of the partial
    are then asked for again and compared.
    """
    overlap = 0 if use is EtagUse.GUARDS else OVERLAP_BYTES
    return ResumePoint(
        size_bytes=size_bytes,
        total_bytes=validators.total_bytes,
        etag=None if use is EtagUse.NONE else validators.etag,
        last_modified=validators.last_modified,
        firm=validators.firm,
        overlap_bytes=min(overlap, size_bytes),
    )


def learn(
    use: EtagUse, validators: Validators, asked: ResumePoint, body: FileBody
) -> EtagUse:
    """Return what an export's ETag is good for, after an answer with the whole file.

    Two answers of equal length and date are of one file. If their ETags differ, each
    backend has its own, or each answer. If they are equal, and the rest was asked for
    by that ETag, the server ignores it there.
    """
    same = (
        body.start_bytes == 0
        and validators.total_bytes is not None
        and body.total_bytes == validators.total_bytes
        and validators.last_modified is not None
        and body.last_modified == validators.last_modified
    )
    if not same or not validators.etag or not body.etag:
        return use
    if body.etag != validators.etag:
        return EtagUse.NONE
    by_etag = asked.etag is not None and not asked.etag.startswith("W/")
    if use is EtagUse.GUARDS and asked.size_bytes and by_etag:
        return EtagUse.COMPARES
    return use
