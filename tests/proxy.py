"""A proxy on the loopback: forwards plain requests, tunnels the others by CONNECT."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

_HEAD_BYTES = 64 * 1024


@dataclass(slots=True)
class Asked:
    """What the proxy was asked.

    Attributes:
        target: An address, or `host:port` to tunnel to.
        head: All that was sent before the body, as text.
    """

    method: str
    target: str
    head: str


@dataclass
class Proxy:
    """Use as an asynchronous context manager.

    Attributes:
        login: `user:password` that is asked for; empty asks for none.
        refuses: A status that every request gets; 0 refuses none.
    """

    login: str = ""
    refuses: int = 0
    asked: list[Asked] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, limit=_HEAD_BYTES
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """Its address, with what it asks for."""
        user = f"{self.login}@" if self.login else ""
        return f"http://{user}127.0.0.1:{self.port}"

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            with contextlib.suppress(OSError, EOFError):
                while await self._answer(reader, writer):
                    pass
        finally:
            writer.close()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; tell whether another may follow."""
        head = await reader.readuntil(b"\r\n\r\n")
        text = head.decode("latin-1")
        method, target, _ = text.split(" ", 2)
        self.asked.append(Asked(method, target, text))
        status = self.refuses or (0 if self._admits(text) else 407)
        if status:
            writer.write(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)
            await writer.drain()
            return True
        address = urlsplit(f"//{target}" if method == "CONNECT" else target)
        up_reader, up_writer = await asyncio.open_connection(
            address.hostname, address.port
        )
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = target.split("/", 3)[3]
                kept = [
                    line
                    for line in text.split("\r\n")[1:]
                    if not line.lower().startswith(("proxy-", "connection:"))
                ]
                # One request a connection: the next one may be for another host.
                first = [f"{method} /{path} HTTP/1.1", "Connection: close"]
                up_writer.write("\r\n".join(first + kept).encode("latin-1"))
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass_on(reader, up_writer))
                group.create_task(_pass_on(up_reader, writer))
        except* OSError:
            pass
        finally:
            up_writer.close()
        return False

    def _admits(self, head: str) -> bool:
        if not self.login:
            return True
        given = base64.b64encode(self.login.encode()).decode()
        return f"\r\nProxy-Authorization: Basic {given}\r\n" in head


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
