"""The ledger: every export ever listed, in SQLite; itself the work queue."""

from mirror.state.commits import COMMITS_NAME
from mirror.state.copies import Duty
from mirror.state.database import LEDGER_NAME, Database
from mirror.state.events import Event
from mirror.state.fetches import Partial, Settled, SpoolUse
from mirror.state.ledger import Ledger, LedgerThread, in_slices
from mirror.state.listing import KeySet, Met, Slice
from mirror.state.looks import Empty, LookDue
from mirror.state.pauses import Paused
from mirror.state.reads import (
    AT_RISK_US,
    Backlog,
    Dossier,
    Filter,
    Reads,
    SourceStatus,
    TargetStatus,
)
from mirror.state.rows import AT_ONCE
from mirror.state.scrubs import Chosen, Subject
from mirror.state.stock import Bare, Taken

__all__ = [
    "AT_ONCE",
    "AT_RISK_US",
    "COMMITS_NAME",
    "LEDGER_NAME",
    "Backlog",
    "Bare",
    "Chosen",
    "Database",
    "Dossier",
    "Duty",
    "Empty",
    "Event",
    "Filter",
    "KeySet",
    "Ledger",
    "LedgerThread",
    "LookDue",
    "Met",
    "Partial",
    "Paused",
    "Reads",
    "Settled",
    "Slice",
    "SourceStatus",
    "SpoolUse",
    "Subject",
    "Taken",
    "TargetStatus",
    "in_slices",
]
