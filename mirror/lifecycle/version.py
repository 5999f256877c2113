"""Decide what is a further version of an export, and when there may be one: pure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from mirror.model import Export, State

if TYPE_CHECKING:
    from mirror.model import Reason, Row

_LISTED: Final = (
    "updated_at",
    "name",
    "camera_id",
    "stream_type",
    "footage_from",
    "footage_to",
    "user_id",
    "url",
    "has_file",
)
MOST_VERSIONS: Final = 3
MOST_DROPS: Final = 2
NOT_FETCHED: Final = "its file has changed again; no further version is fetched"
OTHER_FOOTAGE: Final = "its row shows other footage; no further version is fetched"


def listed(row: Row | Export) -> dict[str, Any]:
    """Return what an export takes over from its row at every walk."""
    return {name: getattr(row, name) for name in _LISTED}


def further(
    newest: Export,
    *,
    reason: Reason,
    now_us: int,
    row: Row | None = None,
    deadline_us: int | None = None,
    not_before_us: int = 0,
) -> Export:
    """Return a further version of an export, to be fetched from `not_before_us` on.

    `row` and `deadline_us` are given where they tell more than `newest` knows.
    """
    deadline_us = deadline_us or newest.deadline_us
    return Export(
        source=newest.source,
        export_id=newest.export_id,
        created_key=newest.created_key,
        version=newest.version + 1,
        created_at=newest.created_at,
        created_us=newest.created_us,
        state=State.READY,
        reason=reason,
        first_seen_us=now_us,
        counts_as_ours=newest.counts_as_ours,
        had_file=True,
        deadline_us=deadline_us,
        order_us=deadline_us or newest.order_us,
        walk_us=now_us,
        due_us=not_before_us,
        not_before_us=not_before_us,
        looks=newest.looks,
        looked_us=newest.looked_us,
        drops=newest.drops,
        **listed(row or newest),
    )


def may_follow(newest: Export) -> bool:
    """Tell whether a further version may be made by anything but `retry`."""
    return newest.version < MOST_VERSIONS and newest.drops < MOST_DROPS


def new_digest(prior: Export, after: Export) -> str | None:
    """Return the SHA-256 that an attempt brought to a version that had no file yet."""
    sha256 = after.held_sha256 if after.held else after.sha256
    had_none = prior.version > 1 and prior.sha256 is None
    return sha256 if had_none and sha256 != prior.held_sha256 else None


def same_bytes(kept: Export, dropped: Export) -> Export:
    """Return a kept version knowing the validators of one with the same bytes."""
    held = dropped.held
    return dataclasses.replace(
        kept,
        part_etag=dropped.held_etag if held else dropped.part_etag,
        part_modified=dropped.held_modified if held else dropped.part_modified,
        look_total=None,
        look_etag=None,
        look_modified=None,
    )
