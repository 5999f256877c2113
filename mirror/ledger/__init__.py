"""The ledger: every export ever listed, in SQLite; itself the work queue."""

from mirror.ledger.commit_counter import COMMITS_NAME
from mirror.ledger.copies import Duty
from mirror.ledger.database import LEDGER_NAME, Database
from mirror.ledger.events import Event
from mirror.ledger.fetches import Partial, Settled, SpoolUse
from mirror.ledger.inventory import Bare, Taken
from mirror.ledger.ledger import Ledger, LedgerThread, in_slices
from mirror.ledger.pauses import Paused
from mirror.ledger.queries import (
    AT_RISK_US,
    Backlog,
    Dossier,
    Filter,
    Reads,
    SourceStatus,
    TargetStatus,
)
from mirror.ledger.rows import AT_ONCE
from mirror.ledger.second_looks import LookDue
from mirror.ledger.verification import Chosen, Subject
from mirror.ledger.walks import KeySet, Met, Slice

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
