"""The ledger: every export ever listed, in SQLite; itself the work queue."""

from mirror.state.commits import COMMITS_NAME
from mirror.state.copies import Duty
from mirror.state.database import LEDGER_NAME, Database
from mirror.state.events import Event
from mirror.state.fetches import Partial, SpoolUse
from mirror.state.ledger import Ledger, LedgerThread
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
from mirror.state.scrubs import Chosen, Subject
from mirror.state.stock import Bare, Taken

__all__ = [
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
    "Ledger",
    "LedgerThread",
    "Partial",
    "Paused",
    "Reads",
    "SourceStatus",
    "SpoolUse",
    "Subject",
    "Taken",
    "TargetStatus",
]
