"""The command that lists exports."""

from __future__ import annotations

import contextlib
import textwrap
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from mirror.app.status import public_json
from mirror.cli import render
from mirror.cli.exports import MAX_ID, reading
from mirror.cli.globals import expect_known, globals_of
from mirror.ledger import Filter
from mirror.model import State, to_us, utc_now

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.text import Text

    from mirror.model import Export

_WIDTH = 80
_MOST = 5000
"""So many lines are for people; more would take long to lay out."""
_NOTHING_YET = "no export was listed yet; `archive-mirror status` tells why"


def list_exports(
    context: typer.Context,
    *,
    state: Annotated[
        list[State] | None,
        typer.Option(help="Only exports in this state; may be repeated."),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Only of this source.")] = None,
    camera: Annotated[
        int | None, typer.Option(min=0, max=MAX_ID, help="Only of this camera id.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Created at or after, e.g. 2026-11-23, or 2h for the last."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Created before; as --since.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Glob over the whole name, such as '*gate*'.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many, the newest.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List exports, newest first."""
    chosen = Filter(
        states=tuple(state or ()),
        source=source,
        camera_id=camera,
        since_us=_moment(since, "--since"),
        until_us=_moment(until, "--until"),
        name=name,
        limit=limit or (None if as_json else _MOST),
    )
    settings, now_us = globals_of(context).settings(), to_us(utc_now())
    reasons: set[str] = set()
    lines = []
    with reading(settings) as ledger:
        seen = {each.name for each in ledger.queries.sources()}
        expect_known("--source", source, seen | settings.sources.keys())
        for export, copies in ledger.queries.exports(chosen):
            if as_json:
                render.as_json(public_json.export(export, copies))
                continue
            reasons.add((public_json.why(export) or "").partition(":")[0])
            lines.append(_line(export, settings.cameras, now_us))
        counts = public_json.by_state(ledger.queries.counts())
    if as_json:
        return
    if not lines:
        held = ", ".join(f"{state} {number}" for state, number in counts.items())
        typer.echo(f"none matches; there are: {held}" if held else _NOTHING_YET)
        return
    head = ("EXPORT", "STATE", "REASON", "AGE", "LEFT", "SIZE", "CAMERA", "NAME")
    render.show(render.table(head, lines, cut=("REASON", "CAMERA", "NAME")))
    if limit is None and len(lines) == _MOST:
        typer.echo(f"the newest {_MOST}; --limit gives more, --json all")
    explained = sorted(reasons & render.ADVICE.keys())
    if explained:
        typer.echo("")
    for reason in explained:
        text = f"{reason}: {render.ADVICE[reason]}"
        typer.echo(textwrap.fill(text, _WIDTH, subsequent_indent="  "))


def _line(export: Export, cameras: Mapping[int, str], now_us: int) -> list[Text | str]:
    made_us, deadline_us, camera = (
        export.created_us,
        export.deadline_us,
        export.camera_id,
    )
    left_us = None if deadline_us is None else deadline_us - now_us
    open_ = export.state in {State.READY, State.FETCHING, State.PARKED}
    return [
        export.label,
        render.state(export.state),
        _reason(export),
        "" if made_us is None else render.span((now_us - made_us) / 1e6),
        render.span(left_us / 1e6) if open_ and left_us is not None else "",
        "" if export.size_bytes is None else render.size(export.size_bytes),
        "" if camera is None else cameras.get(camera, str(camera)),
        render.clean(export.name or ""),
    ]


def _reason(export: Export) -> str:
    """Return why an export is in its state, what is doubted, or what failed last."""
    why = public_json.why(export)
    reason = "" if why is None or why == State.READY else why
    more = export.doubt or export.held_doubt
    if why == "retried":
        more = export.last_error
    if more is not None:
        reason += f": {render.clean(more)}"
    return reason + ("" if export.acknowledged_us is None else ", noted")


def _moment(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    from mirror.config.units import parse_duration  # noqa: PLC0415 -- slow imports

    with contextlib.suppress(ValueError):
        return to_us(utc_now() - parse_duration(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise typer.BadParameter(
            f"{option} takes a date or a time such as 2026-11-23T08:00:00Z, or how "
            "long ago, such as 2h or 7d"
        ) from exc
    return to_us(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
