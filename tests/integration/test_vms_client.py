"""How we talk to a VMS: TLS, credentials, redirects, bounds, the token and its file."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import json
import os
import shutil
import time
import tracemalloc
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit
from zoneinfo import ZoneInfo

import pytest
from yarl import URL

from mirror.errors import AuthError, FetchError, ListError, OriginRefusedError
from mirror.model import to_us
from mirror.ports import ResumePoint
from mirror.simulator import Manners, Vms, fault
from mirror.vms import Origins, Sessions, Tls, TokenFile, VmsClient, VmsOptions
from mirror.vms.token import expiry
from tests.certificates import make_certificates
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.certificates import Certificates

SECRET = "s3cret-bearer-token-0123456789"
SINCE = to_us(datetime(2026, 11, 23, 7, 0, tzinfo=UTC))
UNTIL = to_us(datetime(2026, 11, 24, 8, 30, 15, tzinfo=UTC))
WHOLE = ResumePoint(size_bytes=0, total_bytes=None, etag=None, last_modified=None)
EMPTY = b'{"data":[],"meta":{"total":0,"last_page":1}}'


# -- a client, and what it asked ---------------------------------------------


@contextlib.asynccontextmanager
async def client(
    folder: Path,
    url: str,
    *,
    tls: Tls | None = None,
    token: Path | None = None,
    **changes: Any,
) -> AsyncIterator[VmsClient]:
    """Give a client of the VMS at `url`, its token in a file."""
    if token is None:
        token = folder / "client.token"
        token.write_text(SECRET)
    allowed = frozenset(changes.pop("allowed", ()))
    stall_s = changes.pop("stall_s", 5)
    values: dict[str, Any] = {
        "name": "hq",
        "list_url": URL(url + "/api/v1/downloads"),
        "origins": Origins(base=URL(url), allowed=allowed),
        "tls": tls or Tls(),
        "per_page": 100,
        "date_format": "%Y-%m-%dT%H:%M:%SZ",
        "footage_zone": UTC,
        "client": "web",
        "send_token_to_files": False,
        "max_file_bytes": 2**40,
        "file_lifetime": timedelta(hours=3),
    }
    async with Sessions(stall_timeout_s=stall_s, list_timeout_s=10) as sessions:
        yield VmsClient(
            VmsOptions(**(values | changes)),
            sessions=sessions,
            token=TokenFile(token, source="hq", learned=lambda _: None),
            device_uuid="6d1c0a5e-device",
        )


async def ask(made: VmsClient) -> Any:
    """Read the first page."""
    return await made.page(1, since_us=SINCE, until_us=UNTIL)


async def fetch(made: VmsClient, url: str) -> bytes:
    """Read a whole file."""
    body = bytearray()
    async with made.open_file(url, None, WHOLE, first_byte_s=5) as opened:
        while chunk := await opened.read():
            body += chunk
    return bytes(body)


@dataclass(slots=True)
class Asked:
    """A request as it came over the wire."""

    target: str
    headers: dict[str, str]

    @property
    def query(self) -> dict[str, str]:
        """The parameters."""
        return dict(parse_qsl(urlsplit(self.target).query, strict_parsing=True))


class Raw:
    """A server that sends what a test wrote, byte by byte; one request a connection.

    Attributes:
        answers: By path; `*` for all others.
    """

    def __init__(self, answers: dict[str, bytes] | None = None) -> None:
        self.answers = answers or {}
        self.asked: list[Asked] = []
        self.url = ""
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Raw:
        """Listen on a free port of the loopback."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip().split("\r\n")
            target = first.split(" ")[1]
            pairs = [line.partition(": ")[::2] for line in lines]
            self.asked.append(Asked(target, dict(pairs)))
            path = target.split("?")[0]
            writer.write(self.answers.get(path, self.answers.get("*", b"")))
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def answer(status: int = 200, body: bytes = EMPTY, **headers: str) -> bytes:
    """Return an answer's bytes."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


# -- TLS ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Certificates:
    """Make an authority and what it signs."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@contextlib.asynccontextmanager
async def secure(certificates: Certificates, name: str) -> AsyncIterator[Vms]:
    """Run a VMS over https that shows one of the certificates."""
    context = certificates.context(name)
    async with Vms(token=SECRET, ssl_context=context) as served:
        yield served


async def refused_by_tls(folder: Path, url: str, tls: Tls) -> str:
    """Ask for the list and for a file; return the text of both refusals."""
    async with client(folder, url, tls=tls) as made:
        with pytest.raises(ListError) as listing:
            await ask(made)
        with pytest.raises(FetchError) as fetching:
            await fetch(made, url + "/storage/1.mp4")
    assert (listing.value.reason, fetching.value.reason) == ("tls", "tls")
    text = f"{listing.value} {fetching.value}"
    assert SECRET not in text
    return text


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        ("expired", "expired"),
        ("wrong_name", "127.0.0.1"),
        ("self", "self-signed"),
    ],
)
async def test_a_certificate_that_is_not_right_is_refused(
    tmp_path, certificates, shown, told
):
    """Though the authority is trusted; nothing is asked, and the text says why."""
    async with secure(certificates, shown) as vms:
        tls = Tls(ca_file=certificates.authority)
        assert told in await refused_by_tls(tmp_path, vms.url, tls)
        assert vms.requests == []


@pytest.mark.parametrize("ca", [None, "other_ca.pem"])
async def test_an_unknown_authority_is_refused(tmp_path, certificates, ca):
    """Without `ca_file`, or with that of another authority."""
    tls = Tls(ca_file=certificates.folder / ca if ca else None)
    async with secure(certificates, "good") as vms:
        assert "not trusted" in await refused_by_tls(tmp_path, vms.url, tls)
        assert vms.requests == []


@pytest.mark.parametrize(
    ("shown", "how"),
    [
        ("good", "ca_file"),
        ("good", "fingerprint"),
        ("self", "fingerprint"),
        ("self", "its own ca_file"),
        ("expired", "fingerprint"),
        ("wrong_name", "fingerprint"),
        ("self", "unverified"),
        ("expired", "unverified"),
    ],
)
async def test_a_certificate_that_is_trusted(tmp_path, certificates, shown, how):
    """By its authority, by its fingerprint, or because anything will do."""
    tls = {
        "ca_file": Tls(ca_file=certificates.authority),
        "its own ca_file": Tls(ca_file=certificates.folder / "self.pem"),
        "fingerprint": Tls(fingerprint=certificates.fingerprint(shown)),
        "unverified": Tls(verify=False),
    }[how]
    async with secure(certificates, shown) as vms:
        served = vms.add()
        async with client(tmp_path, vms.url, tls=tls) as made:
            page = await ask_wide(made)
            body = await fetch(made, page.rows[0].url)

        assert hashlib.sha256(body).hexdigest() == vms.truth(served).sha256


@pytest.mark.parametrize("verify", [True, False])
async def test_another_fingerprint_is_refused(tmp_path, certificates, verify):
    """Though the authority is trusted, and even where `verify` is false."""
    async with secure(certificates, "good") as vms:
        tls = Tls(
            ca_file=certificates.authority,
            fingerprint=certificates.fingerprint("second"),
            verify=verify,
        )
        assert "fingerprint" in await refused_by_tls(tmp_path, vms.url, tls)
        assert vms.requests == []


@pytest.mark.parametrize("content", [None, "", "no certificate", "folder"])
async def test_a_ca_file_of_no_use_stops_the_source_only(tmp_path, content):
    """The text names the file and says what to put there; it may come later."""
    path = tmp_path / "vms.pem"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    async with client(tmp_path, "https://127.0.0.1:9", tls=Tls(ca_file=path)) as made:
        with pytest.raises(ListError) as caught:
            await ask(made)
        with pytest.raises(FetchError):
            await fetch(made, "https://127.0.0.1:9/1.mp4")

    assert caught.value.reason == "tls"
    assert str(path) in str(caught.value) and "PEM" in str(caught.value)


async def test_a_ca_file_that_comes_later_is_taken_up(tmp_path, certificates):
    """No restart is needed."""
    path = tmp_path / "vms.pem"
    async with secure(certificates, "good") as vms:
        async with client(tmp_path, vms.url, tls=Tls(ca_file=path)) as made:
            with pytest.raises(ListError):
                await ask(made)
            shutil.copy(certificates.authority, path)

            assert (await ask(made)).size == 0


@pytest.mark.parametrize("to", ["other", "http"])
async def test_a_redirect_from_https_to_http_is_refused(tmp_path, certificates, to):
    """Before anything is asked there."""
    async with secure(certificates, "self") as vms:
        served = vms.add(then=fault("redirect", to=to))
        async with client(tmp_path, vms.url, tls=Tls(verify=False)) as made:
            page = await ask_wide(made)
            with pytest.raises(OriginRefusedError, match="redirected"):
                await fetch(made, page.rows[0].url)

        assert [request.status for request in vms.file_requests(served)] == [302]


async def test_verify_false_holds_for_the_own_origin_only(tmp_path, certificates):
    """A file elsewhere is fetched only over a connection that is trusted."""
    async with secure(certificates, "self") as vms, secure(certificates, "good") as s3:
        path = s3.file_path(s3.add())
        async with client(
            tmp_path, vms.url, tls=Tls(verify=False), allowed=[s3.url]
        ) as made:
            with pytest.raises(FetchError) as caught:
                await fetch(made, s3.url + path)

        assert caught.value.reason == "tls"
        assert s3.requests == []


async def test_a_server_that_speaks_no_tls(tmp_path):
    """It is a TLS failure in words, not a crash."""
    async with Vms() as vms:
        async with client(tmp_path, vms.url.replace("http", "https")) as made:
            with pytest.raises(ListError) as caught:
                await ask(made)

    assert caught.value.reason in {"tls", "cut"}


# -- who gets the credentials --------------------------------------------------


def credentials(headers: dict[str, str]) -> set[str]:
    """Return the names of the headers that tell who we are."""
    names = {name.lower() for name in headers}
    return names & {"authorization", "cookie", "x-uuid", "x-client"}


def hop(*locations: str) -> dict[str, bytes]:
    """Return answers that lead from /0 over each location in turn to a file."""
    steps = {
        f"/{number}": answer(302, b"", Location=location, Set_Cookie="a=b")
        for number, location in enumerate(locations)
    }
    return steps | {"*": answer(200, b"file")}


@pytest.mark.parametrize("send", [True, False])
async def test_the_token_goes_to_files_of_the_own_origin_if_configured(tmp_path, send):
    """And never to another origin, nor along a redirect."""
    async with Raw() as home, Raw() as other:
        home.answers = hop("/moved", "/2") | {"/away": answer(302, b"", Location="x")}
        home.answers["/away"] = answer(302, b"", Location=other.url + "/b")
        other.answers = {
            "/back": answer(302, b"", Location=home.url + "/c"),
            "*": answer(200, b"file"),
        }
        async with client(
            tmp_path, home.url, send_token_to_files=send, allowed=[other.url]
        ) as made:
            for url in ("/plain", "/0", "/away", other.url + "/d", other.url + "/back"):
                assert await fetch(made, url) == b"file"

    sent = {one.target: credentials(one.headers) for one in home.asked + other.asked}
    with_token = {"/plain", "/0", "/away"} if send else set()
    assert sent == {
        target: {"authorization"} if target in with_token else set()
        for target in ("/plain", "/0", "/moved", "/away", "/b", "/d", "/back", "/c")
    }
    for one in home.asked:
        if "Authorization" in one.headers:
            assert one.headers["Authorization"] == f"Bearer {SECRET}"


async def test_a_foreign_url_with_our_token_configured_is_refused(tmp_path):
    """Nothing at all is asked of an origin that is not allowed."""
    async with Raw({"*": answer(200, b"file")}) as home, Raw() as evil:
        home.answers["/0"] = answer(302, b"", Location=evil.url + "/x")
        async with client(tmp_path, home.url, send_token_to_files=True) as made:
            for url in (evil.url + "/1.mp4", "/0"):
                with pytest.raises(OriginRefusedError) as caught:
                    await fetch(made, url)
                assert SECRET not in str(caught.value)

    assert evil.asked == []


async def test_a_missing_token_fails_the_fetch_as_a_fetch(tmp_path):
    """Where files need the token: `open_file` raises what its contract names."""
    async with Raw({"*": answer(200, b"file")}) as server:
        async with client(
            tmp_path, server.url, token=tmp_path / "absent", send_token_to_files=True
        ) as made:
            with pytest.raises(FetchError, match="absent"):
                await fetch(made, "/1.mp4")

    assert server.asked == []


@pytest.mark.parametrize("name", ["a\rb", "a\nb", "a b, c", "%2e%2e", "?#", "Двор"])
async def test_a_name_in_a_url_reaches_the_vms_unchanged(tmp_path, name):
    """Encoded once, line breaks and all; the file behind it is fetched."""
    async with Vms(token=SECRET) as vms:
        served = vms.add(name=f"{name}.mp4")
        async with client(tmp_path, vms.url) as made:
            page = await ask_wide(made)
            body = await fetch(made, page.rows[0].url)

        assert hashlib.sha256(body).hexdigest() == vms.truth(served).sha256


# -- redirects -------------------------------------------------------------------


async def test_five_redirects_are_followed(tmp_path):
    """Relative ones and absolute ones."""
    async with Raw() as server:
        server.answers = hop("1", "/2", f"{server.url}/3", "./4", "/file")
        async with client(tmp_path, server.url) as made:
            assert await fetch(made, "/0") == b"file"

    assert [one.target for one in server.asked] == [
        "/0", "/1", "/2", "/3", "/4", "/file",
    ]  # fmt: skip


async def test_six_redirects_are_refused(tmp_path):
    """The sixth is not followed."""
    async with Raw(hop("/1", "/2", "/3", "/4", "/5", "/file")) as server:
        async with client(tmp_path, server.url) as made:
            with pytest.raises(FetchError) as caught:
                await fetch(made, "/0")

    assert caught.value.reason == "redirects" and "5" in str(caught.value)
    assert len(server.asked) == 6


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirected_list_is_refused(tmp_path, status):
    """The token is not sent on; the text says which key to change."""
    async with Raw() as server:
        server.answers = {
            "/elsewhere": answer(),
            "*": answer(status, b"", Location="/elsewhere"),
        }
        async with client(tmp_path, server.url) as made:
            with pytest.raises(ListError) as caught:
                await ask(made)

    assert len(server.asked) == 1
    assert str(status) in str(caught.value) and "url" in str(caught.value)
    assert caught.value.reason == f"http_{status}"


# -- what the list is asked, and how --------------------------------------------


async def test_the_query_and_the_headers(tmp_path):
    """All four parameters, always; who we are; that we want JSON."""
    async with Raw({"*": answer()}) as server:
        async with client(tmp_path, server.url, client="thick-legal") as made:
            await made.page(3, since_us=SINCE, until_us=UNTIL)

    (one,) = server.asked
    assert one.target.split("?")[0] == "/api/v1/downloads"
    assert one.query == {
        "per_page": "100",
        "page": "3",
        "from": "2026-11-23T07:00:00Z",
        "to": "2026-11-24T08:30:15Z",
    }
    assert one.headers["Authorization"] == f"Bearer {SECRET}"
    assert one.headers["Accept"] == "application/json"
    assert one.headers["X-Client"] == "thick-legal"
    assert one.headers["X-UUID"] == "6d1c0a5e-device"
    assert one.headers["User-Agent"].startswith("archive-mirror/")


@pytest.mark.parametrize(
    ("form", "since"),
    [
        ("%Y-%m-%d %H:%M:%S", "2026-11-23 07:00:00"),
        ("%Y-%m-%dT%H:%M:%S.%fZ", "2026-11-23T07:00:00.000000Z"),
        ("%Y-%m-%dT%H:%M:%S+00:00", "2026-11-23T07:00:00+00:00"),
        ("%d.%m.%Y & co", "23.11.2026 & co"),
    ],
)
async def test_the_configured_date_format(tmp_path, monkeypatch, form, since):
    """It is filled with UTC, wherever we are, and encoded once."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        async with Raw({"*": answer()}) as server:
            async with client(tmp_path, server.url, date_format=form) as made:
                await ask(made)
    finally:
        monkeypatch.undo()
        time.tzset()

    assert server.asked[0].query["from"] == since


async def test_the_window_is_by_the_clock_of_the_vms(tmp_path):
    """Its clock is two hours ahead of ours; so is the window, once that is known."""
    skew = timedelta(hours=2)
    async with Vms(manners=Manners(clock_skew=skew)) as vms:
        site = Site.make(tmp_path, vms, lookback="1h")
        served = vms.add()
        assert (await site.once()).exit_code == 0
        async with site.service():
            await site.until(lambda: vms.journal.counters["list"] > 3)
        last = [one for one in vms.requests if one.kind == "list"][-1]

        query = dict(parse_qsl(urlsplit(last.target).query))
        until = datetime.fromisoformat(query["to"])
        assert until > vms.now()
        assert served.export_id in site.exports()
        since = datetime.fromisoformat(query["from"])
        if since > datetime(2020, 1, 1, tzinfo=UTC):
            assert abs(vms.now() - timedelta(hours=1) - since) < timedelta(minutes=1)


async def test_the_device_id_outlives_a_restart(tmp_path):
    """Each start with a new one would use up a session of the VMS."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        await site.once()
        await site.once()

        ids = {one.headers["X-UUID"] for one in vms.requests if one.kind == "list"}
        assert len(ids) == 1 and len(ids.pop()) >= 8


async def test_a_configured_device_id_is_used(tmp_path):
    """`device_uuid` wins over the one that is made."""
    async with Vms() as vms:
        await Site.make(tmp_path, vms, device_uuid="configured-id").once()

        assert {
            one.headers["X-UUID"] for one in vms.requests if one.kind == "list"
        } == {"configured-id"}


async def test_a_compressed_list_is_read(tmp_path):
    """The API's session decompresses what it asked for."""
    async with Vms(token=SECRET, manners=Manners(gzip_lists=True)) as vms:
        served = [vms.add() for _ in range(30)]
        async with client(tmp_path, vms.url) as made:
            page = await ask_wide(made)

        assert {row.export_id for row in page.rows} == {s.export_id for s in served}
        assert vms.requests[0].headers["Accept-Encoding"]


async def ask_wide(made: VmsClient) -> Any:
    """Read the first page of everything."""
    now_us = to_us(datetime.now(UTC))
    return await made.page(1, since_us=0, until_us=now_us + 86_400_000_000)


# -- the clock ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ahead_s", "expected_s"),
    [(0, 0), (7200, 7200), (-7200, -7200), (30, 30), (-86400 * 300, -25920000)],
)
async def test_the_clock_of_the_vms_is_read_off_its_answers(
    tmp_path, ahead_s, expected_s
):
    """To the second, which is all that `Date` tells; less than that is noise."""
    ours = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
    theirs = ours + timedelta(seconds=ahead_s)
    date = f"{theirs:%a, %d %b %Y %H:%M:%S} GMT"
    async with Raw({"*": answer(Date=date)}) as server:
        async with client(tmp_path, server.url, now=lambda: ours) as made:
            page = await ask(made)

    assert abs(page.clock_offset_us / 1e6 - expected_s) <= 1


@pytest.mark.parametrize("date", [None, "", "soon", "2026-11-23T08:00:00Z", "0"])
async def test_without_a_date_nothing_is_known_of_the_clock(tmp_path, date):
    """And the page is taken all the same."""
    headers = {} if date is None else {"Date": date}
    async with Raw({"*": answer(**headers)}) as server:
        async with client(tmp_path, server.url) as made:
            page = await ask(made)

    assert page.clock_offset_us is None and page.size == 0


@pytest.mark.parametrize(
    "date", ["Mon, 23 Nov 2026 08:00:00 -0000", "Mon, 23 Nov 2026 08:00:00"]
)
async def test_a_date_without_a_zone_is_utc(tmp_path, monkeypatch, date):
    """HTTP dates always are; our own zone has no part in it."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        ours = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
        async with Raw({"*": answer(Date=date)}) as server:
            async with client(tmp_path, server.url, now=lambda: ours) as made:
                page = await ask(made)
    finally:
        monkeypatch.undo()
        time.tzset()

    assert page.clock_offset_us in {None, 0}


@pytest.mark.parametrize(
    "absurd",
    [datetime(500, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 12, tzinfo=UTC)],
)
async def test_one_absurd_date_does_not_stop_the_source_for_good(tmp_path, absurd):
    """One walk may suffer from it; those after it work."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        ahead = (absurd - datetime.now(UTC)).total_seconds()
        vms.script_list(fault("wrong_date", seconds=ahead))
        await site.once()
        served = vms.add()
        await site.once()
        last = await site.once()

        assert last.unread == ()
        assert served.export_id in site.exports()


# -- bounds ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["huge_body", "bomb"])
async def test_a_page_without_end_is_refused_with_bounded_memory(tmp_path, name):
    """No more than 64 MiB are read, however small they came over the wire."""
    async with contextlib.AsyncExitStack() as stack:
        if name == "bomb":
            body = gzip.compress(b'{"data":["' + b"f" * 120_000_000 + b'"]}', 1)
            reply = answer(body=body, Content_Encoding="gzip")
            url = (await stack.enter_async_context(Raw({"*": reply}))).url
        else:
            vms = await stack.enter_async_context(Vms(token=SECRET))
            vms.script_list(then="huge_body")
            url = vms.url
        made = await stack.enter_async_context(client(tmp_path, url))
        tracemalloc.start()
        try:
            with pytest.raises(ListError) as caught:
                await ask(made)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert caught.value.reason == "too_large" and "64 MiB" in str(caught.value)
    assert peak < 25_000_000


async def test_a_large_page_is_read(tmp_path):
    """3 MB are no fault."""
    body = b'{"data":[{"id":1,"x":"' + b"f" * 3_000_000 + b'"}]}'
    async with Raw({"*": answer(body=body)}) as server:
        async with client(tmp_path, server.url) as made:
            assert [row.export_id for row in (await ask(made)).rows] == [1]


# -- answers that are no list ----------------------------------------------------


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (204, "204"),
        (400, "400"),
        (403, "denies access"),
        (404, "list_path"),
        (409, "too old"),
        (422, "date_format"),
        (429, "slow down"),
        (500, "500"),
        (503, "maintenance"),
    ],
)
async def test_a_status_that_brings_no_list(tmp_path, status, told):
    """Each is a failed walk whose text helps; the wait asked for is passed on."""
    body = b"" if status == 204 else b'{"errors":{"from":["is no date"]}}'
    reply = answer(status, body, Retry_After="7")
    if status == 204:
        reply = reply.replace(b"Content-Length: 0\r\n", b"")
    async with Raw({"*": reply}) as server:
        async with client(tmp_path, server.url) as made:
            with pytest.raises(ListError) as caught:
                await ask(made)

    assert caught.value.reason == f"http_{status}"
    assert told in str(caught.value)
    assert caught.value.retry_after_s == 7.0
    assert ("from: is no date" in str(caught.value)) == (status == 422)


async def test_a_refused_token_is_an_auth_error(tmp_path):
    """The text names the file the new one goes into, and not the old one."""
    async with Raw({"*": answer(401, b"{}")}) as server:
        async with client(tmp_path, server.url) as made:
            with pytest.raises(AuthError) as caught:
                await ask(made)

    assert str(tmp_path / "client.token") in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"h" * 100_000 + b"\r\n\r\n{}",
        answer(body=b"not gzip at all", Content_Encoding="gzip"),
        answer(302, b"", Location="http://[::1"),
        answer(302, b""),
    ],
)
async def test_broken_http_is_a_failure_of_its_kind(tmp_path, reply):
    """For the list and for a file; no other exception, and no secret in its text."""
    async with Raw({"*": reply}) as server:
        async with client(tmp_path, server.url, send_token_to_files=True) as made:
            with pytest.raises(ListError) as listing:
                await ask(made)
            if b"Encoding: gzip" not in reply:
                with pytest.raises((FetchError, OriginRefusedError)) as fetching:
                    await fetch(made, "/storage/secret-path.mp4")
                assert SECRET not in str(fetching.value)
                assert "secret-path" not in str(fetching.value)

    assert SECRET not in str(listing.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1", "unreachable"),
        ("http://no-such-host.invalid", "unreachable"),
    ],
)
async def test_a_vms_that_is_not_there(tmp_path, url, reason):
    """Unreachable, in words, without an address that is secret."""
    async with client(tmp_path, url) as made:
        with pytest.raises(ListError) as listing:
            await ask(made)
        with pytest.raises(FetchError) as fetching:
            await fetch(made, "/storage/secret-path.mp4")

    assert (listing.value.reason, fetching.value.reason) == (reason, reason)
    assert "secret-path" not in str(fetching.value)
    assert SECRET not in f"{listing.value} {fetching.value}"


# -- the token -------------------------------------------------------------------


def token_file(path: Path, learned: list[str] | None = None) -> TokenFile:
    """Return a token file that tells what it learned."""
    known = [] if learned is None else learned
    return TokenFile(path, source="hq", learned=known.append)


@pytest.mark.parametrize(
    "content",
    [
        f"{SECRET}",
        f"{SECRET}\n",
        f"{SECRET}\r\n\r\n",
        f"  {SECRET}\t",
        f"Bearer {SECRET}\n",
        f"bearer   {SECRET}",
        f"BEARER {SECRET}",
    ],
)
async def test_forms_of_the_token_file(tmp_path, content):
    """A leading Bearer and blanks are no part of it; logs learn it."""
    (tmp_path / "t").write_text(content, newline="")
    learned: list[str] = []

    assert await token_file(tmp_path / "t", learned).read() == SECRET
    assert learned == [SECRET]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "make it by `archive-mirror token set hq`"),
        ("folder", "no regular file"),
        ("pipe", "no regular file"),
        (b"x" * 65_537, "longer than any token"),
        (b"", "empty"),
        (b" \r\n\t", "empty"),
        (b"Bearer ", "empty"),
        (b"Bearer\n", "empty"),
        (SECRET.encode() + b"\nsecond-token-line\n", "one line"),
        (SECRET.encode() + b" second-token-line", "one"),
        (SECRET.encode() + b"\x00\x01\xff", "one"),
        (bytes(range(128, 256)), "one"),
        ("секрет".encode(), "one"),
    ],
)
async def test_a_token_file_of_no_use(tmp_path, content, told):
    """The list is not asked; the text names the file, and no part of what is in it."""
    path = tmp_path / "t"
    if content == "folder":
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)
    elif content is not None:
        path.write_bytes(content)
    async with Raw({"*": answer()}) as server:
        async with client(tmp_path, server.url, token=path) as made:
            with pytest.raises(AuthError) as caught:
                await ask(made)

    assert server.asked == []
    assert str(path) in str(caught.value) and told in str(caught.value)
    assert SECRET not in str(caught.value) and "second" not in str(caught.value)


async def test_no_token_file_at_all():
    """The text names the key and the systemd credential."""
    token = TokenFile(None, source="hq", learned=lambda _: None)
    with pytest.raises(AuthError) as caught:
        await token.read()

    assert "token_file" in str(caught.value) and "hq.token" in str(caught.value)
    assert await token.changed() is False


async def test_a_token_file_is_read_again_when_it_changes(tmp_path):
    """Written anew, replaced, gone, and there again."""
    path = tmp_path / "t"
    path.write_text("one")
    token = token_file(path)
    assert await token.changed()
    assert await token.read() == "one"
    assert not await token.changed()
    path.write_text("the-second")
    assert await token.changed()
    assert await token.read() == "the-second"
    (tmp_path / "new").write_text("the-thirds")
    (tmp_path / "new").rename(path)
    assert await token.changed()
    assert await token.read() == "the-thirds"
    path.unlink()
    assert await token.changed()
    with pytest.raises(AuthError):
        await token.read()
    path.write_text("back")
    assert await token.read() == "back"


def jwt(claims: object, *, padded: bool = False) -> str:
    """Return a token with these claims."""
    text = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode()
    return f"eyJhbGciOiJub25lIn0.{text if padded else text.rstrip('=')}.sig"


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (jwt({"exp": 1_800_000_000}), 1_800_000_000),
        (jwt({"exp": 1_800_000_000}, padded=True), 1_800_000_000),
        (jwt({"exp": 1_800_000_000.9}), 1_800_000_000),
        (jwt({"exp": 1_800_000_000, "name": "Ж???>>>"}), 1_800_000_000),
        (jwt({"exp": "1800000000"}), None),
        (jwt({"exp": None}), None),
        (jwt({"exp": -1}), None),
        (jwt({"exp": 10**30}), None),
        (jwt({}), None),
        (jwt([]), None),
        (jwt("x"), None),
        ("a.b", None),
        ("a.%%%.c", None),
        ("a.e30.c", None),
        ("..", None),
        ("12|plain-sanctum-token", None),
        ("a." + "W1tb" * 20_000 + ".c", None),
    ],
)
def test_when_a_token_expires(token, expected):
    """A JWT says it; anything else is no JWT, and no failure."""
    assert expiry(token) == expected


async def test_the_expiry_is_known_after_a_walk(tmp_path):
    """For the metric of that name."""
    path = tmp_path / "t"
    path.write_text(jwt({"exp": 1_800_000_000}))
    async with Raw({"*": answer()}) as server:
        async with client(tmp_path, server.url, token=path) as made:
            known = [made.token_expiry_s]
            await ask(made)
            known.append(made.token_expiry_s)
            path.write_text("no-jwt")
            await ask(made)
            known.append(made.token_expiry_s)

    assert known == [None, 1_800_000_000, None]


# -- the zone of footage, through the client -------------------------------------


async def test_footage_times_are_read_in_the_configured_zone(tmp_path):
    """And created_at is not."""
    row = {
        "id": 1,
        "from": "2026-11-23 17:00:00",
        "created_at": "2026-11-23T08:00:00.000000Z",
    }
    body = json.dumps({"data": [row]}).encode()
    async with Raw({"*": answer(body=body)}) as server:
        async with client(
            tmp_path, server.url, footage_zone=ZoneInfo("Asia/Tokyo")
        ) as made:
            (found,) = (await ask(made)).rows

    assert found.footage_from == "2026-11-23T08:00:00Z"
    assert found.created_at == "2026-11-23T08:00:00.000000Z"


@pytest.fixture(autouse=True)
def _zone_stays() -> Iterator[None]:
    """Leave the process's zone as it was."""
    yield
    time.tzset()
