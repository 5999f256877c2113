"""Build the parts from the configuration, each of them alone."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import structlog
from yarl import URL

from mirror.app.instance import spool_folders
from mirror.layout import Values, parse_layout
from mirror.lifecycle.attempt import Pace
from mirror.model import from_us, to_us, utc_now
from mirror.pipeline.discover.lister import Lister
from mirror.pipeline.discover.rules import Rule
from mirror.pipeline.discover.walker import Walker, WalkRules
from mirror.pipeline.engine import Engine
from mirror.pipeline.fetch.attempt import Fetcher
from mirror.pipeline.fetch.download import Downloader
from mirror.pipeline.fetch.first_byte import FirstByteWait
from mirror.pipeline.fetch.origin_limit import OriginLimit
from mirror.pipeline.fetch.pool import FetchPool, FetchSource
from mirror.pipeline.fetch.receive import ReceiveLimits
from mirror.pipeline.fetch.second_looks import SecondLooks
from mirror.pipeline.progress import Progress
from mirror.pipeline.publish.already_kept import Recall
from mirror.pipeline.publish.attempt import CopyPublisher
from mirror.pipeline.publish.publisher import Publisher
from mirror.pipeline.publish.target_health import TargetMonitor
from mirror.pipeline.spool.places import SpoolPlaces
from mirror.pipeline.spool.space import Space
from mirror.pipeline.spool.spool import Spool
from mirror.targets.directory.target import DirectoryTarget
from mirror.vms import (
    Origins,
    Proxies,
    Sessions,
    Tls,
    TokenFile,
    VmsClient,
    VmsOptions,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from mirror.config import RuleSettings, Settings, SourceSettings, TargetSettings
    from mirror.layout import Layout
    from mirror.ledger import LedgerThread
    from mirror.metrics import Metrics
    from mirror.model import Export
    from mirror.ports import Target

_EPOCH_US = 0
_log = structlog.get_logger()


def engine_for(
    settings: Settings,
    *,
    clients: Mapping[str, VmsClient],
    ledger: LedgerThread,
    node_id: str,
    metrics: Metrics,
    unparks: bool = True,
    patient: bool = True,
) -> Engine:
    """Build all stages.

    Args:
        settings: The configuration.
        clients: By source.
        ledger: Open for writing; outlives the engine.
        node_id: From the ledger.
        metrics: Count what the stages do.
        unparks: Parked exports are tried again when their time has come.
        patient: A doubtful body is asked for again later, not at once.
    """
    progress, wake = Progress(), asyncio.Event()
    publishers: dict[str, Publisher] = {}
    targets = {
        name: target_for(target, node_id=node_id)
        for name, target in settings.targets.items()
    }
    places = places_for(settings, targets=targets, publishers=publishers)
    spool = spool_for(settings, node_id=node_id, places=places, ledger=ledger)
    publishers |= {
        name: publisher_for(
            settings,
            name,
            targets=targets,
            ledger=ledger,
            spool=spool,
            metrics=metrics,
            progress=progress,
            node_id=node_id,
            places=places,
            published=wake.set,
        )
        for name in targets
    }
    publishing = [each.wake for each in publishers.values()]
    sources = fetch_sources_for(settings, clients)
    looks = SecondLooks(
        ledger=ledger,
        spool=spool,
        metrics=metrics,
        sources=sources,
        targets=sorted(settings.targets),
        spooled=partial(_wake, wake, *publishing),
        now=utc_now,
    )
    pool = pool_for(
        settings,
        sources=sources,
        ledger=ledger,
        spool=spool,
        metrics=metrics,
        progress=progress,
        wake=wake,
        fetched=partial(_wake, looks.wake, *publishing),
        unparks=unparks,
        patient=patient,
    )
    spool.space.stop, spool.space.needed = pool.end, looks.make_room
    recall = Recall(ledger=ledger, publishers=publishers, now=utc_now)
    return Engine(
        ledger=ledger,
        progress=progress,
        places=places,
        spool=spool,
        listers={
            name: lister_for(
                settings,
                name,
                client=client,
                ledger=ledger,
                metrics=metrics,
                recall=recall.vanishing,
                walked=partial(_wake, wake, looks.wake),
            )
            for name, client in clients.items()
        },
        pool=pool,
        looks=looks,
        wake=wake,
        publishers=publishers,
        recall=recall,
        required=required_targets(settings),
    )


def _wake(*events: asyncio.Event) -> None:
    for event in events:
        event.set()


def required_targets(settings: Settings) -> frozenset[str]:
    """Return the names of the targets that an export must lie on to be saved."""
    targets = settings.targets.items()
    return frozenset(name for name, target in targets if target.required)


def source_urls(settings: Settings) -> dict[str, str]:
    """Return the base URL of each source."""
    return {name: source.url for name, source in settings.sources.items()}


def sessions_for(settings: Settings) -> Sessions:
    """Build the HTTP sessions, not yet open."""
    return Sessions(
        stall_timeout_s=settings.transfer.stall_timeout.total_seconds(),
        read_bytes=settings.transfer.hop_bytes // 2,
    )


def proxies_of(source: SourceSettings) -> Proxies:
    """Return which proxy each request of a source goes by."""
    if source.proxy is None:
        return Proxies()
    named = source.proxy.get_secret_value()
    if named == "environment":
        return Proxies.of_environment(os.environ)
    return Proxies.always(named)


def clients_for(
    settings: Settings,
    *,
    sessions: Sessions,
    device_uuids: Mapping[str, str],
    secret: Callable[[str], None],
) -> dict[str, VmsClient]:
    """Build the client of each source; see `client_for`."""
    return {
        name: client_for(
            settings,
            name,
            sessions=sessions,
            device_uuid=device_uuids[name],
            secret=secret,
        )
        for name in settings.sources
    }


def client_for(
    settings: Settings,
    name: str,
    *,
    sessions: Sessions,
    device_uuid: str,
    secret: Callable[[str], None],
) -> VmsClient:
    """Build the client of a source's VMS.

    Args:
        settings: The configuration.
        name: Of the source.
        sessions: Open before the first request; outlive the client's calls.
        device_uuid: The id that the VMS knows us by, if the configuration has none.
        secret: Given each text that must never be shown.
    """
    source = settings.sources[name]
    base = URL(source.url)
    options = VmsOptions(
        name=source.name,
        list_url=URL(source.url + source.list_path),
        origins=Origins(
            base=base,
            allowed=frozenset(source.file_origins),
            rewrites=tuple(source.rewrite_origins.items()),
        ),
        tls=Tls(
            ca_file=source.tls.ca_file,
            fingerprint=source.tls.fingerprint,
            verify=source.tls.verify,
        ),
        per_page=source.per_page,
        date_format=source.date_format,
        footage_zone=source.footage_timezone,
        client=source.client,
        send_token_to_files=source.send_token_to_files,
        max_file_bytes=settings.transfer.max_file_size,
        file_lifetime=source.file_lifetime,
        second_look=source.second_look,
        folder=settings.state_dir,
        proxies=proxies_of(source),
    )
    for hidden in options.proxies.secrets:
        secret(hidden)
    if not source.tls.verify:
        _log.warning("tls.unverified", source=source.name)
    return VmsClient(
        options,
        sessions=sessions,
        token=TokenFile(source.token_path, source=source.name, learned=secret),
        device_uuid=source.device_uuid or device_uuid,
    )


def target_for(settings: TargetSettings, *, node_id: str) -> Target:
    """Build a target.

    Args:
        settings: Of the target.
        node_id: Begins the names of its temporary files; a probe removes those that
            another process of the same id left, or is writing.
    """
    return DirectoryTarget(
        name=settings.name,
        root=settings.path,
        node_id=node_id,
        mount=settings.mount,
        min_free=settings.min_free,
        file_mode=settings.file_mode,
        dir_mode=settings.dir_mode,
        group=settings.group,
        threads=settings.concurrency,
    )


def pace_of(settings: Settings) -> Pace:
    """Return how retries are spaced."""
    transfer = settings.transfer
    return Pace(initial=transfer.retry_initial, maximum=transfer.retry_max)


def lister_for(
    settings: Settings,
    name: str,
    *,
    client: VmsClient,
    ledger: LedgerThread,
    metrics: Metrics,
    recall: Callable[[str], Awaitable[None]] | None = None,
    walked: Callable[[], None] = lambda: None,
) -> Lister:
    """Build what keeps one source's part of the ledger fresh.

    Args:
        settings: The configuration.
        name: Of the source.
        client: Of the source.
        ledger: Open for writing.
        metrics: Count the walks.
        recall: As for `Walker`.
        walked: Called after each walk that succeeded.
    """
    source, pace = settings.sources[name], pace_of(settings)
    start = source.history_start
    walker = Walker(
        client,
        ledger=ledger,
        rules=WalkRules(
            lookback=source.lookback,
            sweep_depth=source.sweep_depth,
            history_start_us=_EPOCH_US if start is None else to_us(start),
            waiting_limit=source.waiting_limit,
            try_folders=source.folder_url == "append_name",
            retry_max=pace.maximum,
            exclude=tuple(_rule(rule) for rule in source.rules),
        ),
        recall=recall,
        now=utc_now,
    )
    return Lister(
        name,
        walker,
        ledger=ledger,
        metrics=metrics,
        pace=pace,
        longest_wait=max(source.poll_interval, pace.maximum),
        token_changed=client.token.changed,
        walked=walked,
        now=utc_now,
    )


def places_for(
    settings: Settings,
    *,
    targets: Mapping[str, Target],
    publishers: Mapping[str, Publisher],
) -> SpoolPlaces:
    """Build what says where the spool lies.

    Args:
        settings: The configuration.
        targets: By name.
        publishers: By target; those of the only one know whether it is there.
    """
    only = next(iter(targets), "")

    def marker_id() -> str | None:
        publisher = publishers[only]
        return None if publisher.paused else publisher.monitor.marker_id

    return SpoolPlaces(
        spool_folders(settings),
        state_dir=settings.state_dir,
        targets=targets,
        marker_id=marker_id,
        is_open=lambda: publishers[only].monitor.warning is not None,
    )


def spool_for(
    settings: Settings, *, node_id: str, places: SpoolPlaces, ledger: LedgerThread
) -> Spool:
    """Build the spool."""
    transfer = settings.transfer
    return Spool(
        node_id=node_id,
        places=places.now,
        threads=min(32, transfer.concurrency),
        space=Space(
            ledger=ledger, retry=transfer.retry_initial, retry_max=transfer.retry_max
        ),
    )


def fetch_sources_for(
    settings: Settings, clients: Mapping[str, VmsClient]
) -> dict[str, FetchSource]:
    """Build what the pool fetches from; sources of one origin share one limit.

    It is the largest of theirs.
    """
    longest_pause_s = settings.transfer.retry_max.total_seconds()
    most: dict[str, int] = {}
    for name, client in clients.items():
        concurrency = settings.sources[name].concurrency
        most[client.origin] = max(most.get(client.origin, 0), concurrency)
    limits = {
        origin: OriginLimit(most=number, longest_pause_s=longest_pause_s)
        for origin, number in most.items()
    }
    return {
        name: FetchSource(client, limits[client.origin])
        for name, client in clients.items()
    }


def pool_for(
    settings: Settings,
    *,
    sources: Mapping[str, FetchSource],
    ledger: LedgerThread,
    spool: Spool,
    metrics: Metrics,
    progress: Progress,
    wake: asyncio.Event,
    fetched: Callable[[], None],
    unparks: bool,
    patient: bool,
) -> FetchPool:
    """Build what fetches; `FetchPool` and `Fetcher` say what each argument means."""
    transfer, pace = settings.transfer, pace_of(settings)
    downloader = Downloader(
        ledger=ledger,
        spool=spool,
        metrics=metrics,
        progress=progress,
        limits=ReceiveLimits(
            max_bytes=transfer.max_file_size,
            min_rate=transfer.min_rate,
            batch_bytes=transfer.hop_bytes,
        ),
        first_byte_wait=FirstByteWait(transfer.first_byte_timeout),
        now=utc_now,
    )
    fetcher = Fetcher(
        ledger=ledger,
        spool=spool,
        metrics=metrics,
        progress=progress,
        downloader=downloader,
        pace=pace,
        targets=sorted(settings.targets),
        patient=patient,
        now=utc_now,
    )
    return FetchPool(
        ledger=ledger,
        fetcher=fetcher,
        progress=progress,
        sources=sources,
        concurrency=transfer.concurrency,
        longest_wait=pace.maximum,
        spool_pause_s=pace.initial.total_seconds(),
        unparks=unparks,
        wake=wake,
        fetched=fetched,
        leaving=spool.space.leaving,
        now=utc_now,
    )


def publisher_for(
    settings: Settings,
    name: str,
    *,
    targets: Mapping[str, Target],
    ledger: LedgerThread,
    spool: Spool,
    metrics: Metrics,
    progress: Progress,
    node_id: str,
    places: SpoolPlaces,
    published: Callable[[], None],
) -> Publisher:
    """Build what publishes to one target.

    Args:
        settings: The configuration.
        name: Of the target.
        targets: All, by name.
        ledger: Open for writing.
        spool: Holds the files.
        metrics: Count the copies.
        progress: Counts the exports saved.
        node_id: From the ledger.
        places: Say whether a kept file may be the spooled one.
        published: Called after each publish.
    """
    target, pace = targets[name], pace_of(settings)
    layout = parse_layout(settings.targets[name].layout, zone=settings.timezone)
    monitor = TargetMonitor(
        target, ledger=ledger, metrics=metrics, pace=pace, now=utc_now
    )
    copies = CopyPublisher(
        target,
        ledger=ledger,
        spool=spool,
        metrics=metrics,
        progress=progress,
        monitor=monitor,
        node_id=node_id,
        path_for=partial(_path_for, layout, settings.cameras),
        may_link=lambda: places.linker() == name,
        source_urls=source_urls(settings),
        required=required_targets(settings),
        targets=targets,
        pace=pace,
        now=utc_now,
    )
    return Publisher(
        target,
        copies=copies,
        monitor=monitor,
        ledger=ledger,
        longest_wait=pace.maximum,
        changed=published,
        now=utc_now,
    )


def _path_for(layout: Layout, cameras: Mapping[int, str], export: Export) -> str:
    created = export.created_us
    return layout.render(
        Values(
            source=export.source,
            export_id=export.export_id,
            name=export.name,
            camera_id=export.camera_id,
            camera_name=cameras.get(export.camera_id or -1),
            stream_type=export.stream_type,
            footage_from=_moment(export.footage_from),
            footage_to=_moment(export.footage_to),
            created_at=None if created is None else from_us(created),
        )
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _rule(settings: RuleSettings) -> Rule:
    match = settings.match
    return Rule(
        name=settings.name,
        cameras=match.camera,
        stream_types=match.stream_type,
        users=match.user,
        names=match.name,
        min_age_us=_us(match.min_age),
        max_age_us=_us(match.max_age),
    )


def _us(span: timedelta | None) -> int | None:
    return None if span is None else round(span.total_seconds() * 1_000_000)
