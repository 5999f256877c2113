"""What was asked of the simulator, and what it sent."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from multidict import CIMultiDict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

_PRESENT = "(present)"


@dataclass(slots=True, kw_only=True)
class Request:
    """One request and its answer.

    Attributes:
        target: Path and query as sent.
        headers: As sent, whatever their case, but for the value of `Authorization`.
        authorized: It had an `Authorization` header; its value is kept only until
            the answer has ended.
        kind: `list`, `file` or `other`.
        status: 0 until the answer begins.
        sent_bytes: Of the body, as put on the wire.
        ended: None while it runs, then `complete`, `cut`, `reset`, `stall` (it was
            cut after a stall) or `left` (the client went away first).
    """

    number: int
    at: datetime
    method: str
    target: str
    host: str
    headers: Mapping[str, str]
    authorized: bool
    authorization: str | None = field(default=None, repr=False)
    kind: str = "other"
    export_id: int | None = None
    faults: tuple[str, ...] = ()
    status: int = 0
    sent_bytes: int = 0
    ended: str | None = None

    @property
    def range(self) -> str | None:
        """The `Range` header."""
        return self.headers.get("Range")

    @property
    def if_range(self) -> str | None:
        """The `If-Range` header."""
        return self.headers.get("If-Range")

    def line(self) -> str:
        """Return it as one line for people."""
        faults = f"  ! {' '.join(self.faults)}" if self.faults else ""
        ended = "" if self.ended == "complete" else f" ({self.ended})"
        return (
            f"{self.at:%H:%M:%S} {self.method} {self.target}"
            f"  {self.range or '-'}  {self.status} {self.sent_bytes} B{ended}{faults}"
        )


@dataclass(slots=True)
class Journal:
    """Keeps the last requests and counts all of them.

    Attributes:
        capacity: How many requests are kept.
        on_end: Called with each request when its answer has ended.
        counters: By name: `requests`, `list`, `file`, `other`, `bytes`, and
            `<kind>_<status>`.
        in_flight: File answers running now.
        peak_in_flight: The most that ever ran at once.
    """

    capacity: int = 10_000
    on_end: Callable[[Request], None] | None = None
    counters: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    peak_in_flight: int = 0
    requests: deque[Request] = field(init=False)
    _waiting: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.requests = deque(maxlen=self.capacity)

    def begin(
        self, *, at: datetime, method: str, target: str, headers: Mapping[str, str]
    ) -> Request:
        """Note a request that has come in."""
        kept = CIMultiDict(headers)
        authorized = "Authorization" in kept
        if authorized:
            kept["Authorization"] = _PRESENT
        self.counters["requests"] += 1
        request = Request(
            number=self.counters["requests"],
            at=at,
            method=method,
            target=target,
            host=kept.get("Host", ""),
            headers=kept,
            authorized=authorized,
            authorization=headers.get("Authorization"),
        )
        self.requests.append(request)
        return request

    def classify(self, request: Request, kind: str) -> None:
        """Note what the request is for; its answer is about to begin."""
        request.kind = kind
        if kind == "file":
            self.in_flight += 1
            self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        self.touch()

    def end(self, request: Request, ended: str) -> None:
        """Note that the answer ended."""
        request.ended = ended
        request.authorization = None
        self.counters[request.kind] += 1
        self.counters["bytes"] += request.sent_bytes
        self.counters[f"{request.kind}_{request.status}"] += 1
        if request.kind == "file":
            self.in_flight -= 1
        self.touch()
        if self.on_end is not None:
            self.on_end(request)

    def touch(self) -> None:
        """Wake those who wait in `until`."""
        if self._waiting:
            self._changed.set()
            self._changed = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; tried whenever an answer has progress."""
        self._waiting += 1
        try:
            while not condition():
                await self._changed.wait()
        finally:
            self._waiting -= 1
