"""The command that reads what is kept again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mirror.app.refuse_root import refuse_root
from mirror.cli import render, signals
from mirror.cli.globals import given

if TYPE_CHECKING:
    from mirror.pipeline.verify.judge import CopyFinding, VerifyTally
    from mirror.pipeline.verify.scrub import Sample


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("verify")(verify)


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
    settings = given(context).settings()
    for name in target or []:
        if name not in settings.targets:
            raise typer.BadParameter(f"--target: there is no target {name}")
    size = _sample(sample)
    if repair:
        refuse_root(settings.state_dir, given(context).arguments)

    from mirror.app import verify as verifying  # noqa: PLC0415 -- slow imports
    from mirror.cli.progress import ReadBars, ReadLines  # noqa: PLC0415

    found: list[CopyFinding] = []
    shown = ReadBars() if sys.stderr.isatty() else ReadLines()
    try:
        tally = signals.run(
            verifying.run(
                settings,
                targets=sorted(set(target or settings.targets)),
                sample=size,
                repair=repair,
                told=found.append if as_json else _print_finding,
                watch=shown.update,
            )
        )
    finally:
        shown.close()
    if as_json:
        render.as_json(_counts(tally) | {"findings": [_record(one) for one in found]})
    else:
        counts = _counts(tally).items()
        typer.echo(", ".join(f"{name.replace('_', ' ')} {n}" for name, n in counts))
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


def _counts(tally: VerifyTally) -> dict[str, object]:
    return {
        "checked": tally.checked,
        "good": tally.good,
        "damaged": tally.damaged,
        "repaired": tally.repaired,
        "not_checked": tally.not_checked,
    }


def _record(found: CopyFinding) -> dict[str, object]:
    return {
        "source": found.source,
        "id": found.export_id,
        "created_at": found.created_at,
        "target": found.target,
        "path": found.path,
        "problem": found.problem,
        "text": found.text,
        "repaired": found.repaired,
    }


def _print_finding(found: CopyFinding) -> None:
    text = found.text
    if found.path is not None:
        text = f"{found.source}/{found.export_id}  {found.target}:{found.path}: {text}"
    mark = "repaired " if found.repaired else ""
    typer.echo(f"{mark}{found.problem}  {render.clean(text)}")
