"""Words, times and numbers as HTML; texts from others are escaped."""

from __future__ import annotations

import re
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING

from mirror.wording import clean, size, span

if TYPE_CHECKING:
    from datetime import tzinfo

_LONGEST = 300
_CODE = re.compile("`([^`]+)`")
_DAY_S = 86_400


def text(value: object) -> str:
    """Return a text from anybody as HTML: cut, escaped, in its own direction."""
    words = clean(str(value))
    if len(words) > _LONGEST:
        words = f"{words[:_LONGEST]}…"
    return f"<bdi>{escape(words)}</bdi>"


def advice(words: str) -> str:
    """Return a text of ours as HTML; backticks become code."""
    return _CODE.sub(r"<code>\1</code>", escape(words))


def pill(kind: str, words: str) -> str:
    """Return a state as a coloured label."""
    return f'<span class="pill {kind}">{escape(words)}</span>'


def number(value: int) -> str:
    """Return a count with its thousands apart."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def amount(value: int | None) -> str:
    """Return bytes as people read them, in one piece."""
    return size(value).replace(" ", "\N{NO-BREAK SPACE}")


def length(seconds: float) -> str:
    """Return a duration in one piece."""
    return span(seconds).replace(" ", "\N{NO-BREAK SPACE}")


class Times:
    """Shows moments relative to now, by the clock on the operator's wall."""

    def __init__(self, now: datetime, zone: tzinfo) -> None:
        self.now = now
        self._zone = zone

    def relative(self, moment: str | None, *, never: str = "never") -> str:
        """Return `5 min ago` or `in 5 min`, with date and time as its title."""
        if moment is None:
            return escape(never)
        seconds = self.seconds(moment)
        if abs(seconds) < 1:
            return self._element(moment, "now")
        words = (
            f"{abs(seconds) / _DAY_S:.0f}\N{NO-BREAK SPACE}d"
            if abs(seconds) > 2 * _DAY_S
            else length(abs(seconds))
        )
        return self._element(moment, f"in {words}" if seconds > 0 else f"{words} ago")

    def clock(self, moment: str) -> str:
        """Return `14:05 CET`, with its day unless that is today's."""
        there = self._local(datetime.fromisoformat(moment))
        today = there.date() == self._local(self.now).date()
        return self._element(
            moment, there.strftime("%H:%M %Z" if today else "%d %b %H:%M %Z")
        )

    def full(self, moment: datetime) -> str:
        """Return date, time and zone."""
        return self._local(moment).strftime("%Y-%m-%d %H:%M:%S %Z")

    def seconds(self, moment: str) -> float:
        """Return the seconds until a moment; negative if it is past."""
        return (datetime.fromisoformat(moment) - self.now).total_seconds()

    def _local(self, moment: datetime) -> datetime:
        """Return local time, or UTC in a year that has no local time."""
        try:
            return moment.astimezone(self._zone)
        except OverflowError:
            return moment

    def _element(self, moment: str, words: str) -> str:
        title = self.full(datetime.fromisoformat(moment))
        return (
            f'<time datetime="{escape(moment)}" title="{escape(title)}">'
            f"{escape(words)}</time>"
        )
