"""Bugs that open what must be closed: names, origins, secrets."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
import sys
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from aiohttp import ClientSession
from yarl import URL

from mirror import sidecar
from mirror.errors import OriginRefusedError, TargetError
from mirror.layout import Layout
from mirror.logs import Redactor
from mirror.pipeline.discover.lister import Lister
from mirror.ports import Kept
from mirror.targets.directory.target import DirectoryTarget
from mirror.vms import Origins, Tls, VmsClient, client
from mirror.vms.token import TokenFile

if TYPE_CHECKING:
    from pathlib import Path

KNOWN_HOST = "vms.test"
"""A host name that `known_host` makes known."""
_PLAIN = "a-plain-name"


def known_host() -> None:
    """Make one host name known, as a line of /etc/hosts would; no bug at all."""
    getaddrinfo = socket.getaddrinfo

    def looked_up(host: Any, port: Any, *given: Any, **more: Any) -> Any:
        if host != KNOWN_HOST:
            return getaddrinfo(host, port, *given, **more)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    patch.object(socket, "getaddrinfo", looked_up).start()


def unsanitised() -> None:
    """Take names into paths as they are."""
    render = Layout.render

    def rendered(self: Any, values: Any) -> str:
        path = render(self, dataclasses.replace(values, name=_PLAIN))
        return path.replace(_PLAIN, values.name or "")

    patch.object(Layout, "render", rendered).start()


def unguarded() -> None:
    """Let a target take a path that leads out of it."""
    init, publish = DirectoryTarget.__init__, DirectoryTarget.publish
    roots: dict[str, Path] = {}

    def made(self: Any, **given: Any) -> None:
        roots[given["name"]] = given["root"]
        init(self, **given)

    async def published(self: Any, batch: Any) -> list[Kept | Exception]:
        results = await publish(self, batch)
        for number, (each, result) in enumerate(zip(batch, results, strict=True)):
            if isinstance(result, TargetError) and result.reason == "bad_path":
                path = roots[self.name] / each.path
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(each.content), path)
                path.with_name(f"{path.name}.json").write_bytes(each.sidecar)
                results[number] = Kept(verified=False)
        return results

    patch.object(DirectoryTarget, "__init__", made).start()
    patch.object(DirectoryTarget, "publish", published).start()


def any_origin() -> None:
    """Go wherever a url leads."""
    resolve, redirect = Origins.resolve, Origins.redirect

    def resolved(self: Origins, url: str, name: str | None) -> URL:
        try:
            return resolve(self, url, name)
        except OriginRefusedError:
            return self.base.join(URL(url))

    def redirected(self: Any, current: URL, location: str) -> URL:
        try:
            return redirect(self, current, location)
        except OriginRefusedError:
            return current.join(URL(location))

    patch.object(Origins, "resolve", resolved).start()
    patch.object(Origins, "redirect", redirected).start()


def any_certificate() -> None:
    """Take whatever certificate is shown."""
    patch.object(Tls, "context", lambda self: False).start()


def crashing() -> None:
    """Fail for no reason, and say all that is at hand; no leak by itself."""
    get, judge = ClientSession.get, VmsClient.judge
    judged = False

    def crash_get(self: Any, url: Any, **more: Any) -> Any:
        if "do=crash" in str(url):
            raise RuntimeError(f"cannot GET {url} with {more['headers']}")
        return get(self, url, **more)

    async def crash_judge(self: Any, answer: Any) -> Any:
        nonlocal judged
        if not judged:
            judged = True
            token = await self.token.read()
            raise KeyError({"Authorization": f"Bearer {token}"})
        return await judge(self, answer)

    patch.object(ClientSession, "get", crash_get).start()
    patch.object(VmsClient, "judge", crash_judge).start()


def dying() -> None:
    """End the process by a bug that says all that is at hand; no leak by itself."""
    init = TokenFile.__init__
    files: list[TokenFile] = []

    def made(self: Any, *given: Any, **more: Any) -> None:
        init(self, *given, **more)
        files.append(self)

    async def walk(self: Any, *, sweep: bool) -> Any:
        token = await files[0].read()
        raise RuntimeError(f"cannot GET http://x.example/?sig={token} with {token}")

    patch.object(TokenFile, "__init__", made).start()
    patch.object(Lister, "walk", walk).start()


def printed_url() -> None:
    """Print the path of each file that is asked for."""
    get = ClientSession.get

    def printing(self: Any, url: Any, **more: Any) -> Any:
        sys.stderr.write(f"GET {url.raw_path_qs}\n")
        return get(self, url, **more)

    patch.object(ClientSession, "get", printing).start()


def logged_token() -> None:
    """Log whatever is logged as it is."""
    patch.object(Redactor, "clean", lambda self, text: text).start()


def kept_token() -> None:
    """Keep rows as they are, whatever they quote."""
    patch.object(client, "without", lambda body, secret: body).start()


def kept_url() -> None:
    """Put the list item into the sidecar as it is."""
    read = json.loads
    patch.object(sidecar, "known_of", lambda raw: read(raw.decode())).start()


def sent_device_id() -> None:
    """Send a header of the API with each request for a file."""
    get = ClientSession.get

    def sending(self: Any, url: Any, **more: Any) -> Any:
        more["headers"] = dict(more["headers"]) | {"X-UUID": "device"}
        return get(self, url, **more)

    patch.object(ClientSession, "get", sending).start()
