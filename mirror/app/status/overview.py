"""What the status page shows: `status --json`, and what somebody must act on."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from mirror import __version__
from mirror.app import lock
from mirror.app.status import public_json
from mirror.app.status.problems import concerns_of
from mirror.ledger import AT_RISK_US, Filter, Ledger
from mirror.model import State, iso, to_us, utc_now
from mirror.vms import token as tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.config import Settings, SourceSettings
    from mirror.ledger import SourceStatus
    from mirror.model import Export

_RECENT = 50
_URGENT = 50
_LOSSES = 20
_CAUSES = 20
_STALE_US = 15 * 60 * 1_000_000
_STALE_POLLS = 3
_HEADLINES = {
    "well": "All is well",
    "look": "Look at this",
    "risk": "Footage is at risk",
}
_DEAD = "Nothing is fetched now"


class Freshness(StrEnum):
    """Whether a source's list is known as it is now."""

    FRESH = "fresh"
    PAUSED = "paused"
    STALE = "stale"
    FAILING = "failing"
    NEW = "new"


_UNFETCHED = frozenset({State.READY, State.FETCHING, State.PARKED})


def read(
    ledger: Ledger,
    settings: Settings,
    *,
    now_us: int,
    token_expiry_s: Mapping[str, int | None],
    spool_free_bytes: int | None = None,
    ledger_problem: str | None = None,
    running: bool = True,
) -> dict[str, Any]:
    """Return what `/status.json` gives; for the reader's thread.

    No question reads all the exports there are.

    Args:
        ledger: Open for questions.
        settings: The configuration.
        now_us: Now.
        token_expiry_s: By source, seconds since 1970; None or left out if unknown.
        spool_free_bytes: Free where the spool lies now.
        ledger_problem: Why the ledger cannot be written just now.
        running: Somebody holds the state directory.
    """
    queries = ledger.queries
    status = public_json.status(queries.counts(), queries, now_us)
    sources = {source.name: source for source in queries.sources()}
    shown = status | {
        "now": iso(now_us),
        "version": __version__,
        "freshness": {
            name: _freshness(
                sources.get(name), source, token_expiry_s.get(name), now_us
            )
            for name, source in settings.sources.items()
        },
        "configured_targets": list(settings.targets),
        "spool": {
            "bytes": queries.spooled_bytes(),
            "free_bytes": spool_free_bytes,
        },
        "ledger_problem": ledger_problem,
        "running": running,
        "causes": [
            {"source": source, "error": error, "number": number}
            for source, error, number in queries.causes(now_us)[:_CAUSES]
        ],
        "transfers": [_row(each, [], now_us) for each in queries.fetching(_URGENT)],
        "open": [_row(each, [], now_us) for each in queries.urgent(_URGENT, now_us)],
        "recent": [
            _row(export, [public_json.copy(each) for each in copies], now_us)
            for export, copies in queries.exports(Filter(limit=_RECENT))
        ],
        "lost": [_row(each, [], now_us) for each in queries.losses(_LOSSES)],
    }
    concerns = concerns_of(shown)
    level = concerns[0].level if concerns else "well"
    return shown | {
        "headline": {"level": level, "text": _HEADLINES[level] if running else _DEAD},
        "concerns": [asdict(each) for each in concerns],
    }


def beside(settings: Settings) -> dict[str, Any]:
    """Return the status as a command sees it, beside the service or without one.

    Raises:
        LedgerError: The ledger cannot be read.
    """
    token_expiry_s = {
        name: tokens.expiry_of(source.token_path)
        for name, source in settings.sources.items()
    }
    running = lock.is_held(settings.state_dir)
    with Ledger.reading(settings.state_dir, check=not running) as ledger:
        return read(
            ledger,
            settings,
            now_us=to_us(utc_now()),
            token_expiry_s=token_expiry_s,
            running=running,
        )


def freshness_of(
    source: SourceStatus | None, settings: SourceSettings, now_us: int
) -> Freshness:
    """Return how fresh the list of a source is in the ledger."""
    patience_us = max(
        _STALE_US, round(settings.poll_interval.total_seconds() * 1e6) * _STALE_POLLS
    )
    if source is None:
        return Freshness.NEW
    if source.paused_until(now_us) is not None:
        return Freshness.PAUSED
    if source.problem is not None:
        return Freshness.FAILING
    if source.last_success_us is None:
        return Freshness.NEW
    stale = now_us - source.last_success_us > patience_us
    return Freshness.STALE if stale else Freshness.FRESH


def _freshness(
    source: SourceStatus | None,
    settings: SourceSettings,
    token_expiry_s: int | None,
    now_us: int,
) -> dict[str, Any]:
    """Return how well a source is known; nobody sees what it makes meanwhile."""
    read_us = source.last_success_us if source else None
    state = freshness_of(source, settings, now_us)
    lifetime_s = settings.file_lifetime.total_seconds()
    blind = state is not Freshness.FRESH and read_us is not None
    return {
        "state": state,
        "unseen_files_expire": (
            iso(read_us + round(lifetime_s * 1e6)) if blind and read_us else None
        ),
        "token_expires": iso(token_expiry_s * 1_000_000) if token_expiry_s else None,
        "file_lifetime_seconds": lifetime_s,
    }


def _row(export: Export, copies: list[dict[str, Any]], now_us: int) -> dict[str, Any]:
    """Return an export as `list --json` shows it, and how it stands with time."""
    left_s = _seconds(now_us, export.deadline_us)
    return public_json.export(export, []) | {
        "copies": copies,
        "held_bytes": public_json.held_bytes(export),
        "total_bytes": export.part_total,
        "spooled_at": iso(export.spooled_us),
        "saved_at": iso(export.saved_us),
        "acknowledged_at": iso(export.acknowledged_us),
        "note": export.note,
        "margin_seconds": _seconds(export.spooled_us, export.deadline_us),
        "left_seconds": left_s,
        "at_risk": left_s is not None
        and left_s < AT_RISK_US / 1e6
        and export.state in _UNFETCHED
        and not export.held,
        "why": public_json.why(export),
        "advice": public_json.advice(public_json.why(export)),
        "asked_again": public_json.asked_again(export),
    }


def _seconds(from_us: int | None, until_us: int | None) -> float | None:
    return None if from_us is None or until_us is None else (until_us - from_us) / 1e6
