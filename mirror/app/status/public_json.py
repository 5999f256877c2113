"""The JSON that commands and the status page give; its keys are promised."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from mirror import sidecar
from mirror.model import State, iso
from mirror.wording import ADVICE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.ledger import Event, ExportDetails, Queries
    from mirror.model import Attempt, Copy, Export

NEWS_US = 24 * 3600 * 1_000_000
"""So long it is told of a file that is not proven whole, as the alert does."""


def why(found: Export) -> str | None:
    """Return the word that explains an export's state: its reason, or another.

    `mirror.wording.ADVICE` says what to do; of a rule, by what stands before its name.
    """
    if found.held:
        return "held"
    if found.state is State.DAMAGED:
        return "damaged"
    if found.reason is None and found.state is State.READY:
        return "ready" if found.last_error is None else "retried"
    return found.reason


def advice(word: str | None) -> str | None:
    """Return what to do about what `why` gives, if anything is known."""
    return ADVICE.get((word or "").partition(":")[0])


def asked_again(found: Export) -> str | None:
    """Return when the file is asked for again of which a body is held; else None."""
    return iso(max(found.due_us, found.held_us or 0)) if found.held else None


def held_bytes(found: Export) -> int:
    """Return how many bytes of its file are here."""
    return max(found.part_bytes, found.held_bytes or 0) or found.size_bytes or 0


def export(found: Export, copies: list[Copy]) -> dict[str, Any]:
    """Return an export as `list --json` shows it."""
    return {
        "source": found.source,
        "id": found.export_id,
        "state": found.state,
        "reason": found.reason,
        "name": found.name,
        "camera_id": found.camera_id,
        "stream_type": found.stream_type,
        "footage_from": found.footage_from,
        "footage_to": found.footage_to,
        "created_at": found.created_at,
        "first_seen": iso(found.first_seen_us),
        "version": found.version,
        "deadline": iso(found.deadline_us),
        "size_bytes": found.size_bytes,
        "sha256": found.sha256,
        "proof": found.proof,
        "doubt": found.doubt,
        "attempts": found.attempts,
        "last_error": found.last_error,
        "copies": [copy(one) for one in copies],
    }


def copy(found: Copy) -> dict[str, Any]:
    """Return a copy as `list --json` shows it."""
    return {
        "target": found.target,
        "state": found.state,
        "path": found.path,
        "verified_at": iso(found.verified_us),
    }


def details(found: ExportDetails) -> dict[str, Any]:
    """Return an export as `show --json` shows it."""
    one = found.export
    full = export(one, found.copies)
    for shown, known in zip(full["copies"], found.copies, strict=True):
        shown["saved_at"] = iso(known.saved_us)
        shown["attempts"] = known.attempts
        shown["last_error"] = known.last_error
    return full | {
        "had_file": one.had_file,
        "has_file": one.has_file,
        "updated_at": one.updated_at,
        "held_bytes": held_bytes(one),
        "total_bytes": one.part_total,
        "held_doubt": one.held_doubt,
        "asked_again": asked_again(one),
        "why": why(one),
        "advice": advice(why(one)),
        "proof_notes": one.proof_notes,
        "second_looks": one.looks,
        "next_look": iso(one.look_due_us),
        "due": iso(one.due_us or None),
        "fetch_started": iso(one.started_us),
        "held_until": iso(one.held_until_us or None),
        "spooled_at": iso(one.spooled_us),
        "saved_at": iso(one.saved_us),
        "acknowledged_at": iso(one.acknowledged_us),
        "note": one.note,
        "versions": [version(one) for one in found.versions],
        "history": [attempt(one) for one in found.attempts],
        "item": _item(found.item),
    }


def event(found: Event) -> dict[str, Any]:
    """Return an event as the command of `on_event` gets it."""
    shown: dict[str, Any] = {"event": found.event, "at": iso(found.at_us)}
    if found.export is not None:
        return shown | {"export": export(found.export, [])}
    kind = found.event.partition(".")[0]
    return shown | {kind: found.name, "problem": found.problem}


def version(found: Export) -> dict[str, Any]:
    """Return another version of an export as `show --json` shows it."""
    return {
        "version": found.version,
        "state": found.state,
        "reason": found.reason,
        "size_bytes": found.size_bytes,
        "sha256": found.sha256,
        "proof": found.proof,
        "first_seen": iso(found.first_seen_us),
    }


def attempt(found: Attempt) -> dict[str, Any]:
    """Return one attempt, or several alike, as `show --json` shows it."""
    return {
        "times": found.times,
        "started": iso(found.started_us),
        "ended": iso(found.ended_us),
        "outcome": found.outcome,
        "offset_bytes": found.offset_bytes,
        "held_bytes": found.held_bytes,
        "error": found.error,
    }


def status(
    counts: dict[tuple[str, str], int], queries: Queries, now_us: int
) -> dict[str, Any]:
    """Return what `status --json` shows.

    The counts are of exports by (source, state), perhaps a little old.
    """
    backlog = queries.backlog(now_us)
    not_answering = queries.not_answering()
    held = queries.held()
    doubtful = queries.newly_doubtful(now_us - NEWS_US)
    return {
        "exports": by_state(counts),
        "owed": backlog.owed,
        "held": sum(held.values()),
        "at_risk": backlog.at_risk,
        "without_room": queries.without_room(),
        "lost_by_us": sum(queries.totals("lost").values()),
        "unacknowledged": sum(queries.unacknowledged().values()),
        "oldest_ready": iso(backlog.oldest_ready_us),
        "earliest_deadline": iso(backlog.earliest_deadline_us),
        "sources": [
            {
                "name": source.name,
                "exports": {
                    state: number
                    for (name, state), number in counts.items()
                    if name == source.name
                },
                "last_success": iso(source.last_success_us),
                "last_failure": iso(source.last_failure_us),
                "problem": source.problem,
                "not_answering": not_answering.get(source.name, 0),
                "paused_until": iso(source.paused_until(now_us)),
                "clock_offset_seconds": source.clock_offset_us / 1e6,
                "first_sweep": iso(source.first_sweep_us),
                "held": held.get(source.name, 0),
                "newly_doubtful": doubtful.get(source.name, 0),
                "bad_rows": source.bad_rows,
                "left_out": source.left_out,
            }
            for source in queries.sources()
        ],
        "targets": [
            {
                "name": target.name,
                "checked": iso(target.checked_us),
                "problem": target.problem,
                "warning": target.warning,
                "paused_until": iso(target.paused_until(now_us)),
                "free_bytes": target.free_bytes,
                "owed_files": target.owed_files,
                "owed_bytes": target.owed_bytes,
                "damaged_files": target.damaged_files,
            }
            for target in queries.targets()
        ],
    }


def by_state(counts: Mapping[tuple[str, str], int]) -> dict[str, int]:
    """Return how many exports there are by state, of counts by (source, state)."""
    total: Counter[str] = Counter()
    for (_, state), number in counts.items():
        total[state] += number
    return total


def _item(raw: bytes) -> dict[str, object] | None:
    """Return what we know of the list item, without even the origin of its url."""
    known = sidecar.known_of(raw)
    if known is not None:
        known.pop("url", None)
    return known
