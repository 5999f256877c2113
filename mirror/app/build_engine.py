"""Build the engine: all stages, and how they wake each other."""

from __future__ import annotations

import asyncio
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, TypedDict

from mirror.app.build import lister_for, pace_of, places_for, source_urls, targets_for
from mirror.layout import Values, parse_layout
from mirror.model import from_us, utc_now
from mirror.pipeline.engine import Engine
from mirror.pipeline.fetch.attempt import Fetcher
from mirror.pipeline.fetch.download import Downloader
from mirror.pipeline.fetch.first_byte import FirstByteWait
from mirror.pipeline.fetch.origin_limit import OriginLimit
from mirror.pipeline.fetch.pool import FetchPool, FetchSource
from mirror.pipeline.fetch.receive import ReceiveLimits
from mirror.pipeline.fetch.second_looks import SecondLooks
from mirror.pipeline.progress import Progress
from mirror.pipeline.publish.already_kept import AlreadyKept
from mirror.pipeline.publish.attempt import CopyPublisher
from mirror.pipeline.publish.publisher import Publisher
from mirror.pipeline.publish.target_health import TargetMonitor
from mirror.pipeline.spool.space import Space
from mirror.pipeline.spool.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mirror.config import Settings
    from mirror.layout import Layout
    from mirror.ledger import LedgerThread
    from mirror.metrics import Metrics
    from mirror.model import Export
    from mirror.pipeline.spool.places import SpoolPlaces
    from mirror.ports import Target
    from mirror.vms import VmsClient


class Shared(TypedDict):
    """What each stage that touches files is given."""

    ledger: LedgerThread
    spool: Spool
    metrics: Metrics
    progress: Progress
    now: Callable[[], datetime]


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
    targets = targets_for(settings, node_id=node_id)
    places = places_for(settings, targets=targets, publishers=publishers)
    transfer = settings.transfer
    space = Space(
        ledger=ledger, retry=transfer.retry_initial, retry_max=transfer.retry_max
    )
    threads = min(32, transfer.concurrency)
    spool = Spool(node_id=node_id, places=places.now, threads=threads, space=space)
    shared = Shared(
        ledger=ledger, spool=spool, metrics=metrics, progress=progress, now=utc_now
    )
    publishers |= {
        name: publisher_for(
            settings,
            name,
            shared,
            targets=targets,
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
    recall = AlreadyKept(ledger=ledger, publishers=publishers, now=utc_now)
    pool = pool_for(
        settings,
        shared,
        sources=sources,
        wake=wake,
        fetched=partial(_wake, looks.wake, *publishing),
        looked_for=recall.looked_for,
        unparks=unparks,
        patient=patient,
    )
    space.stop, space.needed = pool.end, looks.make_room
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
                looked_for=recall.looked_for,
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
    shared: Shared,
    *,
    sources: Mapping[str, FetchSource],
    wake: asyncio.Event,
    fetched: Callable[[], None],
    looked_for: Callable[[Export], bool],
    unparks: bool,
    patient: bool,
) -> FetchPool:
    """Build what fetches; `FetchPool` and `Fetcher` say what each argument means."""
    transfer, pace = settings.transfer, pace_of(settings)
    downloader = Downloader(
        **shared,
        limits=ReceiveLimits(
            max_bytes=transfer.max_file_size,
            min_rate=transfer.min_rate,
            batch_bytes=transfer.batch_bytes,
        ),
        first_byte_wait=FirstByteWait(transfer.first_byte_timeout),
    )
    fetcher = Fetcher(
        **shared,
        downloader=downloader,
        pace=pace,
        targets=sorted(settings.targets),
        looked_for=looked_for,
        patient=patient,
    )
    return FetchPool(
        ledger=shared["ledger"],
        fetcher=fetcher,
        progress=shared["progress"],
        sources=sources,
        concurrency=transfer.concurrency,
        longest_wait=pace.maximum,
        spool_pause_s=pace.initial.total_seconds(),
        unparks=unparks,
        wake=wake,
        fetched=fetched,
        leaving=shared["spool"].space.leaving,
        now=utc_now,
    )


def publisher_for(
    settings: Settings,
    name: str,
    shared: Shared,
    *,
    targets: Mapping[str, Target],
    node_id: str,
    places: SpoolPlaces,
    published: Callable[[], None],
) -> Publisher:
    """Build what publishes to one target."""
    target, pace = targets[name], pace_of(settings)
    layout = parse_layout(settings.targets[name].layout, zone=settings.timezone)
    ledger, metrics = shared["ledger"], shared["metrics"]
    monitor = TargetMonitor(
        target, ledger=ledger, metrics=metrics, pace=pace, now=utc_now
    )
    copies = CopyPublisher(
        target,
        **shared,
        monitor=monitor,
        node_id=node_id,
        path_for=partial(_path_for, layout, settings.cameras),
        may_link=lambda: places.linker() == name,
        source_urls=source_urls(settings),
        required=required_targets(settings),
        targets=targets,
        pace=pace,
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
