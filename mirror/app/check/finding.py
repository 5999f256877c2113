"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from mirror.disk.lanes import Lane

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

FILES_S = 15.0
"""A local disk or a living server answers within this."""


class Grade(StrEnum):
    """How a check ended."""

    PASS = "pass"  # noqa: S105 -- no password
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found, with the remedy where one is needed."""

    name: str
    grade: Grade
    detail: str


async def bounded(work: Callable[[], T]) -> T:
    """Return what `work` gives, which touches files; one that hangs is left behind.

    Raises:
        TimeoutError: No answer for `FILES_S` seconds.
    """
    lane = Lane(1, name="check")
    try:
        return await lane.run(work, patience_s=FILES_S)
    finally:
        lane.close()
