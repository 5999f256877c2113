"""Values for tests, each with what a test does not care about filled in."""

from __future__ import annotations

from typing import Any

from mirror.lifecycle.walk import Walk
from mirror.model import Export, Row, State

MINUTE = 60_000_000
HOUR = 60 * MINUTE
NOW = 1_790_000_000_000_000
URL = "https://vms.example/storage/a/1.mp4"
FOLDER = "https://vms.example/storage/"


def row(**given: Any) -> Row:
    """Return a listed row that shows a file."""
    values: dict[str, Any] = {
        "export_id": 7,
        "created_key": "k",
        "created_at": "2026-09-21T13:00:00.000000Z",
        "created_us": NOW - 10 * MINUTE,
        "updated_at": "u1",
        "updated_us": None,
        "url": URL,
        "has_file": True,
        "name": "Gate.mp4",
        "camera_id": 1,
        "stream_type": "low",
        "footage_from": None,
        "footage_to": None,
        "user_id": 5,
        "raw": b"{}",
    }
    return Row(**(values | given))


def export(**given: Any) -> Export:
    """Return an export as the ledger might have it."""
    values: dict[str, Any] = {
        "key": 1,
        "source": "hq",
        "export_id": 7,
        "created_key": "k",
        "created_at": "2026-09-21T13:00:00.000000Z",
        "created_us": NOW - 10 * MINUTE,
        "updated_at": "u1",
        "state": State.READY,
        "name": "Gate.mp4",
        "camera_id": 1,
        "stream_type": "low",
        "user_id": 5,
        "url": URL,
        "has_file": True,
        "first_seen_us": NOW - 5 * MINUTE,
        "order_us": NOW + 3 * HOUR,
        "deadline_us": NOW + 3 * HOUR,
        "had_file": True,
    }
    return Export(**(values | given))


def walk(**given: Any) -> Walk:
    """Return a walk that begins at `NOW` and excludes nothing."""
    values: dict[str, Any] = {
        "source": "hq",
        "at_us": NOW,
        "previous": (),
        "clock_offset_us": 0,
        "counts_as_ours": True,
        "lifetime_us": 3 * HOUR,
        "waiting_limit_us": 24 * HOUR,
        "try_folders": True,
        "retry_max_us": 10 * MINUTE,
        "rule_for": lambda *_: None,
        "looked_for": lambda _: True,
    }
    return Walk(**(values | given))
