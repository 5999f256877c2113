"""The status page: one HTML document without script, from what `/status.json` gives."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import datetime
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from mirror.web import status_cards
from mirror.web.html import Times, advice, number, text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import tzinfo

RELOAD_S: Final = 30
_STYLE: Final = (
    resources.files("mirror.web").joinpath("status_page.css").read_text("utf-8")
)
_DIGEST: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS: Final = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_DIGEST}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_COLOURS: Final = {"well": "1f9d57", "look": "e09112", "risk": "d8362f"}
_GREY: Final = "7d8794"
_SIGNS: Final = {
    "well": '<path d="m8 15 5 5 9-10"/>',
    "look": '<path d="M15 7.5v9M15 22v.1"/>',
    "risk": '<path d="M15 7.5v9M15 22v.1"/>',
    "rest": '<path d="M8 15v.1M15 15v.1M22 15v.1"/>',
}
_MOMENT: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}) ([0-9]{2}:[0-9]{2}) UTC")
_CIRCLE: Final = '<circle cx="15" cy="15" r="15"/>'
_TRIANGLE: Final = '<path d="M15 0 30 27a2 2 0 0 1-2 3H2a2 2 0 0 1-2-3Z"/>'


def render(status: Mapping[str, Any], zone: tzinfo) -> str:
    """Return the page for what `/status.json` gives, with times in `zone`."""
    now = datetime.fromisoformat(status["now"])
    times = Times(now, zone)
    level, headline = status["headline"]["level"], status["headline"]["text"]
    if level == "well" and not any(status["exports"].values()):
        level, headline = "rest", "No export seen yet"
    body = (
        f"<header><b>archive-mirror</b><span>as of {times.full(now)}</span></header>"
        f"<main>{_banner(status, level, headline, times)}{_figures(status, times)}"
        f'<div class="pair">{status_cards.sources(status, times)}'
        f"{status_cards.targets(status, times)}</div>"
        f"{status_cards.losses(status, times)}{status_cards.urgent(status, times)}"
        f"{status_cards.margins(status, times)}{status_cards.recent(status, times)}"
        "</main>"
        f"<footer><span>archive-mirror {escape(status['version'])}; the page reloads "
        f"itself every {RELOAD_S} s</span>"
        '<a href="status.json">status.json</a></footer>'
    )
    return _document(level, headline, body)


def failure(reason: str) -> str:
    """Return the page for when the status cannot be read."""
    body = (
        '<main><section class="banner risk"><h1>'
        f"{_sign('risk')}The status cannot be told</h1><p>{escape(reason)}. "
        f"{advice('The log tells more: `journalctl -u archive-mirror`.')}</p>"
        "</section></main>"
    )
    return _document("risk", "The status cannot be told", body)


def _document(level: str, title: str, body: str) -> str:
    icon = (
        "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' "
        "viewBox='0 0 8 8'%3E%3Ccircle cx='4' cy='4' r='4' "
        f"fill='%23{_COLOURS.get(level, _GREY)}'/%3E%3C/svg%3E"
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="refresh" content="{RELOAD_S}">'
        '<meta name="robots" content="noindex">'
        f"<title>{escape(title)} · archive-mirror</title>"
        f'<link rel="icon" href="{icon}"><style>{_STYLE}</style></head>'
        f'<body><div class="page">{body}</div></body></html>'
    )


def _sign(level: str) -> str:
    outline = _TRIANGLE if level == "risk" else _CIRCLE
    return (
        '<svg width="34" height="34" viewBox="-2 -2 34 34" aria-hidden="true">'
        f'<g class="dot-{level}">{outline}</g><g fill="none" stroke="#fff" '
        'stroke-width="3.2" stroke-linecap="round" stroke-linejoin="round">'
        f"{_SIGNS[level]}</g></svg>"
    )


def _banner(status: Mapping[str, Any], level: str, headline: str, times: Times) -> str:
    concerns = "".join(_concern(concern, times) for concern in status["concerns"])
    return (
        f'<section class="banner {level}"><h1>{_sign(level)}'
        f"{escape(headline)}</h1>"
        + (f'<ul class="concerns">{concerns}</ul>' if concerns else "")
        + {"well": _well, "rest": _unseen}.get(level, lambda _: "")(status)
        + "</section>"
    )


def _well(status: Mapping[str, Any]) -> str:
    owed = status["owed"]
    on_way = (
        f"{number(owed)} {'is' if owed == 1 else 'are'} on the way, in good time"
        if owed
        else "nothing is owed"
    )
    on_way += f" ({number(status['held'])} held until proven)" * bool(status["held"])
    exports = status["exports"]
    kept, doubtful = status_cards.kept(exports), exports.get("doubtful", 0)
    verb = "export is" if kept == 1 else "exports are"
    doubt = f" ({number(doubtful)} doubtful)" if doubtful else ""
    return f"<p>{number(kept)} {verb} kept{doubt}; {on_way}.</p>"


def _unseen(status: Mapping[str, Any]) -> str:
    lists = [fresh["state"] for fresh in status["freshness"].values()]
    read = len(lists) - lists.count("new")
    words = f"{read} of {len(lists)} lists read, and no export is in them."
    if not read:
        words = "No list has been read yet."
    return f"<p>{words} What a VMS lists stands here after the next walk.</p>"


def _concern(concern: Mapping[str, Any], times: Times) -> str:
    by = ""
    if concern["by"] is not None:
        by = (
            f' <span class="by">By {times.clock(concern["by"])} '
            f"({times.relative(concern['by'])})</span>"
        )
    return (
        f'<li class="{concern["level"]}"><p>{_local(concern["text"], times)}{by}</p>'
        f"<p>{advice(concern['remedy'])}</p></li>"
    )


def _local(words: str, times: Times) -> str:
    """Return a text of ours as HTML, its moments by the operator's clock."""
    return _MOMENT.sub(
        lambda found: times.clock(f"{found[1]}T{found[2]}:00+00:00"), text(words)
    )


def _figures(status: Mapping[str, Any], times: Times) -> str:
    exports, nearest = status["exports"], status["earliest_deadline"]
    at_risk, lost = status["at_risk"], status["lost_by_us"]
    waiting, doubtful = exports.get("waiting", 0), exports.get("doubtful", 0)
    proven = f"{number(doubtful)} of them doubtful, all " if doubtful else ""
    held, on_way = status["held"], "have a file, are not kept yet"
    on_way += f"; {number(held)} held until proven" if held else ""
    figures = (
        (
            "",
            "Kept",
            number(status_cards.kept(exports)),
            f"{proven}on every required target",
        ),
        ("", "On the way", number(status["owed"]), on_way),
        (
            "risk" if at_risk else "",
            "At risk",
            number(at_risk),
            f"next deadline {times.relative(nearest)}"
            if nearest
            else "nothing to fetch",
        ),
        ("", "Waiting", number(waiting), "the VMS has no file of them now"),
        ("", "Lost", number(lost), "by us, ever" if lost else "none, ever"),
    )
    return f'<dl class="figures">{"".join(_figure(*each) for each in figures)}</dl>'


def _figure(kind: str, name: str, value: str, note: str) -> str:
    return (
        f'<div class="{kind}"><dt>{name}</dt>'
        f"<dd>{value}<small>{note}</small></dd></div>"
    )
