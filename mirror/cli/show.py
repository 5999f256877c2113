"""The command that shows all that is known of one export."""

from __future__ import annotations

import textwrap
from typing import Annotated, Any

import typer

from mirror.app.status import public_json
from mirror.cli import render
from mirror.cli.exports import find, reading
from mirror.cli.globals import globals_of
from mirror.errors import MirrorError

_KEY = 17
_WIDTH = 80


def show(
    context: typer.Context,
    export: Annotated[str, typer.Argument(metavar="SOURCE/ID[@CREATED_AT][~N]")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show all that is known of one export: each attempt, each copy."""
    with reading(globals_of(context).settings()) as ledger:
        try:
            chosen = find(ledger, export)
        except MirrorError as exc:
            typer.echo(str(exc), err=True)
            raise typer.Exit(1) from exc
        full = public_json.details(ledger.queries.details(chosen))
    if as_json:
        render.as_json(full)
    else:
        _print_details(full)


def _print_details(full: dict[str, Any]) -> None:
    told_below = ("why", "advice", "copies", "versions", "history", "item")
    for key, value in (full | {"reason": full["reason"] or full["why"]}).items():
        if key not in told_below:
            text = "-" if value is None else render.clean(str(value))
            typer.echo(f"{key:<{_KEY}}{text}")
    if full["advice"] is not None:
        margin = " " * _KEY
        typer.echo(
            textwrap.fill(
                full["advice"],
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
