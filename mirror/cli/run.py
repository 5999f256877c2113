"""Commands that mirror: the service, and one run."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mirror.app.refuse_root import refuse_root
from mirror.cli import render, signals
from mirror.cli.globals import given

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.app.dry_run import Intent
    from mirror.app.engine import Engine
    from mirror.app.once import OnceReport


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("run")(run)
    app.command("once")(once)


def run(context: typer.Context) -> None:
    """Run the service until it is told to stop (SIGTERM)."""
    # A stop before the service listens to signals is an ordinary stop too.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    globals_ = given(context)
    settings = globals_.settings()
    refuse_root(settings.state_dir, globals_.arguments)

    from prometheus_client import CollectorRegistry  # noqa: PLC0415 -- slow imports

    from mirror.app import memory  # noqa: PLC0415
    from mirror.app.service import Service  # noqa: PLC0415
    from mirror.metrics import Metrics  # noqa: PLC0415
    from mirror.systemd import Notifier  # noqa: PLC0415

    async def serve() -> None:
        service = Service(
            settings,
            reread=globals_.settings,
            metrics=Metrics(CollectorRegistry()),
            secret=globals_.redactor.add,
            notifier=Notifier.from_environ(os.environ),
        )
        await service.run()

    memory.share_one_heap()
    asyncio.run(serve())


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
    globals_ = given(context)
    settings = globals_.settings()
    refuse_root(settings.state_dir, globals_.arguments)

    from prometheus_client import CollectorRegistry  # noqa: PLC0415 -- slow imports

    from mirror.app import dry_run as dry  # noqa: PLC0415
    from mirror.app import once as one_run  # noqa: PLC0415
    from mirror.metrics import Metrics  # noqa: PLC0415

    metrics = Metrics(CollectorRegistry())
    secret = globals_.redactor.add
    if dry_run:
        intent = signals.run(dry.run(settings, metrics=metrics, secret=secret))
        _print_intent(intent)
        raise typer.Exit(1 if intent.unread else 0)
    with _watcher() as watch:
        report = signals.run(
            one_run.run(settings, metrics=metrics, secret=secret, watch=watch)
        )
    _print_report(report)
    raise typer.Exit(report.exit_code)


class _watcher:  # noqa: N801 -- used as a function
    """Bars on a terminal, a line now and then elsewhere."""

    def __enter__(self) -> Callable[[Engine], None]:
        """Start to show."""
        from mirror.cli.progress import Bars, Lines  # noqa: PLC0415 -- rich is slow

        self._shown = Bars() if sys.stderr.isatty() else Lines()
        return self._shown.update

    def __exit__(self, *_: object) -> None:
        """Leave the last picture."""
        self._shown.close()


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
    for export in intent.wanted:
        typer.echo(f"would fetch {export.label}  {render.clean(export.name or '-')}")
    counts = ", ".join(f"{state} {n}" for state, n in sorted(intent.counts.items()))
    typer.echo(f"would fetch {len(intent.wanted)} files; the list holds: {counts}")
    for name in intent.unread:
        typer.echo(f"the list of source {name} could not be read")
