"""The command that checks the configuration and all it names."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from mirror.cli import render
from mirror.cli.globals import globals_of


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

    from mirror.app import check as checks  # noqa: PLC0415 -- slow imports

    findings = asyncio.run(
        checks.run(
            settings,
            secret=globals_.redactor.add,
            adopt=adopt,
        )
    )
    failed = any(finding.grade is checks.Grade.FAIL for finding in findings)
    if as_json:
        shown = [
            {"name": each.name, "result": each.grade, "detail": each.detail}
            for each in findings
        ]
        render.as_json({"ok": not failed, "checks": shown})
    else:
        for each in findings:
            typer.echo(f"{each.grade:<5} {each.name}: {render.clean(each.detail)}")
    raise typer.Exit(1 if failed else 0)
