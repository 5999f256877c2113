"""How the list is decoded: each row as far as it can be, and no row harms another."""

from __future__ import annotations

import json
from datetime import UTC
from importlib import resources
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.errors import ListError
from mirror.vms.list_answer import validation_errors
from mirror.vms.schema import decode_page

if TYPE_CHECKING:
    from datetime import tzinfo

    from mirror.model import Row
    from mirror.ports import Page

MOMENT_US = 1_569_333_284_000_000
"""2019-09-24T13:54:44Z."""


def decode(body: bytes, zone: tzinfo = UTC, offset_us: int | None = None) -> Page:
    """Decode a page."""
    return decode_page(body, footage_zone=zone, clock_offset_us=offset_us)


def page_of(*rows: bytes, rest: bytes = b"") -> bytes:
    """Return the body of a page with these rows."""
    return b'{"data":[' + b",".join(rows) + b"]" + rest + b"}"


def one(raw: bytes, zone: tzinfo = UTC) -> Row:
    """Decode a page of a single good row."""
    page = decode(page_of(raw), zone)
    assert page.bad_rows == []
    (row,) = page.rows
    return row


def with_field(name: str, value: Any, zone: tzinfo = UTC) -> Row:
    """Decode a row with an id and one other field."""
    return one(json.dumps({"id": 7, name: value}).encode(), zone)


def test_a_page_of_very_many_values_is_refused():
    """Millions of tiny rows would cost far more memory than their bytes."""
    with pytest.raises(ListError, match="over 20000 rows"):
        decode(b'{"data": [' + b",".join([b"0"] * 200_002) + b"]}")
    rows = b",".join([b'{"id": 7}'] * 1000)
    assert len(decode(b'{"data": [' + rows + b"]}").rows) == 1000


def seed() -> bytes:
    """Return the API page's own sample."""
    return resources.files("mirror.simulator").joinpath("seed.json").read_bytes()


def test_the_sample_of_the_api_page():
    """All four rows, in order, each field as printed there."""
    page = decode(seed(), offset_us=17)

    assert [row.export_id for row in page.rows] == [6414, 6416, 6413, 6415]
    assert (page.size, page.bad_rows, page.clock_offset_us) == (4, [], 17)
    row = page.rows[0]
    assert row.created_at == row.created_key == "2019-09-24T13:54:44.000000Z"
    assert row.created_us == MOMENT_US
    assert row.updated_at == "2023-02-10T15:09:25.000000Z"
    assert row.updated_us == 1_676_041_765_000_000
    assert row.url == "http://127.0.0.1:8080/storage/"
    assert row.has_file and row.shows_file and not row.names_file
    assert row.name == "City , st. Street 1, file.20190924-130316-131213.mp4"
    assert (row.camera_id, row.stream_type, row.user_id) == (1, "low", 5)
    assert row.footage_from == "2019-09-24T13:03:16Z"
    assert row.footage_to == "2019-09-24T13:12:13Z"
    assert page.rows[2].stream_type == "high"


def test_a_row_is_kept_as_received():
    """`raw` is the item's own bytes, spaces and unknown keys and all."""
    raw = '{ "id" : 7,"new_key":{"a":[1, 2.50]},  "name":"Двор" }'.encode()

    assert one(raw).raw == raw


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("7", 7),
        ('"7"', 7),
        ('"0007"', 7),
        ("9223372036854775807", 2**63 - 1),
        ('"9223372036854775807"', 2**63 - 1),
    ],
)
def test_an_id_is_a_whole_number_or_digits(text, expected):
    """Ids arrive as numbers or as strings of digits."""
    assert one(b'{"id":%s}' % text.encode()).export_id == expected


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "true",
        "false",
        "-1",
        '"-1"',
        "1.0",
        "1.5",
        "1e3",
        "1e400",
        "9223372036854775808",
        '"9999999999999999999"',
        "1" * 5000,
        '""',
        '" 7"',
        '"7 "',
        '"seven"',
        '"\u0667"',
        '"\u00b2"',
        "[7]",
        '{"id":7}',
    ],
)
def test_a_row_without_a_usable_id_is_set_aside(text):
    """It is a bad row with its text; the rows beside it are taken."""
    bad = b'{"id":%s,"name":"odd"}' % text.encode()
    page = decode(page_of(b'{"id":1}', bad, b'{"id":2}'))

    assert [row.export_id for row in page.rows] == [1, 2]
    assert [row.raw for row in page.bad_rows] == [bad.decode()]
    assert "id" in page.bad_rows[0].error
    assert page.size == 3


@pytest.mark.parametrize("text", ["null", "7", '"row"', "[]", "[1]", "true", "{}"])
def test_a_row_that_is_no_object_is_set_aside(text):
    """So is one that holds nothing."""
    page = decode(page_of(b'{"id":1}', text.encode(), b'{"id":2}'))

    assert [row.export_id for row in page.rows] == [1, 2]
    assert [row.raw for row in page.bad_rows] == [text]


def test_id_url_and_flag_are_enough():
    """All else may be missing, and reads as unknown."""
    row = one(b'{"id":7,"url":"/storage/a/1.mp4","is_file_exists":true}')

    assert row.names_file
    assert row.created_key == ""
    unknown = (
        row.created_at, row.created_us, row.updated_at, row.updated_us, row.name,
        row.camera_id, row.stream_type, row.footage_from, row.footage_to, row.user_id,
    )  # fmt: skip
    assert set(unknown) == {None}


@pytest.mark.parametrize(
    ("field", "attribute"),
    [
        ("name", "name"),
        ("url", "url"),
        ("updated_at", "updated_at"),
        ("updated_at", "updated_us"),
        ("from", "footage_from"),
        ("to", "footage_to"),
        ("user_id", "user_id"),
        ("stream", "camera_id"),
        ("stream", "stream_type"),
        ("user", "user_id"),
        ("created_at", "created_at"),
        ("created_at", "created_us"),
    ],
)
@pytest.mark.parametrize(
    "value", [None, True, False, -1, 1.5, [], {}, [1, "a"], {"x": 1}, [[[]]]]
)
def test_a_field_of_the_wrong_type_is_unknown(field, attribute, value):
    """The row is kept; only that field is not."""
    row = with_field(field, value)

    assert row.export_id == 7
    assert getattr(row, attribute) is None


@pytest.mark.parametrize("value", [None, 1, "true", "1", 0, [], {}, False, "", [True]])
def test_only_true_means_that_there_is_a_file(value):
    """Anything else in the flag is no promise of a file."""
    assert with_field("is_file_exists", value).has_file is False
    assert with_field("is_file_exists", True).has_file is True


@pytest.mark.parametrize("value", [[], {}, {"a": 1}, [1], None, "x", 7])
def test_attributes_may_be_anything(value):
    """PHP writes an empty list where a filled one is an object."""
    assert with_field("attributes", value).export_id == 7


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        ({"camera_id": 3, "type": "low"}, (3, "low")),
        ({"camera_id": "3"}, (3, None)),
        ({"camera_id": True, "type": 7}, (None, None)),
        ({"camera_id": -3, "type": ["low"]}, (None, None)),
    ],
)
def test_camera_and_stream(stream, expected):
    """Both come from `stream`, each for itself."""
    row = with_field("stream", stream)

    assert (row.camera_id, row.stream_type) == expected


def test_the_user_is_named_by_either_field():
    """`user_id`, or where that is of no use `user.id`."""
    assert one(b'{"id":7,"user_id":"5","user":{"id":6}}').user_id == 5
    assert one(b'{"id":7,"user_id":null,"user":{"id":6}}').user_id == 6


@pytest.mark.parametrize(
    ("listed", "expected"),
    [("", None), ("  ", None), (" /a.mp4\n", "/a.mp4"), ("/a b.mp4", "/a b.mp4")],
)
def test_an_empty_url_is_none(listed, expected):
    """Blanks around it are no part of it."""
    assert with_field("url", listed).url == expected


def test_texts_are_kept_as_they_are_but_not_without_end():
    """NUL, quotes and other scripts stay; what is far too long is cut."""
    assert with_field("name", 'a\x00b"\x1b\u202e').name == 'a\x00b"\x1b\u202e'
    long = with_field("name", "a" * 1_000_000)

    assert len(long.name or "") == 8192
    assert len(long.raw) > 1_000_000


def test_the_last_of_two_equal_keys_counts():
    """As all JSON readers have it; the row is one row."""
    assert one(b'{"id":1,"id":2,"name":"a","name":"b"}').export_id == 2


def test_invalid_utf8_in_a_text_costs_those_characters_only():
    """The row and its neighbours are kept, and its bytes as they came."""
    page = decode(page_of(b'{"id":1,"name":"\xff\xfe","user_id":5}', b'{"id":2}'))

    assert [row.export_id for row in page.rows] == [1, 2]
    assert (page.rows[0].name, page.rows[0].user_id) == ("\ufffd\ufffd", 5)
    assert b"\xff\xfe" in page.rows[0].raw


def test_invalid_utf8_in_a_key_costs_that_row_only():
    """Its text is kept with replacement characters."""
    page = decode(page_of(b'{"id":1,"\xff":0}', b'{"id":2}'))

    assert [row.export_id for row in page.rows] == [2]
    assert [bad.raw for bad in page.bad_rows] == ['{"id":1,"\ufffd":0}']


@pytest.mark.parametrize(
    "escape", ["\\ud800", "\\udc00", "\\ud83d rest of it", "\\ud800\\u0041"]
)
@pytest.mark.parametrize("place", ["name", "key", "nested"])
def test_a_lone_surrogate_costs_no_other_row(escape, place):
    """A row that is not Unicode stops only itself."""
    field = {
        "name": f'"name":"{escape}"',
        "key": f'"{escape}":1',
        "nested": f'"stream":{{"type":"{escape}"}}',
    }[place]
    odd = f'{{"id":1,{field}}}'.encode()
    page = decode(page_of(b'{"id":2}', odd, b'{"id":3}'))

    assert page.size == 3
    assert {2, 3} <= {row.export_id for row in page.rows}
    assert {odd} >= {row.raw for row in page.rows if row.export_id == 1}


@pytest.mark.parametrize("value", ["1e400", "-1e400", "1" * 5000, "0.1e-9999"])
def test_a_number_out_of_range_costs_only_itself(value):
    """In a field we read and in one we do not."""
    page = decode(
        page_of(
            b'{"id":1,"user_id":%s}' % value.encode(),
            b'{"id":2,"created_at":%s}' % value.encode(),
            b'{"id":3,"size":%s}' % value.encode(),
        )
    )

    assert [row.export_id for row in page.rows] == [1, 2, 3]
    assert page.rows[0].user_id is None and page.rows[1].created_us is None


def test_nesting_that_fits_is_ignored():
    """A key we do not read may hold what it likes."""
    row = b'{"id":7,"tree":' + b"[" * 200 + b"]" * 200 + b"}"

    assert one(row).export_id == 7


@pytest.mark.parametrize(
    ("listed", "key", "shown"),
    [
        (
            "2019-09-24T13:54:44.000000Z",
            "2019-09-24T13:54:44.000000Z",
            "2019-09-24T13:54:44.000000Z",
        ),
        ("2019-09-24T13:54:44Z", "2019-09-24T13:54:44.000000Z", "2019-09-24T13:54:44Z"),
        (
            "2019-09-24T16:54:44+03:00",
            "2019-09-24T13:54:44.000000Z",
            "2019-09-24T13:54:44.000000Z",
        ),
        (
            "2019-09-24T13:54:44",
            "2019-09-24T13:54:44.000000Z",
            "2019-09-24T13:54:44.000000Z",
        ),
        (
            "2019-09-24 13:54:44",
            "2019-09-24T13:54:44.000000Z",
            "2019-09-24T13:54:44.000000Z",
        ),
        (
            " 2019-09-24 13:54:44 ",
            "2019-09-24T13:54:44.000000Z",
            "2019-09-24T13:54:44.000000Z",
        ),
    ],
)
def test_forms_of_created_at(listed, key, shown):
    """One instant has one identity, however it is written; it is UTC by default."""
    row = with_field("created_at", listed, ZoneInfo("Asia/Tokyo"))

    assert (row.created_key, row.created_at) == (key, shown)
    assert row.created_us == MOMENT_US


@pytest.mark.parametrize(
    ("listed", "us"),
    [
        ("2019-09-24", 1_569_283_200_000_000),
        ("2019-09-24T13:54:44.5Z", MOMENT_US + 500_000),
        ("2019-09-24T13:54:44.123456789Z", MOMENT_US + 123_456),
    ],
)
def test_dates_and_fractions_of_created_at(listed, us):
    """A date is its midnight; more than microseconds is cut off."""
    row = with_field("created_at", listed)

    assert row.created_us == us
    assert (row.created_at or "").endswith("Z")


@pytest.mark.parametrize(
    "listed",
    [
        "garbage",
        "2019-13-45T00:00:00Z",
        "24.09.2019 13:54",
        "1569333284",
        "2019-09-24T25:00:00Z",
        "0001-01-01T00:00:00+10:00",
        "9999-12-31T23:59:59-10:00",
        "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00Z",
        "2019-09-24T13:54:44Z" + " " * 100 + "x",
    ],
)
def test_an_unreadable_created_at_is_its_own_identity(listed):
    """The raw text tells such exports apart; there is no time to show."""
    row = with_field("created_at", listed)

    assert (row.created_key, row.created_at, row.created_us) == (listed, None, None)


@pytest.mark.parametrize(
    ("listed", "key"),
    [(None, ""), (1569333284, "1569333284"), (1.5, "1.5"), (True, "true"), ([], "[]")],
)
def test_a_created_at_that_is_no_text(listed, key):
    """It is unreadable, and its JSON is the identity; null is none."""
    row = with_field("created_at", listed)

    assert (row.created_key, row.created_at, row.created_us) == (key, None, None)


@pytest.mark.parametrize(
    ("zone", "listed", "expected"),
    [
        ("UTC", "2019-09-24 13:03:16", "2019-09-24T13:03:16Z"),
        ("Asia/Tokyo", "2019-09-24 13:03:16", "2019-09-24T04:03:16Z"),
        ("Europe/Berlin", "2019-01-24T13:03:16", "2019-01-24T12:03:16Z"),
        ("Europe/Berlin", "2019-09-24T13:03:16", "2019-09-24T11:03:16Z"),
        ("Asia/Tokyo", "2019-09-24T13:03:16Z", "2019-09-24T13:03:16Z"),
        ("Asia/Tokyo", "2019-09-24T13:03:16+02:00", "2019-09-24T11:03:16Z"),
        ("UTC", "2019-09-24 13:03:16.25", "2019-09-24T13:03:16.250000Z"),
        ("Asia/Tokyo", "0001-01-01 00:00:00", None),
        ("UTC", "soon", None),
    ],
)
def test_the_zone_of_footage_times(zone, listed, expected):
    """It is that of times without one, and of footage only."""
    assert with_field("from", listed, ZoneInfo(zone)).footage_from == expected
    assert with_field("to", listed, ZoneInfo(zone)).footage_to == expected


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        ("2030-10-27 01:50:00", "2030-10-27 02:10:00", ("23:50:00", "00:10:00")),
        ("2030-10-27 02:50:00", "2030-10-27 02:10:00", ("00:50:00", "01:10:00")),
        ("2030-10-27 02:50:00", "2030-10-27 03:10:00", ("00:50:00", "02:10:00")),
        ("2030-03-31 01:50:00", "2030-03-31 03:10:00", ("00:50:00", "01:10:00")),
        ("2030-03-31 01:50:00", "2030-03-31 02:10:00", ("00:50:00", "01:10:00")),
        ("2030-07-01 02:50:00", "2030-07-01 02:10:00", ("00:50:00", "00:10:00")),
    ],
)
def test_footage_of_the_nights_when_clocks_change(begin, end, expected):
    """It does not end before it begins because an hour came twice."""
    fields = {"id": 7, "from": begin, "to": end}
    row = one(json.dumps(fields).encode(), ZoneInfo("Europe/Berlin"))

    assert (str(row.footage_from)[11:-1], str(row.footage_to)[11:-1]) == expected


@pytest.mark.parametrize(
    ("rest", "total", "last_page"),
    [
        ("", None, None),
        (',"meta":null', None, None),
        (',"meta":[]', None, None),
        (',"meta":7', None, None),
        (',"meta":{}', None, None),
        (',"meta":{"total":4,"last_page":1}', 4, 1),
        (',"meta":{"total":"4","last_page":"1"}', 4, 1),
        (',"meta":{"total":null,"last_page":-1}', None, None),
        (',"meta":{"total":true,"last_page":1.0}', None, None),
        (',"meta":{"total":1e400,"last_page":2}', None, None),
        (',"meta":{"total":4,"from":null,"links":[{"url":null}]}', 4, None),
        (',"links":{"next":"http://127.0.0.1/"}', None, None),
    ],
)
def test_what_is_said_about_the_pages(rest, total, last_page):
    """Numbers may be strings, or missing; no page is refused for that."""
    page = decode(page_of(b'{"id":1}', rest=rest.encode()))

    assert (page.total, page.last_page, page.size) == (total, last_page, 1)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "empty"),
        (b" \r\n", "empty"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"\n <HTML>", "HTML"),
        (b"<br>Fatal error", "HTML"),
        (b"null", "not the list"),
        (b"[]", "not the list"),
        (b'"data"', "not the list"),
        (b"7", "not the list"),
        (b"{}", "data"),
        (b'{"message":"x"}', "data"),
        (b'{"data":null}', "data"),
        (b'{"data":{"6414":{}}}', "data"),
        (b'{"data":"x"}', "data"),
        (b'{"data":[{"id":1}', "not the list"),
        (b'{"data":[]} x', "not the list"),
        (b"\xff\xfe", "not the list"),
        (b"not json", "not the list"),
        (b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ],
)
def test_an_answer_that_is_no_list(body, told):
    """It is a failed walk and never an empty list; the text says what it was."""
    with pytest.raises(ListError) as caught:
        decode(body)

    assert caught.value.reason == "not_a_list"
    assert told in str(caught.value)
    assert len(str(caught.value)) < 300


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_page_or_a_list_error(body):
    """No answer of the VMS can raise anything else."""
    for shaped in (body, page_of(body), page_of(b'{"id":1,"name":' + body + b"}")):
        try:
            page = decode(shaped)
        except ListError:
            continue
        assert len(page.rows) + len(page.bad_rows) == page.size


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30)
    | st.datetimes().map(str)
    | st.sampled_from(["2019-09-24T13:54:44.000000Z", "", "7", "0001-01-01", "x" * 41]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "type", "camera_id", "x"]), inner)
    ),
    max_leaves=5,
)
FIELDS = (
    "attributes", "name", "type", "url", "from", "to", "created_at", "updated_at",
    "status", "is_file_exists", "stream", "user_id", "user",
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), JSON), max_size=4))
def test_a_row_with_an_id_is_never_refused(rows):
    """Whatever else is in it; and the row beside it is the same as alone."""
    bodies = [
        json.dumps({"id": number, **row}).encode() for number, row in enumerate(rows)
    ]
    page = decode(page_of(*bodies), ZoneInfo("Asia/Tokyo"))

    assert page.bad_rows == []
    assert [row.export_id for row in page.rows] == list(range(len(rows)))
    assert page.rows == [one(body, ZoneInfo("Asia/Tokyo")) for body in bodies]
    for row in page.rows:
        assert (row.created_at is None) == (row.created_us is None)
        for moment in (row.created_at, row.footage_from, row.footage_to):
            assert moment is None or moment.endswith("Z")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            {"errors": {"from": ["is no date", "is missing"]}},
            "from: is no date is miss",
        ),
        (
            {"errors": {"from": "is no date", "to": ["late"]}},
            "from: is no date; to: la",
        ),
        ({"errors": "all of it"}, "all of it"),
        ({"errors": {"n": [7, None, {"a": 1}]}}, "n: 7 None {'a': 1}"),
        ({"errors": []}, ""),
        ({"errors": None}, ""),
        ({"message": "x"}, ""),
        ([], ""),
        ("x", ""),
    ],
)
def test_what_a_422_says(body, expected):
    """Each field with its texts; what cannot be read says nothing."""
    said = validation_errors(json.dumps(body).encode(), secret="token")

    assert said.startswith(expected) and bool(said) == bool(expected)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_no_422_can_hurt(body):
    """Any bytes give a text, and not a long one."""
    for shown in (body, b'{"errors":' + body + b"}"):
        assert len(validation_errors(shown, secret="token")) <= 8192


@pytest.mark.parametrize("errors", ["x" * 100_000, {"from": ["x" * 100_000]}])
def test_what_a_422_says_is_cut(errors):
    """It goes into the ledger and the log: a line, not a book."""
    body = json.dumps({"errors": errors}).encode()
    assert len(validation_errors(body, secret="token")) <= 8192


@pytest.mark.parametrize("errors", ["two\nlines\r\n", {"from": ["two\nlines\r\n"]}])
def test_what_a_422_says_is_one_line(errors):
    """As the function promises."""
    said = validation_errors(json.dumps({"errors": errors}).encode(), secret="token")

    assert "two" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "written",
    [
        "12|s/e+c",
        "12|s\\/e+c",
        "\\u0031\\u0032|s\\u002fe\\u002bc",
        "x" * 995 + "12|s/e+c",
    ],
)
def test_what_a_422_says_holds_no_token(written):
    """PHP escapes slashes; the end of what is shown may fall within the token."""
    body = f'{{"errors": {{"from": ["you sent {written} to us"]}}}}'.encode()
    said = validation_errors(body, secret="12|s/e+c")

    assert "12|s" not in said and said.startswith("from: you sent ")
