"""The command that tells how things are."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Annotated

import typer

from mirror.app.status import public_json
from mirror.cli import render
from mirror.cli.exports import reading
from mirror.cli.globals import globals_of
from mirror.model import to_us, utc_now

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.live import Live

    from mirror.config import Settings

_WATCH_S = 2.0


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
        with _screen(wanted=watch and not as_json) as screen:
            _show(settings, screen, as_json=as_json)
            while watch:
                time.sleep(_WATCH_S)
                _show(settings, screen, as_json=as_json)
    except KeyboardInterrupt as exc:
        raise typer.Exit from exc


def _screen(*, wanted: bool) -> AbstractContextManager[Live | None]:
    """Take the whole of the terminal, if there is one."""
    from rich.live import Live  # noqa: PLC0415 -- rich is slow

    console = render.console()
    if wanted and console.is_terminal:
        return Live(console=console, screen=True, auto_refresh=False)
    return contextlib.nullcontext()


def _show(settings: Settings, screen: Live | None, *, as_json: bool) -> None:
    if as_json:
        with reading(settings) as ledger:
            queries = ledger.queries
            counted = public_json.status(queries.counts(), queries, to_us(utc_now()))
        render.as_json(counted)
        return
    from mirror.app.status import overview  # noqa: PLC0415 -- slow imports
    from mirror.cli import status_view  # noqa: PLC0415 -- rich is slow

    console, zone = render.console(), settings.timezone
    status = overview.beside(settings)
    if screen is not None:
        screen.update(
            status_view.fitted(console, status, zone, brief=True), refresh=True
        )
    elif console.is_terminal:
        render.show(status_view.fitted(console, status, zone))
    else:
        render.show(status_view.whole(status, zone))
