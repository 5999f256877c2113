"""The list's parameters, pages and rows are those of the API's page."""

import json
from datetime import UTC, datetime

import pytest

from mirror.simulator import Behaviour
from mirror.simulator.paging import Page, shown_pages
from mirror.simulator.query import InvalidQueryError, parse_query
from mirror.simulator.rows import seed_rows, stamp

HEADERS = {"X-Client": "web", "X-UUID": "a device"}
QUERY = {
    "per_page": "25",
    "page": "1",
    "from": "2026-11-01T00:00:00Z",
    "to": "2026-12-01T00:00:00Z",
}


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-23T01:02:03Z", datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC)),
        (
            "2026-11-23T01:02:03.250000Z",
            datetime(2026, 11, 23, 1, 2, 3, 250_000, tzinfo=UTC),
        ),
        ("2026-11-23 01:02:03", datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC)),
        ("2026-11-23T03:02:03+02:00", datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC)),
    ],
)
def test_these_forms_of_a_moment_are_taken(text: str, moment: datetime) -> None:
    query = parse_query({**QUERY, "from": text}, HEADERS, Behaviour())

    assert query.since == moment


@pytest.mark.parametrize(
    "text", ["2000-01-01", "yesterday", "2026-11-31T00:00:00Z", "2026-11-23T01:02Z"]
)
def test_these_are_not(text: str) -> None:
    with pytest.raises(InvalidQueryError) as caught:
        parse_query({**QUERY, "to": text}, HEADERS, Behaviour())

    assert list(caught.value.errors) == ["to"]


def test_a_bare_date_is_taken_where_the_vms_is_told_to() -> None:
    query = parse_query(
        {**QUERY, "to": "2026-11-23"}, HEADERS, Behaviour(bare_dates=True)
    )

    assert query.until == datetime(2026, 11, 23, tzinfo=UTC)


@pytest.mark.parametrize("name", QUERY)
def test_each_parameter_is_required(name: str) -> None:
    query = {key: value for key, value in QUERY.items() if key != name}

    with pytest.raises(InvalidQueryError) as caught:
        parse_query(query, HEADERS, Behaviour())

    assert list(caught.value.errors) == [name]


@pytest.mark.parametrize("text", ["0", "-1", "ten", "1.5", ""])
def test_a_page_number_is_a_whole_one_from_one_up(text: str) -> None:
    with pytest.raises(InvalidQueryError) as caught:
        parse_query({**QUERY, "page": text, "per_page": text}, HEADERS, Behaviour())

    assert set(caught.value.errors) == {"page", "per_page"}


def test_unknown_clients_are_refused_unless_headers_are_left_alone() -> None:
    with pytest.raises(InvalidQueryError) as caught:
        parse_query(QUERY, {"X-Client": "toaster"}, Behaviour())

    assert set(caught.value.errors) == {"X-Client", "X-UUID"}
    for client in ("ios-cctv", "android-cctv", "thick-legal", "web", "ios", "android"):
        parse_query(QUERY, {**HEADERS, "X-Client": client}, Behaviour())
    assert parse_query(QUERY, {}, Behaviour(strict_headers=False)).page == 1


def test_a_page_size_is_clamped_without_a_word() -> None:
    query = parse_query(
        {**QUERY, "per_page": "500"}, HEADERS, Behaviour(max_per_page=50)
    )

    assert query.per_page == 50


def page(number: int = 1, *, before: int = 0, empty: bool = False) -> Page:
    return Page(
        number=number,
        per_page=25,
        before=before,
        total=4,
        rows=[] if empty else [json.dumps(row) for row in seed_rows()],
        last_page=1,
    )


def test_a_page_of_the_samples_rows_is_the_sample() -> None:
    answer = json.loads(page().to_json())

    base = "http://127.0.0.1:8080/api/v1/users/downloads"
    assert list(answer) == ["data", "links", "meta"]
    assert [row["id"] for row in answer["data"]] == [6414, 6416, 6413, 6415]
    assert answer["links"] == {
        "first": f"{base}?page=1",
        "last": f"{base}?page=1",
        "prev": None,
        "next": None,
    }
    assert answer["meta"] == {
        "current_page": 1,
        "from": 1,
        "last_page": 1,
        "links": [
            {"url": None, "label": "pagination.previous", "active": False},
            {"url": f"{base}?page=1", "label": "1", "active": True},
            {"url": None, "label": "pagination.next", "active": False},
        ],
        "path": base,
        "per_page": 25,
        "to": 4,
        "total": 4,
    }


def test_a_page_past_the_end_has_no_rows_and_no_numbers() -> None:
    meta = json.loads(page(3, before=50, empty=True).to_json())["meta"]

    assert (meta["from"], meta["to"], meta["current_page"]) == (None, None, 3)


@pytest.mark.parametrize(
    ("current", "last", "shown"),
    [
        (1, 1, [1]),
        (5, 13, list(range(1, 14))),
        (3, 20, [*range(1, 11), None, 19, 20]),
        (10, 20, [1, 2, None, *range(7, 14), None, 19, 20]),
        (18, 20, [1, 2, None, *range(11, 21)]),
    ],
)
def test_page_links_have_gaps_where_laravel_has_them(
    current: int, last: int, shown: list[int | None]
) -> None:
    assert shown_pages(current, last) == shown


def test_moments_are_written_in_utc_with_microseconds() -> None:
    moment = datetime.fromisoformat("2019-09-24T15:54:44+02:00")

    assert stamp(moment) == "2019-09-24T13:54:44.000000Z"
