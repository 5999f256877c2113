"""Read from the ledger what the metrics show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.metrics import LedgerSnapshot

if TYPE_CHECKING:
    from mirror.ledger import Ledger


def take(ledger: Ledger, now_us: int) -> LedgerSnapshot:
    """Return the counts and times that the metrics show."""
    queries = ledger.queries
    backlog = queries.backlog(now_us)
    owed, sources = queries.owed_copies(), queries.sources()
    urgency = {one.name: queries.urgency(one.name, now_us) for one in sources}
    paused = ledger.pauses.now(now_us)
    saved, doubtful = (
        {source: total for (source, _), total in queries.totals(event).items()}
        for event in ("saved", "doubtful")
    )
    return LedgerSnapshot(
        exports=queries.counts(),
        unfetched=queries.unfetched_by_source(now_us),
        saved_total=saved,
        doubtful_total=doubtful,
        lost_total=queries.totals("lost"),
        unacknowledged=queries.unacknowledged(),
        paused_sources=paused.sources,
        paused_targets=paused.targets,
        oldest_ready_us=backlog.oldest_ready_us,
        earliest_deadline_us={
            source: nearest_us
            for source, (_, nearest_us) in urgency.items()
            if nearest_us is not None
        },
        exports_at_risk={source: number for source, (number, _) in urgency.items()},
        exports_without_room=queries.without_room(),
        target_owed_files={name: files for name, (files, _) in owed.items()},
        target_damaged_files=queries.damaged_copies(),
        target_last_verified_us=queries.last_verified(),
        clock_offset_us={one.name: one.clock_offset_us for one in sources},
        last_success_us={
            one.name: one.last_success_us
            for one in sources
            if one.last_success_us is not None
        },
        left_out={one.name: one.left_out for one in sources},
        target_owed_bytes={name: size for name, (_, size) in owed.items()},
    )
