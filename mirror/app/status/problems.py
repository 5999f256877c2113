"""What somebody must act on, by when, and how; the worst first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from mirror.wording import distance, span

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SOON = timedelta(minutes=30)
_TOKEN_LEFT = timedelta(days=7)
_CLOCK_OFF_S = 60.0
_NAMED = 5

Level = Literal["risk", "look"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """One thing to act on.

    Attributes:
        level: `risk` if footage may be lost by it soon.
        text: What is so; may hold words of a VMS.
        by: When footage begins to be lost, ISO 8601; None if nothing runs out.
        remedy: What to do; commands stand in backticks.
    """

    level: Level = "look"
    text: str
    by: str | None = None
    remedy: str


def concerns_of(status: Mapping[str, Any]) -> list[Concern]:
    """Return what `/status.json` gives cause for."""
    now = datetime.fromisoformat(status["now"])
    found = [
        *_of_exports(status, now),
        *_of_unread(status, now),
        *_of_sources(status, now),
        *_of_targets(status, now),
        *_of_doubtful(status),
        *_of_losses(status),
    ]
    found.sort(key=lambda one: (one.level != "risk", one.by or "9"))
    return [*_of_service(status), *found]


def _of_service(status: Mapping[str, Any]) -> Iterator[Concern]:
    if not status["running"]:
        yield Concern(
            level="risk",
            text="The service does not run: nothing is fetched.",
            remedy="`systemctl status archive-mirror` tells why.",
        )
    if status["ledger_problem"] is not None:
        yield Concern(
            level="risk",
            text=f"The ledger cannot be written: {status['ledger_problem']}. Nothing "
            "new is fetched meanwhile.",
            remedy="Make room on the file system of state_dir, or mend it; work then "
            "goes on by itself.",
        )


def _of_exports(status: Mapping[str, Any], now: datetime) -> Iterator[Concern]:
    number = status["at_risk"]
    if number:
        first = next((one for one in status["open"] if one["at_risk"]), None)
        by = first["deadline"] if first else None
        label = _label(first) if first else "SOURCE/ID"
        late = by is not None and datetime.fromisoformat(by) <= now
        soon = span(_SOON.total_seconds())
        when = "already past" if late else f"less than {soon} away"
        yield Concern(
            level="risk",
            text=f"{_files(number, 'export')} not fetched yet, with the deadline "
            f"{when}.",
            by=by,
            remedy=f"`archive-mirror show {label}` tells what each attempt met. If a "
            "source has a problem, mend that first.",
        )
    waiting = status["without_room"]
    if waiting:
        verb = "finds no room and waits" if waiting == 1 else "find no room and wait"
        yield Concern(
            text=f"{waiting} {_plural(waiting, 'file')} {verb}: "
            "the spool is too small.",
            remedy="Make room on its disk, or set `spool_dir` to a larger one; "
            "`archive-mirror check` tells how much it takes.",
        )
    parked = status["exports"].get("parked", 0)
    if parked:
        yield Concern(
            text=f"{_files(parked, 'export')} parked: attempts brought nothing new.",
            remedy="`archive-mirror list --state parked` tells why; "
            "`archive-mirror retry --state parked` tries them at once.",
        )
    damaged = status["exports"].get("damaged", 0)
    if damaged:
        yield Concern(
            text=f"{_files(damaged, 'kept export')} damaged, with no good copy left.",
            remedy="`archive-mirror list --state damaged` names them; ask for them "
            "again on the VMS.",
        )


def _of_unread(status: Mapping[str, Any], now: datetime) -> Iterator[Concern]:
    """Yield one concern for each cause, however many sources it stops."""
    problems = {source["name"]: source["problem"] for source in status["sources"]}
    stopped: dict[str, list[str]] = {}
    for name, fresh in status["freshness"].items():
        if fresh["state"] in {"failing", "stale"}:
            problem = problems.get(name) or "no walk came to its end"
            stopped.setdefault(problem, []).append(name)
    for problem, names in stopped.items():
        ends = [status["freshness"][name]["unseen_files_expire"] for name in names]
        by = min(filter(None, ends), default=None)
        left = datetime.fromisoformat(by) - now if by else None
        subject, made = f"Source {names[0]}", "it has"
        if len(names) > 1:
            more = f" and {len(names) - _NAMED} more" * (len(names) > _NAMED)
            subject = f"{len(names)} sources ({', '.join(names[:_NAMED])}{more})"
            made = "they have"
        unseen = f" What {made} made since may expire unseen." if by else ""
        yield Concern(
            level="risk" if left is not None and left < _SOON else "look",
            text=f"{subject} cannot be read: {_sentence(problem)}{unseen}",
            by=by,
            remedy="`archive-mirror check` names the cause and what to do.",
        )


def _of_sources(status: Mapping[str, Any], now: datetime) -> Iterator[Concern]:
    known = {source["name"]: source for source in status["sources"]}
    for name, fresh in status["freshness"].items():
        source = known.get(name, {})
        by = fresh["unseen_files_expire"]
        if fresh["state"] == "paused":
            yield _paused_source(name, source["paused_until"], by, status, now)
        mute = source.get("not_answering", 0)
        if mute:
            verb = "does" if mute == 1 else "do"
            yield Concern(
                text=f"{mute} {_plural(mute, 'file')} of source {name} {verb} not "
                "answer, or next to no bytes come.",
                remedy=f"`archive-mirror list --source {name} --state ready` names "
                "them; open one on the VMS's own page. Others are fetched first.",
            )
        expires = fresh["token_expires"]
        if expires and datetime.fromisoformat(expires) - now < _TOKEN_LEFT:
            yield Concern(
                text=f"The token of source {name} is near its end or past it.",
                by=expires,
                remedy=f"`archive-mirror token set {name}` takes a new one, without a "
                "restart.",
            )
        left_out = source.get("left_out", 0)
        if left_out:
            yield Concern(
                text=f"{left_out} rows of source {name} without a file are not taken "
                "in: its list is too long.",
                remedy="Each is taken in as soon as it shows a file. Find out what "
                "fills the list of the VMS.",
            )
        offset_s = source.get("clock_offset_seconds", 0.0)
        if abs(offset_s) > _CLOCK_OFF_S:
            yield Concern(
                text=f"The clock of source {name} is {span(abs(offset_s))} "
                f"{'ahead of' if offset_s > 0 else 'behind'} ours.",
                remedy="Set both by NTP. Deadlines are corrected meanwhile.",
            )


def _paused_source(
    name: str, until: str, unseen: str | None, status: Mapping[str, Any], now: datetime
) -> Concern:
    due = [one["deadline"] for one in status["open"] if one["source"] == name]
    ends = [each for each in (*due, unseen) if each and each <= until]
    by = min(ends, default=None)
    harm = " Files of it expire before that." if by else ""
    return Concern(
        level="risk" if by and datetime.fromisoformat(by) - now < _SOON else "look",
        text=f"Source {name} is paused until {_when(until, now)}.{harm}",
        by=by,
        remedy=f"`archive-mirror resume {name}` ends the pause now.",
    )


def _of_targets(status: Mapping[str, Any], now: datetime) -> Iterator[Concern]:
    for target in status["targets"]:
        if target["name"] not in status["configured_targets"]:
            continue
        if target["paused_until"]:
            yield Concern(
                text=f"Target {target['name']} is paused until "
                f"{_when(target['paused_until'], now)}. New files wait in the spool.",
                remedy=f"`archive-mirror resume {target['name']}` ends the pause now.",
            )
        elif target["problem"]:
            problem = target["problem"].removeprefix(f"target {target['name']}: ")
            yield Concern(
                text=f"Target {target['name']} cannot be used: {_sentence(problem)}",
                remedy="New files are fetched all the same and wait in the spool. "
                "`archive-mirror check` names the cause and what to do.",
            )
        if target["damaged_files"]:
            yield Concern(
                text=f"Target {target['name']}: "
                f"{_files(target['damaged_files'], 'copy', 'copies')} damaged or gone.",
                remedy="`archive-mirror verify --repair` brings them back from "
                "another target.",
            )


def _of_doubtful(status: Mapping[str, Any]) -> Iterator[Concern]:
    for source in status["sources"]:
        number, name = source["newly_doubtful"], source["name"]
        if number:
            was, is_ = ("was", "is") if number == 1 else ("were", "are")
            yield Concern(
                text=f"{number} {_plural(number, 'file')} of source {name} {was} kept "
                f"in the last 24 hours and {is_} not proven whole.",
                remedy=f"`archive-mirror list --state doubtful --source {name}` names "
                "what is doubted. Play them; what is no use: "
                "`archive-mirror retry SOURCE/ID`, or ask for it again on the VMS.",
            )


def _of_losses(status: Mapping[str, Any]) -> Iterator[Concern]:
    number = status["unacknowledged"]
    if number:
        new = [one for one in status["lost"] if one["acknowledged_at"] is None]
        label = _label(new[0]) if new and number == 1 else "--state lost"
        verb = "was" if number == 1 else "were"
        yield Concern(
            text=f"{number} {_plural(number, 'export')} {verb} lost, and nobody has "
            "taken note of it.",
            remedy="Ask for them again on the VMS as long as the cameras' archive "
            f"still holds the footage; then `archive-mirror ack {label} --note TEXT`.",
        )


def _sentence(words: str) -> str:
    return words if words.endswith((".", "?")) else f"{words}."


def _when(moment: str, now: datetime) -> str:
    there = datetime.fromisoformat(moment)
    left = distance((there - now).total_seconds())
    return f"{there:%Y-%m-%d %H:%M} UTC ({left})"


def _label(export: Mapping[str, Any]) -> str:
    version = f"~{export['version']}" if export["version"] > 1 else ""
    return f"{export['source']}/{export['id']}{version}"


def _files(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {_plural(number, one, many)} {'is' if number == 1 else 'are'}"


def _plural(number: int, one: str, many: str | None = None) -> str:
    return one if number == 1 else many or f"{one}s"
