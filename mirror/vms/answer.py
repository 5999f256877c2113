"""Judge the answer to a file request by its status and headers: pure, no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from mirror import backoff
from mirror.errors import FetchError, FileGoneError
from mirror.model import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from mirror.ports import Held

_RANGE = re.compile(
    r"bytes\s+(\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII | re.IGNORECASE
)
_NO_RANGE = re.compile(r"bytes\s+\*/(\d{1,19})", re.ASCII | re.IGNORECASE)
_GONE = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_BUSY = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
UNFIT = "unfit_range"
"""The reason of an answer to Range that cannot be joined to what is held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What an answer promises to bring; as `ports.Body`.

    Attributes:
        length: Bytes this answer's body holds; None if not announced.
    """

    start_bytes: int
    total_bytes: int | None
    length: int | None
    explicit_end: bool
    etag: str | None
    last_modified: str | None


def range_headers(held: Held) -> dict[str, str]:
    """Return the headers that ask for the rest; none to ask for the whole.

    A weak ETag cannot guard a range (RFC 9110, 13.1.5); the date can.
    """
    validator = held.last_modified
    if held.etag and not held.etag.startswith("W/"):
        validator = held.etag
    if not held.size_bytes or not validator:
        return {}
    return {"Range": f"bytes={held.size_bytes}-", "If-Range": validator}


def judge(
    status: int,
    headers: Mapping[str, str],
    *,
    held: Held,
    asked_range: bool,
    folder: bool,
    max_bytes: int,
    now: datetime,
) -> Offer:
    """Return what the answer brings, or say why it is of no use.

    Raises:
        FileGoneError: There is no file just now.
        FetchError: Anything else.
    """
    if status in _GONE:
        reason = Reason.URL_WITHOUT_FILE if folder else Reason.FILE_GONE
        raise FileGoneError(reason, f"the VMS answers {status} for the file")
    if status in _BUSY:
        wait = backoff.retry_after(headers.get("Retry-After"), now, headers.get("Date"))
        raise FetchError("busy", f"the VMS is busy ({status})", retry_after_s=wait)
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and asked_range:
        return _beyond_end(headers, held)
    if status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
        reason_name = "server_error" if status >= 500 else "unexpected_status"  # noqa: PLR2004 -- 5xx
        raise FetchError(reason_name, f"the VMS answers {status} for the file")
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise FetchError(
            "encoded",
            f"the body is compressed ({encoding[:20]}) though it was asked for as it "
            "is; switch off compression of mp4 in the proxy before the VMS",
        )
    length = _length(headers)
    if status == HTTPStatus.PARTIAL_CONTENT:
        offer = _rest(headers, held, length) if asked_range else None
        if offer is None:
            raise FetchError(UNFIT, "the VMS answers 206 to a request without Range")
    else:
        offer = _whole(headers, length)
    if offer.total_bytes is not None and offer.total_bytes > max_bytes:
        raise FetchError(
            "too_large",
            f"the file has {offer.total_bytes} bytes, more than max_file_size",
        )
    return offer


def _whole(headers: Mapping[str, str], length: int | None) -> Offer:
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
    )


def _rest(headers: Mapping[str, str], held: Held, length: int | None) -> Offer:
    given = headers.get("Content-Range", "")
    match = _RANGE.fullmatch(given.strip())
    if match is None or match.group(3) == "*":
        raise FetchError(UNFIT, "the 206 does not say which bytes it brings")
    first, last, total = (int(part) for part in match.groups())
    if first != held.size_bytes or not first <= last < total:
        raise FetchError(
            UNFIT,
            f"asked for bytes from {held.size_bytes}, the 206 brings {given[:60]}",
        )
    if held.total_bytes is not None and total != held.total_bytes:
        raise FetchError(
            UNFIT, f"the file had {held.total_bytes} bytes and now has {total}"
        )
    if held.total_bytes is None and not _shows_version(headers, held):
        raise FetchError(UNFIT, "the 206 does not show which version it is of")
    if length is not None and length != last - first + 1:
        raise FetchError(UNFIT, "the 206 announces another length than its range")
    _same_version(headers, held)
    return Offer(
        start_bytes=first,
        total_bytes=total,
        length=last - first + 1,
        explicit_end=True,
        etag=headers.get("ETag") or held.etag,
        last_modified=headers.get("Last-Modified") or held.last_modified,
    )


def _beyond_end(headers: Mapping[str, str], held: Held) -> Offer:
    """A 416: we hold the whole file if its length says so, else start over."""
    match = _NO_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    total = int(match.group(1)) if match else None
    if total != held.size_bytes or held.total_bytes not in {None, total}:
        raise FetchError(UNFIT, "the VMS has no bytes beyond those held (416)")
    _same_version(headers, held)
    return Offer(
        start_bytes=held.size_bytes,
        total_bytes=total,
        length=0,
        explicit_end=True,
        etag=held.etag,
        last_modified=held.last_modified,
    )


def _shows_version(headers: Mapping[str, str], held: Held) -> bool:
    """Tell whether an answer has anything to compare with what is held."""
    return bool(
        (held.etag and headers.get("ETag"))
        or (held.last_modified and headers.get("Last-Modified"))
    )


def _same_version(headers: Mapping[str, str], held: Held) -> None:
    for name, known in (("ETag", held.etag), ("Last-Modified", held.last_modified)):
        given = headers.get(name)
        if given and known and given != known:
            raise FetchError(UNFIT, f"the file has changed: another {name} than before")


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("Content-Length", "").strip()
    return int(text) if text.isascii() and text.isdigit() else None
