"""The command that lists exports."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from mirror.app.status import public_json
from mirror.cli import render
from mirror.cli.exports import MAX_ID, reading
from mirror.cli.globals import globals_of
from mirror.ledger import Filter
from mirror.model import State, iso, to_us

if TYPE_CHECKING:
    from mirror.model import Export

_WIDTH = 80
_DOUBT = 40
"""So many characters of what is doubted stand in a list."""


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
        str | None, typer.Option(help="Created at or after, e.g. 2026-11-23.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Created before this date or time.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Glob over the whole name, such as '*gate*'.")
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
    )
    reasons: set[str] = set()
    lines = []
    with reading(globals_of(context).settings()) as ledger:
        for export, copies in ledger.queries.exports(chosen):
            if as_json:
                render.as_json(public_json.export(export, copies))
                continue
            reasons.add((public_json.why(export) or "").partition(":")[0])
            lines.append(
                (
                    export.label,
                    export.state,
                    _reason(export),
                    export.created_at or "-",
                    iso(export.deadline_us) or "-",
                    render.size(export.size_bytes),
                    render.clean(export.name or "-"),
                )
            )
    if as_json:
        return
    head = ("EXPORT", "STATE", "REASON", "CREATED", "DEADLINE", "SIZE", "NAME")
    render.show(render.table(head, lines))
    known = sorted(reasons & render.ADVICE.keys())
    if known:
        typer.echo("")
    for reason in known:
        text = f"{reason}: {render.ADVICE[reason]}"
        typer.echo(textwrap.fill(text, _WIDTH, subsequent_indent="  "))


def _reason(export: Export) -> str:
    """Return why an export is in its state, what is doubted, or what failed last."""
    why = public_json.why(export)
    reason = "-" if why is None or why == State.READY else why
    more = export.doubt or export.held_doubt
    if why == "retried":
        more = export.last_error
    if more is not None:
        short = render.clean(more)
        cut = len(short) > _DOUBT
        reason += f": {short[:_DOUBT].rstrip()}{'...' if cut else ''}"
    return reason + ("" if export.acknowledged_us is None else ", noted")


def _moment(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise typer.BadParameter(
            f"{option} takes a date or a time such as 2026-11-23T08:00:00Z"
        ) from exc
    return to_us(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
