"""The commands that leave a source or a target alone for a while, and end that."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from mirror.cli.globals import globals_of
from mirror.model import to_us, utc_now

if TYPE_CHECKING:
    from mirror.app.pause import Kind
    from mirror.config import Settings

_SHORTEST = timedelta(seconds=1)
_Name = Annotated[str, typer.Argument(metavar="SOURCE|TARGET")]


def pause(
    context: typer.Context,
    name: _Name,
    *,
    length: Annotated[
        str, typer.Option("--for", metavar="TIME", help="How long, such as 2h or 30m.")
    ],
) -> None:
    """Leave a source or a target alone for a while; it goes on by itself.

    A paused source is neither listed nor fetched from; to a paused target nothing is
    copied while fetching goes on. A running service takes it up within seconds, and a
    restart keeps it. What the pause endangers is told.
    """
    settings = globals_of(context).settings()

    from mirror.app import pause as pausing  # noqa: PLC0415 -- slow imports
    from mirror.config.units import parse_duration  # noqa: PLC0415 -- slow imports

    try:
        lasts = parse_duration(length)
    except ValueError as exc:
        raise typer.BadParameter(f"--for {exc}") from exc
    if lasts < _SHORTEST:
        raise typer.BadParameter("--for must be at least 1s")
    kind, bare = _meant(settings, name)
    for line in pausing.pause(settings, kind, bare, lasts, to_us(utc_now())):
        typer.echo(line)
    typer.echo(f"to end it sooner: archive-mirror resume {name}")


def resume(context: typer.Context, name: _Name) -> None:
    """End the pause of a source or a target now."""
    settings = globals_of(context).settings()

    from mirror.app import pause as pausing  # noqa: PLC0415 -- slow imports

    kind, bare = _meant(settings, name)
    ended = pausing.resume(settings, kind, bare, to_us(utc_now()))
    typer.echo(f"{kind} {bare} {'goes on' if ended else 'was not paused'}")


def _meant(settings: Settings, name: str) -> tuple[Kind, str]:
    """Return what a name means; `sources.NAME` and `targets.NAME` are never unclear."""
    table, _, bare = name.rpartition(".")
    kinds: list[Kind] = []
    if bare in settings.sources and table in {"", "sources"}:
        kinds.append("source")
    if bare in settings.targets and table in {"", "targets"}:
        kinds.append("target")
    if not kinds:
        names = ", ".join([*settings.sources, *settings.targets])
        raise typer.BadParameter(f"no source or target {name}; there are: {names}")
    if len(kinds) > 1:
        raise typer.BadParameter(
            f"{name} is a source and a target: write sources.{name} or targets.{name}"
        )
    return kinds[0], bare
