"""The service: runs until it is told to stop, reloads its configuration."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any, NoReturn

import structlog

from mirror.app import build, instance, memory
from mirror.app.build_engine import engine_for
from mirror.app.health import Health
from mirror.app.notify.heartbeat import Heartbeats
from mirror.app.notify.hook import EventHook
from mirror.errors import ConfigError
from mirror.schedule import Schedule
from mirror.web import HttpServer, ListenError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from mirror.app.instance import Instance
    from mirror.config import Settings
    from mirror.metrics import Metrics
    from mirror.pipeline.engine import Engine
    from mirror.systemd import Notifier
    from mirror.vms import VmsClient

_TICK_S = 1.0
_JITTER = 0.1
_LISTEN_AGAIN_S = 5.0
_log = structlog.get_logger()


class Service:
    """Runs engines, one configuration after another, on one ledger.

    Args:
        settings: The configuration to begin with.
        reread: Gives the configuration as it is now; raises ConfigError.
        metrics: On the registry that is served.
        secret: Given each text that must never be shown.
        notifier: Tells systemd.
        signals: SIGTERM and SIGINT stop it, SIGHUP reloads.

    Attributes:
        engine: Of the configuration that runs now; None before the first.
        health: None before the ledger is open.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        reread: Callable[[], Settings],
        metrics: Metrics,
        secret: Callable[[str], None],
        notifier: Notifier,
        signals: bool = True,
    ) -> None:
        self._settings = settings
        self._reread = reread
        self._metrics = metrics
        self._secret = secret
        self._notifier = notifier
        self._signals = signals
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self.engine: Engine | None = None
        self.health: Health | None = None

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            ConfigError: The state directory cannot be used.
            LockedError: Another process holds the state directory.
            LedgerError: The ledger cannot be used.
        """
        if self._signals:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._asked_to_stop)
            loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        async with (
            instance.open_instance(self._settings, check=False) as node,
            instance.check_in_background(self._settings.state_dir) as ledger_check,
        ):
            self.health = health = Health(node, self._metrics)
            server = HttpServer(
                self._metrics.registry,
                healthy=health.problems,
                ready=health.unready,
                refresh=health.refresh,
                status=health.status,
                pages=self._settings.http.pages,
                zone=self._settings.timezone,
                hosts=self._settings.http.hosts,
            )
            self._metrics.config_reloaded(successful=True)
            listening = asyncio.create_task(self._listen(server), name="listen")
            try:
                while not self._stop.is_set():
                    async with build.open_clients(
                        self._settings,
                        device_uuids=await instance.device_uuids(
                            node.ledger, self._settings.sources
                        ),
                        secret=self._secret,
                    ) as clients:
                        await self._serve(node, health, ledger_check, clients)
            finally:
                self._notifier.stopping()
                listening.cancel()
                await asyncio.wait([listening])
                await server.stop()

    async def _listen(self, server: HttpServer) -> None:
        """Listen, when the address can be had: footage is rescued meanwhile."""
        listen = self._settings.http.listen
        logged = False
        while True:
            try:
                await server.start(listen.host, listen.port)
            except ListenError as exc:
                if not logged:
                    _log.error("http.lost", error=str(exc))
                logged = True
                await asyncio.sleep(_LISTEN_AGAIN_S)
            else:
                return

    async def _serve(
        self,
        node: Instance,
        health: Health,
        ledger_check: asyncio.Future[None],
        clients: dict[str, VmsClient],
    ) -> None:
        """Run one configuration until it is replaced or the service stops."""
        settings = self._settings
        self.engine = engine = engine_for(
            settings,
            clients=clients,
            ledger=node.ledger,
            node_id=node.node_id,
            metrics=self._metrics,
        )
        health.watch(settings, engine, clients)
        running = asyncio.create_task(engine.run(), name="engine")
        beside = [
            asyncio.create_task(_apart(work))
            for work in (
                EventHook(
                    settings.on_event, ledger=node.ledger, metrics=self._metrics
                ).run(),
                Heartbeats(settings, reader=node.reader, secret=self._secret).run(),
            )
        ]
        schedule = Schedule()
        try:
            self._plan(schedule, engine)
            schedule.start()
            self._notifier.ready()
            _log.info(
                "service.started",
                sources=len(settings.sources),
                targets=len(settings.targets),
            )
            await self._watch(running, engine, health, ledger_check, schedule)
        finally:
            schedule.stop()
            for task in beside:
                task.cancel()
            await self._drain(running)
            await asyncio.wait(beside, timeout=_TICK_S)

    def _plan(self, schedule: Schedule, engine: Engine) -> None:
        schedule.every(
            "give memory back", memory.EVERY, memory.give_back, immediately=True
        )
        for name, lister in engine.listers.items():
            source = self._settings.sources[name]
            for kind, interval, due in (
                ("poll", source.poll_interval, lister.poll_due),
                ("sweep", source.sweep_interval, lister.sweep_due),
            ):
                schedule.every(
                    f"{kind} {name}",
                    interval,
                    due.set,
                    jitter=interval * _JITTER,
                    immediately=True,
                )

    async def _watch(
        self,
        running: asyncio.Task[None],
        engine: Engine,
        health: Health,
        ledger_check: asyncio.Future[None],
        schedule: Schedule,
    ) -> None:
        """Check once a second what has changed, until this configuration ends."""
        seen = -1
        while not running.done():
            if self._stop.is_set() or await self._reloaded():
                return
            if ledger_check.done():
                ledger_check.result()
            step_s = schedule.check_clock()
            if step_s is not None:
                _log.warning("clock.stepped", seconds=round(step_s, 1))
                engine.wake()
            version = await engine.ledger(lambda ledger: ledger.changed_elsewhere())
            if seen not in {-1, version}:
                engine.wake()
            seen = version
            await engine.heed_pauses()
            if not await health.problems():
                self._notifier.watchdog()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._stop.wait()

    async def _reloaded(self) -> bool:
        """Read the configuration again if asked to; tell whether it has changed."""
        if not self._reload.is_set():
            return False
        self._reload.clear()
        self._notifier.reloading()
        try:
            fresh = await asyncio.to_thread(self._reread)
        except ConfigError as exc:
            self._metrics.config_reloaded(successful=False)
            _log.error("config.refused", problems=exc.problems)
            self._notifier.ready()
            return False
        self._metrics.config_reloaded(successful=True)
        old = self._settings
        if fresh.state_dir != old.state_dir or fresh.http != old.http:
            _log.warning("config.needs_restart", keys="state_dir, http")
        kept = {"state_dir": old.state_dir, "http": old.http}
        self._settings = fresh.model_copy(update=kept)
        _log.info("config.reloaded", changed=self._settings != old)
        self._notifier.ready()
        if self._settings == old and self.engine is not None:
            for lister in self.engine.listers.values():
                lister.poll_due.set()
            return False
        return True

    async def _drain(self, running: asyncio.Task[None]) -> None:
        """Cancel the engine and wait for it within the grace."""
        running.cancel()
        grace_s = self._settings.transfer.shutdown_grace.total_seconds()
        done, _ = await asyncio.wait([running], timeout=max(grace_s, 0.1))
        if not done:
            _abandon()
        if not running.cancelled():
            running.result()

    def stop(self) -> None:
        """Stop: what is in flight keeps its bytes and is due at once."""
        self._stop.set()

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            os._exit(0)
        _log.info("service.stopping")
        self.stop()
        # Whatever delays it, be it a ledger whose disk is dead.
        grace_s = self._settings.transfer.shutdown_grace.total_seconds()
        asyncio.get_running_loop().call_later(grace_s + _TICK_S, _abandon)


def _abandon() -> NoReturn:
    """Exit at once; all that matters is durable, and continued at the next start."""
    _log.error("service.abandoned", reason="work did not end within the grace")
    os._exit(0)


async def _apart(work: Coroutine[Any, Any, None]) -> None:
    """Do work that the rescue of footage never waits for, nor fails by."""
    try:
        await work
    except Exception as exc:  # noqa: BLE001 -- a fault of ours stops this work only
        _log.error("telling.crashed", exc_info=exc)
