"""Show a run as it goes on: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)

from mirror.cli import render
from mirror.model import to_us, utc_now

if TYPE_CHECKING:
    from mirror.app.engine import Engine
    from mirror.app.rebuild.rebuild import Progress as Rebuild
    from mirror.pipeline.verify.scrub import Scrub

_LINE_S = 5.0
_LIVE_S = 0.2


class Bars:
    """A bar for each file under way, and one line for the whole."""

    def __init__(self) -> None:
        self._shown = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TextColumn("{task.fields[left]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[int, TaskID] = {}
        self._whole = self._shown.add_task("files", total=None, left="")
        self._shown.start()

    def update(self, engine: Engine) -> None:
        """Draw what is under way."""
        transfers = engine.progress.transfers
        for key in set(self._tasks) - set(transfers):
            self._shown.remove_task(self._tasks.pop(key))
        now_us = to_us(utc_now())
        nearest: float | None = None
        for key, transfer in transfers.items():
            left_s = None
            if transfer.deadline_us is not None:
                left_s = (transfer.deadline_us - now_us) / 1e6
                nearest = left_s if nearest is None else min(nearest, left_s)
            if key not in self._tasks:
                self._tasks[key] = self._shown.add_task(
                    transfer.label, total=transfer.total_bytes, left=""
                )
            self._shown.update(
                self._tasks[key],
                completed=transfer.done_bytes,
                total=transfer.total_bytes,
                left=f"{render.span(left_s)} left" if left_s is not None else "",
            )
        done = engine.progress
        self._shown.update(
            self._whole,
            description=f"files  {done.saved_files} saved",
            completed=done.received_bytes,
            left=f"nearest deadline {render.span(nearest)}" if nearest else "",
        )

    def close(self) -> None:
        """Remove the bars."""
        self._shown.stop()


class Lines:
    """One line every few seconds."""

    def __init__(self) -> None:
        self._last = self._began = time.monotonic()

    def update(self, engine: Engine) -> None:
        """Print a line if it is time for one."""
        now = time.monotonic()
        if now - self._last < _LINE_S:
            return
        self._last = now
        done = engine.progress
        rate = done.received_bytes / (now - self._began)
        typer.echo(
            f"{done.saved_files} files saved, {len(done.transfers)} under way, "
            f"{render.size(done.received_bytes)} received, {render.size(rate)}/s",
            err=True,
        )

    def close(self) -> None:
        """Leave the lines."""


class ReadBars:
    """A bar for each target that is read."""

    def __init__(self) -> None:
        self._shown = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TextColumn("{task.fields[files]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._shown.start()

    def update(self, scrub: Scrub) -> None:
        """Draw how far each target is read."""
        for target, reading in scrub.progress.items():
            if target not in self._tasks:
                self._tasks[target] = self._shown.add_task(
                    target, total=reading.total_bytes, files=""
                )
            self._shown.update(
                self._tasks[target],
                completed=reading.done_bytes,
                files=f"{reading.done_files} of {reading.total_files} files",
            )

    def close(self) -> None:
        """Remove the bars."""
        self._shown.stop()


class ReadLines:
    """One line every few seconds on what is read."""

    def __init__(self) -> None:
        self._last = self._began = time.monotonic()

    def update(self, scrub: Scrub) -> None:
        """Print a line if it is time for one."""
        now = time.monotonic()
        if now - self._last < _LINE_S:
            return
        self._last = now
        readings = scrub.progress.values()
        done_bytes = sum(one.done_bytes for one in readings)
        rate = done_bytes / (now - self._began)
        typer.echo(
            f"{sum(one.done_files for one in readings)} of "
            f"{sum(one.total_files for one in readings)} files read, "
            f"{render.size(done_bytes)}, {render.size(rate)}/s, "
            f"{scrub.tally.damaged} damaged",
            err=True,
        )

    def close(self) -> None:
        """Leave the lines."""


class SurveyLines:
    """How far a rebuild is: one line that changes, or one every few seconds.

    Args:
        live: On a terminal.
    """

    def __init__(self, *, live: bool) -> None:
        self._live = live
        self._last = time.monotonic()

    def update(self, progress: Rebuild) -> None:
        """Show it, if it is time to."""
        now = time.monotonic()
        if now - self._last < (_LIVE_S if self._live else _LINE_S):
            return
        self._last = now
        read = [f"{name} {one.sidecars}" for name, one in progress.targets.items()]
        text = f"{progress.carried} exports carried over; sidecars: {', '.join(read)}"
        shown = f"\r{text}\x1b[K" if self._live else text
        typer.echo(shown, err=True, nl=not self._live)

    def close(self) -> None:
        """Clear the line."""
        if self._live:
            typer.echo("\r\x1b[K", err=True, nl=False)
