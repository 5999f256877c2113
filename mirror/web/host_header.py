"""Which names this server answers to.

A web page may rebind its own name to 127.0.0.1 and so read what is served there to
this machine alone. The browser still sends the page's name as Host.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from aiohttp import web

REFUSAL: Final = (
    "this name is not answered to; use 127.0.0.1 or localhost, or put the name into "
    "hosts of [http] in the configuration\n"
)
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_AUTHORITY: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/@#?\s]+)(?::[0-9]*)?")


def answered(
    addresses: Iterable[str], listen: str | None, hosts: Collection[str]
) -> frozenset[str] | None:
    """Return the names to answer to; None means all.

    On a network it is not known by which names this machine is reached, so there all
    are answered unless the operator names some.

    Args:
        addresses: Those listened on.
        listen: As configured.
        hosts: Further names, as configured.
    """
    if not hosts and not all(ip_address(one).is_loopback for one in addresses):
        return None
    given = (name_of(one) for one in (*hosts, listen or ""))
    return _LOCAL | {one for one in given if one is not None}


def is_meant(request: web.BaseRequest, names: Collection[str]) -> bool:
    """Tell whether a request is for one of the names, and for no other one."""
    asked = request.headers.getall("Host", [])
    target = request.raw_path
    whole = [] if target.startswith("/") else [URL(target).raw_authority]
    return len(asked) == 1 and all(name_of(one) in names for one in asked + whole)


def name_of(authority: str) -> str | None:
    """Return a host's name or address in its plain form, without port; else None."""
    found = _AUTHORITY.fullmatch(authority.lower())
    name = found[1].strip("[]").removesuffix(".") if found else authority
    try:
        return ip_address(name).compressed
    except ValueError:
        return name if found else None
