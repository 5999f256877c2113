"""How the list is asked for, and what its answers teach."""

from __future__ import annotations

import contextlib
import gzip
import json
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit
from zoneinfo import ZoneInfo

import pytest

from mirror.errors import AuthError, FetchError, ListError, OriginRefusedError
from mirror.simulator import Behaviour, Vms, fault
from tests.site import Site
from tests.vms_client import (
    SECRET,
    SINCE,
    UNTIL,
    Raw,
    answer,
    ask,
    ask_wide,
    client,
    fetch,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    async with Vms(behaviour=Behaviour(clock_skew=skew)) as vms:
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
    async with Vms(token=SECRET, behaviour=Behaviour(gzip_lists=True)) as vms:
        served = [vms.add() for _ in range(30)]
        async with client(tmp_path, vms.url) as made:
            page = await ask_wide(made)

        assert {row.export_id for row in page.rows} == {s.export_id for s in served}
        assert vms.requests[0].headers["Accept-Encoding"]


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
