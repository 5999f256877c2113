"""Ask the simulated VMS over plain sockets, so that nothing is repaired on the way."""

import asyncio
import hashlib
import json
from dataclasses import dataclass
from urllib.parse import urlencode

from multidict import CIMultiDict

from mirror.simulator import (
    Export,
    Vms,
)

SIZE = 300_000
LIST = "/api/v1/downloads"
ALWAYS = {"from": "2000-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z"}
HEADERS = {
    "Authorization": "Bearer demo-token",
    "Accept": "application/json",
    "X-Client": "web",
    "X-UUID": "a device",
}


@dataclass(frozen=True)
class Reply:
    """An answer as it was on the wire; `end` is `eof`, `reset` or `open`."""

    status: int
    headers: CIMultiDict[str]
    raw: bytes
    end: str

    @property
    def body(self) -> bytes:
        """The body without its chunks; what there is of it, if it was cut."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.raw
        body, rest = b"", self.raw
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            body += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]
        return body

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


async def ask(
    vms: Vms,
    path: str,
    headers: dict[str, str] | None = None,
    *,
    method: str = "GET",
    patience_s: float = 5,
    limit: int = 50_000_000,
) -> Reply:
    """Ask over a socket of our own, so that nothing is repaired on the way."""
    reader, writer = await asyncio.open_connection("127.0.0.1", vms.port)
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{vms.port}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write(("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode())
    received, end = b"", "eof"
    try:
        async with asyncio.timeout(patience_s):
            while len(received) < limit and (piece := await reader.read(1 << 20)):
                received += piece
    except ConnectionResetError:
        end = "reset"
    except TimeoutError:
        end = "open"
    writer.close()
    head, _, raw = received.partition(b"\r\n\r\n")
    if not head:
        return Reply(0, CIMultiDict(), b"", end)
    status, *fields = head.decode("latin-1").split("\r\n")
    found = CIMultiDict(
        (name, value) for name, _, value in (line.partition(": ") for line in fields)
    )
    return Reply(int(status.split()[1]), found, raw, end)


def list_path(
    *, page: int = 1, per_page: int = 25, span: dict[str, str] | None = None
) -> str:
    query = {"per_page": per_page, "page": page, **(span or ALWAYS)}
    return f"{LIST}?{urlencode(query)}"


async def get_list(vms: Vms, *, page: int = 1, per_page: int = 25) -> Reply:
    return await ask(vms, list_path(page=page, per_page=per_page), HEADERS)


async def get_file(
    vms: Vms, export: Export, start: int | None = None, **headers: str
) -> Reply:
    wanted = {name.replace("_", "-"): value for name, value in headers.items()}
    if start is not None:
        wanted["Range"] = f"bytes={start}-"
    return await ask(vms, vms.file_path(export), wanted)


def ids(reply: Reply) -> list[int]:
    return [row["id"] for row in json.loads(reply.body)["data"]]
