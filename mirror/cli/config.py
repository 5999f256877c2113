"""The commands that print the configuration, and that check it alone."""

from __future__ import annotations

import os
import tomllib
from typing import Annotated

import typer

from mirror.cli import render
from mirror.cli.globals import globals_of


def config_show(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Print the configuration as it is in effect, and where each value came from.

    What is printed is itself a valid configuration. There is no secret in it: tokens
    are only ever named by their files.
    """
    from mirror import config  # noqa: PLC0415 -- costs a quarter of a second

    settings = config.explain(globals_of(context).config_path(), os.environ)
    if as_json:
        shown = {
            ".".join(setting.path): {
                "value": None
                if setting.value is None
                else tomllib.loads(f"value = {setting.value}")["value"],
                "from": setting.origin,
            }
            for setting in settings
        }
        render.as_json(shown)
        return
    table: tuple[str, ...] = ()
    for setting in sorted(settings, key=lambda each: len(each.path) > 1):
        if setting.path[:-1] != table:
            table = setting.path[:-1]
            typer.echo(f"\n[{'.'.join(table)}]")
        key = setting.path[-1]
        if setting.value is None:
            typer.echo(f"# {key} is not set")
        else:
            typer.echo(f"{f'{key} = {setting.value}':<40}  # {setting.origin}")


def config_check(context: typer.Context) -> None:
    """Check the configuration alone: no network, no target; exits 78 if it is wrong.

    `archive-mirror check` also looks at all that it names.
    """
    globals_ = globals_of(context)
    settings = globals_.settings(as_root=True)
    sources, targets = ", ".join(settings.sources), ", ".join(settings.targets)
    typer.echo(
        f"{globals_.config_path()} is well: sources {sources}; targets {targets}"
    )
