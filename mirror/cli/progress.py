"""Show how far work is: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

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
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from mirror.app.rebuild.rebuild import RebuildReport
    from mirror.logs import LogWriter
    from mirror.pipeline.engine import Engine
    from mirror.pipeline.verify.scrub import Scrub

T = TypeVar("T")
Watch: TypeAlias = "AbstractContextManager[Callable[[T], None]]"
_LINE_S = 5.0
_LIVE_S = 0.2


def of_fetches(outlet: LogWriter | None = None) -> Watch[Engine]:
    """Show a run: a bar for each file under way, and one for the whole.

    What `outlet` writes meanwhile stands above the bars.
    """
    return _watch(_bars_of_fetches, _line_of_fetches, outlet)


def of_reads(outlet: LogWriter | None = None) -> Watch[Scrub]:
    """Show how far each target is read; `outlet` as in `of_fetches`."""
    return _watch(_bars_of_reads, _line_of_reads, outlet)


@contextlib.contextmanager
def of_rebuild() -> Iterator[Callable[[RebuildReport], None]]:
    """Show a rebuild; on a terminal by one line that changes."""
    live = sys.stderr.isatty()
    try:
        yield _lines(_line_of_rebuild, live=live)
    finally:
        if live:
            typer.echo("\r\x1b[K", err=True, nl=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What one bar shows.

    Attributes:
        total_bytes: None while unknown.
        note: Stands behind it.
    """

    label: str
    done_bytes: int
    total_bytes: int | None = None
    note: str = ""


@contextlib.contextmanager
def _watch(
    bars_of: Callable[[T], Mapping[object, Bar]],
    line: Callable[[T, float], str],
    outlet: LogWriter | None,
) -> Iterator[Callable[[T], None]]:
    """Show bars that come and go, by what tells them apart; elsewhere lines."""
    if not sys.stderr.isatty():
        yield _lines(line)
        return
    tasks: dict[object, TaskID] = {}

    def update(work: T) -> None:
        bars = bars_of(work)
        for key in tasks.keys() - bars.keys():
            shown.remove_task(tasks.pop(key))
        for key, bar in bars.items():
            if key not in tasks:
                tasks[key] = shown.add_task(bar.label, total=None, note="")
            shown.update(
                tasks[key],
                description=bar.label,
                completed=bar.done_bytes,
                total=bar.total_bytes,
                note=bar.note,
            )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    ) as shown:
        # The bars have put their console in the place of sys.stderr.
        above = outlet.writing_to(sys.stderr) if outlet else contextlib.nullcontext()
        with above:
            yield update


def _lines(
    line: Callable[[T, float], str], *, live: bool = False
) -> Callable[[T], None]:
    """Return what prints a line every few seconds; it is told those since the start.

    `live` lines take the place of the one before, more often.
    """
    began = last = time.monotonic()

    def update(work: T) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < (_LIVE_S if live else _LINE_S):
            return
        last = now
        text = line(work, now - began)
        typer.echo(f"\r{text}\x1b[K" if live else text, err=True, nl=not live)

    return update


def _bars_of_fetches(engine: Engine) -> dict[object, Bar]:
    progress, now_us = engine.progress, to_us(utc_now())
    left_s = {
        key: (transfer.deadline_us - now_us) / 1e6
        for key, transfer in progress.transfers.items()
        if transfer.deadline_us is not None
    }
    bars: dict[object, Bar] = {
        "files": Bar(
            label=f"{progress.saved_files} saved", done_bytes=progress.received_bytes
        )
    }
    for key, transfer in progress.transfers.items():
        bars[key] = Bar(
            label=transfer.label,
            done_bytes=transfer.done_bytes,
            total_bytes=transfer.total_bytes,
            note=f"{render.span(left_s[key])} left" if key in left_s else "",
        )
    return bars


def _line_of_fetches(engine: Engine, elapsed_s: float) -> str:
    progress = engine.progress
    return (
        f"{progress.saved_files} files saved, {len(progress.transfers)} under way, "
        f"{render.size(progress.received_bytes)} received, "
        f"{render.size(progress.received_bytes / elapsed_s)}/s"
    )


def _bars_of_reads(scrub: Scrub) -> dict[object, Bar]:
    return {
        target: Bar(
            label=target,
            done_bytes=reading.done_bytes,
            total_bytes=reading.total_bytes,
            note=f"{reading.done_files} of {reading.total_files} files",
        )
        for target, reading in scrub.progress.items()
    }


def _line_of_reads(scrub: Scrub, elapsed_s: float) -> str:
    readings = scrub.progress.values()
    done_bytes = sum(reading.done_bytes for reading in readings)
    return (
        f"{sum(reading.done_files for reading in readings)} of "
        f"{sum(reading.total_files for reading in readings)} files read, "
        f"{render.size(done_bytes)}, {render.size(done_bytes / elapsed_s)}/s, "
        f"{scrub.tally.damaged} damaged"
    )


def _line_of_rebuild(report: RebuildReport, _: float) -> str:
    read = ", ".join(f"{name} {each.sidecars}" for name, each in report.targets.items())
    return f"{report.carried} exports carried over; sidecars: {read}"
