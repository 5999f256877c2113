"""One account on one VMS over HTTP: its list and its files."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import aiohttp

from mirror.errors import AuthError, FetchError, ListError, OriginRefusedError
from mirror.model import from_us, is_folder, to_us, utc_now
from mirror.vms import file_answer, list_answer
from mirror.vms.body import Body
from mirror.vms.http_errors import explained, late
from mirror.vms.large_pages import Scratch, read_page
from mirror.vms.origins import origin_of
from mirror.vms.proxy import Proxies
from mirror.vms.response import Response
from mirror.vms.schema import decode_page, without
from mirror.vms.token import expiry

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Mapping
    from datetime import datetime, tzinfo
    from pathlib import Path

    from yarl import URL

    from mirror.ports import Page, ResumePoint, Validators
    from mirror.vms.origins import Origins
    from mirror.vms.sessions import Sessions, Tls
    from mirror.vms.token import TokenFile

MAX_REDIRECTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class VmsOptions:
    """How one source is asked; the keys of `[sources.NAME]`.

    Attributes:
        folder: Where large pages are kept while they are read.
    """

    name: str
    list_url: URL
    origins: Origins
    tls: Tls
    per_page: int
    date_format: str
    footage_zone: tzinfo
    client: str
    send_token_to_files: bool
    max_file_bytes: int
    file_lifetime: timedelta
    second_look: bool = True
    folder: Path | None = None
    proxies: Proxies = field(default_factory=Proxies)
    now: Callable[[], datetime] = field(default=utc_now)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawAnswer:
    """What came for a request, before it is judged.

    Attributes:
        body: Of a list, decompressed, our token taken out; of a file, its beginning.
        large: The body of a list instead, as received, if it is large.
        clock_offset_us: The VMS's clock less ours; of lists only.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    large: Scratch | None = None
    clock_offset_us: int | None = None


class VmsClient:
    """A `ports.Source` over aiohttp; see there for the attributes not named here.

    Attributes:
        token_expiry_s: When the token ends, in seconds since 1970; None if unknown.
        certificate_end_s: When the certificate of the last list ends, likewise; None
            also if its dates are not checked.
    """

    def __init__(
        self,
        options: VmsOptions,
        *,
        sessions: Sessions,
        token: TokenFile,
        device_uuid: str,
    ) -> None:
        self._options = options
        self.name = options.name
        self.origin = options.origins.own
        self.lifetime_us = options.file_lifetime // timedelta(microseconds=1)
        self.second_look = options.second_look
        self._sessions = sessions
        self.token = token
        self._device_uuid = device_uuid
        self._contexts: (
            tuple[ssl.SSLContext | aiohttp.Fingerprint | bool, ssl.SSLContext | bool]
            | None
        ) = None
        self._offset_us: int | None = None
        self.token_expiry_s: int | None = None
        self.certificate_end_s: int | None = None

    @property
    def oldest_us(self) -> int | None:
        """When a file was made that is deleted now; see `ports.Source`."""
        if self._offset_us is None:
            return None
        theirs = self._options.now() - self._options.file_lifetime
        return to_us(theirs) + self._offset_us

    async def page(self, number: int, *, since_us: int, until_us: int) -> Page:
        """Read one page; see `ports.Source`."""
        form = self._options.date_format
        answer = await self.ask(
            self._options.list_url,
            {
                "per_page": str(self._options.per_page),
                "page": str(number),
                "from": from_us(since_us).strftime(form),
                "to": from_us(until_us).strftime(form),
            },
        )
        return await self.judge(answer)

    async def ask(self, address: URL, query: Mapping[str, str]) -> RawAnswer:
        """Send a request to the API, on the source's own origin.

        Raises:
            AuthError: There is no token.
            ListError: Nothing came, or far too much.
        """
        token = await self.token.read()
        self.token_expiry_s = expiry(token)
        headers = {
            "Authorization": f"Bearer {token}",
            "X-Client": self._options.client,
            "X-UUID": self._device_uuid,
        }
        asked_us = to_us(self._options.now())
        try:
            async with self._sessions.api.get(
                address,
                params=query,
                headers=headers,
                allow_redirects=False,
                ssl=self._tls(ListError)[0],
                proxy=self._proxy(address, ListError),
            ) as response:
                offset_us = list_answer.clock_offset(
                    response.headers,
                    asked_us=asked_us,
                    answered_us=to_us(self._options.now()),
                )
                if offset_us is not None:
                    self._offset_us = offset_us
                if isinstance(response, Response):
                    self.certificate_end_s = response.certificate_end_s
                body = await read_page(response, self._options.folder)
                return RawAnswer(
                    status=response.status,
                    headers=response.headers,
                    body=without(body, token) if isinstance(body, bytes) else b"",
                    large=body if isinstance(body, Scratch) else None,
                    clock_offset_us=offset_us,
                )
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            reason, text = explained(exc, self._options.proxies.hosts)
            raise ListError(reason, f"the list could not be read: {text}") from exc

    async def judge(self, answer: RawAnswer) -> Page:
        """Return the page of the list that an answer brings.

        Raises:
            ListError: It brings none; the text says what to do.
        """
        token = await self.token.read()
        list_answer.judge(
            answer.status,
            answer.headers,
            answer.body,
            token=token,
            place=self.token.place,
            now=self._options.now(),
        )
        return await asyncio.to_thread(
            decode_page,
            answer.large or answer.body,
            footage_zone=self._options.footage_zone,
            clock_offset_us=answer.clock_offset_us,
            secret=token,
            folder=self._options.folder,
        )

    async def sample(
        self, address: URL, headers: Mapping[str, str], *, most_bytes: int
    ) -> RawAnswer:
        """Ask for a file and read its first bytes at most; `headers` join our own.

        Raises:
            FetchError: Nothing came.
        """
        response = await self._get(address, headers)
        body = b""
        try:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                while len(body) < most_bytes and (
                    chunk := await response.content.read(most_bytes - len(body))
                ):
                    body += chunk
        finally:
            response.close()
        return RawAnswer(status=response.status, headers=response.headers, body=body)

    def resolve(self, url: str, name: str | None) -> URL:
        """Return where a listed url leads; see `Origins.resolve`."""
        return self._options.origins.resolve(url, name)

    @contextlib.asynccontextmanager
    async def open_file(
        self, url: str, name: str | None, point: ResumePoint, *, first_byte_s: float
    ) -> AsyncIterator[Body]:
        """Ask for a file or the rest of it; see `ports.Source`."""
        headers = file_answer.range_headers(point)
        address = self._options.origins.resolve(url, name)
        first_by = asyncio.get_running_loop().time() + first_byte_s
        limit = asyncio.timeout_at(first_by)
        try:
            # Whatever comes meanwhile: interim answers, blank lines, half a header.
            async with limit:
                response = await self._get(address, headers)
        except (FetchError, TimeoutError) as exc:
            if limit.expired():
                raise late(first_byte_s) from exc
            raise
        try:
            offer = file_answer.judge(
                response.status,
                response.headers,
                point=point,
                folder=is_folder(url),
                max_bytes=self._options.max_file_bytes,
                now=self._options.now(),
            )
            yield Body(
                response,
                offer,
                first_by=first_by,
                first_byte_s=first_byte_s,
                stall_s=self._sessions.stall_s,
            )
        finally:
            response.close()

    async def look(self, url: str, name: str | None) -> Validators | None:
        """Ask for one byte of a file; see `ports.Source`."""
        address = self._options.origins.resolve(url, name)
        answer = await self.sample(address, {"Range": "bytes=0-0"}, most_bytes=0)
        return file_answer.look(
            answer.status,
            answer.headers,
            folder=is_folder(url),
            now=self._options.now(),
        )

    async def _get(
        self, address: URL, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        try:
            return await self._follow(address, headers)
        except AuthError as exc:
            raise FetchError(exc.reason, str(exc)) from exc
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
            reason, text = explained(exc, self._options.proxies.hosts)
            raise FetchError(
                reason, f"the file could not be asked for: {text}"
            ) from exc

    async def _follow(
        self, address: URL, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """Follow redirects by hand, each checked before it is requested."""
        own, elsewhere = self._tls(FetchError)
        credentials: dict[str, str] = {}
        if self._options.send_token_to_files and origin_of(address) == self.origin:
            credentials["Authorization"] = f"Bearer {await self.token.read()}"
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._sessions.files.get(
                address,
                headers={**headers, **credentials},
                allow_redirects=False,
                ssl=own if origin_of(address) == self.origin else elsewhere,
                proxy=self._proxy(address, FetchError),
            )
            if response.status not in list_answer.REDIRECTS:
                return response
            location = response.headers.get("Location", "")
            response.close()
            credentials = {}
            try:
                address = self._options.origins.redirect(address, location)
            except OriginRefusedError as exc:
                raise OriginRefusedError(f"redirected, but {exc}") from exc
        raise FetchError("redirects", f"more than {MAX_REDIRECTS} redirects in a row")

    def _proxy(self, address: URL, failure: type[ListError | FetchError]) -> URL | None:
        proxy = self._options.proxies.of(address)
        if proxy is not None and proxy.scheme != "http":
            raise failure(
                "proxy",
                f"the environment's proxy for {address.scheme} does not begin with "
                "http://, and only such are used; set the source's proxy to one",
            )
        return proxy

    def _tls(
        self, failure: type[ListError | FetchError]
    ) -> tuple[ssl.SSLContext | aiohttp.Fingerprint | bool, ssl.SSLContext | bool]:
        if self._contexts is None:
            tls = self._options.tls
            try:
                self._contexts = (tls.context(), tls.context_elsewhere())
            except OSError as exc:
                raise failure(
                    "tls",
                    f"tls.ca_file {tls.ca_file} cannot be used: {exc.strerror}; put "
                    "the VMS's certificate, or that of its authority, there as PEM",
                ) from exc
        return self._contexts
