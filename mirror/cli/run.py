"""The command that runs the service."""

from __future__ import annotations

import asyncio
import os
import signal

import typer  # noqa: TC002 -- typer reads the annotation

from mirror.cli.globals import globals_of


def run(context: typer.Context) -> None:
    """Run the service until it is told to stop (SIGTERM)."""
    # A stop before the service listens to signals is an ordinary stop too.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    globals_ = globals_of(context)
    settings = globals_.settings()

    from prometheus_client import CollectorRegistry  # noqa: PLC0415 -- slow imports

    from mirror.app import memory  # noqa: PLC0415 -- slow imports
    from mirror.app.service import Service  # noqa: PLC0415 -- slow imports
    from mirror.metrics import Metrics  # noqa: PLC0415 -- slow imports
    from mirror.systemd import Notifier  # noqa: PLC0415 -- slow imports

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
