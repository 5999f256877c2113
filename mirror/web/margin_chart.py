"""Margins to deadlines as a chart: inline SVG that needs no script and no style."""

from __future__ import annotations

from html import escape
from statistics import median
from typing import TYPE_CHECKING, Any

from mirror.web.html import length
from mirror.wording import clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mirror.web.html import Times

SHORT_S = 1800.0
"""A margin that leaves no time for a second try by hand."""
_TOP, _BOTTOM, _FLOOR = 14.0, 206.0, 224.0
_LEFT, _RIGHT = 1.5, 97.0
_STEPS_S = (
    *(10, 30, 60, 120, 300, 600, 900, 1800),
    *(3600, 7200, 10800, 21600, 43200, 86400, 2 * 86400, 7 * 86400, 30 * 86400),
)
_MOST_TICKS = 5
_HEIGHTS = (
    *((60.0, 4), (300.0, 5), (600.0, 5), (1200.0, 4), (3600.0, 4), (7200.0, 4)),
    *((10800.0, 3), (14400.0, 4), (21600.0, 3), (43200.0, 4), (86400.0, 4)),
)
"""Heights of the plot in seconds, and how many round parts each has."""
_NAME = 60
_NONE = "No file has been fetched yet"


def margins(status: Mapping[str, Any], times: Times) -> tuple[str, str]:
    """Return when files were fetched, and how much time was left: words and a plot."""
    kept = [
        export for export in status["recent"] if export["margin_seconds"] is not None
    ]
    waiting = [
        export for export in status["open"] if export["left_seconds"] is not None
    ]
    if not kept and not waiting:
        return _NONE, ""
    oldest = min(
        (times.seconds(export["spooled_at"]) for export in kept), default=-60.0
    )
    width_s = max(60.0, -oldest)
    lost = [
        export
        for export in status["lost"]
        if export["deadline"] is not None
        and -width_s <= times.seconds(export["deadline"]) <= 0
    ]
    margins_s = [export["margin_seconds"] for export in kept]
    most_s = max([60.0, *margins_s, *(export["left_seconds"] for export in waiting)])
    plot = _Plot(
        width_s, *next((each for each in _HEIGHTS if most_s <= each[0]), (most_s, 1))
    )
    marks = [
        *plot.frame(),
        *(
            plot.cross(times.seconds(export["deadline"]), _label(export))
            for export in lost
        ),
        *(
            plot.dot(
                times.seconds(export["spooled_at"]),
                export["margin_seconds"],
                _label(export),
            )
            for export in kept
        ),
        *(plot.diamond(export["left_seconds"], _label(export)) for export in waiting),
    ]
    words = _NONE
    if kept:
        words = (
            f"of the latest {len(kept)}: least {length(min(margins_s))}, "
            f"half of them more than {length(median(margins_s))}"
        )
    return words, (
        f'<svg class="plot" role="img" aria-label="{escape(words)}">'
        f"{''.join(marks)}</svg>{_LEGEND}"
    )


def bar(share: float) -> str:
    """Return how much of a file is here as a bar; 1 is all of it."""
    width = min(1.0, max(0.0, share)) * 100
    return (
        '<svg class="bar" aria-hidden="true"><rect class="track" width="100%" '
        f'height="6" rx="3"/><rect class="part" width="{width:.1f}%" '
        'height="6" rx="3"/></svg>'
    )


def tone(left_s: float) -> str:
    """Return the class that colours a margin."""
    if left_s <= 0:
        return "dot-risk"
    return "dot-look" if left_s < SHORT_S else "dot-well"


class _Plot:
    """Places moments from left to right in percent, margins from top to bottom in px.

    Percent of the width and px of the height keep circles round and texts readable on
    any screen, without a script.
    """

    def __init__(self, width_s: float, height_s: float, parts: int) -> None:
        self._width_s = width_s
        self._height_s = height_s
        self._parts = parts

    def frame(self) -> Iterator[str]:
        """Yield the grid, its words, and the zone without time for a second try."""
        short = self._y(min(SHORT_S, self._height_s))
        yield (
            f'<rect class="zone" x="0" y="{short:.1f}" width="100%" '
            f'height="{_BOTTOM - short:.1f}"/>'
        )
        for part in range(self._parts + 1):
            left_s = self._height_s * part / self._parts
            y = self._y(left_s)
            kind = "zero" if part == 0 else "grid"
            yield f'<line class="{kind}" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>'
            words = "deadline" if part == 0 else length(left_s)
            yield f'<text x="-10" y="{y + 4:.1f}" text-anchor="end">{words}</text>'
        step = next(
            (s for s in _STEPS_S if self._width_s / s <= _MOST_TICKS), _STEPS_S[-1]
        )
        for number in range(int(self._width_s / step) + 1):
            x = self._x(-number * step)
            words = "now" if number == 0 else f"-{length(number * step)}"
            yield f'<text x="{x:.2f}%" y="244" text-anchor="middle">{words}</text>'
            yield (
                f'<line class="grid" x1="{x:.2f}%" x2="{x:.2f}%" y1="{_BOTTOM}" '
                f'y2="{_BOTTOM + 5}"/>'
            )

    def dot(self, at_s: float, left_s: float, label: str) -> str:
        """Return a kept file."""
        return (
            f'<circle class="{tone(left_s)}" cx="{self._x(at_s):.2f}%" '
            f'cy="{self._y(left_s):.1f}" r="4.5" fill-opacity=".8">'
            f"<title>{label}</title></circle>"
        )

    def diamond(self, left_s: float, label: str) -> str:
        """Return a file that is not fetched yet, on the edge of now."""
        return (
            f'<svg x="{self._x(0):.2f}%" y="{self._y(left_s):.1f}" overflow="visible">'
            f'<path class="open {tone(left_s)}" d="M0-6 6 0 0 6-6 0Z">'
            f"<title>{label}</title></path></svg>"
        )

    def cross(self, at_s: float, label: str) -> str:
        """Return a lost file."""
        return (
            f'<svg x="{self._x(at_s):.2f}%" y="{_BOTTOM}" overflow="visible">'
            f'<path class="cross" d="M-5-5 5 5M5-5-5 5"><title>{label}</title></path>'
            "</svg>"
        )

    def _x(self, at_s: float) -> float:
        share = 1 + max(-self._width_s, min(0.0, at_s)) / self._width_s
        return _LEFT + (_RIGHT - _LEFT) * share

    def _y(self, left_s: float) -> float:
        if left_s < 0:
            return min(_FLOOR, _BOTTOM + 12)
        return _BOTTOM - (_BOTTOM - _TOP) * min(1.0, left_s / self._height_s)


def _label(export: Mapping[str, Any]) -> str:
    name = str(export["name"] or "")[:_NAME]
    words = f"{export['source']}/{export['id']} {name}: {export['state']}"
    left_s = export["margin_seconds"]
    if left_s is not None:
        words += f", {length(left_s)} before its deadline"
    return escape(clean(words))


_LEGEND = (
    '<p class="legend">'
    '<span><svg width="12" height="12"><circle class="dot-well" cx="6" cy="6" r="4.5"/>'
    "</svg>fetched in time</span>"
    '<span><svg width="12" height="12"><circle class="dot-look" cx="6" cy="6" r="4.5"/>'
    "</svg>less than 30 min left</span>"
    '<span><svg width="14" height="14" viewBox="-7 -7 14 14">'
    '<path class="open dot-well" d="M0-5 5 0 0 5-5 0Z"/></svg>not fetched yet</span>'
    '<span><svg width="12" height="12" viewBox="-6 -6 12 12">'
    '<path class="cross" d="M-4-4 4 4M4-4-4 4"/></svg>lost</span></p>'
)
