"""The command that makes a new ledger from what the targets hold."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from mirror.cli import render, signals
from mirror.cli.globals import globals_of, targets_of

if TYPE_CHECKING:
    from mirror.app.rebuild.rebuild import OddCopy, RebuildReport, TargetReport

_NAMED = 100
"""So many of each oddity are named on each target."""


def rebuild(
    context: typer.Context,
    *,
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this target; may be repeated."),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace a ledger that is not damaged, too."),
    ] = False,
) -> None:
    """Make a new ledger from the sidecars on the targets; the service must be stopped.

    The old ledger is moved aside, never deleted; what is sound in it is carried over.
    Nothing on a target is changed.
    """
    settings = globals_of(context).settings()
    targets = targets_of(settings, target)

    from mirror.app.rebuild import rebuild as rebuilding  # noqa: PLC0415 -- slow imports
    from mirror.cli import progress  # noqa: PLC0415 -- slow imports

    named: Counter[tuple[str, str]] = Counter()

    def told(odd: OddCopy) -> None:
        key = (odd.target, odd.oddity)
        named[key] += 1
        if named[key] <= _NAMED:
            place = f"{odd.target}:{odd.path}"
            typer.echo(render.clean(f"{odd.oddity}  {place}: {odd.text}"))

    with progress.of_rebuild() as watch:
        report = signals.run(
            rebuilding.run(
                settings,
                targets=targets,
                force=force,
                told=told,
                watch=watch,
            )
        )
    _print(report)


def _print(report: RebuildReport) -> None:
    typer.echo(report.old)
    if report.aside is not None:
        typer.echo(f"it is at {report.aside} now")
    if report.carried:
        typer.echo(f"{report.carried} exports were carried over from it")
    if report.unsound:
        typer.echo(
            f"{report.unsound} exports in it cannot be read: those that were saved "
            "come back by their sidecars, others at the next sweep if the VMS lists "
            "them still; attempts and losses that were recorded of them are gone"
        )
    for name, target in report.targets.items():
        typer.echo(f"target {name}: {_found(target)}")
    counts = ", ".join(f"{state} {n}" for state, n in sorted(report.exports.items()))
    typer.echo(f"the new ledger holds: {counts or 'nothing'}")
    for file in report.unclaimed:
        place = f"{file.path}: of {file.export}, {file.size_bytes} bytes"
        typer.echo(render.clean(f"unclaimed  {place}, not known to the new ledger"))
    if report.unclaimed:
        typer.echo(
            "unclaimed files lay in the spool, whole or in part, and are left alone. "
            "Start the service: what the VMS still has is fetched anew. Where it has "
            "not, such a file is all that is left of the export: copy it to a place of "
            "your own, and see whether it plays. Then delete it"
        )
    typer.echo(
        "lengths were compared, and bytes only where two files claim one name: "
        "`archive-mirror verify` proves the rest"
    )


def _found(target: TargetReport) -> str:
    copies = ", ".join(f"{state} {n}" for state, n in sorted(target.copies.items()))
    text = f"{target.sidecars} sidecars read; copies: {copies or 'none'}"
    if target.odd:
        odd = ", ".join(f"{name} {n}" for name, n in sorted(target.odd.items()))
        text += f"; not taken as they are: {odd}"
    return text
