"""The command that prints the configuration."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from mirror.cli import render
from mirror.cli.globals import globals_of


def register(app: typer.Typer) -> None:
    """Add the command."""
    config = typer.Typer(help="The configuration.", no_args_is_help=True)
    config.command("show")(config_show)
    app.add_typer(config, name="config")


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
            ".".join(one.path): {"value": one.value, "from": one.origin}
            for one in settings
        }
        render.as_json(shown)
        return
    table: tuple[str, ...] = ()
    for one in sorted(settings, key=lambda each: len(each.path) > 1):
        if one.path[:-1] != table:
            table = one.path[:-1]
            typer.echo(f"\n[{'.'.join(table)}]")
        line = f"{one.path[-1]} = {one.value}"
        if one.value is None:
            line = f"# {one.path[-1]} is not set"
        typer.echo(f"{line:<40}  # {one.origin}" if one.value is not None else line)
