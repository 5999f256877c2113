"""Who found no room in the spool, how often, and when it asks again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from mirror import backoff
from mirror.errors import NoRoomError
from mirror.wording import size

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mirror.pipeline.spool.reservation import Wait

WAITS_S = 60.0
"""What waits for room asks again at least as often."""
REMEMBERED_S = 600.0


@dataclass(slots=True, kw_only=True)
class _Refused:
    """How often, and when last, an export found no room.

    Attributes:
        wait: None if it waits for none: it has room, or there never will be any.
    """

    times: int = 0
    at: float = 0.0
    wait: Wait | None = None


class Refusals:
    """Refuses room, and remembers whom.

    Args:
        retry: The first wait of what found no room.
        retry_max: The longest wait of what never will find any.
        clock: Seconds.
    """

    def __init__(
        self, retry: timedelta, retry_max: timedelta, clock: Callable[[], float]
    ) -> None:
        self._retry = retry
        self._retry_max = retry_max
        self._clock = clock
        self._refused: dict[int, _Refused] = {}

    def __bool__(self) -> bool:
        return bool(self.waits())

    def waits(self) -> list[Wait]:
        """Return what those wait for who were refused not long ago."""
        recent = self._clock() - 2 * WAITS_S
        return [
            each.wait
            for each in self._refused.values()
            if each.wait is not None and each.at > recent
        ]

    def found_room(self, key: int, *, begun: bool) -> None:
        """Let an export wait no longer; forget how often it did once its body began.

        Before, its length may not be known, and much too long.
        """
        if begun:
            self._refused.pop(key, None)
        elif key in self._refused:
            self._refused[key].wait = None

    def refuse(
        self,
        key: int,
        wait: Wait,
        *,
        folder: Path,
        rest_bytes: int | None,
        free_bytes: int,
        never: bool,
    ) -> NoRoomError:
        """Return the error that says so, with the time of the next try.

        Args:
            key: Of the export.
            wait: What it waits for.
            folder: Of the spool.
            rest_bytes: Still to come; None while unknown.
            free_bytes: Above the reserve; negative if that is touched.
            never: The spool can never hold that file.
        """
        now = self._clock()
        forgotten = now - REMEMBERED_S - self._retry_max.total_seconds()
        self._refused = {
            other: each for other, each in self._refused.items() if each.at > forgotten
        }
        refused = self._refused.setdefault(key, _Refused())
        refused.times += 1
        refused.at, refused.wait = now, None if never else wait
        longest = self._retry_max if never else timedelta(seconds=WAITS_S)
        again = backoff.delay(
            refused.times,
            initial=self._retry,
            maximum=min(longest, self._retry_max),
            jitter=1.0,
        )
        text = f"the spool in {folder} has room for {size(max(0, free_bytes))} above "
        text += "its reserve"
        if rest_bytes is not None:
            text += f", and {size(rest_bytes)} are to come"
        text += "; it can never hold that file" if never else ""
        return NoRoomError(
            "spool_full",
            f"{text}; free some space there, or set spool_dir to a larger disk",
            retry_after_s=again.total_seconds(),
            never=never,
        )
