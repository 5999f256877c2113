"""Pages of the documents that come from the code: `python -m tests.docs`.

Writes them all; a test compares them with what is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from mirror.metrics import PREFIX, LedgerSnapshot, Metrics
from tests import configuration_page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client import Metric

FOLDER = Path(__file__).parents[1] / "docs"
_CLOSED = ("state", "outcome", "reason")
_UNITS = (
    ("_timestamp_seconds", "seconds since 1970"),
    ("_seconds", "seconds"),
    ("_bytes", "bytes"),
    ("_bytes_total", "bytes"),
)
WITHOUT_SAMPLE = {
    "source_last_success_timestamp_seconds": "until a list was read to its end",
    "token_expiry_timestamp_seconds": "while the token says no end (it is no JWT), or "
    "was not read yet",
    "target_size_bytes": "until the target was looked at; where it does not say its "
    "size",
    "target_last_verified_timestamp_seconds": "until `verify` read a copy there",
    "target_free_bytes": "until the target was looked at; while it is away the last "
    "number stays",
    "holdup_seconds": "while the room left in the spool is not known; `+Inf` while "
    "nothing comes in",
    "oldest_ready_timestamp_seconds": "while nothing is left to fetch",
    "earliest_deadline_timestamp_seconds": "while nothing is left to fetch",
}
"""When a metric has no sample, for those that can have none."""
_METRICS = """\
# Metrics

Made from the code by `python -m tests.docs`; change `mirror/metrics.py`, not this page.

They are served at `/metrics`. Every name begins with `{prefix}`. Labels are names of
sources and targets as they are configured, and words from the lists below; never ids,
paths or addresses. Where the last column is empty, the series of each source and target
are there, at 0, before anything has happened; they go when a reload removes the name.

`exports`, `exports_saved_total`, `exports_lost_total`, what is at risk, due, owed and
damaged, and the clock's offset are read from the ledger at each scrape, so a restart
changes nothing; the other counters begin anew. While the ledger does not answer the
scrape fails. Memory, processor and open files of the process are in `process_*`, the
interpreter's garbage collections in `python_gc_*`.

| metric | type | labels | unit | meaning | no sample |
|---|---|---|---|---|---|
{rows}

The words of the labels:

| label | of | words |
|---|---|---|
{words}
"""


def metrics() -> str:
    """Return the page about the metrics."""
    idle, busy = _declared(), _declared()
    _use(busy)
    at_first = {family.name for family in _families(idle) if family.samples}
    rows = [
        _row(
            family,
            "" if family.name in at_first else WITHOUT_SAMPLE[_short(family.name)],
        )
        for family in _families(busy)
    ]
    return _METRICS.format(
        prefix=PREFIX, rows="\n".join(rows), words="\n".join(_words(idle))
    )


def pages() -> Mapping[str, Callable[[], str]]:
    """Return what makes each page, by the name of its file."""
    return {"metrics.md": metrics, "configuration.md": configuration_page.make}


def can_be_empty() -> set[str]:
    """Return the metrics that have no sample when nothing happened yet."""
    return {
        _short(family.name) for family in _families(_declared()) if not family.samples
    }


def main() -> None:
    """Write all pages."""
    for name, make in pages().items():
        (FOLDER / name).write_text(make(), encoding="utf-8")


def _declared() -> Metrics:
    made = Metrics(CollectorRegistry())
    made.declare(["hq"], ["nas"])
    made.show(LedgerSnapshot())
    return made


def _use(made: Metrics) -> None:
    """Have every metric show a sample."""
    made.poll_ended("hq", "ok")
    made.token_expiry("hq", 1)
    made.target_checked("nas", up=True, free_bytes=1, size_bytes=1)
    made.holdup("nas", 1.0)
    made.show(
        LedgerSnapshot(
            oldest_ready_us=1,
            earliest_deadline_us={"hq": 1},
            last_success_us={"hq": 1},
            target_last_verified_us={"nas": 1},
        )
    )


def _families(made: Metrics) -> Iterator[Metric]:
    for family in sorted(made.registry.collect(), key=lambda family: family.name):
        if family.name.startswith(PREFIX):
            yield family


def _short(name: str) -> str:
    return name.removeprefix(PREFIX)


def _full(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def _row(family: Metric, without: str) -> str:
    name = _full(family)
    labels = [label for label in family.samples[0].labels if label != "le"]
    cells = (
        f"`{name}`",
        family.type,
        ", ".join(f"`{label}`" for label in labels),
        next((unit for end, unit in _UNITS if name.endswith(end)), "number"),
        family.documentation,
        without,
    )
    return f"| {' | '.join(cells)} |"


def _words(made: Metrics) -> Iterator[str]:
    for family in _families(made):
        for label in _CLOSED:
            found = dict.fromkeys(
                sample.labels[label]
                for sample in family.samples
                if label in sample.labels
            )
            if found:
                words = ", ".join(f"`{word}`" for word in found)
                yield f"| `{label}` | `{_full(family)}` | {words} |"


if __name__ == "__main__":
    main()
