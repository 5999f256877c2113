"""The ledger: every export ever listed, in SQLite; itself the work queue."""

from mirror.ledger.commit_counter import COMMITS_NAME
from mirror.ledger.copies import CopyToPublish
from mirror.ledger.database import LEDGER_NAME, Database
from mirror.ledger.errors import FAULTS, SQLITE_VERSION
from mirror.ledger.events import Event
from mirror.ledger.fetch_queue import FetchResult, Partial, SpoolUse
from mirror.ledger.inventory import WithoutSidecar
from mirror.ledger.ledger import Ledger
from mirror.ledger.pauses import Paused
from mirror.ledger.queries import (
    AT_RISK_US,
    Backlog,
    ExportDetails,
    Filter,
    Queries,
    SourceStatus,
    TargetStatus,
)
from mirror.ledger.rows import AT_ONCE
from mirror.ledger.second_looks import LookDue
from mirror.ledger.verification import CopyToRead, Selection
from mirror.ledger.walks import KeySet, PageResult, Slice
from mirror.ledger.writer import LedgerThread, in_slices
from mirror.lifecycle.inventory import SidecarVerdict

__all__ = [
    "AT_ONCE",
    "AT_RISK_US",
    "COMMITS_NAME",
    "FAULTS",
    "LEDGER_NAME",
    "SQLITE_VERSION",
    "Backlog",
    "CopyToPublish",
    "CopyToRead",
    "Database",
    "Event",
    "ExportDetails",
    "FetchResult",
    "Filter",
    "KeySet",
    "Ledger",
    "LedgerThread",
    "LookDue",
    "PageResult",
    "Partial",
    "Paused",
    "Queries",
    "Selection",
    "SidecarVerdict",
    "Slice",
    "SourceStatus",
    "SpoolUse",
    "TargetStatus",
    "WithoutSidecar",
    "in_slices",
]
