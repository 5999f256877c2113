"""The faults of the simulated VMS by name, and the scripts that time them."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Kind(StrEnum):
    """What a fault does. For all: lists and files; then files; then lists."""

    STATUS = "status"
    HTML = "html"
    JSON_PAGE = "json_page"
    EMPTY = "empty"
    HANG = "hang"
    CUT = "cut"
    RESET = "reset"
    STALL = "stall"
    DRIP = "drip"
    RATE = "rate"
    DELAY = "delay"
    NO_LENGTH = "no_length"
    CHUNKED = "chunked"
    GZIP = "gzip"
    MANY_HEADERS = "many_headers"
    HUGE_HEADER = "huge_header"
    REDIRECT = "redirect"
    WRONG_DATE = "wrong_date"
    WRONG_TYPE = "wrong_type"
    PREFACE = "preface"
    EXTENSION = "extension"
    TRAILERS = "trailers"

    IGNORE_RANGE = "ignore_range"
    WRONG_START = "wrong_start"
    WRONG_TOTAL = "wrong_total"
    UNKNOWN_TOTAL = "unknown_total"
    NO_CONTENT_RANGE = "no_content_range"
    LYING_RANGE = "lying_range"
    MULTIPART = "multipart"
    RANGE_REFUSED = "range_refused"
    IF_RANGE_FULL = "if_range_full"
    IGNORE_IF_RANGE = "ignore_if_range"
    WEAK_ETAG = "weak_etag"
    OTHER_ETAG = "other_etag"
    NEW_ETAG = "new_etag"
    MODIFIED_NOW = "modified_now"
    NO_ETAG = "no_etag"
    NO_VALIDATORS = "no_validators"
    CHANGE = "change"
    CHANGE_HIDDEN = "change_hidden"
    SHRINK = "shrink"
    GROW = "grow"
    DELETE = "delete"
    TRUNCATED_MP4 = "truncated_mp4"
    NO_MOOV = "no_moov"
    GARBAGE = "garbage"
    ENDLESS = "endless"

    TRUNCATED_JSON = "truncated_json"
    NO_DATA = "no_data"
    DATA_NOT_LIST = "data_not_list"
    DEEP_JSON = "deep_json"
    HUGE_BODY = "huge_body"
    ENDLESS_PAGES = "endless_pages"
    ENDLESS_ROWS = "endless_rows"
    DUPLICATE_ROWS = "duplicate_rows"
    INSERT_ROW = "insert_row"
    DELETE_ROW = "delete_row"
    STRING_META = "string_meta"
    NO_META = "no_meta"
    BAD_ROW = "bad_row"
    FLIP_FLAGS = "flip_flags"

    @property
    def is_for_lists(self) -> bool:
        """Lists can have it."""
        return self in _LIST_KINDS or self in _ANY_KINDS

    @property
    def is_for_files(self) -> bool:
        """Files can have it."""
        return self not in _LIST_KINDS


_KINDS = tuple(Kind)
_ANY_KINDS = frozenset(_KINDS[: _KINDS.index(Kind.IGNORE_RANGE)])
_LIST_KINDS = frozenset(_KINDS[_KINDS.index(Kind.TRUNCATED_JSON) :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault and its parameters; each kind reads only those it needs.

    Attributes:
        at: Where it happens, as an offset in the FILE (for a list: in the body). A
            negative one counts from the end; a float is a share of the whole. An
            answer that begins past it ends without a byte.
        after: Where it happens, in bytes of this answer's body. Wins over `at`.
        status: Of the answer.
        retry_after_s: Sent as `Retry-After`.
        retry_as_date: Send `Retry-After` as an HTTP date.
        size: Bytes, headers, depth or rows, as the kind has it.
        shift: What is added to an offset or a total that is given wrongly.
        seconds: How long; None means until the client leaves.
        rate: Bytes per second.
        to: Of a redirect: `same`, `other`, `loop`, `http`, or a url.
        text: The raw JSON of a bad row, a body, a content type, or what comes before an
            answer, `size` times.
        range_only: Only a request with `Range` meets it; it waits for one.
        page: Only the list request for this page meets it; it waits for that.
    """

    kind: Kind
    at: int | float | None = None
    after: int | None = None
    status: int = 200
    retry_after_s: int | None = None
    retry_as_date: bool = False
    size: int = 0
    shift: int = 0
    seconds: float | None = None
    rate: int = 0
    to: str = "same"
    text: str = ""
    range_only: bool = False
    page: int | None = None


_INTERIM = "HTTP/1.1 103 Early Hints\r\n\r\n"
_NOT_ALONE = {Kind.STATUS, Kind.RATE, Kind.PREFACE, Kind.EXTENSION, Kind.TRAILERS}
"""These kinds do nothing without parameters; their names say which."""
FAULTS: Mapping[str, Fault] = {
    **{kind.value: Fault(kind=kind) for kind in Kind if kind not in _NOT_ALONE},
    **{
        f"status_{status}": Fault(kind=Kind.STATUS, status=status)
        for status in (204, 400, 401, 403, 404, 409, 410, 422, 500, 502, 503, 504)
    },
    "busy_429": Fault(kind=Kind.STATUS, status=429, retry_after_s=2),
    "busy_503": Fault(kind=Kind.STATUS, status=503, retry_after_s=2),
    "busy_429_date": Fault(
        kind=Kind.STATUS, status=429, retry_after_s=2, retry_as_date=True
    ),
    "busy_503_date": Fault(
        kind=Kind.STATUS, status=503, retry_after_s=2, retry_as_date=True
    ),
    "cut": Fault(kind=Kind.CUT, at=0.5),
    "reset": Fault(kind=Kind.RESET, at=0.5),
    "stall": Fault(kind=Kind.STALL, at=0.5),
    "drip": Fault(kind=Kind.DRIP, size=1, seconds=0.3),
    "slow": Fault(kind=Kind.RATE, rate=64 * 1024),
    "delay": Fault(kind=Kind.DELAY, seconds=2.0),
    "no_length_cut": Fault(kind=Kind.NO_LENGTH, at=0.5),
    "chunked_cut": Fault(kind=Kind.CHUNKED, at=0.5),
    "many_headers": Fault(kind=Kind.MANY_HEADERS, size=100_000),
    "huge_header": Fault(kind=Kind.HUGE_HEADER, size=70_000),
    "redirect": Fault(kind=Kind.REDIRECT, status=302),
    "redirect_other": Fault(kind=Kind.REDIRECT, status=302, to="other"),
    "redirect_loop": Fault(kind=Kind.REDIRECT, status=302, to="loop"),
    "redirect_http": Fault(kind=Kind.REDIRECT, status=302, to="http"),
    "wrong_date": Fault(kind=Kind.WRONG_DATE, seconds=3600.0),
    "wrong_type": Fault(kind=Kind.WRONG_TYPE, text="text/plain; charset=utf-8"),
    "interim": Fault(kind=Kind.PREFACE, size=2, text=_INTERIM),
    "interim_flood": Fault(kind=Kind.PREFACE, size=10**9, text=_INTERIM),
    "interim_drip": Fault(kind=Kind.PREFACE, size=10**9, seconds=0.05, text=_INTERIM),
    "blank_lines": Fault(kind=Kind.PREFACE, size=10**9, seconds=0.01, text="\r\n"),
    "endless_extension": Fault(kind=Kind.EXTENSION, at=0.5),
    "endless_trailers": Fault(kind=Kind.TRAILERS),
    "ignore_range": Fault(kind=Kind.IGNORE_RANGE, range_only=True),
    "wrong_start": Fault(kind=Kind.WRONG_START, shift=1, range_only=True),
    "earlier_start": Fault(kind=Kind.WRONG_START, shift=-1, range_only=True),
    "wrong_total": Fault(kind=Kind.WRONG_TOTAL, shift=1, range_only=True),
    "unknown_total": Fault(kind=Kind.UNKNOWN_TOTAL, range_only=True),
    "no_content_range": Fault(kind=Kind.NO_CONTENT_RANGE, range_only=True),
    "lying_range": Fault(kind=Kind.LYING_RANGE, shift=1, range_only=True),
    "multipart": Fault(kind=Kind.MULTIPART, range_only=True),
    "range_refused": Fault(kind=Kind.RANGE_REFUSED, range_only=True),
    "shrink": Fault(kind=Kind.SHRINK, size=4096),
    "grow": Fault(kind=Kind.GROW, size=4096),
    "truncated_mp4": Fault(kind=Kind.TRUNCATED_MP4, at=0.5),
    "truncated_json": Fault(kind=Kind.TRUNCATED_JSON, at=0.5),
    "data_not_list": Fault(kind=Kind.DATA_NOT_LIST, text='{"6414": {}}'),
    "deep_json": Fault(kind=Kind.DEEP_JSON, size=100_000),
    "huge_body": Fault(kind=Kind.HUGE_BODY, size=100_000_000),
    "duplicate_rows": Fault(kind=Kind.DUPLICATE_ROWS, size=1),
    "insert_row": Fault(kind=Kind.INSERT_ROW, size=1),
    "delete_row": Fault(kind=Kind.DELETE_ROW, size=1),
    "bad_row": Fault(kind=Kind.BAD_ROW, text='{"id": "not a number", "name": 7}'),
}

Step = Fault | str | None | tuple[Fault | str, ...]


def fault(name: str, **changes: Any) -> Fault:  # noqa: ANN401 -- as the fields are
    """Return a fault by its name in `FAULTS`, with other parameters if given.

    Raises:
        ValueError: There is none of that name; the text lists those there are.
    """
    if name not in FAULTS:
        raise ValueError(f"no fault {name!r}; there are {', '.join(sorted(FAULTS))}")
    return replace(FAULTS[name], **changes)


def resolve(step: Step) -> tuple[Fault, ...]:
    """Return the faults one step of a script stands for; none is good behaviour."""
    if step is None:
        return ()
    members = step if isinstance(step, tuple) else (step,)
    return tuple(fault(each) if isinstance(each, str) else each for each in members)


@dataclass(slots=True)
class Script:
    """The faults that requests meet: first a list of steps, then one for ever.

    Attributes:
        steps: Each is used up by one request.
        sticky: What every request meets after the steps.
    """

    steps: deque[tuple[Fault, ...]] = field(default_factory=deque)
    sticky: tuple[Fault, ...] = ()

    def write(self, steps: Iterable[Step], *, then: Step = None) -> None:
        """Replace the script."""
        self.steps = deque(resolve(step) for step in steps)
        self.sticky = resolve(then)

    @property
    def over(self) -> bool:
        """There is nothing left to happen."""
        return not self.steps and not self.sticky

    def take(
        self, *, ranged: bool = False, page: int | None = None
    ) -> tuple[Fault, ...]:
        """Return what this request, with a `Range` or for a page, meets; use it up."""

        def fits(step: tuple[Fault, ...]) -> bool:
            return all(
                (ranged or not each.range_only)
                and (each.page is None or page is None or each.page == page)
                for each in step
            )

        if self.steps:
            return self.steps.popleft() if fits(self.steps[0]) else ()
        return self.sticky if fits(self.sticky) else ()


@dataclass(slots=True)
class Chaos:
    """Faults at random, the same for the same seed."""

    names: Sequence[str] = ()
    probability: float = 0.0
    seed: int = 0
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        for name in self.names:
            fault(name)
        self._random = random.Random(self.seed)  # noqa: S311 -- must be reproducible

    def take(self) -> tuple[Fault, ...]:
        """Return a fault, or most often none."""
        if not self.names or self._random.random() >= self.probability:
            return ()
        return (fault(self._random.choice(self.names)),)
