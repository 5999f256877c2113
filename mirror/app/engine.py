"""Build all parts from the configuration, and run them together."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import structlog
from yarl import URL

from mirror.app import instance
from mirror.app.spool_places import SpoolPlaces
from mirror.errors import SpoolError
from mirror.layout import Values, parse_layout
from mirror.ledger import Paused, in_slices
from mirror.lifecycle.attempt import Pace
from mirror.model import Export, from_us, to_us, utc_now
from mirror.pipeline.discover.lister import Lister
from mirror.pipeline.discover.rules import Rule, first_match
from mirror.pipeline.discover.walker import Walker, WalkRules
from mirror.pipeline.fetch.attempt import Fetcher
from mirror.pipeline.fetch.first_byte import Patience
from mirror.pipeline.fetch.origin_limit import Gate
from mirror.pipeline.fetch.pool import FetchPool, Lane
from mirror.pipeline.fetch.receive import PumpLimits
from mirror.pipeline.fetch.second_looks import SecondLooks
from mirror.pipeline.progress import Progress
from mirror.pipeline.publish.already_kept import Recall
from mirror.pipeline.publish.publisher import Publisher, Surroundings
from mirror.pipeline.spool.space import Space
from mirror.pipeline.spool.spool import Spool
from mirror.targets.directory.target import DirectoryTarget
from mirror.tasks import finish
from mirror.vms import Origins, Tls, TokenFile, VmsClient, VmsOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mirror.config import RuleSettings, Settings, SourceSettings, TargetSettings
    from mirror.ledger import Ledger, LedgerThread, Slice
    from mirror.metrics import Metrics
    from mirror.vms import Sessions

_EPOCH_US = 0
_STARTUP_CHECK_S = 20.0
_TIDY_S = 60.0
_log = structlog.get_logger()


class Engine:
    """Everything that one configuration runs.

    Args:
        settings: The configuration.
        ledger: Open for writing; outlives the engine.
        node_id: From the ledger.
        sessions: Open; outlive the engine's calls.
        secret: Told each token that must never be shown.
        unparks: Parked exports are tried again when their time has come.
        patient: A doubtful body is asked for again later, not at once.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        ledger: LedgerThread,
        node_id: str,
        sessions: Sessions,
        metrics: Metrics,
        secret: Callable[[str], None],
        device_uuids: dict[str, str],
        unparks: bool = True,
        patient: bool = True,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.settings = settings
        self.ledger = ledger
        self.metrics = metrics
        self.progress = Progress()
        self._node_id = node_id
        self._sessions = sessions
        self._secret = secret
        self._devices = device_uuids
        self._now = now
        self._wake = asyncio.Event()
        self._pace = Pace(
            initial=settings.transfer.retry_initial, maximum=settings.transfer.retry_max
        )
        self.sources = {
            name: self._client(source) for name, source in settings.sources.items()
        }
        self.places = SpoolPlaces(settings)
        self.spool = Spool(
            node_id=node_id,
            places=self.places.now,
            threads=min(32, settings.transfer.concurrency),
            space=Space(
                ledger=ledger,
                retry=self._pace.initial,
                retry_max=self._pace.maximum,
                now=now,
            ),
        )
        self.publishers = {
            name: self._publisher(target) for name, target in settings.targets.items()
        }
        self.places.publishers = self.publishers
        self.recall = Recall(ledger=ledger, publishers=self.publishers, now=now)
        self.listers = {
            name: self._lister(source) for name, source in settings.sources.items()
        }
        self.pool = self._pool(unparks=unparks, patient=patient)
        self.spool.space.stop = self.pool.end
        self.looks = SecondLooks(
            ledger=ledger,
            spool=self.spool,
            metrics=metrics,
            lanes=self.pool.lanes,
            targets=lambda: sorted(settings.targets),
            spooled=self._looked,
            now=now,
        )
        self.spool.space.needed = self.looks.make_room
        self.paused = Paused()

    async def run(self) -> None:
        """Run all parts until cancelled; each keeps what it has."""
        try:
            await self.prepare()
            async with asyncio.TaskGroup() as group:
                for lister in self.listers.values():
                    group.create_task(lister.run(), name=f"list {lister.name}")
                self.start_moving(group)
                group.create_task(self._keep_tidy(), name="tidy")
        finally:
            await self.close()

    def start_moving(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Start the fetchers, the looks and the publishers."""
        tasks = [
            group.create_task(self.pool.run(), name="fetch"),
            group.create_task(self.looks.run(), name="second looks"),
        ]
        tasks += [
            group.create_task(publisher.run(), name=f"publish to {name}")
            for name, publisher in self.publishers.items()
        ]
        return tasks

    async def prepare(self) -> None:
        """Look at the targets once, and take up what an earlier run left."""
        await self._recover()
        await self.heed_pauses()
        looks = [
            asyncio.create_task(publisher.standing.check(), name=f"check {name}")
            for name, publisher in self.publishers.items()
            if not publisher.paused
        ]
        if looks:
            # A hung mount must not keep the rest from starting.
            await asyncio.wait(looks, timeout=_STARTUP_CHECK_S)
        await self.recall.warn_if_new(self.settings.sources)
        targets, required = self.target_names(), self.required()
        now_us = to_us(self._now())
        for target in sorted(targets):
            await in_slices(self.ledger, partial(_fill, target))
        await in_slices(
            self.ledger,
            lambda ledger, after: ledger.copies.settle_spooled(required, now_us, after),
        )
        await self.tidy()
        await self._sweep()

    async def tidy(self) -> None:
        """Remove from the spool what nobody waits for any more."""
        targets = self.target_names()
        idle = await self.ledger(lambda ledger: ledger.copies.freeable(targets))
        ended = await self.ledger(lambda ledger: ledger.copies.ended())
        for export in (*idle, *ended):
            try:
                await self.spool.remove(export)
            except SpoolError as exc:
                _log.debug("spool.failed", export=export.label, error=str(exc))
                continue
            key = export.stored_key
            await self.ledger(lambda ledger, key: ledger.copies.freed(key), key)

    async def _sweep(self) -> None:
        """Remove files that were left in the spool by exports kept by other bytes.

        They lay on a disk that was away. Nothing may be fetched meanwhile. A file whose
        export is not kept, or not known, stays: it may be all that is left.
        """
        for path, name in await self.spool.strays():
            kept = await self.ledger(
                lambda ledger, *key: ledger.copies.kept_as(*key),
                name.source,
                name.export_id,
            )
            mine = [one for one in kept if name.is_of(one)]
            if mine and all(path not in self.spool.paths_of(one) for one in mine):
                with contextlib.suppress(SpoolError):
                    await self.spool.sweep(path)
                    _log.info("spool.swept", file=str(path))

    async def _keep_tidy(self) -> None:
        while True:
            await asyncio.sleep(_TIDY_S)
            await self.tidy()

    async def _recover(self) -> None:
        """Return to the queue what was claimed and is worked on no more."""
        interrupted = await self.ledger(lambda ledger: ledger.fetches.recover())
        if interrupted:
            _log.info("fetches.recovered", exports=interrupted)

    async def close(self) -> None:
        """Let go of all work, and of all threads without waiting for one that hangs.

        A claim that was cancelled on its way from the ledger has no task to undo it.
        """
        await finish(self._recover())
        self.spool.close()
        for publisher in self.publishers.values():
            await publisher.target.close()

    async def heed_pauses(self) -> None:
        """Leave alone what is paused now; work under way ends as it would."""
        now_us = to_us(self._now())
        paused = await self.ledger(lambda ledger: ledger.pauses.now(now_us))
        if paused == self.paused:
            return
        for kind in ("sources", "targets"):
            was, now = getattr(self.paused, kind), getattr(paused, kind)
            for event, names in (
                ("pause.begun", now - was),
                ("pause.ended", was - now),
            ):
                for name in sorted(names):
                    _log.info(event, **{kind.removesuffix("s"): name})
        self.paused = paused
        self.pool.paused = self.looks.paused = paused.sources
        for name, lister in self.listers.items():
            (lister.going.clear if name in paused.sources else lister.going.set)()
        for name, publisher in self.publishers.items():
            publisher.paused = name in paused.targets
        self.wake()

    def wake(self) -> None:
        """Look for work now: something has changed the ledger."""
        self._wake.set()
        self._wake_others()

    def target_names(self) -> frozenset[str]:
        """Return the names of all configured targets."""
        return frozenset(self.settings.targets)

    def required(self) -> frozenset[str]:
        """Return the names of the targets an export must lie on to be saved."""
        targets = self.settings.targets.items()
        return frozenset(name for name, target in targets if target.required)

    def _client(self, source: SourceSettings) -> VmsClient:
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
            max_file_bytes=self.settings.transfer.max_file_size,
            file_lifetime=source.file_lifetime,
            second_look=source.second_look,
            folder=self.settings.state_dir,
            proxies=instance.proxies_of(source),
            now=self._now,
        )
        for hidden in options.proxies.secrets:
            self._secret(hidden)
        if not source.tls.verify:
            _log.warning("tls.unverified", source=source.name)
        token = TokenFile(source.token_path, source=source.name, learned=self._secret)
        return VmsClient(
            options,
            sessions=self._sessions,
            token=token,
            device_uuid=source.device_uuid or self._devices[source.name],
        )

    def _lister(self, source: SourceSettings) -> Lister:
        client = self.sources[source.name]
        rules = tuple(_rule(rule) for rule in source.rules)
        start = source.history_start
        walker = Walker(
            client,
            ledger=self.ledger,
            rules=WalkRules(
                lookback=source.lookback,
                sweep_depth=source.sweep_depth,
                history_start_us=_EPOCH_US if start is None else to_us(start),
                file_lifetime=source.file_lifetime,
                waiting_limit=source.waiting_limit,
                try_folders=source.folder_url == "append_name",
                retry_max=self._pace.maximum,
                second_look=source.second_look,
                rule_for=lambda row, at_us: first_match(rules, row, at_us),
            ),
            recall=self.recall.vanishing,
            now=self._now,
        )
        return Lister(
            source.name,
            walker,
            ledger=self.ledger,
            metrics=self.metrics,
            pace=self._pace,
            longest_wait=max(source.poll_interval, self._pace.maximum),
            token_changed=client.token.changed,
            walked=self._walked,
            now=self._now,
        )

    def _pool(self, *, unparks: bool, patient: bool) -> FetchPool:
        transfer = self.settings.transfer
        fetcher = Fetcher(
            ledger=self.ledger,
            spool=self.spool,
            metrics=self.metrics,
            progress=self.progress,
            limits=PumpLimits(
                max_bytes=transfer.max_file_size,
                min_rate=transfer.min_rate,
                batch_bytes=transfer.hop_bytes,
            ),
            pace=self._pace,
            patience=Patience(transfer.first_byte_timeout),
            targets=lambda: sorted(self.settings.targets),
            patient=patient,
            now=self._now,
        )
        return FetchPool(
            ledger=self.ledger,
            fetcher=fetcher,
            progress=self.progress,
            lanes=self._lanes(),
            concurrency=transfer.concurrency,
            longest_wait=self._pace.maximum,
            spool_pause_s=self._pace.initial.total_seconds(),
            unparks=unparks,
            wake=self._wake,
            fetched=self._wake_others,
            leaving=self.spool.space.leaving,
            now=self._now,
        )

    def _lanes(self) -> dict[str, Lane]:
        """Give each source its lane; sources with one origin share the largest gate."""
        gates: dict[str, Gate] = {}
        limits: dict[str, int] = {}
        for name, source in self.settings.sources.items():
            origin = self.sources[name].origin
            limits[origin] = max(limits.get(origin, 0), source.concurrency)
        for origin, limit in limits.items():
            gates[origin] = Gate(
                limit=limit, longest_pause_s=self._pace.maximum.total_seconds()
            )
        return {
            name: Lane(client, gates[client.origin])
            for name, client in self.sources.items()
        }

    def _publisher(self, settings: TargetSettings) -> Publisher:
        layout = parse_layout(settings.layout, zone=self.settings.timezone)
        cameras = self.settings.cameras

        def path_for(export: Export) -> str:
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

        target = target_for(settings, node_id=self._node_id)
        around = Surroundings(
            node_id=self._node_id,
            path_for=path_for,
            may_link=lambda: self.places.linker() == settings.name,
            sibling=self._sibling,
            source_url=self._source_url,
            required=self.required,
            targets=self.target_names,
        )
        return Publisher(
            target,
            ledger=self.ledger,
            spool=self.spool,
            metrics=self.metrics,
            progress=self.progress,
            around=around,
            concurrency=settings.concurrency,
            pace=self._pace,
            changed=self._wake.set,
            now=self._now,
        )

    def _sibling(self, target: str, path: str) -> Path | None:
        settings = self.settings.targets.get(target)
        return None if settings is None else settings.path / path

    def _source_url(self, name: str) -> str:
        source = self.settings.sources.get(name)
        return "" if source is None else source.url

    def _walked(self) -> None:
        self._wake.set()
        self.looks.wake.set()

    def _looked(self) -> None:
        self._wake.set()
        self._wake_publishers()

    def _wake_others(self) -> None:
        self.looks.wake.set()
        self._wake_publishers()

    def _wake_publishers(self) -> None:
        for publisher in self.publishers.values():
            publisher.wake.set()


def _fill(target: str, ledger: Ledger, after: int) -> Slice:
    return ledger.copies.fill(target, after)


def target_for(settings: TargetSettings, *, node_id: str) -> DirectoryTarget:
    """Build a target.

    Args:
        settings: Of the target.
        node_id: Begins the names of its temporary files; `open` removes those that
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
