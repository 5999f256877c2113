"""The simulated VMS breaks a file's answer exactly as scripted."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import pytest

from mirror.simulator import (
    FAULTS,
    Fault,
    Kind,
    Stage,
    Step,
    Vms,
)
from tests.simulator_client import (
    SIZE,
    Reply,
    ask,
    get_file,
)


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as running:
        yield running


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
