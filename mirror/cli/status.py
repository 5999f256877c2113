"""The command that tells how things are."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mirror.app.status import public_json
from mirror.cli import render
from mirror.cli.exports import reading
from mirror.cli.globals import globals_of
from mirror.model import to_us, utc_now

if TYPE_CHECKING:
    from mirror.config import Settings

_WATCH_S = 2.0
_CLEAR = "\033[2J\033[H"


def status(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
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
    globals_ = globals_of(context)
    if plugin:
        from mirror.app.status import nagios  # noqa: PLC0415 -- slow imports

        result, line = nagios.answer(globals_.settings)
        typer.echo(line)
        raise typer.Exit(int(result))
    settings = globals_.settings()
    try:
        _show_status(settings, as_json=as_json, watch=watch)
    except KeyboardInterrupt as exc:
        raise typer.Exit from exc


def _show_status(settings: Settings, *, as_json: bool, watch: bool) -> None:
    while True:
        with reading(settings) as ledger:
            queries = ledger.queries
            shown = public_json.status(queries.counts(), queries, to_us(utc_now()))
        if as_json:
            render.as_json(shown)
        else:
            if watch:
                typer.echo(_CLEAR, nl=False)
            _print_status(shown, {*settings.sources, *settings.targets})
        if not watch:
            return
        time.sleep(_WATCH_S)


def _print_status(shown: dict[str, Any], configured: set[str]) -> None:
    held = f" ({shown['held']} held, to be proven: see `list --state ready`)"
    counts = "   ".join(f"{state} {n}" for state, n in sorted(shown["exports"].items()))
    typer.echo(f"exports   {counts or 'none yet'}")
    typer.echo(
        f"owed      {shown['owed']}{held * bool(shown['held'])}   "
        f"at risk {shown['at_risk']}   "
        f"lost by us {shown['lost_by_us']}"
        + (
            f"   NOT ACKNOWLEDGED {shown['unacknowledged']}: see `ack`"
            * bool(shown["unacknowledged"])
        )
    )
    if number := shown["without_room"]:
        typer.echo(f"spool     PROBLEM {number} files find no room there")
    if shown["earliest_deadline"]:
        typer.echo(f"deadline  {shown['earliest_deadline']} is the nearest")
    for source in shown["sources"]:
        well = f"read {source['last_success'] or 'never'}"
        problem = source["problem"] or ""
        problem = f"   PROBLEM {render.clean(problem)}" * bool(problem)
        if source["not_answering"]:
            problem += f"   NOT ANSWERING {source['not_answering']} files: see `show`"
        if source["newly_doubtful"]:
            problem += f"   NEWLY DOUBTFUL {source['newly_doubtful']} files: see "
            problem += "`list --state doubtful`"
        left_out = f"   LEFT OUT {source['left_out']} rows" * bool(source["left_out"])
        text = f"{well}{_remark(source, configured)}{left_out}{problem}"
        typer.echo(f"source    {source['name']}   {text}")
    for target in shown["targets"]:
        owed = f"owed {target['owed_files']} files"
        owed += f", {render.size(target['owed_bytes'])}"
        if target["damaged_files"]:
            owed += f"   DAMAGED {target['damaged_files']} files: see `verify`"
        problem = ""
        if target["problem"]:
            text = target["problem"].removeprefix(f"target {target['name']}: ")
            problem = f"   PROBLEM {render.clean(text)} (as of {target['checked']})"
        elif target["warning"]:
            problem = f"   NOTE {render.clean(target['warning'])}"
        free = render.size(target["free_bytes"])
        text = f"free {free}   {owed}{_remark(target, configured)}{problem}"
        typer.echo(f"target    {target['name']}   {text}")


def _remark(status: dict[str, Any], configured: set[str]) -> str:
    if status["name"] not in configured:
        return "   no longer configured"
    until = status["paused_until"]
    return f"   PAUSED until {until}" if until else ""
