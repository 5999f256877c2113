"""The simulated VMS serves files as a good server does."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlsplit

import pytest

from mirror.simulator import (
    Behaviour,
    Etag,
    Life,
    Stage,
    Vms,
)
from tests.simulator_client import (
    SIZE,
    ask,
    get_file,
    get_list,
)


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as running:
        yield running


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

    async def test_a_name_that_is_no_unicode_is_served_too(self, vms: Vms) -> None:
        export = vms.add(size=SIZE, name="Gate \ud800.mp4")
        reply = await get_file(vms, export)

        assert reply.status == 200
        assert reply.headers["Content-Disposition"].endswith('"Gate%20%ED%A0%80.mp4"')

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

    async def test_no_other_path_gives_the_file(self, vms: Vms) -> None:
        export = vms.add(export_id=7, size=SIZE, name="Gate.mp4", camera_id=3)
        path = vms.file_path(export)
        others = [
            path.replace("/3/07/7/", place)
            for place in ("/4/07/7/", "/3/08/7/", "/3/07/8/", "/3/07/x/", "/7/")
        ]

        assert path == "/storage/archive/3/07/7/Gate.mp4"
        for other in (*others, path.replace("Gate", "Yard"), "/storage/archive/"):
            assert (await ask(vms, other)).status == 404

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
