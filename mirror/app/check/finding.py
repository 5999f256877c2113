"""What a check found."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

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
    pool = ThreadPoolExecutor(1, thread_name_prefix="check")
    try:
        async with asyncio.timeout(FILES_S):
            return await asyncio.get_running_loop().run_in_executor(pool, work)
    finally:
        pool.shutdown(wait=False)
