"""The command that shows all that is known of one export."""

from __future__ import annotations

import contextlib
import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mirror.app.status import public_json
from mirror.cli import render
from mirror.cli.exports import find, reading
from mirror.cli.globals import globals_of
from mirror.errors import MirrorError
from mirror.model import utc_now
from mirror.wording import VERDICTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_TOLD_APART = {"state", "why", "advice", "copies", "versions", "history", "item"}
_UNFETCHED = ("ready", "fetching", "parked")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def show(
    context: typer.Context,
    export: Annotated[str, typer.Argument(metavar="SOURCE/ID[@CREATED_AT][~N]")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say how it stands with one export; then all that is known of it."""
    settings = globals_of(context).settings()
    with reading(settings) as ledger:
        try:
            chosen = find(ledger, export)
        except MirrorError as exc:
            typer.echo(str(exc), err=True)
            raise typer.Exit(1) from exc
        full = public_json.details(ledger.queries.details(chosen))
    if as_json:
        render.as_json(full)
        return
    from rich.table import Table  # noqa: PLC0415 -- rich is slow

    facts = Table.grid(padding=(0, 2, 0, 0))
    for key, text in _lines(full, settings.cameras):
        facts.add_row(key, render.clean(text))
    render.show(render.state(full["state"]).append(f": {_verdict(full)}"), "", facts)


def _lines(
    full: dict[str, Any], cameras: Mapping[int, str]
) -> Iterator[tuple[str, str]]:
    """Yield all that is known, but for what the verdict says."""
    left_out = _TOLD_APART | (
        {"held_bytes", "total_bytes"} if full["sha256"] else set()
    )
    for key, value in (full | {"reason": full["reason"] or full["why"]}).items():
        if key not in left_out and value not in {None, 0}:
            text = _words(key, value)
            if key == "camera_id" and value in cameras:
                text += f" ({cameras[value]})"
            yield key, text
    for copy in full["copies"]:
        read = f", read back {_age(copy['verified_at'])}" if copy["verified_at"] else ""
        told = copy["state"], copy["path"], copy["last_error"]
        yield "copy", f"{copy['target']}: {' '.join(filter(None, told))}{read}"
    for each in full["versions"]:
        facts = [each["state"]]
        if each["reason"] not in {None, each["state"]}:
            facts.append(each["reason"])
        if each["size_bytes"] is not None:
            facts.append(render.size(each["size_bytes"]))
        yield "version", f"~{each['version']}: {', '.join(facts)}"
    for attempt in full["history"]:
        times = f" ({attempt['times']} times)" if attempt["times"] != 1 else ""
        yield (
            "attempt",
            f"{_words('', attempt['started'])} {attempt['outcome']}{times}, "
            f"{render.size(attempt['offset_bytes'])} to "
            f"{render.size(attempt['held_bytes'])}"
            f" {attempt['error'] or ''}".rstrip(),
        )


def _verdict(full: dict[str, Any]) -> str:
    """Return in words how it stands with an export, and what to do about it."""
    kept = [copy["target"] for copy in full["copies"] if copy["state"] == "saved"]
    text = VERDICTS[full["state"]].format(targets=" and ".join(kept) or "no target")
    if full["state"] in _UNFETCHED and full["deadline"]:
        text += f"; deadline {_age(full['deadline'])}"
    advice = full["advice"]
    return text + (f". {advice[0].upper()}{advice[1:]}" if advice else "") + "."


def _words(key: str, value: object) -> str:
    """Return a value as people read it; moments with how far off they are."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key.endswith("_bytes") and isinstance(value, int):
        return render.size(value)
    text = render.clean(str(value))
    with contextlib.suppress(ValueError):  # A name can look like a moment.
        return f"{text} ({_age(text)})" if _MOMENT.fullmatch(text) else text
    return text


def _age(moment: str) -> str:
    return render.distance((datetime.fromisoformat(moment) - utc_now()).total_seconds())
