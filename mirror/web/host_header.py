"""Check the Host header: to which names this server answers.

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


def accepted_names(
    addresses: Iterable[str], listen: str | None, hosts: Collection[str]
) -> frozenset[str] | None:
    """Return the names to answer to; None means all.

    By which names a network reaches this machine is unknown, so there all are
    accepted unless the operator lists some.
    """
    if not hosts and not all(ip_address(each).is_loopback for each in addresses):
        return None
    names = {name_of(authority) for authority in (*hosts, listen or "")}
    return _LOCAL | {name for name in names if name is not None}


def is_accepted(request: web.BaseRequest, names: Collection[str]) -> bool:
    """Tell whether a request is for one of the names, and for no other one."""
    hosts = request.headers.getall("Host", [])
    target = request.raw_path
    whole = [] if target.startswith("/") else [URL(target).raw_authority]
    return len(hosts) == 1 and all(name_of(each) in names for each in hosts + whole)


def name_of(authority: str) -> str | None:
    """Return a host's name or address in its plain form, without port; else None."""
    match = _AUTHORITY.fullmatch(authority.lower())
    name = match[1].strip("[]").removesuffix(".") if match else authority
    try:
        return ip_address(name).compressed
    except ValueError:
        return name if match else None
