"""Pages of the list in the shape of Laravel's paginator."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mirror.simulator.behaviour import INTERNAL_ORIGIN

# The sample names this path whichever of the two was asked.
LIST_URL = f"{INTERNAL_ORIGIN}/api/v1/users/downloads"
_EACH_SIDE = 3
_WINDOW = _EACH_SIDE + 4
_ALL_SHOWN = 2 * _EACH_SIDE + 8


@dataclass(slots=True, kw_only=True)
class Page:
    """One page before it becomes JSON; faults change it.

    Attributes:
        rows: Each as JSON, or as whatever else stands in its place.
        before: As much of the whole that precedes it.
        data: Stands instead of the rows, raw; None is the rows.
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
        return page_url(self.number - 1) if self.number > 1 else None

    @property
    def _next(self) -> str | None:
        return page_url(self.number + 1) if self.number < self.last_page else None

    def _links(self) -> dict[str, str | None]:
        return {
            "first": page_url(1),
            "last": page_url(self.last_page),
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
                    else _link(page_url(number), str(number), number == self.number)
                    for number in shown_pages(self.number, self.last_page)
                ),
                _link(self._next, "pagination.next"),
            ],
            "path": LIST_URL,
            "per_page": self.per_page,
            "to": self.before + count if count else None,
            "total": self.total,
        }


def page_url(number: int) -> str:
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
