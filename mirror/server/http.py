"""Metrics and health over HTTP."""

from __future__ import annotations

import asyncio
import math
import os
import time
from typing import TYPE_CHECKING

import structlog
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from mirror.errors import MirrorError, TransientError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from prometheus_client import CollectorRegistry

_FRESH_S = 1.0
_REFRESH_S = 5.0
"""Less than the 10 s that Prometheus waits, so that it hears why."""
_CLOSE_S = 1.0
_log = structlog.get_logger()


class ListenError(TransientError):
    """The address cannot be listened on now; another process may have it."""


class HttpServer:
    """Serves `/metrics`, `/healthz` and `/readyz`; nothing else, GET only.

    Args:
        registry: What is scraped.
        healthy: Gives the reasons why the service is not healthy.
        ready: Likewise for ready.
        refresh: Brings the registry up to date; at most once a second.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        healthy: Callable[[], Awaitable[list[str]]],
        ready: Callable[[], Awaitable[list[str]]],
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._registry = registry
        self._healthy = healthy
        self._ready = ready
        self._refresh = refresh
        self._refreshed_at = -math.inf
        self._refreshing = asyncio.Lock()
        self._runner: web.AppRunner | None = None

    async def start(self, host: str | None, port: int) -> int:
        """Listen; return the port, which port 0 leaves to the system.

        Raises:
            ListenError: The address cannot be used now. No fault of the
                configuration's, which would keep systemd from trying again.
        """
        application = web.Application()
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=_CLOSE_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as exc:
            await runner.cleanup()
            raise ListenError("listen", _refused(host, port, exc)) from exc
        self._runner = runner
        actual = int(runner.addresses[0][1])
        _log.info("http.listening", host=host or "*", port=actual)
        return actual

    async def stop(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.StreamResponse:
        try:
            async with asyncio.timeout(_REFRESH_S), self._refreshing:
                if time.monotonic() - self._refreshed_at >= _FRESH_S:
                    await self._refresh()
                    self._refreshed_at = time.monotonic()
        except (MirrorError, TimeoutError) as exc:
            # Old numbers would look like a service at rest; a failed scrape is seen.
            reason = f"the ledger does not answer ({type(exc).__name__})"
            raise web.HTTPServiceUnavailable(text=reason) from exc
        # Always the text format: OpenMetrics wants a sum of each histogram, but none
        # where a bucket is negative, so strict readers would refuse every metric.
        response = web.Response(
            body=await asyncio.to_thread(generate_latest, self._registry),
            headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4},
        )
        response.enable_compression()
        return response

    async def _healthz(self, _: web.Request) -> web.Response:
        return _told(await self._healthy())

    async def _readyz(self, _: web.Request) -> web.Response:
        return _told(await self._ready())


def _refused(host: str | None, port: int, failure: OSError) -> str:
    shown = f"[{host}]" if host and ":" in host else host or ""
    # asyncio's own text repeats the address; failed look-ups have negative numbers.
    code = failure.errno or 0
    reason = os.strerror(code) if code > 0 else failure.strerror or failure
    return (
        f"http.listen: {shown}:{port} cannot be listened on ({reason}); "
        "free it, or choose another address or port"
    )


def _told(reasons: list[str]) -> web.Response:
    if reasons:
        return web.json_response({"status": "failing", "reasons": reasons}, status=503)
    return web.json_response({"status": "ok"})
