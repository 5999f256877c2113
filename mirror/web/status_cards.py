"""The parts of the status page below its headline."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

from mirror.web import margin_chart
from mirror.web.html import advice, amount, length, number, pill, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mirror.web.html import Times

_KINDS: Final = {
    "saved": "well",
    "doubtful": "look",
    "spooled": "well",
    "ready": "calm",
    "fetching": "calm",
    "parked": "look",
    "damaged": "look",
    "lost": "risk",
}
_UNFETCHED: Final = ("ready", "fetching", "parked")
_FRESH: Final = {
    "fresh": ("well", "fresh"),
    "stale": ("look", "stale"),
    "failing": ("look", "cannot be read"),
    "new": ("rest", "not read yet"),
    "paused": ("look", "paused"),
}


def _card(title: str, note: str, body: str, kind: str = "") -> str:
    return (
        f'<section class="card {kind}"><div class="head"><h2>{title}</h2>'
        f'<span class="soft">{note}</span></div>{body}</section>'
    )


def _table(head: Iterable[str], lines: Iterable[str]) -> str:
    cells = "".join(f'<th scope="col">{name}</th>' for name in head)
    return (
        f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )


def kept(exports: Mapping[str, int]) -> int:
    """Return how many exports are on every required target."""
    return exports.get("saved", 0) + exports.get("doubtful", 0)


def margins(status: Mapping[str, Any], times: Times) -> str:
    """Return the picture of margins."""
    lefts = [
        one["margin_seconds"]
        for one in status["recent"]
        if one["margin_seconds"] is not None
    ]
    return _card(
        "Time left when a file was safe here",
        margin_chart.summary(lefts),
        margin_chart.margins(status, times),
    )


def urgent(status: Mapping[str, Any], times: Times) -> str:
    """Return what is still to be fetched."""
    held = status["held"]
    apart = f"{number(held)} held until proven" if held else ""
    if not status["open"]:
        return _card("To be fetched", apart or "nothing", "")
    lifetimes = {
        name: one["file_lifetime_seconds"] for name, one in status["freshness"].items()
    }
    lines = [
        _open(one, lifetimes.get(one["source"], 10_800), times)
        for one in status["open"]
    ]
    total = sum(status["exports"].get(s, 0) for s in _UNFETCHED) - held
    note = "nearest deadline first"
    if total > len(lines):
        note += f"; these {len(lines)} of {number(total)}"
    note += f"; {apart}" if held else ""
    head = ("Export", "State", "Its file goes", "Why it is not here yet")
    return _card("To be fetched", note, _table(head, lines), "long why")


def _open(one: Mapping[str, Any], lifetime_s: float, times: Times) -> str:
    deadline, left_s = one["deadline"], one["left_seconds"]
    life = "deadline unknown"
    if deadline is not None:
        kind = "bad" if one["at_risk"] else ""
        life = (
            f'<span class="{kind}">{times.relative(deadline)}</span> '
            f'<span class="soft">{times.clock(deadline)}</span>'
            f"{margin_chart.bar(left_s, lifetime_s)}"
        )
    return (
        f'<tr><td>{_name(one)}</td><td class="state">{_state(one)}</td>'
        f'<td class="keep life">{life}</td>'
        f'<td class="wide">{_why(one, times)}</td></tr>'
    )


def sources(status: Mapping[str, Any], times: Times) -> str:
    """Return how each source is, the worst first."""
    known = {one["name"]: one for one in status["sources"]}
    names = [*status["freshness"], *(known.keys() - status["freshness"].keys())]
    lines = [
        _source(name, known.get(name, {}), status["freshness"].get(name), times)
        for name in sorted(names, key=lambda name: _worst_first(name, status))
    ]
    head = ("Source", "List", "Last read")
    return _card("Sources", "worst first", _table(head, lines))


def _worst_first(name: str, status: Mapping[str, Any]) -> tuple[int, str]:
    fresh = status["freshness"].get(name)
    order = ("failing", "stale", "paused", "new", "fresh")
    return (order.index(fresh["state"]) if fresh else len(order), name)


def _source(
    name: str, one: Mapping[str, Any], fresh: Mapping[str, Any] | None, times: Times
) -> str:
    kind, words = _FRESH[fresh["state"]] if fresh else ("rest", "not configured")
    exports = one.get("exports", {})
    held = one.get("held", 0)
    owed = sum(exports.get(state, 0) for state in _UNFETCHED) - held
    doubtful = exports.get("doubtful", 0)
    counts = f"{number(kept(exports))} kept"
    counts += f" ({number(doubtful)} doubtful)" if doubtful else ""
    counts += f", {number(owed)} to fetch" if owed else ""
    counts += f", {number(held)} held until proven" if held else ""
    told = [f"<p>{counts}</p>"]
    if one.get("paused_until"):
        told.append(f"<p>paused until {times.clock(one['paused_until'])}</p>")
    if one.get("problem"):
        told.append(f'<p class="warn">{text(one["problem"])}</p>')
    if fresh and fresh["unseen_files_expire"]:
        told.append(
            '<p class="warn">what it makes now goes unseen; files of it expire from '
            f"{times.clock(fresh['unseen_files_expire'])} on</p>"
        )
    if one.get("bad_rows"):
        told.append(f"<p>{number(one['bad_rows'])} rows could not be understood</p>")
    if one.get("left_out"):
        told.append(
            f"<p>{number(one['left_out'])} rows without a file are not taken in</p>"
        )
    if fresh and fresh["token_expires"]:
        told.append(f"<p>token ends {times.relative(fresh['token_expires'])}</p>")
    return (
        f"<tr><td>{text(name)}{''.join(told)}</td>"
        f'<td class="state">{pill(kind, words)}</td>'
        f'<td class="keep" data-label="read">{times.relative(one.get("last_success"))}'
        "</td></tr>"
    )


def targets(status: Mapping[str, Any], times: Times) -> str:
    """Return how each target is, and the spool."""
    known = {one["name"]: one for one in status["targets"]}
    wanted = status["configured_targets"]
    lines = [
        _target(name, known.get(name, {}), name in wanted, times)
        for name in [*wanted, *sorted(known.keys() - set(wanted))]
    ]
    spool = status["spool"]
    lines.append(
        "<tr><td>spool<p>files on their way to the targets</p></td>"
        f'<td class="state">{pill("rest", "local")}</td>'
        f'<td class="keep" data-label="free">{amount(spool["free_bytes"])}</td>'
        f'<td class="keep" data-label="holds">{amount(spool["bytes"])}</td></tr>'
    )
    return _card("Targets", "", _table(("Target", "State", "Free", "Owed"), lines))


def _target(
    name: str,
    one: Mapping[str, Any],
    wanted: bool,
    times: Times,
) -> str:
    told = ""
    if one.get("paused_until"):
        told += f"<p>paused until {times.clock(one['paused_until'])}</p>"
    if one.get("problem"):
        told += f'<p class="warn">{text(one["problem"])}</p>'
    if one.get("warning"):
        told += f"<p>{text(one['warning'])}</p>"
    if one.get("damaged_files"):
        told += f'<p class="bad">{number(one["damaged_files"])} damaged or gone</p>'
    kind, words = _standing(one, wanted=wanted)
    files = one.get("owed_files", 0)
    owed = "nothing"
    if files:
        unit = "file" if files == 1 else "files"
        owed = f"{number(files)} {unit}, {amount(one['owed_bytes'])}"
    if one.get("checked"):
        told += f"<p>looked at {times.relative(one['checked'])}</p>"
    return (
        f'<tr><td>{text(name)}{told}</td><td class="state">{pill(kind, words)}</td>'
        f'<td class="keep" data-label="free">{amount(one.get("free_bytes"))}</td>'
        f'<td class="keep" data-label="owed">{owed}</td></tr>'
    )


def _standing(one: Mapping[str, Any], *, wanted: bool) -> tuple[str, str]:
    """Return the kind of pill and the words on it."""
    if not wanted:
        return "rest", "not configured"
    if not one.get("checked"):
        return "rest", "not looked at yet"
    if one["paused_until"]:
        return "look", "paused"
    if one["problem"]:
        return "look", "cannot be used"
    return ("look", "damaged files") if one["damaged_files"] else ("well", "well")


def losses(status: Mapping[str, Any], times: Times) -> str:
    """Return what was lost by us."""
    total = status["lost_by_us"]
    if not status["lost"]:
        return _card("Losses", "none" if not total else f"{number(total)} ever", "")
    lines = [
        f"<tr><td>{_name(one)}</td>"
        f'<td class="keep" data-label="deadline">{times.relative(one["deadline"])}</td>'
        f'<td class="wide">{_why(one, times)}</td></tr>'
        for one in status["lost"]
    ]
    head = ("Export", "Its deadline was", "Why, and what to do")
    note = f"{number(total)} ever, the latest first"
    return _card("Losses", note, _table(head, lines), "long why")


def recent(status: Mapping[str, Any], times: Times) -> str:
    """Return the latest exports."""
    if not status["recent"]:
        return _card("Latest exports", "none listed yet", "")
    lines = [_latest(one, times) for one in status["recent"]]
    head = ("Export", "State", "Made", "Size", "Margin")
    return _card(
        "Latest exports", f"the latest {len(lines)}", _table(head, lines), "long"
    )


def _latest(one: Mapping[str, Any], times: Times) -> str:
    margin_s = one["margin_seconds"]
    margin = ""
    if margin_s is not None:
        kind = {"dot-risk": "bad", "dot-look": "warn"}.get(
            margin_chart.tone(margin_s), ""
        )
        margin = f'<span class="{kind}">{length(margin_s)}</span>'
    made = times.relative(one["created_at"], never="unknown")
    size = "" if one["size_bytes"] is None else amount(one["size_bytes"])
    copies = [f"{copy['target']} {copy['state']}" for copy in one["copies"]]
    copied = ", ".join(copies)
    told = _why(one, times)
    why = f"<p>{told}</p>" if told else ""
    return (
        f'<tr><td class="line">{_name(one)}{why}</td>'
        f'<td class="state" title="{escape(copied)}">'
        f'{_state(one)}</td><td class="keep">{made}</td><td class="keep">{size}</td>'
        f'<td class="keep" data-label="margin">{margin}'
        "</td></tr>"
    )


def _name(one: Mapping[str, Any]) -> str:
    name = text(one["name"]) if one["name"] else '<span class="soft">no name</span>'
    camera = "" if one["camera_id"] is None else f", camera {one['camera_id']}"
    version = f"~{one['version']}" if one["version"] > 1 else ""
    label = f"{text(one['source'])}/{one['id']}{version}{camera}"
    return f'{name} <span class="label">{label}</span>'


def _state(one: Mapping[str, Any]) -> str:
    return pill(_KINDS.get(one["state"], "rest"), one["state"])


def _why(one: Mapping[str, Any], times: Times) -> str:
    """Return reason, last error and what to do; nothing for what is kept."""
    if one["state"] == "saved":
        return ""
    word = one["why"]
    told = [f"<code>{text(word)}</code>"] if word not in {None, "ready"} else []
    if one["note"]:
        told.append(f"noted: {text(one['note'])};")
    if one["doubt"]:
        told.append(f"{text(one['doubt'])};")
    if one["advice"]:
        told.append(advice(one["advice"]))
    if one["asked_again"]:
        told.append(f"Asked again {times.relative(one['asked_again'])}.")
    elif one["state"] == "spooled" and not one["advice"]:
        told.append("safe here, on its way to the targets")
    if one["last_error"] and one["state"] not in {"spooled", "doubtful", "waiting"}:
        tries = one["attempts"]
        told.append(
            f'<span class="soft">after {tries} {"try" if tries == 1 else "tries"}: '
            f"{text(one['last_error'])}</span>"
        )
    return " ".join(told)
