"""Metrics and health over HTTP."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog
from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from mirror.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from prometheus_client import CollectorRegistry

_FRESH_S = 1.0
_log = structlog.get_logger()


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
        self._expose = make_aiohttp_handler(registry)
        self._healthy = healthy
        self._ready = ready
        self._refresh = refresh
        self._refreshed_at = 0.0
        self._refreshing = asyncio.Lock()
        self._runner: web.AppRunner | None = None

    async def start(self, host: str | None, port: int) -> int:
        """Listen; return the port, which port 0 leaves to the system.

        Raises:
            ConfigError: The address cannot be used.
        """
        application = web.Application()
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        try:
            await site.start()
        except OSError as exc:
            await self._runner.cleanup()
            raise ConfigError(
                [
                    (
                        f"http.listen: {host or ''}:{port} cannot be listened on "
                        f"({exc.strerror}); choose another address or port"
                    )
                ]
            ) from exc
        actual = int(self._runner.addresses[0][1])
        _log.info("http.listening", host=host or "*", port=actual)
        return actual

    async def stop(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        async with self._refreshing:
            if time.monotonic() - self._refreshed_at >= _FRESH_S:
                await self._refresh()
                self._refreshed_at = time.monotonic()
        return await self._expose(request)

    async def _healthz(self, _: web.Request) -> web.Response:
        return _told(await self._healthy())

    async def _readyz(self, _: web.Request) -> web.Response:
        return _told(await self._ready())


def _told(reasons: list[str]) -> web.Response:
    if reasons:
        return web.json_response({"status": "failing", "reasons": reasons}, status=503)
    return web.json_response({"status": "ok"})
