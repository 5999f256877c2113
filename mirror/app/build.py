"""Build the parts from the configuration, each of them alone."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import structlog
from yarl import URL

from mirror.app.instance import spool_folders
from mirror.backoff import Pace
from mirror.model import to_us, utc_now
from mirror.pipeline.discover.lister import Lister
from mirror.pipeline.discover.rules import Rule
from mirror.pipeline.discover.walker import Walker, WalkRules
from mirror.pipeline.spool.places import SpoolPlaces
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
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from datetime import timedelta

    from mirror.config import RuleSettings, Settings, SourceSettings, TargetSettings
    from mirror.ledger import LedgerThread
    from mirror.metrics import Metrics
    from mirror.model import Export
    from mirror.pipeline.publish.publisher import Publisher
    from mirror.ports import Target

_EPOCH_US = 0
_log = structlog.get_logger()


def source_urls(settings: Settings) -> dict[str, str]:
    """Return the base URL of each source."""
    return {name: source.url for name, source in settings.sources.items()}


def proxies_of(source: SourceSettings) -> Proxies:
    """Return which proxy each request of a source goes by."""
    if source.proxy is None:
        return Proxies()
    named = source.proxy.get_secret_value()
    if named == "environment":
        return Proxies.of_environment(os.environ)
    return Proxies.always(named)


@contextlib.asynccontextmanager
async def open_clients(
    settings: Settings,
    *,
    device_uuids: Mapping[str, str],
    secret: Callable[[str], None],
) -> AsyncIterator[dict[str, VmsClient]]:
    """Open the HTTP sessions, and build the clients of sources.

    Args:
        settings: The configuration.
        device_uuids: By source, the id that the VMS knows us by, if the configuration
            has none.
        secret: Given each text that must never be shown.
    """
    sessions = Sessions(
        stall_timeout_s=settings.transfer.stall_timeout.total_seconds(),
        read_bytes=min(64 * 1024, settings.transfer.batch_bytes // 4),
    )
    async with sessions:
        yield {
            name: client_for(settings, name, sessions, device_uuid, secret)
            for name, device_uuid in device_uuids.items()
        }


def client_for(
    settings: Settings,
    name: str,
    sessions: Sessions,
    device_uuid: str,
    secret: Callable[[str], None],
) -> VmsClient:
    """Build the client of a source's VMS; see `open_clients`."""
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


def targets_for(settings: Settings, *, node_id: str) -> dict[str, Target]:
    """Build all targets; see `target_for`."""
    return {
        name: target_for(target, node_id=node_id)
        for name, target in settings.targets.items()
    }


def target_for(settings: TargetSettings, *, node_id: str) -> Target:
    """Build a target.

    `node_id` begins the names of its temporary files; a probe removes those that
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
    looked_for: Callable[[Export], bool] = lambda _: True,
    walked: Callable[[], None] = lambda: None,
) -> Lister:
    """Build what keeps one source's part of the ledger fresh."""
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
        looked_for=looked_for,
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
    """Build what says where the spool lies."""
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
