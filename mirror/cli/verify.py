"""The command that reads kept copies again."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mirror.cli import render, signals
from mirror.cli.globals import globals_of, targets_of

if TYPE_CHECKING:
    from mirror.pipeline.verify.judge import CopyFinding
    from mirror.pipeline.verify.scrub import Sample, Scrub

_MOST = 10
"""Findings of one kind on one target that are printed."""


def verify(
    context: typer.Context,
    *,
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only on this target; may be repeated."),
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option(
            metavar="N|P%", help="Only so many copies, those not read for longest."
        ),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Move aside what is damaged, and bring it back from another target.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Read kept copies again and compare each with its SHA-256 in the ledger.

    Exits 4 if damage was found, else 1 if something could not be checked. Without
    --repair nothing on a target is changed.
    """
    settings = globals_of(context).settings()
    targets = targets_of(settings, target)
    size = _sample(sample)

    from mirror.app import verify as verifying  # noqa: PLC0415 -- slow imports
    from mirror.cli import progress  # noqa: PLC0415 -- slow imports

    findings: list[CopyFinding] = []
    examples = _Examples()
    with progress.of_reads(globals_of(context).outlet) as watch:
        tally = signals.run(
            verifying.run(
                settings,
                targets=targets,
                sample=size,
                repair=repair,
                told=findings.append if as_json else examples.add,
                watch=lambda scrub: watch(examples.see(scrub)),
            )
        )
    counts = asdict(tally)
    if as_json:
        render.as_json(counts | {"findings": [_record(each) for each in findings]})
    else:
        examples.end()
        words = [f"{name.replace('_', ' ')} {n}" for name, n in counts.items()]
        typer.echo(", ".join(words))
    raise typer.Exit(tally.exit_code)


def _sample(text: str | None) -> Sample:
    from mirror.pipeline.verify.scrub import Sample  # noqa: PLC0415 -- slow imports

    if text is None:
        return Sample()
    try:
        if text.endswith("%"):
            percent = float(text.removesuffix("%"))
            if 0 < percent <= 100:  # noqa: PLR2004 -- all of them
                return Sample(percent=percent)
        elif int(text) > 0:
            return Sample(count=int(text))
    except ValueError:
        pass
    raise typer.BadParameter("--sample takes a number above 0, or a share such as 5%")


def _record(finding: CopyFinding) -> dict[str, object]:
    return {
        "source": finding.source,
        "id": finding.export_id,
        "created_at": finding.created_at,
        "target": finding.target,
        "path": finding.path,
        "problem": finding.problem,
        "text": finding.text,
        "repaired": finding.repaired,
    }


class _Examples:
    """Prints some findings of each kind, and how many more there are."""

    def __init__(self) -> None:
        self._numbers: Counter[tuple[str, str]] = Counter()
        self._gone: set[tuple[str, str | None]] = set()
        self._copies: dict[str, int] = {}

    def see(self, scrub: Scrub) -> Scrub:
        """Learn how many copies are read on each target."""
        self._copies = {name: one.total_files for name, one in scrub.progress.items()}
        return scrub

    def add(self, finding: CopyFinding) -> None:
        """Print a finding, unless there were enough like it."""
        place = finding.target, finding.path
        if finding.problem == "missing" and not finding.repaired:
            self._gone.add(place)
        elif place in self._gone:
            return  # A sidecar beside nothing.
        kind = finding.problem, finding.target
        self._numbers[kind] += 1
        if self._numbers[kind] <= _MOST:
            _print_finding(finding)

    def end(self) -> None:
        """Say what was left out, and of which target nothing is left."""
        for (problem, target), number in self._numbers.items():
            if number > _MOST:
                more = f"{problem}  {target}: {number - _MOST} more"
                typer.echo(f"{more}; `archive-mirror verify --json` names them all")
        gone = Counter(target for target, _ in self._gone)
        for target, number in gone.items():
            if 1 < number == self._copies.get(target):
                typer.echo(
                    f"all {number} copies on {target} are gone: is that the right disk?"
                )


def _print_finding(finding: CopyFinding) -> None:
    text = finding.text
    if finding.path is not None:
        export = f"{finding.source}/{finding.export_id}"
        text = f"{export}  {finding.target}:{finding.path}: {text}"
    mark = "repaired " if finding.repaired else ""
    # Not by typer.echo, which knows nothing of the bars and writes behind them.
    sys.stdout.write(f"{mark}{finding.problem}  {render.clean(text)}\n")
