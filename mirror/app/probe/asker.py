"""Ask a VMS: one request at a time, within limits of number and time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeAlias

from mirror import backoff
from mirror.errors import ListError, MirrorError
from mirror.model import utc_now
from mirror.wording import span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from yarl import URL

    from mirror.ports import Page
    from mirror.vms import RawAnswer, VmsClient

MOST_REQUESTS: Final = 40
MOST_S: Final = 180.0
REQUEST_S: Final = 30.0
FILE_S: Final = 60.0
"""Some VMS make a file only when it is asked for."""
SAMPLE_BYTES: Final = 4096
_LONGEST_WAIT_S: Final = 30.0
_WAIT_S: Final = 2.0
_TRIES: Final = 3
Value: TypeAlias = "str | int | list[str] | dict[str, str]"
_Ask: TypeAlias = "Callable[[], Awaitable[RawAnswer]]"
_BUSY = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})


class ProbeLimitError(Exception):
    """No more requests may be made now; the text says why, and what to do.

    No `MirrorError`: it ends all questions, where a failure ends only its own.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """The answer to one question.

    Attributes:
        known: Else `text` says why there is no answer, and what to do.
    """

    topic: str
    text: str
    known: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A key of the source and its value.

    Attributes:
        sure: Else a person has to decide.
    """

    key: str
    value: Value
    why: str
    sure: bool = True


@dataclass(slots=True, kw_only=True)
class Asker:
    """Counts and paces the requests of one `probe`, and keeps the answers.

    Attributes:
        requests: Made so far.
        last_list: The answer that came last for the list.
        rate_limit: What any answer said of it.
    """

    client: VmsClient
    began: float = field(default_factory=time.monotonic)
    requests: int = 0
    last_list: RawAnswer | None = None
    rate_limit: dict[str, str] = field(default_factory=dict)
    facts: list[Fact] = field(default_factory=list)
    suggestions: list[Suggestion] = field(default_factory=list)

    def say(self, topic: str, text: str, *, known: bool = True) -> None:
        """Keep a fact."""
        self.facts.append(Fact(topic=topic, text=text, known=known))

    def unknown(self, topic: str, text: str) -> None:
        """Keep why there is no answer, and what to do."""
        self.say(topic, text, known=False)

    @contextlib.contextmanager
    def question(self, topic: str) -> Iterator[None]:
        """Ask one question; a failure ends it, and is kept as its answer."""
        try:
            yield
        except MirrorError as exc:
            self.unknown(topic, str(exc))

    def suggest(self, key: str, value: Value, why: str, *, sure: bool = True) -> None:
        """Keep a key of the source and its value."""
        self.suggestions.append(Suggestion(key=key, value=value, why=why, sure=sure))

    async def list(self, address: URL, query: Mapping[str, str]) -> RawAnswer:
        """Ask for a page of the list.

        Raises:
            ListError: Nothing came.
            ProbeLimitError: No more requests may be made.
        """
        answered = await self._request(lambda: self.client.ask(address, query))
        self.last_list = answered
        for name in ("Limit", "Remaining", "Reset"):
            value = answered.headers.get(f"X-RateLimit-{name}", "").strip()
            if value.isascii() and value.isdigit():
                self.rate_limit[name.lower()] = value[:12]
        return answered

    async def page(self, address: URL, query: Mapping[str, str]) -> Page:
        """Ask for a page of the list and judge it.

        Raises:
            ListError: None came.
            ProbeLimitError: No more requests may be made.
        """
        return await self.client.judge(await self.list(address, query))

    async def file(self, address: URL, headers: Mapping[str, str]) -> RawAnswer:
        """Ask for the beginning of a file.

        Raises:
            TransientError: Nothing came.
            ProbeLimitError: No more requests may be made.
        """
        return await self._request(
            lambda: self.client.sample(address, headers, most_bytes=SAMPLE_BYTES),
            within_s=FILE_S,
        )

    async def _request(self, ask: _Ask, within_s: float = REQUEST_S) -> RawAnswer:
        for _ in range(_TRIES):
            answered = await self._once(ask, within_s)
            if answered.status not in _BUSY:
                return answered
            asked_s = backoff.retry_after(
                answered.headers.get("Retry-After"),
                utc_now(),
                answered.headers.get("Date"),
            )
            wait_s = _WAIT_S if asked_s is None else asked_s
            if wait_s > min(_LONGEST_WAIT_S, self._left_s()):
                raise ProbeLimitError(
                    f"the VMS is busy ({answered.status}) and asks for a pause of "
                    f"{span(wait_s)}; probe it again after that"
                )
            await asyncio.sleep(wait_s)
        raise ProbeLimitError(
            f"the VMS is busy, {_TRIES} times in a row; probe it again when it is quiet"
        )

    async def _once(self, ask: _Ask, within_s: float) -> RawAnswer:
        if self.requests >= MOST_REQUESTS:
            raise ProbeLimitError(f"{MOST_REQUESTS} requests were made, no more are")
        if self._left_s() <= 0:
            raise ProbeLimitError(
                f"{span(MOST_S)} are over; the VMS or the line is slow: probe it again "
                "when it is quiet"
            )
        self.requests += 1
        try:
            async with asyncio.timeout(min(within_s, self._left_s())):
                return await ask()
        except TimeoutError as exc:
            raise ListError("timeout", f"no answer for {span(within_s)}") from exc

    def _left_s(self) -> float:
        return self.began + MOST_S - time.monotonic()
