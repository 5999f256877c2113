"""The command that looks before any work."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from mirror.app.refuse_root import refuse_root
from mirror.cli import render
from mirror.cli.globals import globals_of


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check")(check)


def check(
    context: typer.Context,
    *,
    adopt: Annotated[
        str | None,
        typer.Option(metavar="TARGET", help="Take the disk there as the right one."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check the configuration and all it names; exits 1 if a check failed."""
    globals_ = globals_of(context)
    settings = globals_.settings()
    if adopt is not None and adopt not in settings.targets:
        raise typer.BadParameter(f"--adopt: there is no target {adopt}")
    refuse_root(settings.state_dir, globals_.arguments)

    from mirror.app import check as checks  # noqa: PLC0415 -- slow imports

    findings = asyncio.run(
        checks.run(
            settings,
            secret=globals_.redactor.add,
            adopt=adopt,
        )
    )
    failed = any(found.grade is checks.Grade.FAIL for found in findings)
    if as_json:
        shown = [
            {"name": one.name, "result": one.grade, "detail": one.detail}
            for one in findings
        ]
        render.as_json({"ok": not failed, "checks": shown})
    else:
        for one in findings:
            typer.echo(f"{one.grade:<5} {one.name}: {render.clean(one.detail)}")
    raise typer.Exit(1 if failed else 0)
