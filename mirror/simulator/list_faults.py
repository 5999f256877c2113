"""The faults only an answer to a list request can have."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

from mirror.simulator.answer import Answer, Body
from mirror.simulator.common_faults import point
from mirror.simulator.faults import Fault, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mirror.simulator.paging import Page

_FILL = memoryview(b"f" * 65536)
_FRESH_ROWS_FROM = 10_000_000


def bend_page(page: Page, fault: Fault) -> None:  # noqa: C901 -- one line a kind
    """Change what a page says, before it becomes JSON."""
    kind = fault.kind
    if kind is Kind.NO_DATA:
        page.has_data = False
    elif kind is Kind.DATA_NOT_LIST:
        page.data = fault.text
    elif kind is Kind.DEEP_JSON:
        page.data = "[" * fault.size + "]" * fault.size
    elif kind is Kind.STRING_META:
        page.numbers_as_text = True
    elif kind is Kind.NO_META:
        page.has_meta = False
    elif kind is Kind.BAD_ROW:
        page.rows.insert(len(page.rows) // 2, fault.text)
    elif kind is Kind.DUPLICATE_ROWS:
        page.rows.extend(page.rows[-fault.size :])
    elif kind is Kind.FLIP_FLAGS:
        page.rows = [_flipped(row) for row in page.rows]
    elif kind is Kind.ENDLESS_PAGES:
        _never_last(page)
    elif kind is Kind.ENDLESS_ROWS:
        _never_last(page)
        page.rows = [
            _renumbered(row, _FRESH_ROWS_FROM + page.number * page.per_page + place)
            for place, row in enumerate(page.rows)
        ]


def _never_last(page: Page) -> None:
    page.last_page = page.number + 1
    page.total = page.last_page * page.per_page


def _flipped(row: str) -> str:
    fields = json.loads(row)
    fields["is_file_exists"] = not fields["is_file_exists"]
    return json.dumps(fields, ensure_ascii=False)


def _renumbered(row: str, export_id: int) -> str:
    fields = json.loads(row)
    return json.dumps({**fields, "id": export_id}, ensure_ascii=False)


def mangle_list(answer: Answer, fault: Fault) -> None:
    """Do to the finished answer what `fault` says, if it is a list's own."""
    if fault.kind is Kind.TRUNCATED_JSON:
        whole = b"".join(answer.body.chunks())
        answer.body = Body.of(whole[: point(answer, fault)])
    elif fault.kind is Kind.HUGE_BODY:
        answer.body = _huge(fault.size)


def _huge(size: int) -> Body:
    """Return a list of one row whose name is nearly `size` bytes long."""
    head, tail = b'{"data":[{"id":1,"name":"', b'"}]}'
    fill = max(0, size - len(head) - len(tail))
    full, rest = divmod(fill, len(_FILL))

    def chunks() -> Iterator[bytes | memoryview]:
        yield head
        yield from itertools.repeat(_FILL, full)
        yield _FILL[:rest]
        yield tail

    return Body(len(head) + fill + len(tail), chunks)
