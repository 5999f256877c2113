"""What came for a request, and what it means that it is no list."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from mirror import backoff
from mirror.errors import AuthError, ListError
from mirror.vms.http_errors import PROXY_ASKS
from mirror.vms.schema import validation_errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from mirror.vms.large_pages import Scratch

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What came for a request, before anybody judges it.

    Attributes:
        body: Of a list, decompressed, our token taken out; of a file, its beginning.
        large: The body of a list instead, as received, if it is large.
        clock_offset_us: The VMS's clock less ours; of lists only.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    large: Scratch | None = None
    clock_offset_us: int | None = None


def expect_list(answered: Answered, *, token: str, place: str, now: datetime) -> None:
    """Make sure that the VMS gives a list.

    Args:
        answered: What came.
        token: Not shown, should the VMS quote it.
        place: Where the operator puts the token.
        now: Aware; for a `Retry-After` that is a date.

    Raises:
        AuthError: It refuses the token.
        ListError: It gives none; the text says what to do.
    """
    status = answered.status
    if status == HTTPStatus.OK:
        return
    wait = backoff.retry_after(
        answered.headers.get("Retry-After"),
        now,
        answered.headers.get("Date"),
    )
    if status == HTTPStatus.UNAUTHORIZED:
        raise AuthError(
            "unauthorized",
            f"the VMS refuses the token (401); put a valid one into {place}",
            retry_after_s=wait,
        )
    told = _STATUS.get(status)
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        faults = validation_errors(answered.body, secret=token) or "no field named"
        told = (
            f"it finds fault with the request (422): {faults}; if a date is "
            "meant, set date_format"
        )
    elif status in REDIRECTS:
        told = f"it redirects ({status}); set url to where the VMS is"
    elif told is None:
        told = f"it answers {status}"
    raise ListError(
        f"http_{status}", f"the VMS gives no list: {told}", retry_after_s=wait
    )
