"""The command that asks a VMS what its documentation leaves open."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from mirror.cli import render, signals
from mirror.cli.globals import globals_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.app.probe import Fact, Report, Suggestion

_INDENT = 22
_WIDTH = 110


def probe(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE")],
) -> None:
    """Ask a VMS what its documentation leaves open; prints the TOML to paste.

    It reads only (GET), one request at a time, at most 40 within three minutes. Exits
    1 if the list could not be read.
    """
    globals_ = globals_of(context)
    settings = globals_.settings()
    if source not in settings.sources:
        names = ", ".join(settings.sources)
        raise typer.BadParameter(f"no source {source}; there are: {names}")

    from mirror.app import probe  # noqa: PLC0415 -- slow imports

    report = signals.run(
        probe.probe(
            settings,
            source,
            secret=globals_.redactor.add,
        )
    )
    typer.echo(f"{source}: {settings.sources[source].url}, requests: {report.requests}")
    for line in _lines_of(report, source):
        typer.echo(globals_.redactor.clean(render.clean(line)))
    raise typer.Exit(0 if report.answers else 1)


def _lines_of(report: Report, source: str) -> Iterator[str]:
    yield ""
    for fact in report.facts:
        if fact.known:
            yield from _lines(fact)
    unknown = [fact for fact in report.facts if not fact.known]
    if unknown:
        yield ""
        yield "Not learnt:"
        for fact in unknown:
            yield from _lines(fact)
    if not report.suggestions:
        return
    yield ""
    yield f"# These keys belong into [sources.{source}], in place of those there:"
    yield f"[sources.{source}]"
    for each in sorted(report.suggestions, key=lambda one: not one.sure):
        yield f"{'' if each.sure else '# '}{_key(each)}"


def _lines(fact: Fact) -> list[str]:
    return textwrap.wrap(
        f"{fact.topic:<{_INDENT}}{fact.text}",
        _WIDTH,
        subsequent_indent=" " * _INDENT,
        drop_whitespace=True,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _key(suggestion: Suggestion) -> str:
    value = json.dumps(suggestion.value)
    if isinstance(suggestion.value, dict):
        pairs = (
            f"{json.dumps(k)} = {json.dumps(v)}" for k, v in suggestion.value.items()
        )
        value = f"{{ {', '.join(pairs)} }}"
    return f"{suggestion.key} = {value}  # {suggestion.why}"
