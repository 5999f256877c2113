"""The simulated VMS: a web server that lists exports and serves their files."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Self

from aiohttp import web

from mirror.model import utc_now
from mirror.simulator.answer import Scene, send
from mirror.simulator.behaviour import Behaviour
from mirror.simulator.journal import Journal, Request
from mirror.simulator.life import Life
from mirror.simulator.responder import Responder, kind_of
from mirror.simulator.store import Store

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from mirror.simulator.exports import Export
    from mirror.simulator.faults import Step

DEFAULT_TOKEN = "demo-token"  # noqa: S105 -- guards nothing but made-up footage
_SHUTDOWN_S = 0.1
_CLIENT_LEFT = 499
_LINE_BYTES = 64 * 1024


class Vms(Store):
    """A simulated VMS; use as an asynchronous context manager, again if need be.

    Attributes:
        journal: What was asked and sent.
        responder: Holds the scripts of the list and of all files.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str = DEFAULT_TOKEN,
        behaviour: Behaviour | None = None,
        life: Life | None = None,
        clock: Callable[[], datetime] = utc_now,
        ssl_context: ssl.SSLContext | None = None,
        other_origin: bool = True,
        journal_capacity: int = 10_000,
        on_request: Callable[[Request], None] | None = None,
        seed: int = 0,
    ) -> None:
        """Prepare it; nothing listens yet.

        Port 0 is any free one; with `other_origin` it listens on a second one too,
        always with plain http. `clock` gives the true time, aware, to which
        `behaviour.clock_skew` is added. `on_request` is called with each request when
        its answer has ended. Files of another `seed` differ in all their bytes.
        """
        super().__init__(
            behaviour=behaviour or Behaviour(),
            token=token,
            life=life or Life(),
            clock=clock,
            seed=seed,
        )
        self.journal = Journal(capacity=journal_capacity, on_end=on_request)
        self.responder = Responder(self)
        self._host = host
        self._port = port
        self._other_port: int | None = None
        self._ssl = ssl_context
        self._other_origin = other_origin
        self._stack = contextlib.AsyncExitStack()
        self._live: set[asyncio.Transport] = set()

    async def __aenter__(self) -> Self:
        """Listen."""
        app = web.Application()
        app.router.add_route("*", r"/{path:[\s\S]*}", self._handle)
        runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_S,
            max_line_size=_LINE_BYTES,
            max_field_size=_LINE_BYTES,
        )
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        try:
            await web.TCPSite(
                runner, self._host, self._port, ssl_context=self._ssl
            ).start()
            if self._other_origin:
                await web.TCPSite(runner, self._host, 0).start()
        except BaseException:
            await self._stack.aclose()
            raise
        self._port = runner.addresses[0][1]
        if self._other_origin:
            self._other_port = runner.addresses[1][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop at once, even while answers are being sent."""
        for transport in list(self._live):
            transport.abort()
        await self._stack.aclose()

    @property
    def url(self) -> str:
        """The origin it listens on."""
        scheme = "http" if self._ssl is None else "https"
        return f"{scheme}://{self._host}:{self._port}"

    @property
    def other_url(self) -> str:
        """A second origin with the same content, always plain http."""
        if self._other_port is None:
            return f"http://localhost:{self._port}"
        return f"http://{self._host}:{self._other_port}"

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def requests(self) -> Sequence[Request]:
        """The requests kept, oldest first."""
        return list(self.journal.requests)

    def file_requests(self, export: Export | int) -> list[Request]:
        """Return the requests kept that were for one export's file."""
        export_id = export if isinstance(export, int) else export.export_id
        return [each for each in self.requests if each.export_id == export_id]

    def script_files(self, *steps: Step, then: Step = None) -> None:
        """Set what requests meet for files whose own script is over; see `script`."""
        self.responder.file_script.write(steps, then=then)

    def script_list(self, *steps: Step, then: Step = None) -> None:
        """Set what requests for the list meet; see `script`."""
        self.responder.list_script.write(steps, then=then)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; see `Journal.until`."""
        await self.journal.until(condition)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.advance()
        record = self.journal.begin(
            at=self.now(),
            method=request.method,
            target=request.raw_path,
            headers=request.headers,
        )
        transport = request.transport
        if transport is not None:
            self._live.add(transport)
        try:
            scene = Scene(
                target=record.target,
                origin=self.url,
                other_origin=self.other_url,
                now=record.at,
            )
            self.journal.classify(record, kind_of(record.target))
            answer = self.responder.answer(record, scene)
            response = await send(request, answer, record, self.journal.touch)
        except ConnectionResetError:
            # The client is gone; nobody reads this.
            return web.Response(status=_CLIENT_LEFT)
        else:
            record.ended = record.ended or "complete"
            return response
        finally:
            if transport is not None:
                self._live.discard(transport)
            self.journal.end(record, record.ended or "left")
