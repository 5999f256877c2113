"""The command that prints the configuration."""

from __future__ import annotations

import os
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
            ".".join(setting.path): {"value": setting.value, "from": setting.origin}
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
