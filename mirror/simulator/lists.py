"""The list: what a request asks for, the page it gets, and the faults of a page.

Parameters are checked as strictly as the VMS does; a page has the shape of Laravel's
paginator.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mirror.simulator.answer import Answer, Body
from mirror.simulator.behaviour import INTERNAL_ORIGIN, Behaviour
from mirror.simulator.common_faults import point
from mirror.simulator.faults import Fault, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CLIENTS = frozenset({"ios-cctv", "android-cctv", "thick-legal", "web"})
_SDK_CLIENTS = frozenset({"ios", "android"})
_WHOLE_NUMBER = re.compile(r"[+-]?\d{1,18}")
BARE_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
MOMENT = re.compile(
    r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|[+-]\d{2}:\d{2})"
    r"| \d{2}:\d{2}:\d{2})"
)
# The sample names this path whichever of the two was asked.
LIST_URL = f"{INTERNAL_ORIGIN}/api/v1/users/downloads"
_EACH_SIDE = 3
_WINDOW = _EACH_SIDE + 4
_ALL_SHOWN = 2 * _EACH_SIDE + 8
_FILL = memoryview(b"f" * 65536)
_FRESH_ROWS_FROM = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """A request for one page, understood.

    Attributes:
        since: Earliest `created_at`, itself included.
        until: Latest `created_at`, itself included.
    """

    per_page: int
    page: int
    since: datetime
    until: datetime


class InvalidQueryError(Exception):
    """The request is a 422.

    Attributes:
        errors: What is wrong, by field.
    """

    def __init__(self, errors: Mapping[str, list[str]]) -> None:
        super().__init__("; ".join(errors))
        self.errors = errors


def parse_query(
    query: Mapping[str, str], headers: Mapping[str, str], behaviour: Behaviour
) -> ListQuery:
    """Return what is asked for.

    Raises:
        InvalidQueryError: Something is missing or malformed; names all of it.
    """
    errors: dict[str, list[str]] = {}
    if behaviour.strict_headers:
        if headers.get("X-Client") not in CLIENTS | _SDK_CLIENTS:
            errors["X-Client"] = ["The selected X-Client is invalid."]
        if not headers.get("X-UUID", "").strip():
            errors["X-UUID"] = ["The X-UUID field is required."]
    per_page = _positive(query, "per_page", errors)
    page = _positive(query, "page", errors)
    since = _moment(query, "from", errors, bare_dates=behaviour.bare_dates)
    until = _moment(query, "to", errors, bare_dates=behaviour.bare_dates)
    if errors or since is None or until is None:
        raise InvalidQueryError(errors)
    if behaviour.max_per_page is not None:
        per_page = min(per_page, behaviour.max_per_page)
    return ListQuery(per_page=per_page, page=page, since=since, until=until)


def _positive(query: Mapping[str, str], name: str, errors: dict[str, list[str]]) -> int:
    text = query.get(name, "")
    label = name.replace("_", " ")
    if not text:
        errors[name] = [f"The {label} field is required."]
    elif not _WHOLE_NUMBER.fullmatch(text):
        errors[name] = [f"The {label} must be an integer."]
    elif int(text) < 1:
        errors[name] = [f"The {label} must be at least 1."]
    else:
        return int(text)
    return 1


def _moment(
    query: Mapping[str, str],
    name: str,
    errors: dict[str, list[str]],
    *,
    bare_dates: bool,
) -> datetime | None:
    text = query.get(name, "")
    if not text:
        errors[name] = [f"The {name} field is required."]
        return None
    try:
        if MOMENT.fullmatch(text) or (bare_dates and BARE_DATE.fullmatch(text)):
            moment = datetime.fromisoformat(text)
            return moment.replace(tzinfo=moment.tzinfo or UTC)
    except ValueError:
        pass
    errors[name] = [f"The {name} does not match the format Y-m-d\\TH:i:sp."]
    return None


@dataclass(slots=True, kw_only=True)
class Page:
    """One page before it becomes JSON; faults change it.

    Attributes:
        rows: Each as JSON, or what a fault put in its place.
        before: How many rows precede it in the whole list.
        data: Raw JSON instead of the rows; None is the rows.
    """

    number: int
    per_page: int
    before: int
    total: int
    rows: list[str]
    last_page: int
    data: str | None = None
    has_data: bool = True
    has_meta: bool = True
    numbers_as_text: bool = False

    def to_json(self) -> bytes:
        """Return the body of the answer."""
        parts = []
        if self.has_data:
            data = self.data or f"[{','.join(self.rows)}]"
            parts.append(f'"data":{data}')
        if self.has_meta:
            meta = self._meta()
            if self.numbers_as_text:
                meta = {
                    name: str(value) if isinstance(value, int) else value
                    for name, value in meta.items()
                }
            parts.append(f'"links":{_dumps(self._links())}')
            parts.append(f'"meta":{_dumps(meta)}')
        return f"{{{','.join(parts)}}}".encode("utf-8", "surrogatepass")

    @property
    def _previous(self) -> str | None:
        return _page_url(self.number - 1) if self.number > 1 else None

    @property
    def _next(self) -> str | None:
        return _page_url(self.number + 1) if self.number < self.last_page else None

    def _links(self) -> dict[str, str | None]:
        return {
            "first": _page_url(1),
            "last": _page_url(self.last_page),
            "prev": self._previous,
            "next": self._next,
        }

    def _meta(self) -> dict[str, Any]:
        count = len(self.rows)
        return {
            "current_page": self.number,
            "from": self.before + 1 if count else None,
            "last_page": self.last_page,
            "links": [
                _link(self._previous, "pagination.previous"),
                *(
                    _link(None, "...")
                    if number is None
                    else _link(_page_url(number), str(number), number == self.number)
                    for number in shown_pages(self.number, self.last_page)
                ),
                _link(self._next, "pagination.next"),
            ],
            "path": LIST_URL,
            "per_page": self.per_page,
            "to": self.before + count if count else None,
            "total": self.total,
        }


def _page_url(number: int) -> str:
    """Return a page's url as the VMS gives it: with no other parameter."""
    return f"{LIST_URL}?page={number}"


def shown_pages(current: int, last: int) -> list[int | None]:
    """Return the page numbers that `meta.links` names; None is a gap."""
    if last < _ALL_SHOWN:
        return list(range(1, last + 1))
    start: list[int | None] = [1, 2, None]
    finish: list[int | None] = [None, last - 1, last]
    if current <= _WINDOW:
        return [*range(1, _WINDOW + _EACH_SIDE + 1), *finish]
    if current > last - _WINDOW:
        return [*start, *range(last - (_WINDOW + _EACH_SIDE - 1), last + 1)]
    return [*start, *range(current - _EACH_SIDE, current + _EACH_SIDE + 1), *finish]


def _link(url: str | None, label: str, active: bool = False) -> dict[str, Any]:
    return {"url": url, "label": label, "active": active}


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def change_page(page: Page, fault: Fault) -> None:  # noqa: C901 -- one case a kind
    """Apply `fault` to what a page says, before it becomes JSON."""
    match fault.kind:
        case Kind.NO_DATA:
            page.has_data = False
        case Kind.DATA_NOT_LIST:
            page.data = fault.text
        case Kind.DEEP_JSON:
            page.data = "[" * fault.size + "]" * fault.size
        case Kind.STRING_META:
            page.numbers_as_text = True
        case Kind.NO_META:
            page.has_meta = False
        case Kind.BAD_ROW:
            page.rows.insert(len(page.rows) // 2, fault.text)
        case Kind.DUPLICATE_ROWS:
            page.rows.extend(page.rows[-fault.size :])
        case Kind.FLIP_FLAGS:
            for fields in (rows := [json.loads(row) for row in page.rows]):
                fields["is_file_exists"] = not fields["is_file_exists"]
            page.rows = [_dumps(fields) for fields in rows]
        case Kind.ENDLESS_PAGES:
            _never_last(page)
        case Kind.ENDLESS_ROWS:
            _never_last(page)
            first = _FRESH_ROWS_FROM + page.number * page.per_page
            page.rows = [
                _dumps({**json.loads(row), "id": export_id})
                for export_id, row in enumerate(page.rows, first)
            ]


def _never_last(page: Page) -> None:
    page.last_page = page.number + 1
    page.total = page.last_page * page.per_page


def change_list_answer(answer: Answer, fault: Fault) -> None:
    """Apply `fault` to the answer, if it is of a kind that only lists can have."""
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
