"""Commands by which people say what they know: pauses, and losses seen."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from mirror.cli.globals import given
from mirror.cli.show import find, reading
from mirror.errors import MirrorError
from mirror.model import State, to_us, utc_now

if TYPE_CHECKING:
    from mirror.app.pause import Kind
    from mirror.config import Settings

_SHORTEST = timedelta(seconds=1)
_Name = Annotated[str, typer.Argument(metavar="SOURCE|TARGET")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("pause")(pause)
    app.command("resume")(resume)
    app.command("ack")(ack)


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
    settings = given(context).settings()

    from mirror.app import pause as pausing  # noqa: PLC0415 -- slow imports
    from mirror.config.units import parse_duration  # noqa: PLC0415

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
    settings = given(context).settings()

    from mirror.app import pause as pausing  # noqa: PLC0415 -- slow imports

    kind, bare = _meant(settings, name)
    ended = pausing.resume(settings, kind, bare, to_us(utc_now()))
    typer.echo(f"{kind} {bare} {'goes on' if ended else 'was not paused'}")


def _meant(settings: Settings, name: str) -> tuple[Kind, str]:
    """Return what a name means; `sources.NAME` and `targets.NAME` are never unclear."""
    table, _, bare = name.rpartition(".")
    found: list[Kind] = []
    if bare in settings.sources and table in {"", "sources"}:
        found.append("source")
    if bare in settings.targets and table in {"", "targets"}:
        found.append("target")
    if not found:
        known = ", ".join([*settings.sources, *settings.targets])
        raise typer.BadParameter(f"no source or target {name}; there are: {known}")
    if len(found) > 1:
        raise typer.BadParameter(
            f"{name} is a source and a target: write sources.{name} or targets.{name}"
        )
    return found[0], bare


def ack(
    context: typer.Context,
    exports: Annotated[list[str], typer.Argument(metavar="SOURCE/ID...")],
    *,
    note: Annotated[
        str, typer.Option("--note", metavar="TEXT", help="What was done about it.")
    ],
) -> None:
    """Take note of lost exports: they are told of no more, and stay counted."""
    if not note.strip() or not note.isprintable():
        raise typer.BadParameter("--note takes one line of text that says something")
    with reading(given(context).settings().state_dir) as ledger:
        chosen = [find(ledger, name) for name in exports]
        others = [one for one in chosen if one.state is not State.LOST]
        if others:
            labels = ", ".join(f"{one.label} ({one.state})" for one in others)
            raise MirrorError(
                f"only a lost export can be acknowledged, not {labels}; none was"
            )
        done = ledger.acknowledge(chosen, note.strip(), to_us(utc_now()))
    typer.echo(f"{done} of {len(chosen)} losses are acknowledged")
