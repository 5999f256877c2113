"""The simulated VMS lists as the API page says, and breaks lists as scripted."""

import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest

from mirror.simulator import (
    Behaviour,
    Fault,
    Kind,
    Stage,
    Unmade,
    Vms,
    fault,
)
from mirror.simulator.exports import seed_rows
from tests.simulator_client import (
    HEADERS,
    LIST,
    Reply,
    ask,
    get_list,
    ids,
    list_path,
)


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
