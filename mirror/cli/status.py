"""The command that tells how things are."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from mirror.app.status import public_json
from mirror.cli import render
from mirror.cli.exports import reading
from mirror.cli.globals import globals_of
from mirror.model import to_us, utc_now

if TYPE_CHECKING:
    from mirror.config import Settings

_WATCH_S = 2.0
_MOST = 10
"""Lines of each list on a terminal; the worst come first."""


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
    """Say whether all is well, and what to do; then counts, sources and targets."""
    globals_ = globals_of(context)
    if plugin:
        from mirror.app.status import nagios  # noqa: PLC0415 -- slow imports

        result, line = nagios.answer(globals_.settings)
        typer.echo(line)
        raise typer.Exit(int(result))
    settings = globals_.settings()
    try:
        if watch and not as_json and render.console().is_terminal:
            _watch(settings)
        _show(settings, as_json=as_json)
        while watch:
            time.sleep(_WATCH_S)
            _show(settings, as_json=as_json)
    except KeyboardInterrupt as exc:
        raise typer.Exit from exc


def _show(settings: Settings, *, as_json: bool) -> None:
    if as_json:
        with reading(settings) as ledger:
            queries = ledger.queries
            shown = public_json.status(queries.counts(), queries, to_us(utc_now()))
        render.as_json(shown)
        return
    from mirror.app.status import overview  # noqa: PLC0415 -- slow imports
    from mirror.cli import status_view  # noqa: PLC0415 -- rich is slow

    most = _MOST if render.console().is_terminal else None
    status = overview.beside(settings)
    render.show(status_view.whole(status, settings.timezone, most))


def _watch(settings: Settings) -> NoReturn:
    """Show it in the whole of the terminal, until Ctrl-C."""
    from rich.live import Live  # noqa: PLC0415 -- rich is slow

    from mirror.app.status import overview  # noqa: PLC0415 -- slow imports
    from mirror.cli import status_view  # noqa: PLC0415 -- rich is slow

    console = render.console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            status = overview.beside(settings)
            shown = status_view.fitted(console, status, settings.timezone)
            live.update(shown, refresh=True)
            time.sleep(_WATCH_S)
