"""What the answer to a file request is worth, by its status and headers alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from mirror.errors import FetchError, FileGoneError
from mirror.ports import ResumePoint, Validators
from mirror.vms.file_answer import Offer, judge, look, range_headers

NOTHING = ResumePoint(size_bytes=0)
ETAG = '"v1"'
DATE = "Mon, 23 Nov 2026 08:00:00 GMT"
LATER = "Mon, 23 Nov 2026 09:00:00 GMT"
HELD = ResumePoint(
    size_bytes=40, total_bytes=100, etag=ETAG, last_modified=DATE, firm=True
)
REST = {"Content-Range": "bytes 40-99/100", "Content-Length": "60", "ETag": ETAG}
NOW = datetime(2026, 11, 23, 8, 59, 30, tzinfo=UTC)
MAX = 1_000_000


def point(**changes: Any) -> ResumePoint:
    """Return 40 of 100 bytes, with changes."""
    values: dict[str, Any] = {
        "size_bytes": 40,
        "total_bytes": 100,
        "etag": ETAG,
        "last_modified": DATE,
        "firm": True,
    }
    return ResumePoint(**(values | changes))


def offer(
    status: int, headers: dict[str, str], have: ResumePoint = NOTHING, **more: Any
):
    """Judge an answer to what would be asked with `have`."""
    terms: dict[str, Any] = {
        "folder": False,
        "max_bytes": MAX,
        "now": NOW,
    }
    return judge(status, CIMultiDict(headers), point=have, **(terms | more))


@pytest.mark.parametrize(
    ("have", "expected"),
    [
        (NOTHING, {}),
        (HELD, {"Range": "bytes=40-", "If-Range": ETAG}),
        (point(last_modified=None), {"Range": "bytes=40-", "If-Range": ETAG}),
        (point(etag=None), {"Range": "bytes=40-", "If-Range": DATE}),
        (point(etag='W/"v1"'), {"Range": "bytes=40-", "If-Range": DATE}),
        (point(etag='W/"v1"', last_modified=None), {}),
        (point(etag=None, last_modified=None), {}),
        (point(etag="", last_modified=""), {}),
        (point(size_bytes=0), {}),
        (point(total_bytes=None), {"Range": "bytes=40-", "If-Range": ETAG}),
        (point(size_bytes=100), {"Range": "bytes=100-", "If-Range": ETAG}),
    ],
)
def test_what_is_asked_for(have, expected):
    """A range is asked for only under the guard of a strong validator or a date."""
    assert range_headers(have) == expected


@pytest.mark.parametrize(
    ("headers", "total", "length", "explicit"),
    [
        ({"Content-Length": "100"}, 100, 100, True),
        ({"Content-Length": " 100 "}, 100, 100, True),
        ({"content-length": "100"}, 100, 100, True),
        ({"Transfer-Encoding": "chunked"}, None, None, True),
        ({"Transfer-Encoding": "Chunked", "Content-Length": "7"}, None, None, True),
        ({}, None, None, False),
        ({"Content-Length": "many"}, None, None, False),
        ({"Content-Length": "-5"}, None, None, False),
        ({"Content-Length": "\u0661\u0660\u0660"}, None, None, False),
        ({"Content-Length": "100", "Content-Encoding": "identity"}, 100, 100, True),
        ({"Content-Length": "100", "Content-Encoding": ""}, 100, 100, True),
        ({"Content-Length": "100", "Content-Type": "text/html"}, 100, 100, True),
        ({"Content-Length": str(MAX)}, MAX, MAX, True),
    ],
)
@pytest.mark.parametrize("have", [NOTHING, HELD])
def test_a_200_is_the_whole_file(headers, total, length, explicit, have):
    """From its first byte, also where the rest was asked for; the end is as told."""
    found = offer(200, headers, have)

    assert found == Offer(
        start_bytes=0,
        total_bytes=total,
        length=length,
        explicit_end=explicit,
        etag=None,
        last_modified=None,
        firm=False,
    )


def test_a_200_brings_its_own_validators():
    """Those of what was held before are of no more use."""
    found = offer(
        200, {"Content-Length": "9", "ETag": '"v2"', "Last-Modified": LATER}, HELD
    )

    assert (found.etag, found.last_modified) == ('"v2"', LATER)


@pytest.mark.parametrize(
    ("have", "changes", "expected"),
    [
        (HELD, {}, (40, 100, 60, ETAG, DATE)),
        (HELD, {"Content-Range": "Bytes  40-99/100"}, (40, 100, 60, ETAG, DATE)),
        (HELD, {"Content-Range": " bytes 40-99/100 "}, (40, 100, 60, ETAG, DATE)),
        (HELD, {"Last-Modified": DATE}, (40, 100, 60, ETAG, DATE)),
        (point(total_bytes=None), {}, (40, 100, 60, ETAG, DATE)),
        (point(etag=None), {}, (40, 100, 60, ETAG, DATE)),
        (point(etag=None), {"Last-Modified": DATE}, (40, 100, 60, ETAG, DATE)),
        (
            point(last_modified=None),
            {"Last-Modified": LATER},
            (40, 100, 60, ETAG, LATER),
        ),
        (
            HELD,
            {"Content-Range": "bytes 40-59/100", "Content-Length": "20"},
            (40, 100, 20, ETAG, DATE),
        ),
    ],
)
def test_a_206_that_fits_continues(have, changes, expected):
    """Its range begins where we end, its total and validators are those we know."""
    found = offer(206, REST | changes, have)

    assert expected == (
        found.start_bytes,
        found.total_bytes,
        found.length,
        found.etag,
        found.last_modified,
    )
    assert found.explicit_end


@pytest.mark.parametrize("missing", ["Content-Length", "ETag"])
def test_a_206_may_lack_length_and_validators(missing):
    """Its range tells the length; what is known of the file stays known."""
    headers = {name: value for name, value in REST.items() if name != missing}
    found = offer(206, headers, HELD)

    assert (found.length, found.etag, found.last_modified) == (60, ETAG, DATE)


@pytest.mark.parametrize(
    "changes",
    [
        {"Content-Range": ""},
        {"Content-Range": "bytes 40-99/*"},
        {"Content-Range": "bytes */100"},
        {"Content-Range": "40-99/100"},
        {"Content-Range": "items 40-99/100"},
        {"Content-Range": "bytes 40-99"},
        {"Content-Range": "bytes 40-99/100, 0-1/100"},
        {"Content-Range": "bytes \u0664\u0660-99/100"},
        {"Content-Range": "bytes 40-99/99999999999999999999"},
        {"Content-Range": "bytes 0-99/100", "Content-Length": "100"},
        {"Content-Range": "bytes 39-99/100", "Content-Length": "61"},
        {"Content-Range": "bytes 41-99/100", "Content-Length": "59"},
        {"Content-Range": "bytes 40-100/100", "Content-Length": "61"},
        {"Content-Range": "bytes 40-39/100", "Content-Length": "0"},
        {"Content-Range": "bytes 40-99/101"},
        {"Content-Range": "bytes 40-98/99", "Content-Length": "59"},
        {"Content-Length": "59"},
        {"Content-Length": "61"},
        {"ETag": '"v2"'},
        {"ETag": 'W/"v1"'},
        {"Last-Modified": LATER},
    ],
)
def test_a_206_that_does_not_fit_is_refused(changes):
    """Two versions never meet in one copy, and no byte lies in the wrong place."""
    with pytest.raises(FetchError) as caught:
        offer(206, REST | changes, HELD)

    assert caught.value.reason == "unfit_range"


@pytest.mark.parametrize("have", [NOTHING, point(etag=None, last_modified=None)])
def test_a_206_nobody_asked_for_is_refused(have):
    """Also one that would fit."""
    with pytest.raises(FetchError) as caught:
        offer(206, REST, have)

    assert caught.value.reason == "unfit_range"


@pytest.mark.parametrize(
    ("have", "more", "fits"),
    [
        (point(total_bytes=None), {}, False),
        (point(total_bytes=None), {"ETag": ETAG}, True),
        (point(total_bytes=None), {"Last-Modified": DATE}, True),
        (point(total_bytes=None, etag=None), {"ETag": ETAG}, False),
        (
            point(total_bytes=None, last_modified=None),
            {"Last-Modified": DATE},
            False,
        ),
    ],
)
def test_a_206_shows_its_version_or_the_length_that_is_known(have, more, fits):
    """Else the end of another version could be joined to a whole file."""
    headers = {"Content-Range": "bytes 40-99/100", **more}
    if fits:
        assert offer(206, headers, have).start_bytes == 40
    else:
        with pytest.raises(FetchError) as caught:
            offer(206, headers, have)
        assert caught.value.reason == "unfit_range"


@pytest.mark.parametrize(
    ("have", "headers"),
    [
        (point(size_bytes=100), {"Content-Range": "bytes */100"}),
        (point(size_bytes=100), {"Content-Range": "bytes */100", "ETag": ETAG}),
        (
            point(size_bytes=100, total_bytes=None),
            {"Content-Range": "Bytes */100"},
        ),
    ],
)
def test_a_416_at_the_end_means_that_we_have_it_all(have, headers):
    """Where the file is as long as what we hold; nothing more will come."""
    found = offer(416, headers, have)

    assert (found.start_bytes, found.total_bytes, found.length) == (100, 100, 0)
    assert found.explicit_end
    assert (found.etag, found.last_modified) == (ETAG, DATE)


@pytest.mark.parametrize(
    ("have", "headers"),
    [
        (HELD, {"Content-Range": "bytes */100"}),
        (HELD, {"Content-Range": "bytes */40"}),
        (point(size_bytes=100), {}),
        (point(size_bytes=100), {"Content-Range": "bytes */*"}),
        (point(size_bytes=100), {"Content-Range": "bytes */99"}),
        (point(size_bytes=100), {"Content-Range": "bytes 0-99/100"}),
        (
            point(size_bytes=100),
            {"Content-Range": "bytes */100", "ETag": '"v2"'},
        ),
        (
            point(size_bytes=100),
            {"Content-Range": "bytes */100", "Last-Modified": LATER},
        ),
    ],
)
def test_any_other_416_starts_over(have, headers):
    """What we hold is not this file."""
    with pytest.raises(FetchError) as caught:
        offer(416, headers, have)

    assert caught.value.reason == "unfit_range"


def test_a_416_to_a_plain_request_is_no_statement_about_ranges():
    """It is a status like any other that brings nothing."""
    with pytest.raises(FetchError) as caught:
        offer(416, {"Content-Range": "bytes */0"})

    assert caught.value.reason == "unexpected_status"


@pytest.mark.parametrize("status", [403, 404, 410])
@pytest.mark.parametrize("have", [NOTHING, HELD])
def test_where_there_is_no_file(status, have):
    """Behind a folder it was never seen, behind a file's url it is gone."""
    for folder, reason in ((True, "url_without_file"), (False, "file_gone")):
        with pytest.raises(FileGoneError) as caught:
            offer(status, {"Content-Length": "5"}, have, folder=folder)
        assert caught.value.reason == reason
        assert str(status) in str(caught.value)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("asked", "wait"),
    [
        (None, None),
        ("7", 7.0),
        ("0", 0.0),
        ("-3", 0.0),
        (LATER, 30.0),
        (DATE, 0.0),
        ("soon", None),
        ("999999999", 86_400.0),
    ],
)
def test_a_busy_vms_says_how_long(status, asked, wait):
    """In seconds or as a date; never more than a day."""
    headers = {} if asked is None else {"Retry-After": asked}
    with pytest.raises(FetchError) as caught:
        offer(status, headers)

    assert (caught.value.reason, caught.value.retry_after_s) == ("busy", wait)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (500, "server_error"),
        (502, "server_error"),
        (504, "server_error"),
        (599, "server_error"),
        (201, "unexpected_status"),
        (204, "unexpected_status"),
        (207, "unexpected_status"),
        (304, "unexpected_status"),
        (400, "unexpected_status"),
        (401, "unexpected_status"),
        (412, "unexpected_status"),
        (418, "unexpected_status"),
        (451, "unexpected_status"),
    ],
)
@pytest.mark.parametrize("have", [NOTHING, HELD])
def test_any_other_status_is_a_failure(status, reason, have):
    """It is tried again later; the text names it."""
    with pytest.raises(FetchError) as caught:
        offer(status, REST, have)

    assert caught.value.reason == reason
    assert str(status) in str(caught.value)


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "deflate", "gzip, br"])
@pytest.mark.parametrize(("status", "have"), [(200, NOTHING), (206, HELD)])
def test_a_compressed_body_is_refused(encoding, status, have):
    """Its bytes are not the file's; the text says what to switch off."""
    with pytest.raises(FetchError) as caught:
        offer(status, REST | {"Content-Encoding": encoding}, have)

    assert caught.value.reason == "encoded"
    assert "compression" in str(caught.value)


def test_an_empty_file_is_refused():
    """No mp4 has no bytes."""
    with pytest.raises(FetchError) as caught:
        offer(200, {"Content-Length": "0"})

    assert caught.value.reason == "empty"


@pytest.mark.parametrize(
    ("status", "headers", "have"),
    [
        (200, {"Content-Length": str(MAX + 1)}, NOTHING),
        (200, {"Content-Length": "9" * 30}, NOTHING),
        (
            206,
            {"Content-Range": f"bytes 40-{MAX}/{MAX + 1}", "ETag": ETAG},
            point(total_bytes=None),
        ),
    ],
)
def test_a_file_that_is_too_large_is_refused(status, headers, have):
    """Before a byte of it is read; the text names the key."""
    with pytest.raises(FetchError) as caught:
        offer(status, headers, have)

    assert caught.value.reason == "too_large"
    assert "max_file_size" in str(caught.value)


HEADER_TEXT = st.text(max_size=30) | st.from_regex(
    r"bytes (\d{1,3}-\d{1,3}|\*)/(\d{1,3}|\*)", fullmatch=True
)


@settings(deadline=None)
@given(
    status=st.integers(100, 599),
    headers=st.dictionaries(
        st.sampled_from(
            [
                "Content-Range",
                "Content-Length",
                "Content-Encoding",
                "Transfer-Encoding",
                "Retry-After",
                "ETag",
                "Last-Modified",
            ]
        ),
        HEADER_TEXT,
    ),
    have=st.sampled_from([NOTHING, HELD, point(size_bytes=100), point(etag=None)]),
    folder=st.booleans(),
)
def test_no_answer_is_misjudged(status, headers, have, folder):
    """An offer starts at 0 or where we end, and stays within its total."""
    try:
        found = offer(status, headers, have, folder=folder)
    except (FetchError, FileGoneError):
        return

    assert found.start_bytes in {0, have.size_bytes}
    if found.start_bytes:
        assert found.total_bytes is not None and found.length is not None
        assert found.start_bytes + found.length <= found.total_bytes
        assert headers.get("ETag") in {None, "", have.etag} or have.etag is None
        assert headers.get("Last-Modified") in {None, "", have.last_modified}


def test_a_weak_etag_alone_never_joins_bytes():
    """It may stay the same over two versions; the date must then guard."""
    have = point(etag='W/"v1"', last_modified=None)

    assert range_headers(have) == {}
    found = offer(200, {"Content-Length": "100", "ETag": 'W/"v1"'}, have)
    assert found.start_bytes == 0


PART = {"Content-Range": "bytes 0-0/100", "ETag": ETAG, "Last-Modified": DATE}
WHOLE = {"Content-Length": "100", "ETag": ETAG, "Last-Modified": DATE}


@pytest.mark.parametrize(
    ("status", "headers", "seen"),
    [
        (206, PART, (100, ETAG, DATE)),
        (206, PART | {"Content-Range": "bytes 0-0/*"}, (None, ETAG, DATE)),
        (206, {"Content-Length": "1"}, None),
        (200, WHOLE, (100, ETAG, DATE)),
        (200, WHOLE | {"Content-Encoding": "gzip"}, (None, ETAG, DATE)),
        (200, WHOLE | {"Content-Type": "text/html; charset=utf-8"}, None),
        (200, WHOLE | {"Content-Type": "application/json"}, None),
        (206, PART | {"Content-Type": "text/plain"}, (100, ETAG, DATE)),
        (200, {}, None),
        (416, {"Content-Range": "bytes */100"}, None),
    ],
)
def test_what_the_headers_say_of_a_file(status, headers, seen):
    """A page, whatever its length, says nothing of the file."""
    names = ("total_bytes", "etag", "last_modified")
    wanted = seen and Validators(**dict(zip(names, seen, strict=True)))

    assert look(status, CIMultiDict(headers), folder=False, now=NOW) == wanted


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_look_at_nothing(status):
    """403, 404 and 410 mean that there is no file just now."""
    with pytest.raises(FileGoneError):
        look(status, CIMultiDict(), folder=False, now=NOW)


@pytest.mark.parametrize("status", [407, 429, 500, 302])
def test_a_look_that_failed(status):
    """A look fails with the errors of a fetch."""
    with pytest.raises(FetchError):
        look(status, CIMultiDict(), folder=False, now=NOW)
