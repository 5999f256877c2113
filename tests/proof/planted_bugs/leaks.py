"""Bugs to plant in a process that open what must be closed: names, origins, secrets."""

from __future__ import annotations

import json
import socket
import sys
from typing import TYPE_CHECKING, Any

from aiohttp import ClientSession

from mirror import cli, layout, sidecar
from mirror.logs import Redactor
from mirror.pipeline.discover.lister import Lister
from mirror.targets.directory import store
from mirror.vms import Origins, Tls, VmsClient, client

if TYPE_CHECKING:
    from collections.abc import Callable

NAMED = "vms.test"
"""A host name that `named` makes known."""


def named() -> None:
    """Make one host name known, as a line of /etc/hosts would; no bug at all."""
    getaddrinfo = socket.getaddrinfo

    def known(host: Any, port: Any, *given: Any, **more: Any) -> Any:
        if host != NAMED:
            return getaddrinfo(host, port, *given, **more)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    socket.getaddrinfo = known


def unsanitised() -> None:
    """Take names into paths as they are."""
    layout._clean = lambda text: text
    layout._sanitise = lambda text, limit: text


def unguarded() -> None:
    """Let a target take any path."""
    store.segments_of = lambda path, target: path.split("/")


def any_origin() -> None:
    """Go wherever a url leads."""
    Origins._checked = Origins._rewritten  # type: ignore[method-assign]


def any_certificate() -> None:
    """Take whatever certificate is shown."""
    Tls.context = lambda self: False  # type: ignore[method-assign]


def crashing() -> None:
    """Fail for no reason, and say all that is at hand; no leak by itself."""
    get, judge = VmsClient._get, VmsClient.judge
    sound = [False]

    async def crash_get(self: Any, address: Any, headers: Any) -> Any:
        if "do=crash" in str(address):
            token = await self.token.read()
            raise RuntimeError(f"cannot GET {address} with Bearer {token}")
        return await get(self, address, headers)

    async def crash_judge(self: Any, answer: Any) -> Any:
        if not sound[0]:
            sound[0] = True
            token = await self.token.read()
            raise KeyError({"Authorization": f"Bearer {token}"})
        return await judge(self, answer)

    VmsClient._get = crash_get  # type: ignore[method-assign]
    VmsClient.judge = crash_judge  # type: ignore[method-assign]


def dying() -> None:
    """End the process by a bug that says all that is at hand; no leak by itself."""

    async def walk(self: Any, *, sweep: bool) -> Any:
        token = await self._walker._source.token.read()
        raise RuntimeError(f"cannot GET http://x.example/?sig={token} with {token}")

    Lister.walk = walk  # type: ignore[method-assign]


def tells_url() -> None:
    """Print the path of each file that is asked for."""
    get = VmsClient._get

    async def told(self: Any, address: Any, headers: Any) -> Any:
        sys.stderr.write(f"GET {address.raw_path_qs}\n")
        return await get(self, address, headers)

    VmsClient._get = told  # type: ignore[method-assign]


def tells_token() -> None:
    """Log whatever is logged as it is."""
    Redactor.clean = lambda self, text: text  # type: ignore[method-assign]


def keeps_token() -> None:
    """Keep rows as they are, whatever they quote."""
    client.without = lambda body, secret: body  # type: ignore[attr-defined]


def keeps_url() -> None:
    """Put the list item into the sidecar as it is."""
    read = json.loads
    sidecar.known_of = lambda raw: read(raw.decode())


def carries_token() -> None:
    """Send the headers of the API with each request for a file."""
    get = ClientSession.get

    def loaded(self: Any, url: Any, **more: Any) -> Any:
        more["headers"] = dict(more["headers"]) | {"X-UUID": "device"}
        return get(self, url, **more)

    ClientSession.get = loaded  # type: ignore[method-assign]


OPENINGS: dict[str, Callable[[], None]] = {
    "named": named,
    "unsanitised": unsanitised,
    "unguarded": unguarded,
    "any_origin": any_origin,
    "any_certificate": any_certificate,
    "crashing": crashing,
    "dying": dying,
    "tells_url": tells_url,
    "tells_token": tells_token,
    "keeps_token": keeps_token,
    "keeps_url": keeps_url,
    "carries_token": carries_token,
}


def live() -> None:
    """Plant what the first argument names, then be the command."""
    openings, *argv = sys.argv[1:]
    for opening in openings.split(","):
        OPENINGS[opening]()
    cli.main(argv)
