"""Metrics, health and the status over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import time
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import structlog
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from yarl import URL

from mirror.errors import MirrorError, TransientError
from mirror.web import host_header, status_page

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection
    from datetime import tzinfo

    from aiohttp.typedefs import Handler
    from prometheus_client import CollectorRegistry

T = TypeVar("T")
_FRESH_S = 1.0
_STATUS_FRESH_S = 2.0
REFRESH_S = 5.0
"""Less than the 10 s that Prometheus waits, so that it gets the reason."""
_CLOSE_S = 1.0
_MOST_CONNECTIONS = 64
"""Each takes a file descriptor that a transfer may need."""
_log = structlog.get_logger()


class ListenError(TransientError):
    """The address cannot be listened on now; another process may use it."""


class _Cached(Generic[T]):
    """One answer, shared by all requests within `fresh_s`."""

    def __init__(self, ask: Callable[[], Awaitable[T]], fresh_s: float) -> None:
        self._ask = ask
        self._fresh_s = fresh_s
        self._answer: tuple[float, T] | None = None
        self._asking = asyncio.Lock()

    async def get(self) -> T:
        """Return the answer; raise as `ask` does, or TimeoutError after `REFRESH_S`."""
        async with asyncio.timeout(REFRESH_S), self._asking:
            if self._answer is None or time.monotonic() >= self._answer[0]:
                fresh = await self._ask()
                self._answer = (time.monotonic() + self._fresh_s, fresh)
            return self._answer[1]


class HttpServer:
    """Serves the configured pages; nothing else, GET and HEAD only.

    Args:
        registry: The metrics.
        healthy: Returns the reasons why the service is not healthy.
        ready: Likewise for ready.
        refresh: Updates the registry; called at most once a second.
        status: Returns `/status.json`; called at most every other second.
        pages: Those served: `metrics`, `health`, `status`.
        zone: Of the times on the status page.
        hosts: Names to answer to, besides those of a loopback address.
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
        self._names: Collection[str] | None = ()
        self._refreshed = _Cached(refresh, _FRESH_S)
        self._status = _Cached(self._render, _STATUS_FRESH_S)
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None

    async def start(self, host: str | None, port: int) -> int:
        """Listen; return the port, which port 0 leaves to the system.

        Raises:
            ListenError: The address cannot be used now. This is no ConfigError,
                after which systemd would not try again.
        """
        application = web.Application(middlewares=[self._check_host])
        application.on_response_prepare.append(_add_headers)
        for page, path, handler in (
            ("metrics", "/metrics", self._metrics),
            ("health", "/healthz", partial(_health, self._healthy)),
            ("health", "/readyz", partial(_health, self._ready)),
            ("status", "/", self._page),
            ("status", "/status.json", self._status_json),
        ):
            if page in self._pages:
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
        bound = [socket.getsockname() for socket in self._listening.sockets]
        addresses = [address for address, *_ in bound]
        self._names = host_header.accepted_names(addresses, host, self._hosts)
        actual = int(bound[0][1])
        url = _page_url(addresses[0], actual) if "status" in self._pages else None
        _log.info("http.listening", host=host or "*", port=actual, page=url)
        return actual

    async def stop(self) -> None:
        """Stop listening."""
        if self._listening is not None:
            self._listening.close()
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _check_host(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        names = self._names
        if names is not None and not host_header.is_accepted(request, names):
            raise web.HTTPMisdirectedRequest(text=host_header.REFUSAL)
        return await handler(request)

    async def _metrics(self, _: web.Request) -> web.StreamResponse:
        try:
            await self._refreshed.get()
        except (MirrorError, TimeoutError) as exc:
            # Old numbers would look like an idle service; a failed scrape is noticed.
            raise web.HTTPServiceUnavailable(text=_failure_text(exc)) from exc
        # Always the text format: OpenMetrics wants a sum of each histogram, but none
        # where a bucket is negative, so strict readers would refuse every metric.
        response = web.Response(
            body=await asyncio.to_thread(generate_latest, self._registry),
            headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4},
        )
        response.enable_compression()
        return response

    async def _render(self) -> tuple[bytes, bytes]:
        """Return the status of one moment as HTML and as JSON."""
        status = await self._ask_status()

        def both() -> tuple[bytes, bytes]:
            # Names may hold lone surrogates, which UTF-8 cannot encode.
            html = status_page.render(status, self._zone).encode("utf-8", "replace")
            return html, json.dumps(status).encode()

        return await asyncio.to_thread(both)

    async def _page(self, request: web.Request) -> web.StreamResponse:
        try:
            status = 200
            body, _json = await self._status.get()
            if "all" in request.query:
                body = body.replace(b"<body>", b'<body class="whole">', 1)
        except (MirrorError, TimeoutError) as exc:
            status = 503
            body = status_page.failure(_failure_text(exc)).encode()
        return _response(body, "text/html", status)

    async def _status_json(self, _: web.Request) -> web.StreamResponse:
        try:
            _html, body = await self._status.get()
        except (MirrorError, TimeoutError) as exc:
            raise web.HTTPServiceUnavailable(text=_failure_text(exc)) from exc
        return _response(body, "application/json", 200)


async def _add_headers(_: web.BaseRequest, response: web.StreamResponse) -> None:
    """Add the headers that keep other sites from using any answer."""
    response.headers.update(status_page.HEADERS)


def _accept(server: web.Server) -> asyncio.BaseProtocol:
    """Accept a connection; when there are too many, close the oldest.

    A client that asks at once is served long before its connection is the oldest.
    """
    connections = server.connections
    for oldest in connections[: max(0, len(connections) - _MOST_CONNECTIONS + 1)]:
        oldest.force_close()
    return server()


def _page_url(address: str, port: int) -> str:
    """Return what to open in a browser on this machine."""
    name = "localhost" if ip_address(address).is_unspecified else address
    return str(URL.build(scheme="http", host=name, port=port))


def _refused(host: str | None, port: int, failure: OSError) -> str:
    address = f"[{host}]" if host and ":" in host else host or ""
    # asyncio's own text repeats the address; failed look-ups have negative numbers.
    code = failure.errno or 0
    reason = os.strerror(code) if code > 0 else failure.strerror or failure
    return (
        f"http.listen: {address}:{port} cannot be listened on ({reason}); "
        "free it, or choose another address or port"
    )


def _failure_text(failure: Exception) -> str:
    if isinstance(failure, TransientError):
        return str(failure)
    return f"the ledger does not answer ({type(failure).__name__})"


def _response(body: bytes, kind: str, status: int) -> web.StreamResponse:
    response = web.Response(
        body=body, status=status, content_type=kind, charset="utf-8"
    )
    response.enable_compression()
    return response


async def _health(
    ask: Callable[[], Awaitable[list[str]]], _: web.Request
) -> web.Response:
    if reasons := await ask():
        return web.json_response({"status": "failing", "reasons": reasons}, status=503)
    return web.json_response({"status": "ok"})
