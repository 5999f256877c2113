"""The command that mirrors what there is now, and stops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mirror.cli import render, signals
from mirror.cli.globals import globals_of

if TYPE_CHECKING:
    from mirror.app.dry_run import Intent
    from mirror.app.once import OnceReport


def once(
    context: typer.Context,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
) -> None:
    """Sweep each source once, keep what there is, and stop.

    Exits 1 if a list could not be read, else 3 if something is owed or newly lost.
    """
    globals_ = globals_of(context)
    settings = globals_.settings()

    from mirror.app import dry_run as dry  # noqa: PLC0415 -- slow imports
    from mirror.app import once as one_run  # noqa: PLC0415 -- slow imports

    secret = globals_.redactor.add
    if dry_run:
        intent = signals.run(dry.run(settings, secret=secret))
        _print_intent(intent)
        raise typer.Exit(1 if intent.unread else 0)

    from mirror.cli import progress  # noqa: PLC0415 -- rich is slow

    stopped: list[OnceReport] = []
    try:
        with progress.of_fetches(globals_.outlet) as watch:
            report = signals.run(
                one_run.run(
                    settings, secret=secret, watch=watch, stopped=stopped.append
                )
            )
    except typer.Exit:
        for early in stopped:
            typer.echo("stopped before all was done; the next run goes on from here")
            _print_report(early)
        raise
    _print_report(report)
    raise typer.Exit(report.exit_code)


def _print_report(report: OnceReport) -> None:
    typer.echo(
        f"saved {report.saved}, owed {report.owed}, newly lost {report.lost}, "
        f"newly doubtful {report.doubtful}, "
        f"at risk {report.at_risk}"
    )
    for name in report.paused:
        typer.echo(f"{name} is paused and was left alone; `status` tells until when")
    for name in report.unread:
        typer.echo(f"the list of source {name} could not be read; `status` tells why")


def _print_intent(intent: Intent) -> None:
    for export in intent.exports:
        typer.echo(f"would fetch {export.label}  {render.clean(export.name or '-')}")
    counts = ", ".join(f"{state} {n}" for state, n in sorted(intent.counts.items()))
    typer.echo(f"would fetch {len(intent.exports)} files; the list holds: {counts}")
    for name in intent.unread:
        typer.echo(f"the list of source {name} could not be read")
