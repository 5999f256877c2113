"""Judge the answer to a file request by its status and headers: pure, no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING

from mirror import backoff
from mirror.errors import FetchError, FileGoneError
from mirror.model import Reason
from mirror.ports import UNFIT_RANGE, Validators
from mirror.vms.http_errors import PROXY_ASKS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from mirror.ports import ResumePoint

_RANGE = re.compile(
    r"bytes\s+(\d{1,19})-(\d{1,19})/(\d{1,19})", re.ASCII | re.IGNORECASE
)
_NO_RANGE = re.compile(r"bytes\s+\*/(\d{1,19})", re.ASCII | re.IGNORECASE)
_GONE = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_BUSY = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_FIRM = timedelta(seconds=1)
_TEXT = re.compile(r"^\s*text/|html|json|xml", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer(Validators):
    """What an answer promises to bring; as `ports.FileBody`.

    Attributes:
        length: Bytes this answer's body holds; None if not announced.
    """

    start_bytes: int
    length: int | None
    explicit_end: bool


def look(
    status: int, headers: Mapping[str, str], *, folder: bool, now: datetime
) -> Validators | None:
    """Return what the answer to a request for the first byte says of the file.

    Raises:
        FileGoneError: There is no file just now.
        FetchError: Anything else.
    """
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return None
    _expect_file(status, headers, folder=folder, now=now)
    if status == HTTPStatus.OK and _TEXT.search(headers.get("Content-Type", "")):
        # Perhaps a page instead of the file; its body is not read.
        return None
    total = _length(headers)
    if headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        total = None
    if status == HTTPStatus.PARTIAL_CONTENT:
        match = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
        total = int(match[3]) if match else None
    seen = Validators(
        total_bytes=total,
        etag=headers.get("ETag"),
        last_modified=headers.get("Last-Modified"),
    )
    return None if seen == Validators() else seen


def range_headers(point: ResumePoint) -> dict[str, str]:
    """Return the headers that ask for the rest; none to ask for the whole.

    A weak ETag cannot guard a range, nor can a date within whose second the file may
    have been changed again (RFC 9110, 13.1.5 and 8.8.2.2).
    """
    validator = point.last_modified if point.firm else None
    if point.etag and not point.etag.startswith("W/") and not point.overlap_bytes:
        validator = point.etag
    if not point.size_bytes or not validator:
        return {}
    start = point.size_bytes - point.overlap_bytes
    return {"Range": f"bytes={start}-", "If-Range": validator}


def judge(
    status: int,
    headers: Mapping[str, str],
    *,
    point: ResumePoint,
    folder: bool,
    max_bytes: int,
    now: datetime,
) -> Offer:
    """Return what the answer brings, or raise why it is of no use.

    Raises:
        FileGoneError: There is no file just now.
        FetchError: Anything else.
    """
    asked_range = bool(range_headers(point))
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and asked_range:
        return _beyond_end(headers, point)
    _expect_file(status, headers, folder=folder, now=now)
    firm = is_firm(headers, now)
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise FetchError(
            "encoded",
            f"the body is compressed ({encoding[:20]}) though it was asked for as it "
            "is; switch off compression of mp4 in the proxy before the VMS",
        )
    length = _length(headers)
    if status == HTTPStatus.PARTIAL_CONTENT:
        offer = _rest(headers, point, length, firm=firm) if asked_range else None
        if offer is None:
            raise FetchError(
                UNFIT_RANGE, "the VMS answers 206 to a request without Range"
            )
    else:
        offer = _whole(headers, length, firm=firm)
    if offer.total_bytes is not None and offer.total_bytes > max_bytes:
        raise FetchError(
            "too_large",
            f"the file has {offer.total_bytes} bytes, more than max_file_size",
        )
    return offer


def _expect_file(
    status: int, headers: Mapping[str, str], *, folder: bool, now: datetime
) -> None:
    """Make sure that the status is that of a file."""
    if status in _GONE:
        reason = Reason.URL_WITHOUT_FILE if folder else Reason.FILE_GONE
        raise FileGoneError(reason, f"the VMS answers {status} for the file")
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        raise FetchError("proxy", PROXY_ASKS)
    if status in _BUSY:
        wait = backoff.retry_after(headers.get("Retry-After"), now, headers.get("Date"))
        raise FetchError("busy", f"the VMS is busy ({status})", retry_after_s=wait)
    if status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
        reason_name = "server_error" if status >= 500 else "unexpected_status"  # noqa: PLR2004 -- 5xx
        raise FetchError(reason_name, f"the VMS answers {status} for the file")


def is_firm(headers: Mapping[str, str], now: datetime) -> bool:
    """Tell whether `Last-Modified` lies far enough before the answer's own date.

    Without a date it is that of now (RFC 9110, 6.6.1).
    """
    modified = backoff.http_date(headers.get("Last-Modified"))
    dated = backoff.http_date(headers.get("Date")) or now
    return modified is not None and modified + _FIRM <= dated


def _whole(headers: Mapping[str, str], length: int | None, *, firm: bool) -> Offer:
    chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
    if length == 0:
        raise FetchError("empty", "the VMS sends an empty file")
    return Offer(
        start_bytes=0,
        total_bytes=None if chunked else length,
        length=None if chunked else length,
        explicit_end=chunked or length is not None,
        etag=headers.get("ETag"),
        last_modified=headers.get("Last-Modified"),
        firm=firm,
    )


def _rest(
    headers: Mapping[str, str], point: ResumePoint, length: int | None, *, firm: bool
) -> Offer:
    content_range = headers.get("Content-Range", "")
    match = _RANGE.fullmatch(content_range.strip())
    if match is None:
        raise FetchError(UNFIT_RANGE, "the 206 does not say which bytes it brings")
    first, last, total = (int(part) for part in match.groups())
    asked = point.size_bytes - point.overlap_bytes
    if first != asked or not first <= last < total:
        raise FetchError(
            UNFIT_RANGE,
            f"asked for bytes from {asked}, the 206 brings {content_range[:60]}",
        )
    if point.total_bytes is not None and total != point.total_bytes:
        raise FetchError(
            UNFIT_RANGE, f"the file had {point.total_bytes} bytes and now has {total}"
        )
    if length is not None and length != last - first + 1:
        raise FetchError(UNFIT_RANGE, "the 206 announces another length than its range")
    if not _compare(headers, point) and point.total_bytes is None:
        raise FetchError(UNFIT_RANGE, "the 206 does not show which version it is of")
    dated = headers.get("Last-Modified")
    if point.overlap_bytes and not (dated and firm):
        raise FetchError(
            UNFIT_RANGE,
            "the 206 has no Last-Modified that shows which version it is of",
        )
    return Offer(
        start_bytes=first,
        total_bytes=total,
        length=last - first + 1,
        explicit_end=True,
        etag=headers.get("ETag") or point.etag,
        last_modified=dated or point.last_modified,
        firm=firm if dated else point.firm,
    )


def _beyond_end(headers: Mapping[str, str], point: ResumePoint) -> Offer:
    """Judge a 416: the partial is the whole file if its length says so."""
    match = _NO_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    total = int(match.group(1)) if match else None
    beyond = total == point.size_bytes and not point.overlap_bytes
    if not beyond or point.total_bytes not in {None, total}:
        raise FetchError(UNFIT_RANGE, "the VMS has no bytes beyond those held (416)")
    _compare(headers, point)
    return Offer(
        start_bytes=point.size_bytes,
        total_bytes=total,
        length=0,
        explicit_end=True,
        etag=point.etag,
        last_modified=point.last_modified,
        firm=point.firm,
    )


def _compare(headers: Mapping[str, str], point: ResumePoint) -> bool:
    """Raise if the answer is of another version; tell whether it shows that at all."""
    compared = False
    for name, before in (("ETag", point.etag), ("Last-Modified", point.last_modified)):
        now = headers.get(name)
        if not now or not before:
            continue
        compared = True
        if now != before:
            raise FetchError(
                UNFIT_RANGE, f"the file has changed: another {name} than before"
            )
    return compared


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("Content-Length", "").strip()
    return int(text) if text.isascii() and text.isdigit() else None
