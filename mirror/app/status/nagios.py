"""`status --nagios`: the status as one line of a monitoring plugin.

Format and exit codes: https://www.monitoring-plugins.org/doc/guidelines.html
"""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from mirror.app.status import overview
from mirror.errors import ConfigError, MirrorError
from mirror.wording import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mirror.config import Settings

_LONGEST = 480
"""With the figures it stays below 1024 bytes, more than which some agents cut off."""
_NAMED = 3


class Result(IntEnum):
    """What the exit code says."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


def answer(read: Callable[[], Settings]) -> tuple[Result, str]:
    """Return the exit code and the line, whatever happens.

    `read` gives the configuration, or raises ConfigError.
    """
    try:
        return judge(overview.beside(read()))
    except ConfigError as exc:
        text = f"configuration: {exc.problems[0]}"
    except MirrorError as exc:
        text = str(exc)
    except Exception as exc:  # noqa: BLE001 -- a plugin answers, whatever happens
        text = f"unexpected failure ({type(exc).__name__}); see `archive-mirror status`"
    return Result.UNKNOWN, line(Result.UNKNOWN, text)


def line(result: Result, text: str, figures: str = "") -> str:
    """Return the line to print: what is so, and the figures."""
    plain = " ".join(clean(text).replace("|", "/").split())
    while len(plain.encode()) > _LONGEST:
        plain = plain[: len(plain) - 8].rstrip() + "..."
    return f"ARCHIVE-MIRROR {result.name} - {plain}{figures and ' | ' + figures}"


def judge(status: Mapping[str, Any]) -> tuple[Result, str]:
    """Return the exit code and the line for what `/status.json` gives.

    Critical: the service is dead, footage is at risk, or was lost and nobody has taken
    note. Warning: anything else that somebody should look at.
    """
    concerns = status["concerns"]
    texts = [f"{concern['text']} {concern['remedy']}" for concern in concerns]
    result = Result.WARNING if concerns else Result.OK
    if status["unacknowledged"] or any(
        concern["level"] == "risk" for concern in concerns
    ):
        result = Result.CRITICAL
    more = len(texts) - _NAMED
    text = " ".join(texts[:_NAMED]) or _well(status)
    if more > 0:
        text = f"{more + _NAMED} things: {text}"
    return result, line(result, text, " ".join(_figures(status)))


def _well(status: Mapping[str, Any]) -> str:
    exports = status["exports"]
    doubtful = exports.get("doubtful", 0)
    kept = f"{exports.get('saved', 0)} exports saved"
    kept += f", {doubtful} doubtful" if doubtful else ""
    held = f" ({status['held']} held)" if status["held"] else ""
    return f"{kept}, {status['owed']} owed{held}, none at risk"


def _figures(status: Mapping[str, Any]) -> Iterator[str]:
    """Yield 'label'=value[unit];[warning];[critical];[least]."""
    now = datetime.fromisoformat(status["now"])
    yield f"owed={status['owed']};;;0"
    yield f"at_risk={status['at_risk']};;0;0"
    yield f"lost={status['lost_by_us']}c"
    yield f"doubtful={status['exports'].get('doubtful', 0)};;;0"
    yield f"unacknowledged={status['unacknowledged']};;0;0"
    read = [
        source["last_success"]
        for source in status["sources"]
        if source["name"] in status["freshness"]
    ]
    if read and all(read):
        age = now - datetime.fromisoformat(min(read))
        yield f"list_age={age.total_seconds():.0f}s;;;0"
    if status["earliest_deadline"]:
        left = datetime.fromisoformat(status["earliest_deadline"]) - now
        yield f"deadline_left={left.total_seconds():.0f}s;;1800:"
    targets = [
        target
        for target in status["targets"]
        if target["name"] in status["configured_targets"]
    ]
    down = sum(target["problem"] is not None for target in targets)
    yield f"targets_down={down};0;;0"
    for target in targets:
        if target["free_bytes"] is not None:
            yield f"free_{target['name']}={target['free_bytes']}B;;;0"
