"""Debian's chromium without a screen, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import re
import shutil
import signal
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_OPTIONS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--no-sandbox",
    "--no-proxy-server",
)
_ANSWERS_S = 30.0


@dataclass(slots=True)
class Browser:
    """One page of a running chromium.

    Attributes:
        requests: The address of each request the page made.
        complaints: What the console showed: errors, warnings, refused styles.
    """

    _socket: aiohttp.ClientWebSocketResponse
    _session: str = ""
    _numbers: Any = field(default_factory=lambda: itertools.count(1))
    _answers: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    _loaded: asyncio.Event = field(default_factory=asyncio.Event)
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @classmethod
    @contextlib.asynccontextmanager
    async def started(cls) -> AsyncIterator[Browser]:
        """Start chromium with a profile of its own; skip the test without it."""
        program = shutil.which("chromium")
        if program is None:
            pytest.skip("needs chromium: apt install chromium")
        async with contextlib.AsyncExitStack() as stack:
            # Its last processes may still write there while it is removed.
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            )
            running = await asyncio.create_subprocess_exec(
                program,
                *_OPTIONS,
                f"--user-data-dir={folder}",
                "about:blank",
                stderr=asyncio.subprocess.PIPE,
            )
            stack.push_async_callback(_ended, running)
            async with asyncio.timeout(_ANSWERS_S):
                address = await _address(running)
            client = await stack.enter_async_context(aiohttp.ClientSession())
            socket = await stack.enter_async_context(
                client.ws_connect(address, max_msg_size=0)
            )
            browser = cls(socket)
            reading = asyncio.create_task(browser._read())
            stack.push_async_callback(_cancelled, reading)
            await browser._attach()
            yield browser

    async def open(self, url: str) -> None:
        """Load a page to its end."""
        self._loaded.clear()
        self.requests.clear()
        self.complaints.clear()
        await self._tell("Page.navigate", url=url)
        async with asyncio.timeout(_ANSWERS_S):
            await self._loaded.wait()

    async def size(self, width: int, height: int, *, phone: bool = False) -> None:
        """Set the size of the screen in CSS pixels."""
        await self._tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )

    async def scheme(self, name: str) -> None:
        """Prefer `light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": name}
        await self._tell("Emulation.setEmulatedMedia", features=[feature])

    async def no_script(self) -> None:
        """Let no page run script."""
        await self._tell("Emulation.setScriptExecutionDisabled", value=True)

    async def evaluate(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        answer = await self._tell(
            "Runtime.evaluate", expression=script, returnByValue=True
        )
        return answer["result"].get("value")

    async def screenshot(self, *, whole: bool = False) -> bytes:
        """Return what is seen, or the whole page, as PNG."""
        answer = await self._tell(
            "Page.captureScreenshot", format="png", captureBeyondViewport=whole
        )
        return base64.b64decode(answer["data"])

    async def _attach(self) -> None:
        made = await self._tell("Target.createTarget", url="about:blank")
        attached = await self._tell(
            "Target.attachToTarget", targetId=made["targetId"], flatten=True
        )
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime", "Audits"):
            await self._tell(f"{domain}.enable")

    async def _tell(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        answer = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        await self._socket.send_json(message)
        async with asyncio.timeout(_ANSWERS_S):
            told = await answer
        if "error" in told:
            raise RuntimeError(f"{method}: {told['error']}")
        result: dict[str, Any] = told["result"]
        return result

    async def _read(self) -> None:
        async for frame in self._socket:
            message = frame.json()
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message)
            else:
                self._notice(message["method"], message["params"])

    def _notice(self, event: str, params: dict[str, Any]) -> None:
        match event:
            case "Page.loadEventFired":
                self._loaded.set()
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Log.entryAdded":
                entry = params["entry"]
                self.complaints.append(f"{entry['level']}: {entry['text']}")
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown":
                self.complaints.append(str(params))
            case "Audits.issueAdded":
                self.complaints.append(str(params["issue"]))


async def _address(running: asyncio.subprocess.Process) -> str:
    """Return where chromium listens, which it says on standard error."""
    if running.stderr is None:
        raise RuntimeError("no pipe")
    said = b""
    async for line in running.stderr:
        said += line
        found = re.search(rb"DevTools listening on (ws://\S+)", line)
        if found:
            return found[1].decode()
    raise RuntimeError(f"chromium ended: {said.decode(errors='replace')}")


async def _ended(running: asyncio.subprocess.Process) -> None:
    if running.returncode is None:
        running.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(10):
            await running.communicate()
    except TimeoutError:
        running.kill()
        await running.communicate()


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
