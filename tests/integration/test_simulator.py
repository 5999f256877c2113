"""The simulated VMS keeps to the API's page, and misbehaves exactly as told."""

import asyncio
import gzip
import hashlib
import io
import json
import signal
import tomllib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import quote, urlencode, urlsplit

import pytest
from multidict import CIMultiDict

from mirror.simulator import (
    FAULTS,
    Behaviour,
    Etag,
    Export,
    Fault,
    Kind,
    Life,
    Stage,
    Step,
    Unmade,
    Vms,
    command,
    fault,
)
from mirror.simulator.command import SimulatorOptions
from mirror.simulator.rows import seed_rows

SIZE = 300_000
LIST = "/api/v1/downloads"
ALWAYS = {"from": "2000-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z"}
HEADERS = {
    "Authorization": "Bearer demo-token",
    "Accept": "application/json",
    "X-Client": "web",
    "X-UUID": "a device",
}


@dataclass(frozen=True)
class Reply:
    """An answer as it was on the wire; `end` is `eof`, `reset` or `open`."""

    status: int
    headers: CIMultiDict[str]
    raw: bytes
    end: str

    @property
    def body(self) -> bytes:
        """The body without its chunks; what there is of it, if it was cut."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.raw
        body, rest = b"", self.raw
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            body += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]
        return body

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


async def ask(
    vms: Vms,
    path: str,
    headers: dict[str, str] | None = None,
    *,
    method: str = "GET",
    patience_s: float = 5,
    limit: int = 50_000_000,
) -> Reply:
    """Ask over a socket of our own, so that nothing is repaired on the way."""
    reader, writer = await asyncio.open_connection("127.0.0.1", vms.port)
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{vms.port}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write(("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode())
    received, end = b"", "eof"
    try:
        async with asyncio.timeout(patience_s):
            while len(received) < limit and (piece := await reader.read(1 << 20)):
                received += piece
    except ConnectionResetError:
        end = "reset"
    except TimeoutError:
        end = "open"
    writer.close()
    head, _, raw = received.partition(b"\r\n\r\n")
    if not head:
        return Reply(0, CIMultiDict(), b"", end)
    status, *fields = head.decode("latin-1").split("\r\n")
    found = CIMultiDict(
        (name, value) for name, _, value in (line.partition(": ") for line in fields)
    )
    return Reply(int(status.split()[1]), found, raw, end)


def list_path(
    *, page: int = 1, per_page: int = 25, span: dict[str, str] | None = None
) -> str:
    query = {"per_page": per_page, "page": page, **(span or ALWAYS)}
    return f"{LIST}?{urlencode(query)}"


async def get_list(vms: Vms, *, page: int = 1, per_page: int = 25) -> Reply:
    return await ask(vms, list_path(page=page, per_page=per_page), HEADERS)


async def get_file(
    vms: Vms, export: Export, start: int | None = None, **headers: str
) -> Reply:
    wanted = {name.replace("_", "-"): value for name, value in headers.items()}
    if start is not None:
        wanted["Range"] = f"bytes={start}-"
    return await ask(vms, vms.file_path(export), wanted)


def ids(reply: Reply) -> list[int]:
    return [row["id"] for row in json.loads(reply.body)["data"]]


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as running:
        yield running


class TestList:
    async def test_the_samples_rows_come_back_as_they_are_printed(
        self, vms: Vms
    ) -> None:
        vms.add_seed_rows()
        first = await ask(vms, list_path(), HEADERS)
        other = await ask(
            vms, list_path().replace("/downloads", "/users/downloads"), HEADERS
        )

        answer = json.loads(first.body)
        assert first.status == 200
        assert first.headers["Content-Type"] == "application/json"
        assert json.dumps(answer["data"]) == json.dumps(seed_rows())
        assert other.body == first.body

    async def test_a_made_up_row_has_every_field_of_the_sample_in_its_order(
        self, vms: Vms
    ) -> None:
        vms.add()
        row = json.loads((await get_list(vms)).body)["data"][0]

        sample = seed_rows()[0]
        assert list(row) == list(sample)
        assert list(row["stream"]) == list(sample["stream"])
        assert list(row["user"]) == list(sample["user"])

    async def test_pages_run_from_new_to_old_and_equals_by_id(self, vms: Vms) -> None:
        noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
        for number, hours in ((5, 0), (3, 1), (9, 1), (1, 2), (7, 0)):
            vms.add(export_id=number, created_at=noon - timedelta(hours=hours))
        pages = [await get_list(vms, page=page, per_page=2) for page in (1, 2, 3, 4)]

        assert [ids(page) for page in pages] == [[5, 7], [3, 9], [1], []]
        meta = json.loads(pages[1].body)["meta"]
        assert (meta["from"], meta["to"], meta["total"], meta["last_page"]) == (
            *(3, 4),
            *(5, 3),
        )
        links = json.loads(pages[1].body)["links"]
        base = "http://127.0.0.1:8080/api/v1/users/downloads?page="
        assert (links["prev"], links["next"]) == (f"{base}1", f"{base}3")

    async def test_from_and_to_choose_by_creation(self, vms: Vms) -> None:
        noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
        for hour in range(4):
            vms.add(export_id=hour + 1, created_at=noon + timedelta(hours=hour))
        span = {"from": "2026-11-23T13:00:00Z", "to": "2026-11-23 14:00:00"}

        assert ids(await ask(vms, list_path(span=span), HEADERS)) == [3, 2]

    @pytest.mark.parametrize("token", [None, "Bearer wrong", "demo-token"])
    async def test_without_the_token_it_is_a_401(
        self, vms: Vms, token: str | None
    ) -> None:
        headers = {**HEADERS, "Authorization": token or ""}
        if token is None:
            del headers["Authorization"]
        reply = await ask(vms, list_path(), headers)

        assert reply.status == 401
        assert json.loads(reply.body) == {"message": "Unauthenticated."}

    async def test_a_422_names_each_fault_under_its_field(self, vms: Vms) -> None:
        reply = await ask(vms, f"{LIST}?page=x&per_page=5&from=2000-01-01", HEADERS)

        answer = json.loads(reply.body)
        assert reply.status == 422
        assert list(answer) == ["message", "errors"]
        assert set(answer["errors"]) == {"page", "from", "to"}
        assert all(isinstance(texts[0], str) for texts in answer["errors"].values())

    async def test_without_accept_errors_are_pages(self, vms: Vms) -> None:
        reply = await ask(vms, list_path(), {"Authorization": "Bearer wrong"})

        assert reply.status == 401
        assert reply.headers["Content-Type"].startswith("text/html")

    async def test_anything_but_reading_is_refused_and_noted(self, vms: Vms) -> None:
        reply = await ask(vms, list_path(), HEADERS, method="DELETE")

        assert reply.status == 405
        assert vms.requests[-1].method == "DELETE"
        assert (await ask(vms, "/api/v1/token", HEADERS)).status == 404

    async def test_the_clock_of_the_vms_may_be_wrong(self, vms: Vms) -> None:
        vms.behaviour = replace(vms.behaviour, clock_skew=timedelta(hours=-2))
        vms.add()
        reply = await get_list(vms)

        told = parsedate_to_datetime(reply.headers["Date"])
        error = (datetime.now(UTC) - told).total_seconds()
        assert 7190 < error < 7210
        row = json.loads(reply.body)["data"][0]
        assert abs(datetime.fromisoformat(row["created_at"]) - told) < timedelta(
            seconds=5
        )

    @pytest.mark.parametrize(
        ("unmade", "url", "flag"),
        [
            (Unmade.NULL_URL, None, False),
            (Unmade.EMPTY_URL, "", False),
            (Unmade.FOLDER_URL, "http://127.0.0.1:8080/storage/", False),
            (Unmade.FLAGGED_FOLDER_URL, "http://127.0.0.1:8080/storage/", True),
        ],
    )
    async def test_a_row_without_its_file_yet_looks_as_told(
        self, vms: Vms, unmade: Unmade, url: str | None, flag: bool
    ) -> None:
        vms.behaviour = Behaviour(unmade=unmade, internal_host=True)
        vms.add(stage=Stage.ASKED)
        row = json.loads((await get_list(vms)).body)["data"][0]

        assert (row["url"], row["is_file_exists"]) == (url, flag)

    async def test_lists_are_compressed_for_who_accepts_it(self, vms: Vms) -> None:
        vms.behaviour = Behaviour(gzip_lists=True)
        vms.add()
        headers = {**HEADERS, "Accept-Encoding": "gzip, deflate"}
        packed = await ask(vms, list_path(), headers)
        plain = await get_list(vms)

        assert packed.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(packed.body) == plain.body


class TestFile:
    @pytest.mark.parametrize("clip", ["moov-first", "moov-last", "fragmented"])
    async def test_the_listed_url_gives_the_true_bytes(
        self, vms: Vms, clip: str
    ) -> None:
        export = vms.add(size=SIZE, clip=clip, name="Büro / Ost?, #1 100%.mp4")
        url = json.loads((await get_list(vms)).body)["data"][0]["url"]
        reply = await ask(vms, urlsplit(url).path)

        truth = vms.truth(export)
        assert url == vms.url + vms.file_path(export)
        assert reply.status == 200
        assert reply.headers["Content-Type"] == "video/mp4"
        assert reply.headers["Accept-Ranges"] == "bytes"
        assert (len(reply.body), reply.digest) == (SIZE, truth.sha256)
        assert reply.body == vms.read(export)

    @pytest.mark.parametrize("start", [0, 1, 65_535, 65_536, SIZE - 1])
    async def test_a_range_gives_that_part(self, vms: Vms, start: int) -> None:
        export = vms.add(size=SIZE)
        whole = await get_file(vms, export)
        rest = await get_file(vms, export, start, If_Range=whole.headers["ETag"])

        assert rest.status == 206
        assert rest.headers["Content-Range"] == f"bytes {start}-{SIZE - 1}/{SIZE}"
        assert rest.headers["ETag"] == whole.headers["ETag"]
        assert rest.body == whole.body[start:]

    async def test_a_range_past_the_end_is_a_416(self, vms: Vms) -> None:
        export = vms.add(size=SIZE)
        reply = await get_file(vms, export, SIZE)

        assert reply.status == 416
        assert reply.headers["Content-Range"] == f"bytes */{SIZE}"

    async def test_if_range_gives_the_whole_once_the_file_is_another(
        self, vms: Vms
    ) -> None:
        export = vms.add(size=SIZE)
        old = (await get_file(vms, export)).headers
        by_date = await get_file(vms, export, 9, If_Range=old["Last-Modified"])
        vms.make_file(export)
        by_tag = await get_file(vms, export, 9, If_Range=old["ETag"])

        assert (by_date.status, by_tag.status) == (206, 200)
        assert by_tag.digest == vms.truth(export).sha256

    async def test_a_weak_tag_never_allows_a_part(self, vms: Vms) -> None:
        vms.behaviour = Behaviour(etag=Etag.WEAK)
        export = vms.add(size=SIZE)
        tag = (await get_file(vms, export)).headers["ETag"]

        assert tag.startswith('W/"')
        assert (await get_file(vms, export, 9, If_Range=tag)).status == 200

    async def test_validators_can_be_left_out(self, vms: Vms) -> None:
        vms.behaviour = Behaviour(etag=Etag.NONE, last_modified=False)
        reply = await get_file(vms, vms.add(size=SIZE))

        assert "ETag" not in reply.headers
        assert "Last-Modified" not in reply.headers

    @pytest.mark.parametrize("status", [404, 403])
    async def test_life_from_row_to_file_to_none_to_another(
        self, vms: Vms, status: int
    ) -> None:
        vms.behaviour = Behaviour(gone_status=status)
        export = vms.add(size=SIZE, stage=Stage.ASKED)
        seen = []

        async def look() -> None:
            row = json.loads((await get_list(vms)).body)["data"][0]
            reply = await get_file(vms, export)
            seen.append((row["id"], row["is_file_exists"], reply.status, reply.digest))

        await look()
        vms.make_file(export)
        await look()
        vms.delete_file(export)
        await look()
        vms.make_file(export)
        await look()
        assert [each[:3] for each in seen] == [
            (export.export_id, False, status),
            (export.export_id, True, 200),
            (export.export_id, False, status),
            (export.export_id, True, 200),
        ]
        digests = [digest for _, digest in vms.truth(export).versions]
        assert [seen[1][3], seen[3][3]] == digests
        assert digests[0] != digests[1]

    async def test_the_clock_moves_life_on_before_each_answer(self) -> None:
        now = datetime(2026, 11, 23, 12, tzinfo=UTC)
        life = Life(
            generation_delay=timedelta(minutes=1), file_lifetime=timedelta(hours=3)
        )
        async with Vms(clock=lambda: now, life=life) as vms:
            export = vms.add(size=SIZE, stage=Stage.ASKED)
            statuses = []
            for minutes in (0, 1, 179, 1):
                now += timedelta(minutes=minutes)
                statuses.append((await get_file(vms, export)).status)

        assert statuses == [404, 200, 200, 404]

    async def test_in_one_folder_a_file_is_found_by_its_name(self, vms: Vms) -> None:
        vms.behaviour = Behaviour(folder_urls=True)
        first, second = vms.add_seed_rows(size=SIZE)[:2]
        rows = json.loads((await get_list(vms)).body)["data"]
        folder = urlsplit(rows[0]["url"]).path
        reply = await ask(vms, folder + quote(rows[0]["name"]))

        assert folder == "/storage/"
        assert reply.status == 200
        assert reply.digest == vms.truth(first).sha256 == vms.truth(second).sha256
        assert (await ask(vms, folder)).status == 404

    async def test_a_folder_may_hold_nothing(self, vms: Vms) -> None:
        vms.behaviour = Behaviour(folder_urls=True, folder_files=False)
        export = vms.add(size=SIZE)

        assert (await get_file(vms, export)).status == 404

    async def test_a_file_past_four_gib_is_served_from_anywhere(self, vms: Vms) -> None:
        size = 2**32 + 10_000_000
        export = vms.add(size=size, clip="moov-last")
        reply = await get_file(vms, export, size - 1000)

        assert (
            reply.headers["Content-Range"] == f"bytes {size - 1000}-{size - 1}/{size}"
        )
        assert reply.body == vms.read(export, size - 1000)

    async def test_a_limited_rate_is_kept(self, vms: Vms) -> None:
        vms.behaviour = Behaviour(rate=400_000)
        export = vms.add(size=SIZE)
        loop = asyncio.get_running_loop()
        began = loop.time()
        reply = await get_file(vms, export)

        assert len(reply.body) == SIZE
        assert 0.5 < loop.time() - began < 3


async def faulty(
    vms: Vms, *faults: Fault | str, start: int | None = None, **headers: str
) -> tuple[Reply, bytes]:
    """Return the answer with these faults, and the whole file as it was before."""
    export = vms.add(size=SIZE)
    whole = vms.read(export)
    step: Step = tuple(faults)
    vms.script(export, step)
    return await get_file(vms, export, start, **headers), whole


class TestFileFault:
    @pytest.mark.parametrize("at", [0, 1, 32, 65_536, SIZE - 1])
    @pytest.mark.parametrize("kind", [Kind.CUT, Kind.RESET, Kind.STALL])
    async def test_an_answer_ends_at_the_byte_told(
        self, vms: Vms, kind: Kind, at: int
    ) -> None:
        reply, whole = await faulty(vms, Fault(kind=kind, at=at, seconds=0.2))

        assert reply.headers["Content-Length"] == str(SIZE)
        assert reply.raw == whole[:at]
        assert reply.end == ("reset" if kind is Kind.RESET else "eof")
        assert vms.requests[-1].sent_bytes == at

    async def test_a_point_in_the_file_counts_from_its_start_one_in_the_body_not(
        self, vms: Vms
    ) -> None:
        in_file, whole = await faulty(vms, Fault(kind=Kind.CUT, at=-10), start=1000)
        in_body, other = await faulty(vms, Fault(kind=Kind.CUT, after=5), start=1000)
        passed, _ = await faulty(vms, Fault(kind=Kind.CUT, at=500), start=1000)

        assert in_file.raw == whole[1000:-10]
        assert in_body.raw == other[1000:1005]
        assert passed.raw == b""

    async def test_a_stall_lasts_until_the_client_leaves(self, vms: Vms) -> None:
        export = vms.add(size=SIZE, faults=["stall"])
        reply = await ask(vms, vms.file_path(export), patience_s=0.3)
        async with asyncio.timeout(60):
            await vms.until(lambda: vms.journal.in_flight == 0)

        assert (len(reply.raw), reply.end) == (SIZE // 2, "open")
        assert vms.requests[-1].ended == "left"

    @pytest.mark.parametrize(
        ("name", "framing", "length"),
        [
            ("no_length", None, SIZE),
            ("no_length_cut", None, SIZE // 2),
            ("chunked", "chunked", SIZE),
            ("chunked_cut", "chunked", SIZE // 2),
        ],
    )
    async def test_the_end_of_a_body_need_not_be_told(
        self, vms: Vms, name: str, framing: str | None, length: int
    ) -> None:
        reply, whole = await faulty(vms, name)

        assert "Content-Length" not in reply.headers
        assert reply.headers.get("Transfer-Encoding") == framing
        assert reply.body == whole[:length]
        if framing is not None:
            assert reply.raw.endswith(b"0\r\n\r\n") is (length == SIZE)

    async def test_a_drip_is_one_byte_at_a_time(self, vms: Vms) -> None:
        export = vms.add(size=SIZE)
        vms.script(export, Fault(kind=Kind.DRIP, size=1, seconds=0.05))
        reply = await ask(vms, vms.file_path(export), patience_s=0.5)

        assert 0 < len(reply.raw) < 12
        assert reply.end == "open"

    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            ("wrong_start", f"bytes 1001-{SIZE - 1}/{SIZE}"),
            ("earlier_start", f"bytes 999-{SIZE - 1}/{SIZE}"),
            ("wrong_total", f"bytes 1000-{SIZE - 1}/{SIZE + 1}"),
            ("unknown_total", f"bytes 1000-{SIZE - 1}/*"),
            ("no_content_range", None),
            ("lying_range", f"bytes 1000-{SIZE - 1}/{SIZE}"),
        ],
    )
    async def test_a_206_may_be_another_than_was_asked(
        self, vms: Vms, name: str, shown: str | None
    ) -> None:
        reply, whole = await faulty(vms, name, start=1000)
        begin = {"wrong_start": 1001, "earlier_start": 999, "lying_range": 999}

        assert reply.status == 206
        assert reply.headers.get("Content-Range") == shown
        expected = whole[begin.get(name, 1000) :]
        assert reply.body == expected[: len(reply.body)]
        assert len(reply.body) == int(reply.headers["Content-Length"])

    async def test_a_range_may_be_ignored_refused_or_wrapped(self, vms: Vms) -> None:
        ignored, whole = await faulty(vms, "ignore_range", start=1000)
        refused, _ = await faulty(vms, "range_refused", start=1000)
        wrapped, other = await faulty(vms, "multipart", start=1000)

        assert (ignored.status, ignored.body) == (200, whole)
        assert refused.status == 416
        assert wrapped.status == 206
        assert wrapped.headers["Content-Type"].startswith("multipart/byteranges")
        assert "Content-Range" not in wrapped.headers
        assert other[1000:] in wrapped.body
        assert len(wrapped.body) == int(wrapped.headers["Content-Length"])

    async def test_if_range_may_be_taken_wrongly(self, vms: Vms) -> None:
        export = vms.add(size=SIZE)
        headers = (await get_file(vms, export)).headers
        tag, date = headers["ETag"], headers["Last-Modified"]
        vms.script(
            export, "if_range_full", "if_range_full", ("change", "ignore_if_range")
        )
        by_tag = await get_file(vms, export, 9, If_Range=tag)
        by_date = await get_file(vms, export, 9, If_Range=date)
        mixed = await get_file(vms, export, 9, If_Range=tag)

        assert (by_tag.status, by_date.status, mixed.status) == (200, 206, 206)
        assert mixed.headers["ETag"] != tag
        assert mixed.body == vms.read(export)[9:]

    async def test_validators_may_be_weak_others_or_none(self, vms: Vms) -> None:
        export = vms.add(size=SIZE)
        tag = (await get_file(vms, export)).headers["ETag"]
        vms.script(export, "weak_etag", "other_etag", "no_etag", "no_validators")
        replies = [await get_file(vms, export) for _ in range(4)]

        tags = [reply.headers.get("ETag") for reply in replies]
        assert tags[0] == f"W/{tag}"
        assert tags[1] not in {tag, None}
        assert tags[2:] == [None, None]
        assert ["Last-Modified" in each.headers for each in replies] == [
            *(True, True),
            *(True, False),
        ]

    async def test_a_file_may_become_another_between_two_requests(
        self, vms: Vms
    ) -> None:
        export = vms.add(size=SIZE)
        before = await get_file(vms, export)
        vms.script(export, "change", "change_hidden", "shrink", "grow", "delete")
        seen = []
        for _ in range(4):
            reply = await get_file(vms, export)
            assert reply.digest == vms.truth(export).sha256
            seen.append((len(reply.body), reply.headers["ETag"]))

        assert [size for size, _ in seen] == [SIZE, SIZE, SIZE - 4096, SIZE]
        assert seen[0][1] != before.headers["ETag"]
        assert seen[1][1] == seen[0][1]
        assert len({digest for _, digest in vms.truth(export).versions}) == 5
        assert (await get_file(vms, export)).status == 404
        assert export.stage is Stage.DELETED

    async def test_a_wrong_file_may_come_under_the_right_name(self, vms: Vms) -> None:
        cut, whole = await faulty(vms, "truncated_mp4")
        maimed, _ = await faulty(vms, "no_moov")
        garbage, _ = await faulty(vms, "garbage")
        wrong_type, right = await faulty(vms, "wrong_type")

        assert cut.body == whole[: SIZE // 2]
        assert cut.headers["Content-Length"] == str(SIZE // 2)
        assert b"moov" not in maimed.body
        assert b"mdat" in maimed.body
        assert (len(garbage.body), garbage.body[4:8] == b"ftyp") == (SIZE, False)
        assert garbage.headers["Content-Type"] == "video/mp4"
        assert wrong_type.headers["Content-Type"].startswith("text/plain")
        assert wrong_type.body == right

    @pytest.mark.parametrize("start", [None, 1000])
    async def test_bytes_may_be_compressed_on_the_way(
        self, vms: Vms, start: int | None
    ) -> None:
        reply, whole = await faulty(vms, "gzip", start=start)

        assert reply.status == (200 if start is None else 206)
        assert reply.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(reply.body) == whole[start or 0 :]

    async def test_pages_may_come_instead_of_a_file(self, vms: Vms) -> None:
        html, _ = await faulty(vms, "html")
        page, _ = await faulty(vms, "json_page")
        empty, _ = await faulty(vms, "empty")

        assert html.status == page.status == empty.status == 200
        assert html.headers["Content-Type"].startswith("text/html")
        assert html.body.startswith(b"<!DOCTYPE html>")
        assert json.loads(page.body) == {"message": "Server Error"}
        assert (empty.body, empty.headers["Content-Length"]) == (b"", "0")

    async def test_redirects_lead_where_they_are_told_to(self, vms: Vms) -> None:
        same, whole = await faulty(vms, "redirect")
        other, _ = await faulty(vms, "redirect_other")
        loop, _ = await faulty(vms, "redirect_loop")
        away, _ = await faulty(
            vms, Fault(kind=Kind.REDIRECT, to="https://elsewhere.example/x")
        )

        assert {each.status for each in (same, other, loop, away)} == {302}
        moved = same.headers["Location"]
        assert moved.startswith(f"{vms.url}/storage/")
        assert (await ask(vms, moved.removeprefix(vms.url))).body == whole
        assert other.headers["Location"].startswith(f"{vms.other_url}/storage/")
        assert vms.other_url != vms.url
        again = await ask(vms, loop.headers["Location"])
        assert again.status == 302
        assert away.headers["Location"] == "https://elsewhere.example/x"

    async def test_the_other_origin_serves_the_same(self, vms: Vms) -> None:
        reply, whole = await faulty(vms, "redirect_other")
        place = urlsplit(reply.headers["Location"])
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        request = f"GET {place.path}?{place.query} HTTP/1.0\r\n\r\n"
        writer.write(request.encode())
        received = await reader.read()
        writer.close()

        assert received.endswith(whole)

    @pytest.mark.parametrize("name", [name for name in FAULTS if "status_" in name])
    async def test_any_status_may_come(self, vms: Vms, name: str) -> None:
        reply, _ = await faulty(vms, name)

        assert reply.status == int(name.removeprefix("status_"))

    async def test_a_busy_server_says_when_to_come_back(self, vms: Vms) -> None:
        seconds, _ = await faulty(vms, "busy_503")
        date, _ = await faulty(vms, "busy_429_date")

        assert (seconds.status, seconds.headers["Retry-After"]) == (503, "2")
        wait = parsedate_to_datetime(date.headers["Retry-After"]) - datetime.now(UTC)
        assert date.status == 429
        assert timedelta(seconds=-3) < wait < timedelta(seconds=3)

    async def test_a_file_may_be_away_and_back(self, vms: Vms) -> None:
        export = vms.add(size=SIZE, faults=["status_404", None, "status_401"])
        statuses = [(await get_file(vms, export)).status for _ in range(4)]

        assert statuses == [404, 200, 401, 200]

    async def test_a_sticky_fault_stays(self, vms: Vms) -> None:
        export = vms.add(size=SIZE, faults=[None], then="status_502")
        statuses = [(await get_file(vms, export)).status for _ in range(4)]

        assert statuses == [200, 502, 502, 502]

    async def test_files_without_a_script_share_one(self, vms: Vms) -> None:
        plain, own = vms.add(size=SIZE), vms.add(size=SIZE, then="status_410")
        vms.script_files("status_500")

        assert (await get_file(vms, own)).status == 410
        assert (await get_file(vms, plain)).status == 500
        assert (await get_file(vms, plain)).status == 200

    async def test_a_body_may_have_no_end(self, vms: Vms) -> None:
        export = vms.add(size=SIZE, faults=["endless"])
        reply = await ask(vms, vms.file_path(export), limit=5_000_000)

        assert len(reply.raw) >= 5_000_000
        assert reply.headers["Transfer-Encoding"] == "chunked"

    async def test_headers_may_be_many_or_huge(self, vms: Vms) -> None:
        many, whole = await faulty(vms, Fault(kind=Kind.MANY_HEADERS, size=5000))
        huge, _ = await faulty(vms, "huge_header")

        assert len(many.headers) > 5000
        assert many.body == whole
        assert len(huge.headers["X-Filler"]) == 70_000

    async def test_faults_of_one_step_happen_together(self, vms: Vms) -> None:
        cut = Fault(kind=Kind.CUT, at=70_000)
        reply, whole = await faulty(vms, "no_validators", "chunked", cut)

        assert "ETag" not in reply.headers
        assert reply.body == whole[:70_000]

    @pytest.mark.parametrize("name", ["hang", "stall"])
    async def test_it_stops_at_once_whatever_is_going_on(self, name: str) -> None:
        async with asyncio.timeout(60), Vms() as vms:
            export = vms.add(size=50_000_000, faults=[name])
            _, writer = await asyncio.open_connection("127.0.0.1", vms.port)
            writer.write(f"GET {vms.file_path(export)} HTTP/1.0\r\n\r\n".encode())
            await vms.until(lambda: vms.journal.in_flight == 1)
        writer.close()

        assert vms.requests[-1].ended == "left"


async def faulty_list(vms: Vms, fault: Fault | str, **query: int) -> Reply:
    for number in range(5):
        vms.add(created_at=datetime(2026, 11, 23, number, tzinfo=UTC))
    vms.script_list(fault)
    return await get_list(vms, **query)


class TestListFault:
    @pytest.mark.parametrize("status", [401, 403, 404, 409, 422, 500, 503])
    async def test_any_status_may_come_and_then_the_list(
        self, vms: Vms, status: int
    ) -> None:
        reply = await faulty_list(vms, Fault(kind=Kind.STATUS, status=status))

        assert reply.status == status
        assert "message" in json.loads(reply.body)
        assert ("errors" in json.loads(reply.body)) is (status == 422)
        assert len(ids(await get_list(vms))) == 5

    async def test_the_answer_may_be_no_list(self, vms: Vms) -> None:
        html = await faulty_list(vms, "html")
        vms.script_list("truncated_json", "no_data", "data_not_list", "empty")
        cut, no_data, no_list, empty = [await get_list(vms) for _ in range(4)]

        assert html.body.startswith(b"<!DOCTYPE html>")
        assert cut.body.startswith(b'{"data":[')
        with pytest.raises(json.JSONDecodeError):
            json.loads(cut.body)
        assert list(json.loads(no_data.body)) == ["links", "meta"]
        assert isinstance(json.loads(no_list.body)["data"], dict)
        assert (empty.status, empty.body) == (200, b"")

    async def test_json_may_be_very_deep_or_very_long(self, vms: Vms) -> None:
        deep = await faulty_list(vms, "deep_json")
        vms.script_list(Fault(kind=Kind.HUGE_BODY, size=3_000_000))
        huge = await get_list(vms)

        assert deep.body.count(b"[") >= 100_000
        with pytest.raises(RecursionError):
            json.loads(deep.body)
        assert len(huge.body) == 3_000_000
        assert len(json.loads(huge.body)["data"]) == 1

    @pytest.mark.parametrize("name", ["endless_pages", "endless_rows"])
    async def test_paging_may_never_end(self, vms: Vms, name: str) -> None:
        await faulty_list(vms, name)
        vms.script_list(then=name)
        pages = [await get_list(vms, page=page, per_page=3) for page in (2, 50, 51)]

        assert [json.loads(page.body)["meta"]["last_page"] for page in pages] == [
            *(3, 51),
            52,
        ]
        assert all(ids(page) for page in pages)
        assert (ids(pages[1]) == ids(pages[2])) is (name == "endless_pages")

    async def test_a_page_may_repeat_rows(self, vms: Vms) -> None:
        reply = await faulty_list(vms, "duplicate_rows")

        assert ids(reply) == [6417, 6416, 6415, 6414, 6413, 6413]

    async def test_a_row_that_goes_meanwhile_hides_another(self, vms: Vms) -> None:
        first = await faulty_list(
            vms, Fault(kind=Kind.DELETE_ROW, size=1, page=2), per_page=2
        )
        second = await get_list(vms, page=2, per_page=2)

        assert [ids(first), ids(second)] == [[6417, 6416], [6414, 6413]]
        assert json.loads(second.body)["meta"]["total"] == 4

    async def test_a_row_that_comes_meanwhile_repeats_another(self, vms: Vms) -> None:
        first = await faulty_list(
            vms, Fault(kind=Kind.INSERT_ROW, size=1, page=2), per_page=2
        )
        second = await get_list(vms, page=2, per_page=2)

        assert [ids(first), ids(second)] == [[6417, 6416], [6416, 6415]]
        assert json.loads(second.body)["meta"]["total"] == 6

    async def test_numbers_may_be_text(self, vms: Vms) -> None:
        meta = json.loads((await faulty_list(vms, "string_meta")).body)["meta"]

        assert (meta["total"], meta["per_page"], meta["last_page"]) == ("5", "25", "1")

    @pytest.mark.parametrize("raw", ["null", '"text"', "[]", '{"id": null}', "7"])
    async def test_anything_may_stand_where_a_row_should(
        self, vms: Vms, raw: str
    ) -> None:
        reply = await faulty_list(vms, Fault(kind=Kind.BAD_ROW, text=raw))

        rows = json.loads(reply.body)["data"]
        assert len(rows) == 6
        assert json.loads(raw) in rows

    async def test_flags_may_flip(self, vms: Vms) -> None:
        reply = await faulty_list(vms, "flip_flags")

        assert not any(r["is_file_exists"] for r in json.loads(reply.body)["data"])

    async def test_a_list_may_be_late_slow_or_never_come(self, vms: Vms) -> None:
        for step in ("hang", fault("drip", seconds=0.1)):
            vms.script_list(step)
            reply = await ask(vms, list_path(), HEADERS, patience_s=0.4)
            assert (reply.end, len(reply.raw) < 10) == ("open", True)

    async def test_the_date_of_one_answer_may_be_wrong(self, vms: Vms) -> None:
        reply = await faulty_list(vms, "wrong_date")

        told = parsedate_to_datetime(reply.headers["Date"])
        assert told - datetime.now(UTC) > timedelta(minutes=59)


class TestJournal:
    async def test_it_tells_what_was_asked_but_no_secret(self, vms: Vms) -> None:
        export = vms.add(size=SIZE)
        await get_list(vms)
        await get_file(vms, export, 1000, If_Range='"x"')
        listed, fetched = vms.requests

        assert (listed.kind, listed.status, listed.authorized) == ("list", 200, True)
        assert listed.target == list_path()
        assert "demo-token" not in repr(listed)
        assert (fetched.kind, fetched.export_id) == ("file", export.export_id)
        assert (fetched.range, fetched.if_range) == ("bytes=1000-", '"x"')
        assert (fetched.authorized, fetched.sent_bytes) == (False, SIZE)
        assert vms.file_requests(export) == [fetched]
        assert vms.journal.counters["file_200"] == 1
        assert vms.journal.peak_in_flight == 1

    async def test_it_keeps_only_so_many(self) -> None:
        lines: list[str] = []
        async with Vms(
            journal_capacity=3, on_request=lambda each: lines.append(each.line())
        ) as vms:
            for _ in range(5):
                await get_list(vms)

        assert [each.number for each in vms.requests] == [3, 4, 5]
        assert vms.journal.counters["requests"] == 5
        assert len(lines) == 5
        assert "  200 " in lines[0]

    async def test_a_test_can_wait_for_bytes_that_were_sent(self, vms: Vms) -> None:
        slow = fault("slow", rate=50_000)
        export = vms.add(size=SIZE, faults=[slow])
        reader, writer = await asyncio.open_connection("127.0.0.1", vms.port)
        writer.write(f"GET {vms.file_path(export)} HTTP/1.0\r\n\r\n".encode())
        async with asyncio.timeout(60):
            await vms.until(lambda: any(r.sent_bytes > 20_000 for r in vms.requests))

        assert 20_000 < vms.requests[-1].sent_bytes < SIZE
        assert vms.requests[-1].ended is None
        assert len(await reader.read(1000)) > 0
        writer.close()

    async def test_the_vms_can_go_and_come_back_at_its_place(self) -> None:
        vms = Vms()
        async with vms:
            export, port = vms.add(size=SIZE), vms.port
        with pytest.raises(OSError, match=r"."):
            await get_file(vms, export)
        async with vms:
            assert vms.port == port
            assert (await get_file(vms, export)).status == 200


class TestCommand:
    async def test_it_serves_prints_a_configuration_and_ends_on_a_signal(self) -> None:
        output = io.StringIO()
        options = SimulatorOptions(
            port=0, literal_seed=True, folder_urls=True, output=output
        )
        serving = asyncio.create_task(command.serve(options))
        async with asyncio.timeout(60):
            while "simulator-archive" not in output.getvalue():
                await asyncio.sleep(0.01)
            settings = tomllib.loads(output.getvalue())
            place = urlsplit(settings["sources"]["simulator"]["url"])
            reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
            name = quote(seed_rows()[0]["name"])
            writer.write(
                f"GET /storage/{name} HTTP/1.0\r\nRange: bytes=0-9\r\n\r\n".encode()
            )
            received = await reader.read()
            writer.close()
            signal.raise_signal(signal.SIGTERM)
            await serving

        assert received.startswith(b"HTTP/1.1 206") or b" 206 " in received[:20]
        assert settings["targets"]["local"]["type"] == "directory"
        assert "bytes=0-9  206 10 B" in output.getvalue()

    async def test_a_population_of_all_ages_lives_and_dies(self) -> None:
        now = datetime.now(UTC)
        options = SimulatorOptions(
            port=0, initial=5, arrivals_per_min=1, cleanup_interval=timedelta()
        )
        vms = command.build(options)
        vms._clock = lambda: now
        command.populate(vms, options)
        at_start = [each.stage for each in vms.catalogue]
        now += timedelta(hours=1, minutes=31)
        vms.advance()

        stages = [each.stage for each in vms.catalogue]
        assert at_start == [Stage.MADE] * 5
        assert stages[:5] == [Stage.DELETED] * 3 + [Stage.MADE] * 2
        assert len(stages) > 5
