"""The parameters of a list request, checked as strictly as the VMS does."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mirror.simulator.behaviour import Behaviour  # noqa: TC001 -- part of signatures

if TYPE_CHECKING:
    from collections.abc import Mapping

CLIENTS = frozenset({"ios-cctv", "android-cctv", "thick-legal", "web"})
_SDK_CLIENTS = frozenset({"ios", "android"})
_WHOLE_NUMBER = re.compile(r"[+-]?\d{1,18}")
_BARE_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_MOMENT = re.compile(
    r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|[+-]\d{2}:\d{2})"
    r"| \d{2}:\d{2}:\d{2})"
)


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
        if _MOMENT.fullmatch(text) or (bare_dates and _BARE_DATE.fullmatch(text)):
            moment = datetime.fromisoformat(text)
            return moment.replace(tzinfo=moment.tzinfo or UTC)
    except ValueError:
        pass
    errors[name] = [f"The {name} does not match the format Y-m-d\\TH:i:sp."]
    return None
