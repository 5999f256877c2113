"""Metrics, health and the status over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

import structlog
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from mirror.errors import MirrorError, TransientError
from mirror.web import host_header as names
from mirror.web import status_page

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection
    from datetime import tzinfo

    from aiohttp.typedefs import Handler
    from prometheus_client import CollectorRegistry

T = TypeVar("T")
PAGES: Final = ("metrics", "health", "status")
_FRESH_S = 1.0
_STATUS_FRESH_S = 2.0
_REFRESH_S = 5.0
"""Less than the 10 s that Prometheus waits, so that it hears why."""
_CLOSE_S = 1.0
_MOST_CONNECTIONS = 64
"""Each takes a descriptor that a file may need."""
_log = structlog.get_logger()


class ListenError(TransientError):
    """The address cannot be listened on now; another process may have it."""


class _Shared(Generic[T]):
    """One answer for all who ask within `fresh_s`."""

    def __init__(self, ask: Callable[[], Awaitable[T]], fresh_s: float) -> None:
        self._ask = ask
        self._fresh_s = fresh_s
        self._answer: tuple[float, T] | None = None
        self._asking = asyncio.Lock()

    async def get(self) -> T:
        """Return the answer.

        Raises:
            MirrorError: As by `ask`.
            TimeoutError: It took too long.
        """
        async with asyncio.timeout(_REFRESH_S), self._asking:
            if self._answer is None or time.monotonic() - self._answer[0] >= (
                self._fresh_s
            ):
                fresh = await self._ask()
                self._answer = (time.monotonic(), fresh)
            return self._answer[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Status:
    """The status in both its forms, of the same moment."""

    html: bytes
    json: bytes


class HttpServer:
    """Serves the pages asked for; nothing else, GET and HEAD only.

    Args:
        registry: What is scraped.
        healthy: Gives the reasons why the service is not healthy.
        ready: Likewise for ready.
        refresh: Brings the registry up to date; at most once a second.
        status: Gives what `/status.json` shows; at most every other second.
        pages: Of `PAGES`.
        zone: Of the times on the status page.
        hosts: Names to be answered to, besides those of a loopback address.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        healthy: Callable[[], Awaitable[list[str]]],
        ready: Callable[[], Awaitable[list[str]]],
        refresh: Callable[[], Awaitable[None]],
        status: Callable[[], Awaitable[dict[str, Any]]],
        pages: Collection[str],
        zone: tzinfo,
        hosts: Collection[str] = (),
    ) -> None:
        self._registry = registry
        self._healthy = healthy
        self._ready = ready
        self._ask_status = status
        self._pages = pages
        self._zone = zone
        self._hosts = hosts
        self._answered: Collection[str] | None = ()
        self._refreshed = _Shared(refresh, _FRESH_S)
        self._status = _Shared(self._render, _STATUS_FRESH_S)
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None

    async def start(self, host: str | None, port: int) -> int:
        """Listen; return the port, which port 0 leaves to the system.

        Raises:
            ListenError: The address cannot be used now. No fault of the
                configuration's, which would keep systemd from trying again.
        """
        application = web.Application(middlewares=[self._only_for_us])
        application.on_response_prepare.append(_guard)
        for of_page, path, handler in (
            ("metrics", "/metrics", self._metrics),
            ("health", "/healthz", self._healthz),
            ("health", "/readyz", self._readyz),
            ("status", "/", self._page),
            ("status", "/status.json", self._status_json),
        ):
            if of_page in self._pages:
                application.router.add_get(path, handler)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=_CLOSE_S)
        await runner.setup()
        accept = partial(_accept, cast("web.Server", runner.server))
        loop = asyncio.get_running_loop()
        try:
            self._listening = await loop.create_server(accept, host, port)
        except OSError as exc:
            await runner.cleanup()
            raise ListenError("listen", _refused(host, port, exc)) from exc
        self._runner = runner
        bound = [one.getsockname() for one in self._listening.sockets]
        self._answered = names.answered([one[0] for one in bound], host, self._hosts)
        actual = int(bound[0][1])
        _log.info("http.listening", host=host or "*", port=actual)
        return actual

    async def stop(self) -> None:
        """Listen no more."""
        if self._listening is not None:
            self._listening.close()
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _only_for_us(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        if self._answered is not None and not names.is_meant(request, self._answered):
            raise web.HTTPMisdirectedRequest(text=names.REFUSAL)
        return await handler(request)

    async def _metrics(self, _: web.Request) -> web.StreamResponse:
        try:
            await self._refreshed.get()
        except (MirrorError, TimeoutError) as exc:
            # Old numbers would look like a service at rest; a failed scrape is seen.
            raise web.HTTPServiceUnavailable(text=_silent(exc)) from exc
        # Always the text format: OpenMetrics wants a sum of each histogram, but none
        # where a bucket is negative, so strict readers would refuse every metric.
        response = web.Response(
            body=await asyncio.to_thread(generate_latest, self._registry),
            headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4},
        )
        response.enable_compression()
        return response

    async def _render(self) -> _Status:
        shown = await self._ask_status()

        def both() -> _Status:
            # Names may hold halves of surrogate pairs, which UTF-8 cannot say.
            html = status_page.render(shown, self._zone).encode("utf-8", "replace")
            return _Status(html=html, json=json.dumps(shown).encode())

        return await asyncio.to_thread(both)

    async def _page(self, _: web.Request) -> web.StreamResponse:
        try:
            status = 200
            body = (await self._status.get()).html
        except (MirrorError, TimeoutError) as exc:
            status = 503
            body = status_page.failure(_silent(exc)).encode()
        return _sent(body, "text/html", status)

    async def _status_json(self, _: web.Request) -> web.StreamResponse:
        try:
            body = (await self._status.get()).json
        except (MirrorError, TimeoutError) as exc:
            raise web.HTTPServiceUnavailable(text=_silent(exc)) from exc
        return _sent(body, "application/json", 200)

    async def _healthz(self, _: web.Request) -> web.Response:
        return _told(await self._healthy())

    async def _readyz(self, _: web.Request) -> web.Response:
        return _told(await self._ready())


async def _guard(_: web.BaseRequest, response: web.StreamResponse) -> None:
    """Say of whatever is answered that it is for no other site."""
    response.headers.update(status_page.HEADERS)


def _accept(server: web.Server) -> asyncio.BaseProtocol:
    """Take a connection; when there are too many, the oldest ends.

    One that asks at once is long done by then, whoever holds the others.
    """
    held = server.connections
    for oldest in held[: max(0, len(held) - _MOST_CONNECTIONS + 1)]:
        oldest.force_close()
    return server()


def _refused(host: str | None, port: int, failure: OSError) -> str:
    shown = f"[{host}]" if host and ":" in host else host or ""
    # asyncio's own text repeats the address; failed look-ups have negative numbers.
    code = failure.errno or 0
    reason = os.strerror(code) if code > 0 else failure.strerror or failure
    return (
        f"http.listen: {shown}:{port} cannot be listened on ({reason}); "
        "free it, or choose another address or port"
    )


def _silent(failure: Exception) -> str:
    if isinstance(failure, TransientError):
        return str(failure)
    return f"the ledger does not answer ({type(failure).__name__})"


def _sent(body: bytes, kind: str, status: int) -> web.StreamResponse:
    response = web.Response(
        body=body,
        status=status,
        content_type=kind,
        charset="utf-8",
    )
    response.enable_compression()
    return response


def _told(reasons: list[str]) -> web.Response:
    if reasons:
        return web.json_response({"status": "failing", "reasons": reasons}, status=503)
    return web.json_response({"status": "ok"})
