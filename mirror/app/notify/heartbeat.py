"""Ask for the urls of `heartbeat_url` while lists are fresh, and once per loss."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import structlog
from yarl import URL

from mirror.app.build import proxies_of
from mirror.app.status.overview import Freshness, freshness_of
from mirror.model import to_us, utc_now
from mirror.vms import Proxies

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.config import Settings
    from mirror.ledger import Ledger, LedgerThread

BEAT_S = 60.0
_LIMIT = aiohttp.ClientTimeout(total=10)
_ALL = ""
"""Stands for all sources together; no source is named so."""
_log = structlog.get_logger()


class Heartbeats:
    """Asks for each url once a minute while the lists that it stands for are fresh.

    After a loss it asks for url + `/fail` instead, until one such request succeeded. A
    loss before the service started does not count. The url of a source goes by the
    source's proxy, the one of all sources by none.

    Args:
        reader: Of the ledger, for questions.
        secret: Given each text that must never be shown.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        reader: LedgerThread,
        secret: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._reader = reader
        sources = settings.sources.items()
        urls = {_ALL: settings.heartbeat_url} | {
            name: source.heartbeat_url for name, source in sources
        }
        self._urls = {
            name: URL(url.get_secret_value())
            for name, url in urls.items()
            if url is not None
        }
        self._proxies = {name: proxies_of(source) for name, source in sources} | {
            _ALL: Proxies()
        }
        for url in self._urls.values():
            secret(str(url))
            secret(url.raw_path_qs)
        self._reported: dict[str, int] = {}
        self._failing: set[str] = set()

    async def run(self) -> None:
        """Beat until cancelled."""
        if not self._urls:
            return
        _, self._reported = await self._reader(self._look)
        async with aiohttp.ClientSession(
            timeout=_LIMIT, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            while True:
                await self._beat(session)
                await asyncio.sleep(BEAT_S)

    async def _beat(self, session: aiohttp.ClientSession) -> None:
        fresh, lost = await self._reader(self._look)
        async with asyncio.TaskGroup() as group:
            for name, url in self._urls.items():
                if lost[name] > self._reported[name]:
                    group.create_task(self._fail(session, name, url, lost[name]))
                elif name in fresh:
                    group.create_task(self._ask(session, name, url))

    async def _fail(
        self, session: aiohttp.ClientSession, name: str, url: URL, lost: int
    ) -> None:
        failed = url.with_path(f"{url.raw_path.rstrip('/')}/fail", encoded=True)
        if await self._ask(session, name, failed.with_query(url.query)):
            self._reported[name] = lost

    async def _ask(self, session: aiohttp.ClientSession, name: str, url: URL) -> bool:
        """Ask for a url; tell whether that succeeded. The url is never logged."""
        of = {"source": name} if name else {}
        try:
            async with session.get(
                url, allow_redirects=False, proxy=self._proxies[name].of(url)
            ) as answer:
                problem = f"it answers {answer.status}" if answer.status >= 300 else ""  # noqa: PLR2004 -- HTTP
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as exc:
            problem = type(exc).__name__
        if problem and name not in self._failing:
            _log.warning(
                "heartbeat.failed", error=problem, origin=str(url.origin()), **of
            )
            self._failing.add(name)
        elif not problem and name in self._failing:
            _log.info("heartbeat.recovered", **of)
            self._failing.discard(name)
        return not problem

    def _look(self, ledger: Ledger) -> tuple[set[str], dict[str, int]]:
        """Return what is fresh, and how many were ever lost, by source."""
        now_us = to_us(utc_now())
        statuses = {each.name: each for each in ledger.queries.sources()}
        totals = ledger.queries.totals("lost")
        sources = self._settings.sources
        fresh = {
            name
            for name, source in sources.items()
            if freshness_of(statuses.get(name), source, now_us) is Freshness.FRESH
        }
        lost = {
            name: sum(n for (of, _), n in totals.items() if of == name)
            for name in sources
        }
        if len(fresh) == len(sources):
            fresh.add(_ALL)
        return fresh, lost | {_ALL: sum(lost.values())}
