"""The parts of the status page below its headline."""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import TYPE_CHECKING, Any, Final

from mirror.web import margin_chart
from mirror.web.html import advice, amount, length, number, pill, text

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from mirror.web.html import Times

    Said = Container[tuple[str, str]]

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
_TOLD_ABOVE: Final = {"saved", "lost", *_UNFETCHED}
"""States of which the list of the latest exports says no more."""
_FIRST: Final = 10
_NAMED: Final = 5
_WITHOUT_ERROR: Final = {"spooled", "doubtful", "waiting"}
"""States in which the last error is of the past."""
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


def _table(head: Iterable[str], lines: Sequence[str]) -> str:
    """Return a table; beyond ten rows it is seen on the whole page alone."""
    # No link to an anchor: a page at an anchor does not reload itself.
    cells = "".join(f'<th scope="col">{name}</th>' for name in head)
    first, rest = "".join(lines[:_FIRST]), lines[_FIRST:]
    more = "".join(line.replace("<tr>", '<tr class="more">', 1) for line in rest)
    links = (
        f'<p class="unfold"><a href="?all">{len(rest)} more</a></p>'
        f'<p class="fold"><a href="?">the first {_FIRST} only</a></p>'
    )
    return (
        f"<table><thead><tr>{cells}</tr></thead><tbody>{first}{more}</tbody></table>"
        f"{links * bool(rest)}"
    )


def _causes(found: Iterable[tuple[str, str, int]]) -> tuple[str, Said]:
    """Say once what stops several files, given as (source, error, how many).

    Returns also of which (source, error) a row need not say more.
    """
    files: dict[str, Counter[str]] = {}
    for source, error, times in found:
        files.setdefault(error, Counter())[source] += times
    lines, said = [], []
    for error, of in sorted(files.items(), key=lambda one: -one[1].total()):
        if of.total() > 1:
            names = ", ".join(sorted(of)[:_NAMED])
            names += f" and {len(of) - _NAMED} more" * (len(of) > _NAMED)
            lines.append(
                f"<li><b>{number(of.total())} &times;</b> {text(error)} "
                f'<span class="soft">({text(names)})</span></li>'
            )
            said += [(source, error) for source in of]
    errors = Counter(source for source, _ in said)
    plain = {one for one in said if errors[one[0]] == 1}
    return f'<ul class="causes">{"".join(lines)}</ul>', plain


def _meanings(exports: Iterable[Mapping[str, Any]]) -> str:
    """Return what each word in a table means, and what to do."""
    known = {
        f"<p><code>{text(export['why'].partition(':')[0])}</code> "
        f"{advice(export['advice'])}</p>": None
        for export in exports
        if export["advice"]
    }
    return f'<div class="meanings">{"".join(known)}</div>'


def kept(exports: Mapping[str, int]) -> int:
    """Return how many exports are on every required target."""
    return exports.get("saved", 0) + exports.get("doubtful", 0)


def margins(status: Mapping[str, Any], times: Times) -> str:
    """Return the picture of margins."""
    words, plot = margin_chart.margins(status, times)
    return _card("Time left when a file was safe here", words, plot)


def urgent(status: Mapping[str, Any], times: Times) -> str:
    """Return what is still to be fetched."""
    held = status["held"]
    apart = f"{number(held)} held until proven" if held else ""
    if not status["open"]:
        return _card("To be fetched", apart or "nothing", "")
    causes, said = _causes(
        (one["source"], one["error"], one["number"]) for one in status["causes"]
    )
    lines = [_open(export, said, times) for export in status["open"]]
    total = sum(status["exports"].get(s, 0) for s in _UNFETCHED) - held
    note = "nearest deadline first"
    if total > len(lines):
        note += f"; these {len(lines)} of {number(total)}"
    note += f"; {apart}" if held else ""
    head = ("Export", "State", "Its file goes", "Fetched", "Why it is not here yet")
    table = _table(head, lines)
    body = f"{causes}{table}{_meanings(status['open'])}"
    return _card("To be fetched", note, body, "long why")


def _open(export: Mapping[str, Any], said: Said, times: Times) -> str:
    deadline = export["deadline"]
    life = "deadline unknown"
    if deadline is not None:
        kind = "bad" if export["at_risk"] else ""
        life = (
            f'<span class="{kind}">{times.relative(deadline)}</span> '
            f'<span class="soft">{times.clock(deadline)}</span>'
        )
    here, total = export["held_bytes"], export["total_bytes"]
    part = f"{amount(here)} {f'of {amount(total)}' if total else 'so far'}" * bool(here)
    part += margin_chart.bar(here / total) if here and total else ""
    return (
        f'<tr><td>{_name(export)}</td><td class="state">{_state(export)}</td>'
        f'<td class="keep">{life}</td><td class="keep got">{part}</td>'
        f'<td class="wide">{_why(export, times, said)}</td></tr>'
    )


def sources(status: Mapping[str, Any], times: Times) -> str:
    """Return how each source is, the worst first."""
    sources = {source["name"]: source for source in status["sources"]}
    names = [*status["freshness"], *(sources.keys() - status["freshness"].keys())]
    lines = [
        _source(name, sources.get(name, {}), status["freshness"].get(name), times)
        for name in sorted(names, key=lambda name: _worst_first(name, status))
    ]
    head = ("Source", "List", "Last read")
    return _card("Sources", "worst first", _table(head, lines))


def _worst_first(name: str, status: Mapping[str, Any]) -> tuple[int, str, str]:
    fresh = status["freshness"].get(name)
    if fresh is None:
        return len(_FRESH), "", name
    order = ("failing", "stale", "paused", "new", "fresh")
    return order.index(fresh["state"]), fresh["unseen_files_expire"] or "", name


def _source(
    name: str, source: Mapping[str, Any], fresh: Mapping[str, Any] | None, times: Times
) -> str:
    kind, words = _FRESH[fresh["state"]] if fresh else ("rest", "not configured")
    exports = source.get("exports", {})
    held = source.get("held", 0)
    owed = sum(exports.get(state, 0) for state in _UNFETCHED) - held
    doubtful = exports.get("doubtful", 0)
    counts = f"{number(kept(exports))} kept"
    counts += f" ({number(doubtful)} doubtful)" if doubtful else ""
    counts += f", {number(owed)} to fetch" if owed else ""
    counts += f", {number(held)} held until proven" if held else ""
    notes = [f"<p>{counts}</p>"]
    if source.get("paused_until"):
        notes.append(f"<p>paused until {times.clock(source['paused_until'])}</p>")
    if source.get("problem") and not (fresh and fresh["state"] == "failing"):
        notes.append(f'<p class="warn">{text(source["problem"])}</p>')
    if fresh and fresh["unseen_files_expire"]:
        notes.append(
            '<p class="warn">unseen files expire from '
            f"{times.clock(fresh['unseen_files_expire'])}</p>"
        )
    if source.get("bad_rows"):
        notes.append(
            f"<p>{number(source['bad_rows'])} rows could not be understood</p>"
        )
    if source.get("left_out"):
        notes.append(
            f"<p>{number(source['left_out'])} rows without a file are not taken in</p>"
        )
    if fresh and fresh["token_expires"]:
        notes.append(f"<p>token ends {times.relative(fresh['token_expires'])}</p>")
    read = times.relative(source.get("last_success"))
    return (
        f"<tr><td>{text(name)}{''.join(notes)}</td>"
        f'<td class="state">{pill(kind, words)}</td>'
        f'<td class="keep" data-label="read">{read}</td></tr>'
    )


def targets(status: Mapping[str, Any], times: Times) -> str:
    """Return how each target is, and the spool."""
    targets = {target["name"]: target for target in status["targets"]}
    configured = status["configured_targets"]
    lines = [
        _target(name, targets.get(name, {}), name in configured, times)
        for name in [*configured, *sorted(targets.keys() - set(configured))]
    ]
    spool = status["spool"]
    lines.append(
        "<tr><td>spool<p>files on their way to the targets</p></td>"
        f'<td class="state">{pill("rest", "local")}</td>'
        f'<td class="keep" data-label="free">{amount(spool["free_bytes"])}</td>'
        f'<td class="keep" data-label="holds">{amount(spool["bytes"])}</td></tr>'
    )
    head = ("Target", "State", "Free", "Owed")
    return _card("Targets", "", _table(head, lines))


def _target(
    name: str, target: Mapping[str, Any], is_configured: bool, times: Times
) -> str:
    notes = ""
    if target.get("paused_until"):
        notes += f"<p>paused until {times.clock(target['paused_until'])}</p>"
    if target.get("problem") and (target["paused_until"] or not is_configured):
        notes += f'<p class="warn">{text(target["problem"])}</p>'
    if target.get("warning"):
        notes += f"<p>{text(target['warning'])}</p>"
    if target.get("damaged_files"):
        notes += f'<p class="bad">{number(target["damaged_files"])} damaged or gone</p>'
    kind, words = _target_state(target, is_configured=is_configured)
    files = target.get("owed_files", 0)
    owed = "nothing"
    if files:
        unit = "file" if files == 1 else "files"
        owed = f"{number(files)} {unit}, {amount(target['owed_bytes'])}"
    if target.get("checked"):
        notes += f"<p>looked at {times.relative(target['checked'])}</p>"
    return (
        f'<tr><td>{text(name)}{notes}</td><td class="state">{pill(kind, words)}</td>'
        f'<td class="keep" data-label="free">{amount(target.get("free_bytes"))}</td>'
        f'<td class="keep" data-label="owed">{owed}</td></tr>'
    )


def _target_state(target: Mapping[str, Any], *, is_configured: bool) -> tuple[str, str]:
    """Return the kind of pill and the words on it."""
    if not is_configured:
        return "rest", "not configured"
    if not target.get("checked"):
        return "rest", "not looked at yet"
    if target["paused_until"]:
        return "look", "paused"
    if target["problem"]:
        return "look", "cannot be used"
    return ("look", "damaged files") if target["damaged_files"] else ("well", "well")


def losses(status: Mapping[str, Any], times: Times) -> str:
    """Return what was lost by us."""
    total = status["lost_by_us"]
    if not status["lost"]:
        return _card("Losses", "none" if not total else f"{number(total)} ever", "")
    causes, said = _causes(
        (export["source"], export["last_error"], 1)
        for export in status["lost"]
        if export["last_error"]
    )
    lines = [_loss(export, said, times) for export in status["lost"]]
    table = _table(("Export", "Its deadline was", "Why"), lines)
    note = f"{number(total)} ever, the latest first"
    body = f"{causes}{table}{_meanings(status['lost'])}"
    return _card("Losses", note, body, "long why")


def _loss(export: Mapping[str, Any], said: Said, times: Times) -> str:
    deadline = times.relative(export["deadline"])
    return (
        f'<tr><td>{_name(export)}</td><td class="keep" data-label="deadline">{deadline}'
        f'</td><td class="wide">{_why(export, times, said)}</td></tr>'
    )


def recent(status: Mapping[str, Any], times: Times) -> str:
    """Return the latest exports."""
    if not status["recent"]:
        return _card("Latest exports", "none listed yet", "")
    lines = [_latest(export, times) for export in status["recent"]]
    table = _table(("Export", "State", "Made", "Size", "Margin"), lines)
    rest = [export for export in status["recent"] if not _is_told_above(export)]
    note = f"the latest {len(lines)}"
    return _card("Latest exports", note, table + _meanings(rest), "long")


def _is_told_above(export: Mapping[str, Any]) -> bool:
    return export["state"] in _TOLD_ABOVE and not export["asked_again"]


def _latest(export: Mapping[str, Any], times: Times) -> str:
    margin_s = export["margin_seconds"]
    margin = ""
    if margin_s is not None:
        kind = {"dot-risk": "bad", "dot-look": "warn"}.get(
            margin_chart.tone(margin_s), ""
        )
        margin = f'<span class="{kind}">{length(margin_s)}</span>'
    made = times.relative(export["created_at"], never="unknown")
    size = "" if export["size_bytes"] is None else amount(export["size_bytes"])
    copies = ", ".join(f"{copy['target']} {copy['state']}" for copy in export["copies"])
    why = "" if _is_told_above(export) else _why(export, times)
    why = f"<p>{why}</p>" if why else ""
    return (
        f'<tr><td class="line">{_name(export)}{why}</td>'
        f'<td class="state" title="{escape(copies)}">'
        f'{_state(export)}</td><td class="keep">{made}</td><td class="keep">{size}</td>'
        f'<td class="keep" data-label="margin">{margin}'
        "</td></tr>"
    )


def _name(export: Mapping[str, Any]) -> str:
    name = (
        text(export["name"]) if export["name"] else '<span class="soft">no name</span>'
    )
    camera = "" if export["camera_id"] is None else f", camera {export['camera_id']}"
    version = f"~{export['version']}" if export["version"] > 1 else ""
    label = f"{text(export['source'])}/{export['id']}{version}{camera}"
    return f'{name} <span class="label">{label}</span>'


def _state(export: Mapping[str, Any]) -> str:
    return pill(_KINDS.get(export["state"], "rest"), export["state"])


def _why(export: Mapping[str, Any], times: Times, said: Said = ()) -> str:
    """Return reason and last error, unless that is said already."""
    word = export["why"]
    words = [f"<code>{text(word)}</code>"] if word not in {None, "ready"} else []
    if export["note"]:
        words.append(f"noted: {text(export['note'])};")
    if export["doubt"]:
        words.append(f"{text(export['doubt'])};")
    if export["asked_again"]:
        words.append(f"Asked again {times.relative(export['asked_again'])}.")
    elif export["state"] == "spooled" and not export["advice"]:
        words.append("safe here, on its way to the targets")
    if export["last_error"] and export["state"] not in _WITHOUT_ERROR:
        tries = export["attempts"]
        known = (export["source"], export["last_error"]) in said
        error = "" if known else f": {text(export['last_error'])}"
        words.append(
            f'<span class="soft">after {tries} {"try" if tries == 1 else "tries"}'
            f"{error}</span>"
        )
    return " ".join(words)
