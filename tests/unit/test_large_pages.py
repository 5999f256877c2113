"""A large page is taken in pieces: the same rows as at once, whatever it holds."""

from __future__ import annotations

import json
import tracemalloc
from datetime import UTC
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.errors import ListError
from mirror.vms import large_pages, schema
from mirror.vms.large_pages import Scratch

if TYPE_CHECKING:
    from mirror.model import Row
    from mirror.ports import BadRow, Page

SECRET = "a/secret-of-some-length"


def kept(body: bytes) -> Scratch:
    """Return an answer that lies on disk."""
    answer = Scratch(None)
    answer.write(body)
    return answer


def decode(body: bytes | Scratch) -> Page:
    """Decode a page."""
    return schema.decode_page(
        body, footage_zone=UTC, clock_offset_us=None, secret=SECRET
    )


async def all_of(page: Page) -> tuple[list[Row], list[BadRow]]:
    """Return all its rows."""
    rows, bad = [*page.rows], [*page.bad_rows]
    if page.later is not None:
        async for more in page.later:
            rows += more.rows
            bad += more.bad_rows
    return rows, bad


async def same(body: bytes) -> Page:
    """Take a page both ways; return it, taken in pieces."""
    at_once, pieces = decode(body), decode(kept(body))

    assert await all_of(pieces) == (at_once.rows, at_once.bad_rows)
    assert pieces.size == at_once.size
    assert (pieces.total, pieces.last_page) == (at_once.total, at_once.last_page)
    return pieces


def windowed(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(large_pages, "WINDOW_BYTES", size)


ODD = [
    rb'{"data":[]}',
    rb' { "data" : [ {"id":1} , {"id":2} ] , "meta":{"total":2,"last_page":1} } ',
    rb'{"meta":{"data":[1],"total":7},"data":[{"id":1,"x":[[],{}]}]}',
    rb'{"data":[0,"a",null,[],{},{"id":1},[{"id":2}],true]}',
    rb'{"data":[{"id":3,"name":"a\\"},{"id":4,"name":"\"]}[{\\\""}]}',
    rb'{"a":"data","b":[{"id":9}],"data":[{"id":1}],"data":[{"id":2},{"id":3}]}',
    rb'{"data":[{"id":1,"name":"\ud800"},{"id":2,"name":"\ud83d\ude00"}]}',
    b'{"data":[{"id":1,"name":"\xff\xfe"},{"id":2,"\xff":0}]}',
    rb'{"data":[{"id":1,"name":"x\\\\"}],"links":{"next":"[{"}}',
    b'{"data":[{"id":1}' + b"[" * 300 + b"]" * 300 + b"]}",
]


@pytest.mark.parametrize("body", ODD)
async def test_in_any_pieces_the_rows_are_the_same(monkeypatch, body):
    """Cut at each byte, inside of texts and escapes too."""
    for size in (1, 2, 3, 5, 7, 64):
        windowed(monkeypatch, size)
        try:
            decode(body)
        except ListError as exc:
            with pytest.raises(ListError, match=exc.reason and "list"):
                decode(kept(body))
        else:
            await same(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "data", "x", "name"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(JSON, max_size=6), JSON, st.integers(1, 9), st.booleans(), st.booleans()
)
async def test_any_page_gives_the_same_rows(rows, meta, size, first, ascii_only):
    """Whatever JSON its rows and what is beside them are."""
    whole = {"data": rows, "meta": meta} if first else {"meta": meta, "data": rows}
    body = json.dumps(whole, ensure_ascii=ascii_only).encode("utf-8", "replace")
    with pytest.MonkeyPatch.context() as patch:
        windowed(patch, size)
        await same(body)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(1, 9))
async def test_any_bytes_are_a_page_or_a_list_error(body, size):
    """No answer of the VMS can raise anything else."""
    with pytest.MonkeyPatch.context() as patch:
        windowed(patch, size)
        for shaped in (body, b'{"data":[' + body + b"]}", b'{"data":[{' + body):
            try:
                page = decode(kept(shaped))
            except ListError:
                continue
            rows, bad = await all_of(page)
            assert len(rows) + len(bad) == page.size


async def test_20_000_rows_are_taken_some_at_a_time():
    """In the memory of a few of them, with one too long beside them."""
    filler = "0123456789abcdef" * 150
    row = b'{"id":%d,"name":"' + filler.encode() + b'","created_at":"2026-09-21"}'
    long = b'{"id":1,"x":"' + b"y" * large_pages.MAX_ROW_BYTES + b'"}'
    answer = Scratch(None)
    answer.write(b'{"data":[' + long)
    for number in range(19_999):
        answer.write(b"," + row % number)
    answer.write(b'],"meta":{"total":20000}}')
    tracemalloc.start()
    page = decode(answer)
    ids, most = [one.export_id for one in page.rows], len(page.rows)
    bad = [*page.bad_rows]
    assert page.later is not None
    async for rows in page.later:
        ids += [one.export_id for one in rows.rows]
        bad += rows.bad_rows
        most = max(most, len(rows.rows))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert answer.size_bytes > 48_000_000
    assert ids == list(range(19_999))
    assert [one.error for one in bad] == ["the row is longer than 4 MiB"]
    assert len(bad[0].raw) <= 16384
    assert (page.size, page.total) == (20_000, 20_000)
    assert most <= 500
    assert peak < 12_000_000


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"data":[' + b'{"id":1},' * 20_000 + b"{}]}", "over 20000 rows"),
        (b'{"data":[' + b"0," * 400_000 + b"0]}", "over 20000 rows"),
        (b'{"data":[' + b"0," * 4_000_000 + b"0]}", "besides its rows"),
        (b'{"data":[],"x":"' + b"y" * 3_000_000 + b'"}', "besides its rows"),
        (b'{"data":[{"x":[' + b'"",' * 90_000 + b"0]}]}", "over 80000 values"),
        (b'{"data":[{"id":1},{"id":2', "not the list"),
        (b"[" * 79_000, "not the list"),
    ],
)
def test_what_no_page_could_hold_is_refused(monkeypatch, body, told):
    """In bounded memory, before any row of it is looked at."""
    monkeypatch.setattr(large_pages, "MAX_VALUES", 80_000)
    answer = kept(body)
    tracemalloc.start()
    with pytest.raises(ListError, match=told):
        decode(answer)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 12_000_000


async def test_many_values_in_a_short_page_are_taken_in_pieces():
    """20,000 rows of a dozen short fields are no fault."""
    row = b'{"id":%d,"a":0,"b":0,"c":0,"d":0,"e":0,"f":0,"g":0,"h":0,"i":0,"j":0}'
    rows = b",".join(row % number for number in range(20_000))
    page = decode(b'{"data":[' + rows + b"]}")
    found, bad = await all_of(page)

    assert page.later is not None
    assert [one.export_id for one in found] == list(range(20_000))
    assert bad == []


async def test_a_token_that_a_large_page_quotes_is_taken_out():
    """In rows, in what is beside them, and as JSON may write it."""
    quoted = SECRET.replace("/", "\\/")
    body = f'{{"data":[{{"id":1,"name":"{SECRET}","x":"{quoted}"}},"{SECRET}"]}}'
    rows, bad = await all_of(decode(kept(body.encode())))

    assert rows[0].name == "[token]"
    assert b"secret" not in rows[0].raw
    assert "secret" not in bad[0].raw


def test_the_same_rows_have_the_same_digest():
    """Whatever numbers the page carries; other rows have another."""

    def digest(rows: bytes, number: int = 1, *, disk: bool = False) -> bytes:
        body = b'{"data":[%s],"meta":{"page":%d}}' % (rows, number)
        return decode(kept(body) if disk else body).digest

    for disk in (False, True):
        first = digest(b'{"x":1},2', disk=disk)
        assert first == digest(b'{"x":1},2', 7, disk=disk)
        others = [b'{"x":2},2', b'{"x":1},3', b'{"x":1}', b'{"x":1},2,2']
        assert all(digest(other, disk=disk) != first for other in others)
    assert digest(b"") == b""
