"""How the running service is, as its HTTP server tells it."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from mirror.app.status import metrics_snapshot, overview
from mirror.errors import TransientError
from mirror.model import to_us, utc_now

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.app.instance import Instance
    from mirror.config import Settings
    from mirror.metrics import Metrics
    from mirror.pipeline.engine import Engine
    from mirror.vms import VmsClient

_LEDGER_ANSWERS_S = 5.0
_INFLOW_S = 3600.0


class Health:
    """What is asked of the service while it runs; `metrics` are those it serves."""

    def __init__(self, node: Instance, metrics: Metrics) -> None:
        self._node = node
        self._metrics = metrics
        self._settings: Settings | None = None
        self._engine: Engine | None = None
        self._clients: Mapping[str, VmsClient] = {}
        self._inflow: deque[tuple[float, int]] = deque()

    def watch(
        self, settings: Settings, engine: Engine, clients: Mapping[str, VmsClient]
    ) -> None:
        """Tell of this engine from now on, built from these."""
        self._settings, self._engine, self._clients = settings, engine, clients
        self._inflow.clear()
        self._metrics.declare(list(settings.sources), list(settings.targets))

    async def problems(self) -> list[str]:
        """Return why the service is not healthy; nothing if it is."""
        try:
            async with asyncio.timeout(_LEDGER_ANSWERS_S):
                await self._node.ledger(lambda ledger: ledger.ping())
        except TimeoutError:
            return ["the ledger does not answer"]
        return []

    async def unready(self) -> list[str]:
        """Return why the service is not ready; nothing if it is."""
        listers = {} if self._engine is None else self._engine.listers
        return await self.problems() + [
            f"source {name} has not been asked yet"
            for name, lister in listers.items()
            if lister.going.is_set() and not lister.tried
        ]

    async def refresh(self) -> None:
        """Bring the metrics up to date before they are read."""
        if self._engine is None:
            return
        now_us = to_us(utc_now())
        self._metrics.show(
            await self._node.reader(
                lambda ledger: metrics_snapshot.take(ledger, now_us)
            )
        )
        used = await self._node.reader(lambda ledger: ledger.queries.spooled_bytes())
        free = await asyncio.to_thread(self._engine.places.free_bytes)
        self._metrics.spool_measured(used_bytes=used, free_bytes=free)
        if free is not None:
            self._tell_holdup(self._engine, free)
        for name, client in self._clients.items():
            self._metrics.token_expiry(name, client.token_expiry_s)

    async def status(self) -> dict[str, Any]:
        """Return what the status page shows.

        Raises:
            TransientError: There is no engine yet.
        """
        engine, settings = self._engine, self._settings
        if engine is None or settings is None:
            raise TransientError("starting", "the service has not begun yet")
        free_bytes = await asyncio.to_thread(engine.places.free_bytes)
        clients = self._clients.items()
        expiry_s = {name: client.token_expiry_s for name, client in clients}
        return await self._node.reader(
            lambda ledger: overview.read(
                ledger,
                settings,
                now_us=to_us(utc_now()),
                token_expiry_s=expiry_s,
                spool_free_bytes=free_bytes,
                ledger_problem=self._node.ledger.problem,
            )
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
