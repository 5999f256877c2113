"""Judge the answer to a list request by its status and headers: pure, no I/O."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from mirror import backoff
from mirror.errors import AuthError, ListError
from mirror.model import to_us
from mirror.vms.http_errors import PROXY_ASKS
from mirror.vms.values import json_object

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

REDIRECTS = frozenset({301, 302, 303, 307, 308})
_STATUS = {
    403: "it denies access (403); the account may be blocked or lack the permission",
    404: (
        "there is none at this address (404); check url, or set "
        'list_path = "/api/v1/users/downloads"'
    ),
    407: PROXY_ASKS,
    409: "it finds this client too old (409)",
    429: "it asks us to slow down (429)",
    503: "it is under maintenance or busy (503)",
}
_OFFSET_NOISE_US = 1_500_000
_OFFSET_LIMIT_US = 366 * 86_400_000_000
"""A clock further off than a year is no clock."""


def judge(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    token: str,
    place: str,
    now: datetime,
) -> None:
    """Make sure that the answer is a list, or say why it is of no use.

    The body is read only if the VMS finds fault with the request, and the token not
    shown, should the VMS quote it. `place` is where the operator puts it.

    Raises:
        AuthError: The VMS refuses the token.
        ListError: It gives no list; the text says what to do.
    """
    if status == HTTPStatus.OK:
        return
    wait = backoff.retry_after(headers.get("Retry-After"), now, headers.get("Date"))
    if status == HTTPStatus.UNAUTHORIZED:
        raise AuthError(
            "unauthorized",
            f"the VMS refuses the token (401); put a valid one into {place}",
            retry_after_s=wait,
        )
    cause = _STATUS.get(status)
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        faults = validation_errors(body, secret=token) or "no field named"
        cause = (
            f"it finds fault with the request (422): {faults}; if a date is "
            "meant, set date_format"
        )
    elif status in REDIRECTS:
        cause = f"it redirects ({status}); set url to where the VMS is"
    elif cause is None:
        cause = f"it answers {status}"
    raise ListError(
        f"http_{status}", f"the VMS gives no list: {cause}", retry_after_s=wait
    )


def validation_errors(body: bytes, *, secret: str) -> str:
    """Return what a 422 says of each field, on one line; empty if unreadable.

    The secret is not shown, however it is written in the JSON.
    """
    errors = json_object(body).get("errors")
    if isinstance(errors, str):
        return _one_line(errors, secret)
    if not isinstance(errors, dict):
        return ""
    parts = []
    for field, texts in list(errors.items())[:20]:
        lines = texts if isinstance(texts, list) else [texts]
        parts.append(f"{field}: {' '.join(str(text) for text in lines[:5])}")
    return _one_line("; ".join(parts), secret)


def clock_offset(
    headers: Mapping[str, str], *, asked_us: int, answered_us: int
) -> int | None:
    """Return the VMS's clock less ours, in microseconds; None if it shows none.

    Its `Date` counts whole seconds; it is compared with the middle of the request.
    """
    theirs = backoff.http_date(headers.get("Date"))
    if theirs is None:
        return None
    offset_us = to_us(theirs) + 500_000 - (asked_us + answered_us) // 2
    if abs(offset_us) > _OFFSET_LIMIT_US:
        return None
    return 0 if abs(offset_us) < _OFFSET_NOISE_US else offset_us


def _one_line(text: str, secret: str) -> str:
    shown = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(shown.split()).replace(secret, "[token]")[:1000]
