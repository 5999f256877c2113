"""The service: runs until told to stop, takes up new configuration, tells health."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn

import structlog

from mirror.app import instance, memory
from mirror.app.engine import Engine
from mirror.app.notify.heartbeat import Heartbeats
from mirror.app.notify.hook import Teller
from mirror.app.status import metrics_snapshot, overview
from mirror.app.status.overview import Surroundings
from mirror.errors import ConfigError, TransientError
from mirror.model import to_us, utc_now
from mirror.schedule import Schedule
from mirror.web import HttpServer, ListenError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from mirror.app.instance import Ground
    from mirror.config import Settings
    from mirror.metrics import Metrics
    from mirror.systemd import Notifier
    from mirror.vms import Sessions

_TICK_S = 1.0
_LEDGER_ANSWERS_S = 5.0
_JITTER = 0.1
_INFLOW_S = 3600.0
_LISTEN_AGAIN_S = 5.0
_log = structlog.get_logger()


class Service:
    """Runs engines, one configuration after another, on one ledger.

    Args:
        settings: The configuration to begin with.
        reread: Gives the configuration as it is now; raises ConfigError.
        metrics: On the registry that is served.
        secret: Told each token that must never be shown.
        notifier: Tells systemd.
        signals: SIGTERM and SIGINT stop it, SIGHUP reloads.
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
        self._ground: Ground | None = None
        self._proving: asyncio.Future[None] | None = None
        self._engine: Engine | None = None
        self._inflow: deque[tuple[float, int]] = deque()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            ConfigError: The state directory cannot be used.
            LockedError: Another process holds the state directory.
            LedgerError: The ledger cannot be used.
        """
        if self._signals:
            self._listen_to_signals()
        async with (
            instance.held(self._settings, check=False) as held,
            instance.proving(self._settings.state_dir) as self._proving,
        ):
            self._ground = held
            server = HttpServer(
                self._metrics.registry,
                healthy=self._ill,
                ready=self._unready,
                refresh=self._refresh,
                status=self._status,
                pages=self._settings.http.pages,
                zone=self._settings.timezone,
                hosts=self._settings.http.hosts,
            )
            self._metrics.config_reloaded(successful=True)
            listening = asyncio.create_task(self._listen(server), name="listen")
            try:
                while not self._stop.is_set():
                    async with instance.sessions_for(self._settings) as sessions:
                        await self._serve(held, sessions)
            finally:
                self._notifier.stopping()
                listening.cancel()
                await asyncio.wait([listening])
                await server.stop()

    async def _listen(self, server: HttpServer) -> None:
        """Listen, when the address can be had: footage is rescued meanwhile."""
        listen = self._settings.http.listen
        told = False
        while True:
            try:
                await server.start(listen.host, listen.port)
            except ListenError as exc:
                if not told:
                    _log.error("http.lost", error=str(exc))
                told = True
                await asyncio.sleep(_LISTEN_AGAIN_S)
            else:
                return

    async def _serve(self, held: Ground, sessions: Sessions) -> None:
        """Run one configuration until it is replaced or the service stops."""
        settings = self._settings
        engine = Engine(
            settings,
            ledger=held.ledger,
            node_id=held.node_id,
            sessions=sessions,
            metrics=self._metrics,
            secret=self._secret,
            device_uuids=await held.device_uuids(list(settings.sources)),
        )
        self._engine = engine
        self._inflow.clear()
        self._metrics.declare(list(settings.sources), list(settings.targets))
        running = asyncio.create_task(engine.run(), name="engine")
        beside = [
            asyncio.create_task(_beside(work))
            for work in (
                Teller(
                    settings.on_event, ledger=held.ledger, metrics=self._metrics
                ).run(),
                Heartbeats(settings, reader=held.reader, secret=self._secret).run(),
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
            await self._watch(running, engine, schedule)
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
            source = engine.settings.sources[name]
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
        self, running: asyncio.Task[None], engine: Engine, schedule: Schedule
    ) -> None:
        """Turn once a second until there is something else to do."""
        seen = -1
        while not running.done():
            if self._stop.is_set() or await self._take_up():
                return
            if self._proving is not None and self._proving.done():
                self._proving.result()
            step_s = schedule.check_clock()
            if step_s is not None:
                _log.warning("clock.stepped", seconds=round(step_s, 1))
                engine.wake()
            seen = await self._notice_others(engine, seen)
            await engine.heed_pauses()
            if not await self._ill():
                self._notifier.watchdog()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._stop.wait()

    async def _notice_others(self, engine: Engine, seen: int) -> int:
        """Wake the engine when another process has changed the ledger."""
        version = await engine.ledger(lambda ledger: ledger.changed_elsewhere())
        if seen not in {-1, version}:
            engine.wake()
        return version

    async def _take_up(self) -> bool:
        """Re-read the configuration if asked to; tell whether it is another."""
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
        if self._settings == old and self._engine is not None:
            for lister in self._engine.listers.values():
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
        if not running.cancelled() and running.exception() is not None:
            raise running.exception() or RuntimeError("unreachable")

    def stop(self) -> None:
        """Stop: what is in flight keeps its bytes and is due at once."""
        self._stop.set()

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            os._exit(0)
        _log.info("service.stopping")
        self.stop()
        # Whatever holds it up, be it a ledger whose disk is dead.
        grace_s = self._settings.transfer.shutdown_grace.total_seconds()
        asyncio.get_running_loop().call_later(grace_s + _TICK_S, _abandon)

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)

    async def _ill(self) -> list[str]:
        """Return why the service is not healthy; nothing if it is."""
        if self._ground is None:
            return ["the ledger is not open yet"]
        return await _answers(self._ground.ledger(lambda ledger: ledger.ping()))

    async def _unready(self) -> list[str]:
        """Return why the service is not ready; nothing if it is."""
        reasons = await self._ill()
        listers = {} if self._engine is None else self._engine.listers
        reasons += [
            f"source {name} has not been asked yet"
            for name, lister in listers.items()
            if lister.going.is_set() and not lister.tried
        ]
        return reasons

    async def _refresh(self) -> None:
        """Bring the metrics up to date before they are read."""
        if self._ground is None or self._engine is None:
            return
        now_us = to_us(utc_now())
        taken = await self._ground.reader(
            lambda ledger: metrics_snapshot.take(ledger, now_us)
        )
        self._metrics.show(taken)
        spool = await self._ground.reader(lambda ledger: ledger.queries.spooled_bytes())
        free = await asyncio.to_thread(self._engine.places.free_bytes)
        self._metrics.spool_measured(used_bytes=spool, free_bytes=free)
        if free is not None:
            self._tell_holdup(self._engine, free)
        for name, client in self._engine.sources.items():
            self._metrics.token_expiry(name, client.token_expiry_s)

    async def _status(self) -> dict[str, Any]:
        """Return what the status page shows."""
        ground, engine = self._ground, self._engine
        if ground is None or engine is None:
            raise TransientError("starting", "the service has not begun yet")
        around = Surroundings(
            spool_free_bytes=await asyncio.to_thread(engine.places.free_bytes),
            token_expiry_s={
                name: client.token_expiry_s for name, client in engine.sources.items()
            },
            ledger_problem=ground.ledger.problem,
        )
        settings, now_us = engine.settings, to_us(utc_now())
        return await ground.reader(
            lambda ledger: overview.take(ledger, settings, around, now_us)
        )

    def _tell_holdup(self, engine: Engine, free_bytes: int) -> None:
        """Say how long the spool lasts at the inflow of the last hour."""
        now, received = time.monotonic(), engine.progress.received_bytes
        self._inflow.append((now, received))
        while now - self._inflow[0][0] > _INFLOW_S:
            self._inflow.popleft()
        then, before = self._inflow[0]
        gained = max(0, received - before)
        lasts_s = free_bytes * (now - then) / gained if gained else math.inf
        for name in engine.publishers:
            self._metrics.holdup(name, lasts_s)


def _abandon() -> NoReturn:
    """End at once; all that matters is durable, and taken up at the next start."""
    _log.error("service.abandoned", reason="work did not end within the grace")
    os._exit(0)


async def _beside(work: Coroutine[Any, Any, None]) -> None:
    """Do what the rescue of footage never waits for, nor fails by."""
    try:
        await work
    except Exception as exc:  # noqa: BLE001 -- a fault of ours stops this work only
        _log.error("telling.crashed", exc_info=exc)


async def _answers(asked: Awaitable[object]) -> list[str]:
    try:
        async with asyncio.timeout(_LEDGER_ANSWERS_S):
            await asked
    except TimeoutError:
        return ["the ledger does not answer"]
    return []
