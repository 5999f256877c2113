"""Draws a dashboard's panels from a real Prometheus, where there is no Grafana.

    python -m tests.dashboards http://127.0.0.1:9090 30m panels.png

shows the last 30 minutes of `deploy/grafana/dashboards/overview.json`. The numbers are
what Grafana would be given; how it looks is not.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from mirror.wording import size, span
from tests.afternoon import write
from tests.browser import Browser

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

OVERVIEW = Path(__file__).parents[1] / "deploy/grafana/dashboards/overview.json"
_COLORS = {"green": "#2e7d46", "orange": "#b45f06", "red": "#b3261e"}
_LINES = ("#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#1f78c1", "#ba43a9")
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_POINTS = 200
_ROW_PX = 38
_WIDTH_PX = 1280
_STYLE = """
body { margin: 0; padding: 12px; background: #111217; color: #ccccdc;
  font: 13px/1.35 "DejaVu Sans", sans-serif; }
h1 { font-size: 14px; margin: 0 0 10px; font-weight: normal; }
main { display: grid; grid-template-columns: repeat(24, 1fr); gap: 8px; }
section { background: #181b1f; border: 1px solid #2c3235; padding: 6px 8px;
  overflow: hidden; min-width: 0; }
h2 { font-size: 12px; margin: 0 0 4px; font-weight: 600; }
.stat { height: 70%; display: grid; place-items: center; color: #fff; font-size: 21px; }
table { border-collapse: collapse; width: 100%; font-size: 12px; }
td, th { text-align: left; padding: 2px 8px; border-bottom: 1px solid #2c3235;
  white-space: nowrap; }
svg { width: 100%; height: calc(100% - 42px); display: block; }
polyline { fill: none; stroke-width: 1.5px; }
svg text { fill: #8e8e9c; font-size: 10px; }
.legend { font-size: 11px; white-space: nowrap; }
"""

Series = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Span:
    """What is drawn, in seconds since 1970."""

    start: float
    end: float

    @property
    def step(self) -> int:
        """Seconds between two points."""
        return max(1, round((self.end - self.start) / _POINTS))

    def expr(self, text: str) -> str:
        """Return a query as Grafana would send it, for all there is."""
        for name, value in (
            ("$__rate_interval", f"{max(60, 4 * self.step)}s"),
            ("$__range", f"{round(self.end - self.start)}s"),
            ("$instance", ".*"),
        ):
            text = text.replace(name, value)
        return text


def _worded(value: float, unit: str | None) -> str:
    if not math.isfinite(value):
        return "-" if math.isnan(value) else "no end"
    match unit:
        case "s":
            return span(value) if abs(value) >= 1 else f"{value:.1f} s"
        case "bytes":
            return size(round(value))
        case "Bps":
            return f"{size(round(value))}/s"
        case "bool_yes_no":
            return "Yes" if value else "No"
        case _:
            return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _color(value: float, options: Mapping[str, Any]) -> str:
    steps = options.get("thresholds", {}).get("steps", [])
    passed = [s["color"] for s in steps if s["value"] is None or value >= s["value"]]
    return _COLORS.get(passed[-1] if passed else "", "transparent")


def _stat(panel: Mapping[str, Any], found: Sequence[Series]) -> str:
    options = panel["fieldConfig"]["defaults"]
    if not found:
        words = options.get("noValue", "no data")
        return f'<div class="stat" style="background:#2e7d46">{escape(words)}</div>'
    value = float(found[0]["value"][1])
    words = escape(_worded(value, options.get("unit")))
    color = _color(value, options)
    return f'<div class="stat" style="background:{color}">{words}</div>'


def _table(panel: Mapping[str, Any], answers: Mapping[str, Sequence[Series]]) -> str:
    """Return the rows of all queries, joined by their labels."""
    rows: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for ref, found in answers.items():
        value = "Value" if len(answers) == 1 else f"Value #{ref}"
        for series in found:
            labels = series["metric"]
            row = rows.setdefault(tuple(sorted(labels.items())), dict(labels))
            row[value] = float(series["value"][1])
    steps = {each["id"]: each["options"] for each in panel["transformations"]}
    order, names = steps["organize"]["indexByName"], steps["organize"]["renameByName"]
    columns = sorted(order, key=order.__getitem__)
    styles = {
        each["matcher"]["options"]: {p["id"]: p["value"] for p in each["properties"]}
        for each in panel["fieldConfig"]["overrides"]
    }
    body = sorted(rows.values(), key=lambda row: -row.get("Value #A", 0))
    return (
        "<table><tr>"
        + "".join(f"<th>{escape(names.get(name, name))}</th>" for name in columns)
        + "</tr>"
        + "".join(
            "<tr>"
            + "".join(
                _cell(row.get(name), styles.get(names.get(name, name), {}))
                for name in columns
            )
            + "</tr>"
            for row in body
        )
        + "</table>"
        + ("" if body else "<p>none</p>")
    )


def _cell(value: object, style: Mapping[str, Any]) -> str:
    if not isinstance(value, float):
        return f"<td>{escape(str(value or ''))}</td>"
    color = _color(value, style) if "custom.cellOptions" in style else "transparent"
    words = escape(_worded(value, style.get("unit")))
    return f'<td style="background:{color}">{words}</td>'


def _graph(
    panel: Mapping[str, Any], named: Iterable[tuple[str, Series]], at: Span
) -> str:
    lines = [
        (name, [(float(t), float(v)) for t, v in one["values"]]) for name, one in named
    ]
    every = [v for _, points in lines for _, v in points if math.isfinite(v)]
    if not every:
        return "<p>no data</p>"
    low, high = min(0.0, *every), max(every) or 1.0
    unit = panel["fieldConfig"]["defaults"].get("unit")

    def place(when: float, value: float) -> str:
        x = 70 + 520 * (when - at.start) / (at.end - at.start)
        return f"{x:.1f},{150 - 140 * (value - low) / (high - low):.1f}"

    drawn, legend = [], []
    for (name, points), color in zip(lines, _LINES * len(lines), strict=False):
        fit = " ".join(place(*point) for point in points if math.isfinite(point[1]))
        drawn.append(f'<polyline points="{fit}" stroke="{color}"/>')
        legend.append(f'<span style="color:{color}">&#9644; {escape(name)}</span>')
    ticks = [
        f'<text x="64" y="{153 - 140 * part:.0f}" text-anchor="end">'
        f"{escape(_worded(low + part * (high - low), unit))}</text>"
        f'<line x1="70" x2="590" y1="{150 - 140 * part:.0f}" '
        f'y2="{150 - 140 * part:.0f}" stroke="#2c3235"/>'
        for part in (0, 0.5, 1)
    ]
    times = [
        f'<text x="{70 + 520 * part:.0f}" y="166" text-anchor="middle">'
        f"{_clock(at.start + part * (at.end - at.start))}</text>"
        for part in (0.02, 0.25, 0.5, 0.75, 0.98)
    ]
    return (
        '<svg viewBox="0 0 600 170" preserveAspectRatio="none">'
        f"{''.join(ticks)}{''.join(times)}{''.join(drawn)}</svg>"
        f'<div class="legend">{" ".join(legend)}</div>'
    )


def _clock(when: float) -> str:
    return time.strftime("%H:%M", time.localtime(when))


async def page(dashboard: Mapping[str, Any], ask: Any, at: Span) -> str:
    """Return a dashboard as HTML.

    Args:
        dashboard: As Grafana reads it.
        ask: Takes a query, and `start`, `end` and `step` for a range; gives the series.
        at: What is shown.
    """
    sections = []
    whole = {"start": str(at.start), "end": str(at.end), "step": str(at.step)}
    for panel in dashboard["panels"]:
        answers, named = {}, []
        for query in panel.get("targets", ()):
            more = {"time": str(at.end)} if query["instant"] else whole
            found = await ask(at.expr(query["expr"]), **more)
            answers[query["refId"]] = found
            pattern = query.get("legendFormat") or ""
            for one in found:
                labels = one["metric"]
                name = _PLACEHOLDER.sub(lambda m, of=labels: of.get(m[1], ""), pattern)
                named.append((name, one))
        match panel["type"]:
            case "stat":
                body = _stat(panel, next(iter(answers.values())))
            case "table":
                body = _table(panel, answers)
            case "timeseries":
                body = _graph(panel, named, at)
            case _:
                continue
        place = panel["gridPos"]
        sections.append(
            f'<section style="grid-column:{place["x"] + 1}/span {place["w"]};'
            f"grid-row:{place['y'] + 1}/span {place['h']};"
            f'max-height:{place["h"] * _ROW_PX}px">'
            f"<h2>{escape(panel['title'])}</h2>{body}</section>"
        )
    return (
        f"<!doctype html><meta charset=utf-8><style>{_STYLE}"
        f"main {{ grid-auto-rows: {_ROW_PX - 8}px; }}</style>"
        f"<h1>{escape(dashboard['title'])}: the panels' data, from a real Prometheus, "
        "drawn without Grafana</h1>"
        f"<main>{''.join(sections)}</main>"
    )


async def picture(prometheus: str, seconds: float, path: Path) -> None:
    """Draw the last seconds of the overview."""
    dashboard = json.loads(OVERVIEW.read_text("utf-8"))
    now = time.time()
    async with aiohttp.ClientSession() as client:

        async def ask(expr: str, **more: str) -> list[Series]:
            name = "query_range" if "start" in more else "query"
            url = f"{prometheus}/api/v1/{name}"
            async with client.get(url, params={"query": expr, **more}) as answer:
                told = await answer.json()
            return list(told["data"]["result"])

        html = await page(dashboard, ask, Span(now - seconds, now))
    with tempfile.NamedTemporaryFile("w", suffix=".html") as file:
        file.write(html)
        file.flush()
        async with Browser.started() as browser:
            await browser.size(_WIDTH_PX, 900)
            await browser.open(f"file://{file.name}")
            write(path, await browser.screenshot(whole=True))


if __name__ == "__main__":
    _units = {"s": 1, "m": 60, "h": 3600}
    asyncio.run(
        picture(
            sys.argv[1],
            float(sys.argv[2][:-1]) * _units[sys.argv[2][-1]],
            Path(sys.argv[3]),
        )
    )
