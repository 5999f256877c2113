"""The ledger: every export ever listed, in SQLite; itself the work queue."""

from mirror.state.copies import Duty
from mirror.state.database import LEDGER_NAME, Database
from mirror.state.fetches import Partial
from mirror.state.ledger import Ledger, LedgerThread
from mirror.state.reads import Backlog, Dossier, Filter, SourceStatus, TargetStatus

__all__ = [
    "LEDGER_NAME",
    "Backlog",
    "Database",
    "Dossier",
    "Duty",
    "Filter",
    "Ledger",
    "LedgerThread",
    "Partial",
    "SourceStatus",
    "TargetStatus",
]
