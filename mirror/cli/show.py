"""Commands that ask the ledger, and the one that makes exports due now."""

from __future__ import annotations

import textwrap
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mirror.app import lock
from mirror.app.status import public_json
from mirror.cli import render
from mirror.cli.globals import given
from mirror.errors import MirrorError
from mirror.ledger import Filter, Ledger
from mirror.model import Export, State, iso, to_us, utc_now

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from mirror.config import Settings

_WATCH_S = 2.0
_CLEAR = "\033[2J\033[H"
_MAX_DIGITS = 4000
_KEY = 17
_WIDTH = 80
_DOUBT = 40
"""So much of what is doubted stands in a list."""
_MAX_ID = 2**63 - 1
_Json = Annotated[bool, typer.Option("--json", help="For programs.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("status")(status)
    app.command("list")(list_exports)
    app.command("show")(show)
    app.command("retry")(retry)


def status(
    context: typer.Context,
    *,
    as_json: _Json = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every 2 s.")
    ] = False,
    plugin: Annotated[
        bool,
        typer.Option(
            "--nagios",
            help="One line with figures; exit 0 well, 1 look at it, 2 act now, "
            "3 unknown.",
        ),
    ] = False,
) -> None:
    """Show counts by state, freshness, what is owed and at risk, the targets."""
    if plugin:
        from mirror.cli import nagios  # noqa: PLC0415 -- slow imports

        nagios.answer(given(context))
    settings = given(context).settings()
    try:
        _show_status(settings, as_json=as_json, watch=watch)
    except KeyboardInterrupt as exc:
        raise typer.Exit from exc


def _show_status(settings: Settings, *, as_json: bool, watch: bool) -> None:
    while True:
        with reading(settings.state_dir) as ledger:
            shown = _status(ledger)
        if as_json:
            render.as_json(shown)
        else:
            if watch:
                typer.echo(_CLEAR, nl=False)
            _print_status(shown, {*settings.sources, *settings.targets})
        if not watch:
            return
        time.sleep(_WATCH_S)


def list_exports(
    context: typer.Context,
    *,
    state: Annotated[
        list[State] | None,
        typer.Option(help="Only exports in this state; may be repeated."),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Only of this source.")] = None,
    camera: Annotated[
        int | None, typer.Option(min=0, max=_MAX_ID, help="Only of this camera id.")
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
    as_json: _Json = False,
) -> None:
    """List exports, newest first."""
    wanted = Filter(
        states=tuple(state or ()),
        source=source,
        camera_id=camera,
        since_us=_moment(since, "--since"),
        until_us=_moment(until, "--until"),
        name=name,
    )
    reasons: set[str] = set()
    lines = []
    with reading(given(context).settings().state_dir) as ledger:
        for export, copies in ledger.queries.exports(wanted):
            if as_json:
                render.as_json(public_json.export(export, copies))
                continue
            reasons.add(_why(export))
            lines.append(_line(export))
    if as_json:
        return
    render.table(
        ("EXPORT", "STATE", "REASON", "CREATED", "DEADLINE", "SIZE", "NAME"), lines
    )
    _explain(reasons)


def show(
    context: typer.Context,
    export: Annotated[str, typer.Argument(metavar="SOURCE/ID[@CREATED_AT][~N]")],
    *,
    as_json: _Json = False,
) -> None:
    """Show all that is known of one export: each attempt, each copy."""
    with reading(given(context).settings().state_dir) as ledger:
        try:
            found = find(ledger, export)
        except MirrorError as exc:
            typer.echo(str(exc), err=True)
            raise typer.Exit(1) from exc
        full = public_json.dossier(ledger.queries.details(found))
    if as_json:
        render.as_json(full)
    else:
        _print_dossier(full)


def retry(
    context: typer.Context,
    exports: Annotated[list[str] | None, typer.Argument(metavar="SOURCE/ID...")] = None,
    *,
    state: Annotated[
        State | None, typer.Option(help="All exports in this state.")
    ] = None,
) -> None:
    """Make exports due now, whatever they wait for."""
    if not exports and state is None:
        raise typer.BadParameter("name exports as SOURCE/ID, or a state with --state")
    with reading(given(context).settings().state_dir) as ledger:
        try:
            chosen = [find(ledger, name) for name in exports or []]
        except MirrorError as exc:
            typer.echo(str(exc), err=True)
            raise typer.Exit(1) from exc
        if state is not None:
            chosen += ledger.by_state(state)
        done = ledger.retry(chosen, to_us(utc_now()))
    others = "; the others are kept, under way or were due" * (done < len(chosen))
    typer.echo(f"{done} of {len(chosen)} exports are due now{others}")


def reading(state_dir: Path) -> AbstractContextManager[Ledger]:
    """Hold the ledger open; read through it first unless a service has done so."""
    return Ledger.reading(state_dir, check=not lock.is_held(state_dir))


def _status(ledger: Ledger) -> dict[str, Any]:
    return public_json.status(ledger.queries.counts(), ledger.queries, to_us(utc_now()))


def _print_status(shown: dict[str, Any], configured: set[str]) -> None:
    counts = "   ".join(f"{state} {n}" for state, n in sorted(shown["exports"].items()))
    typer.echo(f"exports   {counts or 'none yet'}")
    typer.echo(
        f"owed      {shown['owed']}   at risk {shown['at_risk']}   "
        f"lost by us {shown['lost_by_us']}"
        + (
            f"   NOT ACKNOWLEDGED {shown['unacknowledged']}: see `ack`"
            * bool(shown["unacknowledged"])
        )
    )
    if shown["without_room"]:
        typer.echo(
            f"spool     PROBLEM {shown['without_room']} files find no room there"
        )
    if shown["earliest_deadline"]:
        typer.echo(f"deadline  {shown['earliest_deadline']} is the nearest")
    for source in shown["sources"]:
        well = f"read {source['last_success'] or 'never'}"
        problem = (
            f"   PROBLEM {render.clean(source['problem'])}" if source["problem"] else ""
        )
        if source["not_answering"]:
            problem += f"   NOT ANSWERING {source['not_answering']} files: see `show`"
        if source["newly_doubtful"]:
            problem += (
                f"   NEWLY DOUBTFUL {source['newly_doubtful']} files: see "
                "`list --state doubtful`"
            )
        left_out = f"   LEFT OUT {source['left_out']} rows" * bool(source["left_out"])
        told = f"{well}{_standing(source, configured)}{left_out}{problem}"
        typer.echo(f"source    {source['name']}   {told}")
    for target in shown["targets"]:
        owed = f"owed {target['owed_files']} files"
        owed += f", {render.size(target['owed_bytes'])}"
        if target["damaged_files"]:
            owed += f"   DAMAGED {target['damaged_files']} files: see `verify`"
        problem = ""
        if target["problem"]:
            said = target["problem"].removeprefix(f"target {target['name']}: ")
            problem = f"   PROBLEM {render.clean(said)} (as of {target['checked']})"
        elif target["warning"]:
            problem = f"   NOTE {render.clean(target['warning'])}"
        free = render.size(target["free_bytes"])
        told = f"free {free}   {owed}{_standing(target, configured)}{problem}"
        typer.echo(f"target    {target['name']}   {told}")


def _standing(one: dict[str, Any], configured: set[str]) -> str:
    if one["name"] not in configured:
        return "   no longer configured"
    until = one["paused_until"]
    return f"   PAUSED until {until}" if until else ""


def _line(export: Export) -> tuple[str, ...]:
    return (
        export.label,
        export.state,
        _reason(export),
        export.created_at or "-",
        iso(export.deadline_us) or "-",
        render.size(export.size_bytes),
        render.clean(export.name or "-"),
    )


def _why(export: Export) -> str:
    return export.reason or ("held" if export.held else "")


def _reason(export: Export) -> str:
    """Return why an export is in its state, and what is doubted of its file."""
    reason = _why(export) or "-"
    doubt = export.doubt or export.held_doubt
    if doubt is not None:
        short = render.clean(doubt)
        cut = len(short) > _DOUBT
        reason += f": {short[:_DOUBT].rstrip()}{'...' if cut else ''}"
    return reason + ("" if export.acknowledged_us is None else ", noted")


def _explain(reasons: set[str]) -> None:
    known = sorted(reason for reason in reasons if reason in render.ADVICE)
    if known:
        typer.echo("")
    for reason in known:
        typer.echo(
            textwrap.fill(
                f"{reason}: {render.ADVICE[reason]}", _WIDTH, subsequent_indent="  "
            )
        )


def _print_dossier(full: dict[str, Any]) -> None:
    nested = ("copies", "versions", "history", "item")
    for key, value in full.items():
        if key not in nested:
            text = "-" if value is None else render.clean(str(value))
            typer.echo(f"{key:<{_KEY}}{text}")
    reason = str(full.get("reason"))
    if reason in render.ADVICE:
        margin = " " * _KEY
        typer.echo(
            textwrap.fill(
                render.ADVICE[reason],
                _WIDTH,
                initial_indent=margin,
                subsequent_indent=margin,
            )
        )
    for copy in full["copies"]:
        typer.echo(
            f"{'copy':<{_KEY}}{copy['target']}: {copy['state']}"
            f" {render.clean(str(copy['path'] or ''))}"
            f" {render.clean(str(copy['last_error'] or ''))}".rstrip()
        )
    for each in full["versions"]:
        facts = [each["state"]]
        if each["reason"] not in {None, each["state"]}:
            facts.append(each["reason"])
        if each["size_bytes"] is not None:
            facts.append(render.size(each["size_bytes"]))
        typer.echo(f"{'version':<{_KEY}}~{each['version']}: {', '.join(facts)}")
    for attempt in full["history"]:
        times = f" ({attempt['times']} times)" if attempt["times"] != 1 else ""
        typer.echo(
            f"{'attempt':<{_KEY}}{attempt['started']} {attempt['outcome']}{times}, "
            f"from byte {attempt['offset_bytes']} to {attempt['held_bytes']}"
            f" {render.clean(str(attempt['error'] or ''))}".rstrip()
        )


def find(ledger: Ledger, name: str) -> Export:
    """Return the export that a name on the command line means.

    Raises:
        MirrorError: None, or more than one.
    """
    export, _, version = name.partition("~")
    head, _, created_at = export.partition("@")
    source, slash, number = head.rpartition("/")
    if not _is_number(number) or (version and not _is_number(version)):
        raise typer.BadParameter(
            f"{name} is not of the form SOURCE/ID, SOURCE/ID@CREATED_AT or SOURCE/ID~2"
        )
    found = ledger.queries.find(
        min(int(number), _MAX_ID),
        source=source if slash else None,
        created_at=created_at or None,
        version=min(int(version), _MAX_ID) if version else None,
    )
    if not found:
        raise MirrorError(f"no export {name} is known; `archive-mirror list` shows all")
    sources = sorted({export.source for export in found})
    if len(sources) > 1:
        choices = ", ".join(f"{one}/{number}" for one in sources)
        raise MirrorError(f"{name} is known to several sources: {choices}")
    return found[0]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS


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
