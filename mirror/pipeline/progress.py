"""What is being transferred right now, for whoever wants to show it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Transfer:
    """One fetch under way.

    Attributes:
        done_bytes: Held so far, kept bytes of earlier attempts included.
        total_bytes: None while unknown.
        began: The body of an answer has begun.
    """

    label: str
    deadline_us: int | None
    done_bytes: int = 0
    total_bytes: int | None = None
    began: bool = False


@dataclass(slots=True)
class Progress:
    """All fetches under way, by the ledger's key, and sums since the start."""

    transfers: dict[int, Transfer] = field(default_factory=dict)
    received_bytes: int = 0
    fetched_files: int = 0
    saved_files: int = 0
