"""The status as people read it in a terminal: the verdict, then the worst first."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mirror.cli import render

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import tzinfo

    from rich.console import Console, RenderableType

    Line = Sequence[RenderableType]

_SIGNS: Final = {
    "well": ("\N{CHECK MARK}", "bold green"),
    "look": ("!", "bold yellow"),
    "risk": ("\N{BALLOT X}", "bold red"),
}
_LISTS: Final = {
    "failing": ("cannot be read", "bold red"),
    "stale": ("stale", "yellow"),
    "paused": ("paused", "yellow"),
    "new": ("not read yet", ""),
    "fresh": ("fresh", "green"),
    "": ("no longer configured", "dim"),
}
"""How the list of a source is known, the worst first."""
_TARGETS: Final = {
    "problem": ("cannot be used", "bold red"),
    "paused_until": ("paused", "yellow"),
    "damaged_files": ("files damaged", "bold red"),
    "checked": ("well", "green"),
}
"""How a target is by the first that it has of these."""
_UNFETCHED: Final = ("ready", "fetching", "parked")
_BAR = 16
_TIGHTER: Final = (
    *((most, False) for most in (20, 10, 7, 5, 3)),
    *((most, True) for most in (20, 10, 7, 5, 4, 3, 2, 1)),
)
"""Lines of each list, and whether all is told in brief."""


def fitted(
    console: Console, status: Mapping[str, Any], zone: tzinfo, *, brief: bool = False
) -> Group:
    """Return the status, its lists as long as the terminal has lines for.

    Only where it may be `brief` it always fits.
    """
    shown = whole(status, zone)
    for most, short in _TIGHTER:
        height = len(console.render_lines(shown, pad=False))
        if height <= console.height or short > brief:
            break
        shown = whole(status, zone, most, brief=short)
    return shown


def whole(
    status: Mapping[str, Any],
    zone: tzinfo,
    most: int | None = None,
    *,
    brief: bool = False,
) -> Group:
    """Return the status.

    Args:
        status: As `/status.json` gives it.
        zone: Of the clock on the operator's wall.
        most: Lines of each list, the worst first; None for all.
        brief: Without remedies and empty lines.
    """
    now = datetime.fromisoformat(status["now"])
    sign, style = _SIGNS[status["headline"]["level"]]
    concerns = status["concerns"]
    verdict = Text(f"{sign} {status['headline']['text']}", style)
    more = _share(concerns, most)
    verdict.append(f"   {now.astimezone(zone):%H:%M:%S %Z}{more}", "not bold dim")
    parts: list[RenderableType] = [
        verdict,
        _grid((_concern(each, now, zone, brief) for each in concerns[:most]), gap=1),
        "",
        _grid(_counts(status, now), gap=3),
    ]
    for (name, *head), lines in (
        (("WHY IT IS NOT HERE YET",), _causes(status)),
        (("FETCHED NOW", "", "HERE", "LEFT", "NAME"), _transfers(status)),
        (("SOURCE", "LIST", "READ", "KEPT", "TO FETCH", "NOTE"), _sources(status, now)),
        (("TARGET", "STATE", "FREE", "OWED", "SEEN", "NOTE"), _targets(status, now)),
    ):
        rows = list(lines)
        titles = [name + _share(rows, most), *head]
        if rows:
            parts += ["", render.table(titles, rows[:most], cut=("NAME", "NOTE"))]
    return Group(*(part for part in parts if part or not brief))


def _share(rows: Sequence[object], most: int | None) -> str:
    shown = len(rows[:most])
    return f" ({shown} of {len(rows)})" * (shown < len(rows))


def _grid(lines: Iterable[Line], *, gap: int) -> Table:
    grid = Table.grid(padding=(0, gap, 0, 0))
    for line in lines:
        grid.add_row(*line)
    return grid


def _concern(
    concern: Mapping[str, Any], now: datetime, zone: tzinfo, brief: bool
) -> Line:
    text = Text(render.clean(concern["text"]))
    if concern["by"] is not None:
        by = datetime.fromisoformat(concern["by"]).astimezone(zone)
        word = "By" if by > now else "Since"
        text.append(f" {word} {by:%H:%M} ({_far(concern['by'], now)}).", "bold")
    return " -", text if brief else text.append(f" {concern['remedy']}", "dim")


def _counts(status: Mapping[str, Any], now: datetime) -> Iterator[Line]:
    counts = Text()
    for state, number in sorted(status["exports"].items()):
        counts.append_text(render.state(state)).append(f" {number}   ")
    yield "exports", counts or "none yet"
    owed = f"{status['owed']}"
    if status["held"]:
        owed += f" ({status['held']} held, to be proven: see `list --state ready`)"
    owed += f"   at risk {status['at_risk']}   lost by us {status['lost_by_us']}"
    if nearest := status["earliest_deadline"]:
        owed += f"   nearest deadline {_far(nearest, now)}"
    yield "owed", owed


def _causes(status: Mapping[str, Any]) -> Iterator[Line]:
    for cause in status["causes"]:
        error = render.clean(cause["error"])
        yield (f"{cause['number']} x {error} ({cause['source']})",)


def _transfers(status: Mapping[str, Any]) -> Iterator[Line]:
    for export in status["transfers"]:
        here, total = export["held_bytes"], export["total_bytes"]
        version = f"~{export['version']}" if export["version"] > 1 else ""
        yield (
            f"{export['source']}/{export['id']}{version}",
            ProgressBar(total or 1, here if total else 0, width=_BAR),
            f"{here / total:.0%} of {render.size(total)}" if total else "",
            render.span(export["left_seconds"]),
            render.clean(export["name"] or ""),
        )


def _sources(status: Mapping[str, Any], now: datetime) -> Iterator[Line]:
    known = {source["name"]: source for source in status["sources"]}
    states = dict.fromkeys(known, "")
    states |= {name: fresh["state"] for name, fresh in status["freshness"].items()}
    order = list(_LISTS)
    for name in sorted(states, key=lambda name: (order.index(states[name]), name)):
        source = known.get(name, {})
        exports, bad = Counter(source.get("exports")), source.get("bad_rows")
        yield (
            name,
            Text(*_LISTS[states[name]]),
            _far(source.get("last_success"), now) or "never",
            str(exports["saved"] + exports["doubtful"]),
            str(sum(exports[state] for state in _UNFETCHED) or ""),
            f"{bad} rows not understood" if bad else "",
        )


def _targets(status: Mapping[str, Any], now: datetime) -> Iterator[Line]:
    known = {target["name"]: target for target in status["targets"]}
    states = dict.fromkeys(known, _LISTS[""])
    for name in status["configured_targets"]:
        target = known.get(name, {})
        signs = (sign for key, sign in _TARGETS.items() if target.get(key))
        states[name] = next(signs, ("not looked at yet", ""))
    for name in sorted(states, key=lambda name: states[name] == _TARGETS["checked"]):
        target = known.get(name, {})
        files = target.get("owed_files")
        yield (
            name,
            Text(*states[name]),
            render.size(target.get("free_bytes")),
            f"{files}, {render.size(target['owed_bytes'])}" if files else "nothing",
            _far(target.get("checked"), now),
            render.clean(target.get("warning") or ""),
        )


def _far(moment: str | None, now: datetime) -> str:
    if moment is None:
        return ""
    return render.distance((datetime.fromisoformat(moment) - now).total_seconds())
