"""All metrics for Prometheus."""

from __future__ import annotations

import itertools
import platform
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from typing_extensions import override

from mirror import __version__
from mirror.model import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prometheus_client import Metric

PREFIX = "archive_mirror_"
LOSS_REASONS = ("expired", "row_gone")
_BY_OUTCOME = ("source", "outcome")
_MARGINS_S = (
    *(-10800, -3600, -600, 0),
    *(60, 300, 900, 1800, 3600, 5400, 7200, 9000, 10800),
)
_DURATIONS_S = (0.1, 0.5, 1, 5, 15, 60, 180, 600, 1800, 3600, 10800)


class FetchOutcome(StrEnum):
    """How a fetch attempt ended, as far as an operator cares."""

    WHOLE = "whole"
    DOUBTFUL = "doubtful"
    UNCHANGED = "unchanged"
    CUT = "cut"
    TIMEOUT = "timeout"
    BUSY = "busy"
    SERVER_ERROR = "server_error"
    UNREACHABLE = "unreachable"
    TLS = "tls"
    GONE = "gone"
    REFUSED = "refused"
    REJECTED = "rejected"
    SPOOL = "spool"
    OTHER = "other"


_OUTCOMES = {outcome.value: outcome for outcome in FetchOutcome} | {
    "first_byte": FetchOutcome.TIMEOUT,
    "too_slow": FetchOutcome.TIMEOUT,
    "proxy": FetchOutcome.UNREACHABLE,
    "file_gone": FetchOutcome.GONE,
    "url_without_file": FetchOutcome.GONE,
    "origin_refused": FetchOutcome.REFUSED,
    "encoded": FetchOutcome.REJECTED,
    "error_page": FetchOutcome.REJECTED,
    "empty": FetchOutcome.REJECTED,
    "too_large": FetchOutcome.REJECTED,
    "unfit_range": FetchOutcome.REJECTED,
    "spool_full": FetchOutcome.SPOOL,
    "spool_failed": FetchOutcome.SPOOL,
}


class PollOutcome(StrEnum):
    """How a walk over a list ended."""

    OK = "ok"
    FAILED = "failed"
    UNAUTHORIZED = "unauthorized"


class LookOutcome(StrEnum):
    """What a second look showed of a fetched file."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    NOTHING = "nothing"
    FAILED = "failed"


class CopyOutcome(StrEnum):
    """How a publish ended."""

    SAVED = "saved"
    FAILED = "failed"
    SPOOL_LOST = "spool_lost"


class EventOutcome(StrEnum):
    """How an event for the command of `on_event` ended."""

    TOLD = "told"
    FAILED = "failed"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSnapshot:
    """Counts and times from the ledger at one moment; times in microseconds.

    Attributes:
        exports: By (source, state).
        unfetched: Due or under way, without any body held or kept, by source.
        saved_total: Ever saved, by source.
        doubtful_total: Ever kept though not proven whole, by source.
        lost_total: Ever lost by us, by (source, reason).
        unacknowledged: Lost by us and not acknowledged, by source.
        clock_offset_us: By source.
        last_success_us: When a source's list was last read to its end, by source.
        earliest_deadline_us: By source; without one that has nothing left to fetch.
        exports_at_risk: By source.
        target_last_verified_us: When `verify` last read a copy there, by target.
        left_out: Rows of a source's last walk that were not taken in, by source.
    """

    exports: Mapping[tuple[str, str], int] = field(default_factory=dict)
    unfetched: Mapping[str, int] = field(default_factory=dict)
    saved_total: Mapping[str, int] = field(default_factory=dict)
    doubtful_total: Mapping[str, int] = field(default_factory=dict)
    lost_total: Mapping[tuple[str, str], int] = field(default_factory=dict)
    unacknowledged: Mapping[str, int] = field(default_factory=dict)
    paused_sources: frozenset[str] = frozenset()
    paused_targets: frozenset[str] = frozenset()
    oldest_ready_us: int | None = None
    earliest_deadline_us: Mapping[str, int] = field(default_factory=dict)
    exports_at_risk: Mapping[str, int] = field(default_factory=dict)
    exports_without_room: int = 0
    target_owed_files: Mapping[str, int] = field(default_factory=dict)
    target_owed_bytes: Mapping[str, int] = field(default_factory=dict)
    target_damaged_files: Mapping[str, int] = field(default_factory=dict)
    target_last_verified_us: Mapping[str, int] = field(default_factory=dict)
    clock_offset_us: Mapping[str, int] = field(default_factory=dict)
    last_success_us: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)


class Metrics(Collector):
    """All metrics of the program, on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # not annotated
        self.registry = registry
        self._sources: tuple[str, ...] = ()
        self._targets: tuple[str, ...] = ()
        self._snapshot: LedgerSnapshot | None = None
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        registry.register(self)
        self._polls = self._counter(
            "polls_total",
            "Walks over a source's list; unauthorized: the VMS refuses the token.",
            *_BY_OUTCOME,
        )
        self._fetches = self._counter(
            "fetches_total",
            "Attempts to fetch a file; whole: it is proven in the spool; doubtful: it "
            "came to its end and is not proven; unchanged: a doubtful one is so again.",
            *_BY_OUTCOME,
        )
        self._looks = self._counter(
            "second_looks_total",
            "Looks at the headers of a file fetched before; changed: it is another.",
            *_BY_OUTCOME,
        )
        self._fetched_bytes = self._counter(
            "fetched_bytes_total", "Bytes of files received from all sources."
        )
        self._copies = self._counter(
            "copies_total",
            "Publishes to a target; saved: the copy there is proven.",
            "target",
            "outcome",
        )
        self._events = self._counter(
            "events_total",
            "Changes of state for `on_event`; dropped: too many were waiting.",
            "outcome",
        )
        for event in EventOutcome:
            self._events.labels(event)
        self._source_up = self._gauge(
            "source_up", "Whether the last walk of a source succeeded.", "source"
        )
        self._token_expiry = self._gauge(
            "token_expiry_timestamp_seconds",
            "When a source's token expires, if it says so.",
            "source",
        )
        self._target_up = self._gauge(
            "target_up", "Whether a target could be used when last tried.", "target"
        )
        self._target_free = self._gauge(
            "target_free_bytes", "Space left on a target above min_free.", "target"
        )
        self._target_size = self._gauge(
            "target_size_bytes", "Size of a target's file system.", "target"
        )
        self._holdup = self._gauge(
            "holdup_seconds",
            "How long the spool lasts at the present inflow with a target away.",
            "target",
        )
        self._spool = self._gauge("spool_bytes", "Bytes of files in the spool.")
        self._spool_free = self._gauge(
            "spool_free_bytes", "Space left on the spool's file system."
        )
        self._reloaded = self._gauge(
            "config_last_reload_successful",
            "Whether the configuration could be understood when last read.",
        )
        self._durations = Histogram(
            f"{PREFIX}fetch_duration_seconds",
            "How long attempts to fetch a file took.",
            ("source",),
            buckets=_DURATIONS_S,
            registry=registry,
        )
        self._margins = Histogram(
            f"{PREFIX}deadline_margin_seconds",
            "Time left before its deadline when a file was whole in the spool.",
            ("source",),
            buckets=_MARGINS_S,
            registry=registry,
        )
        build = self._gauge("build_info", "Always 1.", "version", "python")
        build.labels(__version__, platform.python_version()).set(1)

    def declare(self, sources: Sequence[str], targets: Sequence[str]) -> None:
        """Create every series that can come, at 0; drop those of removed names."""
        histograms = (self._durations, self._margins)
        of_sources = (
            *(self._source_up, self._token_expiry),
            *(self._polls, self._fetches, self._looks, *histograms),
        )
        of_targets = (
            *(self._target_up, self._target_free, self._target_size),
            *(self._holdup, self._copies),
        )
        for label, metrics, removed in (
            ("source", of_sources, set(self._sources) - set(sources)),
            ("target", of_targets, set(self._targets) - set(targets)),
        ):
            for metric, name in itertools.product(metrics, removed):
                metric.remove_by_labels({label: name})
        self._sources, self._targets = tuple(sources), tuple(targets)
        for source in sources:
            for counter, outcomes in (
                (self._polls, PollOutcome),
                (self._fetches, FetchOutcome),
                (self._looks, LookOutcome),
            ):
                for outcome in outcomes:
                    counter.labels(source, outcome)
            for histogram in histograms:
                histogram.labels(source)
            self._source_up.labels(source)
        for target in targets:
            for copy in CopyOutcome:
                self._copies.labels(target, copy)
            self._target_up.labels(target)

    def show(self, snapshot: LedgerSnapshot) -> None:
        """Replace the snapshot of the ledger."""
        self._snapshot = snapshot

    def poll_ended(self, source: str, outcome: str) -> None:
        """Count a walk; the outcome is `ok` or why it failed."""
        ended = PollOutcome(outcome)
        self._polls.labels(source, ended).inc()
        self._source_up.labels(source).set(ended is PollOutcome.OK)

    def fetch_ended(self, source: str, reason: str, seconds: float) -> None:
        """Count an attempt by the reason it ended with, `whole` if it succeeded."""
        outcome = _OUTCOMES.get(reason, FetchOutcome.OTHER)
        self._fetches.labels(source, outcome).inc()
        self._durations.labels(source).observe(seconds)

    def looked(self, source: str, outcome: str) -> None:
        """Count a second look."""
        self._looks.labels(source, LookOutcome(outcome)).inc()

    def bytes_fetched(self, number: int) -> None:
        """Count bytes received."""
        self._fetched_bytes.inc(number)

    def deadline_margin(self, source: str, seconds: float) -> None:
        """Record the time a file had left when it was whole."""
        self._margins.labels(source).observe(seconds)

    def copy_ended(self, target: str, outcome: str) -> None:
        """Count a publish."""
        self._copies.labels(target, CopyOutcome(outcome)).inc()

    def events_ended(self, outcome: str, number: int = 1) -> None:
        """Count events by how they ended."""
        self._events.labels(EventOutcome(outcome)).inc(number)

    def target_checked(
        self,
        target: str,
        *,
        up: bool,
        free_bytes: int | None,
        size_bytes: int | None,
    ) -> None:
        """Record a look at a target; None where it was not told."""
        self._target_up.labels(target).set(up)
        if free_bytes is not None:
            self._target_free.labels(target).set(free_bytes)
        if size_bytes is not None:
            self._target_size.labels(target).set(size_bytes)

    def spool_measured(self, *, used_bytes: int, free_bytes: int | None) -> None:
        """Record how full the spool is."""
        self._spool.set(used_bytes)
        if free_bytes is not None:
            self._spool_free.set(free_bytes)

    def holdup(self, target: str, seconds: float) -> None:
        """Record how long the spool lasts without a target."""
        self._holdup.labels(target).set(seconds)

    def token_expiry(self, source: str, at_s: int | None) -> None:
        """Record when a token expires; None if the present one does not say."""
        if at_s is None:
            self._token_expiry.remove_by_labels({"source": source})
        else:
            self._token_expiry.labels(source).set(at_s)

    def config_reloaded(self, *, successful: bool) -> None:
        """Record whether the configuration could be understood."""
        self._reloaded.set(successful)

    @override
    def collect(self) -> Iterable[Metric]:
        """Yield what the last snapshot says, so that it survives a restart.

        Nothing before the first: a total of 0 before the ledger was read would look
        like that many exports lost as soon as it was.
        """
        snapshot = self._snapshot
        if snapshot is None:
            return
        exports = GaugeMetricFamily(
            f"{PREFIX}exports", "Exports by state.", labels=["source", "state"]
        )
        unfetched = GaugeMetricFamily(
            f"{PREFIX}exports_unfetched",
            "Exports to be fetched now; not those of which a file is held that is to "
            "be confirmed, nor changed files before their time.",
            labels=["source"],
        )
        saved = CounterMetricFamily(
            f"{PREFIX}exports_saved", "Exports ever saved.", labels=["source"]
        )
        doubtful = CounterMetricFamily(
            f"{PREFIX}exports_doubtful",
            "Exports ever kept whose files are not proven whole.",
            labels=["source"],
        )
        lost = CounterMetricFamily(
            f"{PREFIX}exports_lost",
            "Exports ever lost that were first seen after the first complete sweep.",
            labels=["source", "reason"],
        )
        unacknowledged = GaugeMetricFamily(
            f"{PREFIX}exports_lost_unacknowledged",
            "Exports lost by us that nobody has taken note of; see `ack`.",
            labels=["source"],
        )
        paused = GaugeMetricFamily(
            f"{PREFIX}source_paused",
            "Whether a source is left alone by `pause`.",
            labels=["source"],
        )
        offset = GaugeMetricFamily(
            f"{PREFIX}clock_offset_seconds",
            "The VMS's clock less ours.",
            labels=["source"],
        )
        success = GaugeMetricFamily(
            f"{PREFIX}source_last_success_timestamp_seconds",
            "When a source's list was last read to its end.",
            labels=["source"],
        )
        left_out = GaugeMetricFamily(
            f"{PREFIX}rows_left_out",
            "Rows without a file that the last walk left out, there being too many.",
            labels=["source"],
        )
        at_risk = GaugeMetricFamily(
            f"{PREFIX}exports_at_risk",
            "Exports not yet fetched that may not be in time.",
            labels=["source"],
        )
        deadline = GaugeMetricFamily(
            f"{PREFIX}earliest_deadline_timestamp_seconds",
            "The nearest deadline of an export not yet fetched.",
            labels=["source"],
        )
        for source in self._sources:
            left_out.add_metric([source], snapshot.left_out.get(source, 0))
            if source in snapshot.last_success_us:
                success.add_metric([source], snapshot.last_success_us[source] / 1e6)
            at_risk.add_metric([source], snapshot.exports_at_risk.get(source, 0))
            if source in snapshot.earliest_deadline_us:
                nearest_us = snapshot.earliest_deadline_us[source]
                deadline.add_metric([source], nearest_us / 1e6)
            for state in State:
                exports.add_metric(
                    [source, state], snapshot.exports.get((source, state), 0)
                )
            unfetched.add_metric([source], snapshot.unfetched.get(source, 0))
            saved.add_metric([source], snapshot.saved_total.get(source, 0))
            doubtful.add_metric([source], snapshot.doubtful_total.get(source, 0))
            for reason in LOSS_REASONS:
                lost.add_metric(
                    [source, reason], snapshot.lost_total.get((source, reason), 0)
                )
            unacknowledged.add_metric([source], snapshot.unacknowledged.get(source, 0))
            paused.add_metric([source], source in snapshot.paused_sources)
            offset.add_metric([source], snapshot.clock_offset_us.get(source, 0) / 1e6)
        yield from (exports, unfetched, saved, doubtful, lost, unacknowledged)
        yield from (paused, offset, success, left_out, at_risk, deadline)
        yield from self._backlog(snapshot)

    def _backlog(self, snapshot: LedgerSnapshot) -> Iterable[Metric]:
        files = GaugeMetricFamily(
            f"{PREFIX}target_owed_files", "Copies owed to a target.", labels=["target"]
        )
        size = GaugeMetricFamily(
            f"{PREFIX}target_owed_bytes", "Bytes owed to a target.", labels=["target"]
        )
        damaged = GaugeMetricFamily(
            f"{PREFIX}target_damaged_files",
            "Copies on a target found damaged or gone.",
            labels=["target"],
        )
        paused = GaugeMetricFamily(
            f"{PREFIX}target_paused",
            "Whether a target is left alone by `pause`.",
            labels=["target"],
        )
        verified = GaugeMetricFamily(
            f"{PREFIX}target_last_verified_timestamp_seconds",
            "When `verify` last read a copy on a target.",
            labels=["target"],
        )
        for target in self._targets:
            if target in snapshot.target_last_verified_us:
                last_us = snapshot.target_last_verified_us[target]
                verified.add_metric([target], last_us / 1e6)
            paused.add_metric([target], target in snapshot.paused_targets)
            damaged.add_metric([target], snapshot.target_damaged_files.get(target, 0))
            files.add_metric([target], snapshot.target_owed_files.get(target, 0))
            size.add_metric([target], snapshot.target_owed_bytes.get(target, 0))
        yield from (files, size, damaged, paused, verified)
        yield GaugeMetricFamily(
            f"{PREFIX}exports_without_room",
            "Exports not yet fetched that found no room in the spool when last tried.",
            value=snapshot.exports_without_room,
        )
        yield GaugeMetricFamily(
            f"{PREFIX}oldest_ready_timestamp_seconds",
            "Since when the oldest export not yet fetched is ready.",
            value=_seconds(snapshot.oldest_ready_us),
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"{PREFIX}{name}", text, labels, registry=self.registry)


def _seconds(moment_us: int | None) -> float | None:
    return None if moment_us is None else moment_us / 1e6
