"""Tokens, urls of files and users are seen by nobody who need not see them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import stat
import tarfile
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
import typer

from mirror.cli.main import app
from mirror.ledger import Filter, Ledger
from mirror.simulator import Vms
from mirror.simulator.exports import row_json
from tests.certificates import make_certificates
from tests.proof.planted_secrets import Canaries, tables_of
from tests.proof.processes import Processes
from tests.proof.strace_run import PROJECT, command, environment, run
from tests.site import IMPATIENT, Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mirror.simulator.answer import Answer, Scene
    from mirror.simulator.journal import Request
    from tests.proof.figures import Figures

_HTML = "text/html; charset=utf-8"
_JSON = "application/json"
_CREDENTIALS = {"authorization", "proxy-authorization", "cookie", "x-uuid", "x-client"}
_NOT_MIRRORING = {"demo", "simulate-vms", "run"}


class EchoingVms:
    """Makes a simulated VMS tell all it was told: in pages, errors and redirects."""

    def __init__(self, vms: Vms) -> None:
        self.vms = vms
        self.lists: deque[Callable[[Answer, str], None]] = deque()
        self._times: Counter[tuple[str, int | None]] = Counter()
        self._honest = vms.responder.answer
        vms.responder.answer = self._answer  # type: ignore[method-assign]

    def _answer(self, request: Request, scene: Scene) -> Answer:
        answer = self._honest(request, scene)
        lines = [f"{name}: {value}" for name, value in request.headers.items()]
        echo = "\n".join([request.target, f"Auth: {request.authorization}", *lines])
        answer.headers.add("Set-Cookie", "session=kept; Path=/")
        answer.headers["X-Echo"] = echo.replace("\n", " ")
        if request.kind == "list" and self.lists:
            self.lists.popleft()(answer, echo)
        if request.kind == "file":
            self._file(request, answer, echo)
        return answer

    def _file(self, request: Request, answer: Answer, echo: str) -> None:
        deed = request.target.rpartition("&do=")[2]
        self._times[deed, request.export_id] += 1
        here = self._times[deed, request.export_id]
        if deed == "fail" and here <= 2:
            answer.replace_body(500, _HTML, f"<pre>{echo}</pre>".encode())
        elif deed == "page" and here == 1:
            answer.replace_body(200, _HTML, f"<html><pre>{echo}</pre>".encode())
        elif deed == "gone":
            answer.replace_body(404, _JSON, json.dumps({"message": echo}).encode())
        elif deed in {"other", "back", "evil"}:
            path = request.target.rpartition("&do=")[0]
            places = {
                "other": f"{self.vms.other_url}{path}&do=plain",
                "back": f"{self.vms.other_url}{path}&do=home",
                "evil": f"http://127.0.0.2:9{path}&do=plain",
            }
            answer.replace_body(302, _HTML, echo.encode())
            answer.headers["Location"] = places[deed]
        elif deed == "home":
            answer.replace_body(302, _HTML, echo.encode())
            path = request.target.rpartition("&do=")[0]
            answer.headers["Location"] = f"{self.vms.url}{path}&do=plain"


def _list_echoes(other_url: str) -> list[Callable[[Answer, str], None]]:
    """Return what the list may answer instead of itself, one for each request."""

    def told(status: int, kind: str, form: str) -> Callable[[Answer, str], None]:
        def tell(answer: Answer, echo: str) -> None:
            quoted = json.dumps(echo)[1:-1].replace("/", "\\/")
            body = form.replace("ECHO", quoted if kind == _JSON else echo)
            answer.replace_body(status, kind, body.encode())

        return tell

    def led(answer: Answer, echo: str) -> None:
        token = echo.partition("Bearer ")[2].partition("\n")[0]
        answer.replace_body(302, _HTML, echo.encode())
        answer.headers["Location"] = f"{other_url}/api/v1/downloads?token={token}"

    rows = '{"data":[{"id":9001,"name":"n","echo":"ECHO"}],"meta":{"total":1}}'
    bad_rows = '{"data":[{"id":"x","echo":"ECHO"},["ECHO"]],"meta":{"total":2}}'
    return [
        told(422, _JSON, '{"errors":{"from":["ECHO"],"ECHO":["ECHO"]}}'),
        told(422, _JSON, '{"errors":"ECHO"}'),
        told(500, _HTML, "<html><pre>ECHO</pre>"),
        told(503, _JSON, '{"message":"ECHO","trace":["ECHO"]}'),
        told(200, _HTML, "<html><pre>ECHO</pre>"),
        told(200, _JSON, '{"message":"ECHO"}'),
        told(200, _JSON, '{"data":["ECHO"'),
        told(200, _JSON, bad_rows),
        told(200, _JSON, rows),
        led,
        told(401, _JSON, '{"message":"the token ECHO is not valid"}'),
    ]


@dataclass(slots=True)
class SecretSearch:
    """A mirror of three sources, and the search of all it says and leaves.

    Attributes:
        leaks: What was found, in words.
        expected: How each export has to end, by its id.
    """

    folder: Path
    site: Site
    canaries: Canaries
    hq: EchoingVms
    jwt: EchoingVms
    leaks: list[str] = field(default_factory=list)
    expected: dict[int, str] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.site.folder / "archive-mirror.toml"

    @property
    def state(self) -> Path:
        return self.site.folder / "state"

    def offer(
        self,
        deed: str,
        end: str,
        *,
        at: EchoingVms | None = None,
        origin: str | None = None,
    ) -> int:
        """List an export whose url is secret, and say what its file does."""
        vms = (at or self.hq).vms
        number = 1 + len(self.expected)
        export = vms.add(export_id=number, name=f"{self.canaries.url}.mp4")
        row = json.loads(row_json(export, vms.behaviour, vms.url))
        path = f"{vms.file_path(export)}?sig={self.canaries.url}&do={deed}"
        row["url"] = (vms.url if origin is None else origin) + path
        row["name"] = f"Gate {number}"
        row["user"] |= {"login": f"{self.canaries.user}@example.org"}
        row["user"] |= {"name": self.canaries.user, "more": [{"x": self.canaries.user}]}
        export.literal = row
        self.expected[number] = end
        return number

    async def ended(self) -> None:
        """Wait until each export was where it has to be in the end."""
        missing = set(self.expected.items())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(40):
                while missing:
                    missing -= set(self._states().items())
                    await asyncio.sleep(0.1)
        assert not missing, f"{missing} did not come about; there is {self._states()}"

    def _states(self) -> dict[int, str]:
        ledger = Ledger.read(self.state)
        try:
            listed = list(ledger.queries.exports(Filter()))
        finally:
            ledger.close()
        return {e.export_id: e.state.value for e, _ in listed if e.export_id < 9000}

    def judge_kept(self) -> None:
        """Search the archive, the state directory, and what the VMS was sent."""
        for path in self.site.archive.rglob("*"):
            where = str(path.relative_to(self.site.archive))
            self.leaks += self.canaries.all_in("a name on the target", where.encode())
            if path.is_file():
                self.leaks += self.canaries.all_in(where, path.read_bytes())
        for path in (each for each in self.state.rglob("*") if each.is_file()):
            self.leaks += self.canaries.tokens_in(path.name, path.read_bytes())
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                self.leaks.append(f"others may read {path.name}")
        tables = tables_of(self.state / "ledger.sqlite3")
        self.leaks += self.canaries.tokens_in("the ledger", tables)
        assert self.canaries.url.encode() in tables, "the ledger was not read right"

    def judge_sent(self) -> None:
        """Search what the other origin was asked."""
        for echoing in (self.hq, self.jwt):
            for request in echoing.vms.requests:
                sent = {name.lower() for name in request.headers}
                if "cookie" in sent:
                    self.leaks.append("a cookie was sent")
                if request.host in echoing.vms.url:
                    continue
                if sent & _CREDENTIALS:
                    self.leaks.append(f"{sent & _CREDENTIALS} went to another origin")
                said = repr((request.target, dict(request.headers))).encode()
                self.leaks += self.canaries.tokens_in("a request elsewhere", said)


@contextlib.asynccontextmanager
async def _search(folder: Path, canaries: Canaries) -> AsyncIterator[SecretSearch]:
    (folder / "certificates").mkdir()
    (folder / "home").mkdir()
    certificates = make_certificates(folder / "certificates")
    async with (
        Vms(token=canaries.php) as hq,
        Vms(token=canaries.jwt) as jwt,
        Vms(ssl_context=certificates.context("self"), other_origin=False) as strange,
    ):
        site = Site.make(folder / "home", hq, send_token_to_files=True)
        site.tables["transfer"] |= IMPATIENT
        search = SecretSearch(folder, site, canaries, EchoingVms(hq), EchoingVms(jwt))
        sources = site.tables["sources"]
        sources["hq"]["file_origins"] = [hq.other_url]
        for name, vms, token in (
            ("jwt", jwt, canaries.jwt),
            ("strange", strange, canaries.unused),
        ):
            path = folder / f"{name}.token"
            path.write_text(token)
            sources[name] = sources["hq"] | {
                "url": vms.url,
                "token_file": str(path),
                "send_token_to_files": False,
                "file_origins": [vms.other_url],
            }
        site.settings()
        yield search


class Service:
    """`run` as systemd runs it, and its voices."""

    def __init__(self, search: SecretSearch, planted: str) -> None:
        self._search = search
        self._planted = planted
        self.log = search.folder / "service.log"

    async def __aenter__(self) -> Service:
        self._ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        name = f"proof-{os.getpid()}-{id(self)}"
        self._ear.bind(f"\0{name}")
        self._ear.setblocking(False)
        argv = ("run", "--log-level", "debug", "--log-format", "json")
        line = command(*argv, config=self._search.config, planted=self._planted)
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *line,
                cwd=PROJECT,
                env=environment(NOTIFY_SOCKET=f"@{name}"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(30):
            while b"http.listening" not in self.log.read_bytes():
                await asyncio.sleep(0.1)
        return self

    async def __aexit__(self, failed: object, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        await self._process.wait()
        leaks = self._search.leaks
        leaks += self._search.canaries.all_in("the log", self.log.read_bytes())
        heard = b""
        with contextlib.suppress(BlockingIOError):
            while True:
                heard += self._ear.recv(65536) + b"\n"
        self._ear.close()
        assert failed or b"READY=1" in heard
        leaks += self._search.canaries.all_in("what systemd is told", heard)

    def hang_up(self) -> None:
        """Ask it to read its configuration again."""
        self._process.send_signal(signal.SIGHUP)

    async def judge(self) -> None:
        """Search what it shows of itself while it runs."""
        search, process = self._search, Path(f"/proc/{self._process.pid}")
        for part in ("cmdline", "environ", "comm"):
            content = (process / part).read_bytes()
            search.leaks += search.canaries.all_in(f"/proc/{part}", content)
        found = re.search(r'"port": (\d+)', self.log.read_text())
        assert found is not None
        async with aiohttp.ClientSession(f"http://127.0.0.1:{found[1]}") as session:
            for path in ("/metrics", "/healthz", "/readyz", "/", "/status.json"):
                async with session.get(path) as answer:
                    said = repr(dict(answer.headers)).encode() + await answer.read()
                search.leaks += search.canaries.all_in(path, said)


def _leaves(group: object, before: str = "") -> set[str]:
    """Return the names of all commands, of groups too."""
    found: set[str] = set()
    for name, command_ in getattr(group, "commands", {}).items():
        found |= _leaves(command_, f"{before}{name} ") or {f"{before}{name}"}
    return found


async def _judge_commands(search: SecretSearch, processes: Processes) -> None:
    """Search what every command prints beside the service."""
    ids = [str(number) for number in search.expected]
    backup = search.folder / "backup.sqlite3"
    bundle = search.folder / "bundle.tar.gz"
    argv = ["-c", str(search.config), "--log-level", "debug"]
    ways: dict[str, list[list[str]]] = {
        "ack": [[one, "--note", "seen"] for one in ids],
        "backup": [[str(backup)]],
        "check": [["--json"], []],
        "config check": [[]],
        "config show": [["--json"], []],
        "list": [["--json"], []],
        "once": [["--dry-run"], []],
        "pause": [["hq", "--for", "1s"], ["nas", "--for", "1s"]],
        "probe": [["hq"], ["jwt"], ["strange"]],
        "rebuild": [["nas"], []],
        "report": [["--json"], ["--manifest"], []],
        "resume": [["hq"], ["nas"]],
        "retry": [[ids[0]], ["--state", "parked"]],
        "show": [[one, "--json"] for one in ids] + [[one] for one in ids],
        "status": [["--json"], ["--nagios"], []],
        "support-bundle": [[str(bundle)]],
        "token set": [["nobody"]],
        "verify": [["--json"], []],
    }
    names = _leaves(typer.main.get_command(app)) - _NOT_MIRRORING
    assert names <= set(ways), f"say here how to call {names - set(ways)}"
    logs = search.folder / "commands"
    logs.mkdir()
    for name in sorted(names):
        for way in ways[name]:
            child = await processes.run(*name.split(), *way, *argv, folder=logs)
            said = child.out.read_bytes() + child.err.read_bytes()
            where = f"`{name} {' '.join(way)}`"
            search.leaks += search.canaries.secrets_in(where, said)
    search.leaks += search.canaries.tokens_in("the backup", tables_of(backup))
    with tarfile.open(bundle) as packed:
        for entry in packed:
            content = packed.extractfile(entry)
            assert content is not None
            search.leaks += search.canaries.all_in(entry.name, content.read())


async def _rotate(search: SecretSearch, service: Service) -> None:
    """Give the source a fresh token while the VMS takes the old one no more."""
    search.hq.vms.token = search.canaries.fresh
    search.offer("plain", "saved")
    typed = f"Bearer {search.canaries.fresh}\n".encode()
    ended = await run("token", "set", "hq", config=search.config, given=typed)
    assert ended.code == 0, ended.err
    said = (ended.out + ended.err).encode()
    search.leaks += search.canaries.secrets_in("`token set`", said)
    service.hang_up()
    await search.ended()


async def _crash(search: SecretSearch) -> None:
    """Search what a process says that dies of a bug."""
    for more in (
        (),
        ("--log-level", "debug"),
        ("--log-level=debug", "--log-format", "logfmt"),
    ):
        ended = await run("once", *more, config=search.config, planted="dying")
        said = (ended.out + ended.err).encode()
        assert ended.code == 70 and b"RuntimeError" in said, said
        assert bool(more) == (b"Traceback" in said)
        search.leaks += search.canaries.all_in(f"the end of `once {more}`", said)


async def _live(
    search: SecretSearch, *, commands: bool, planted: str = "crashing"
) -> None:
    """Let the service meet every echoing and crashes, and search its voices."""
    hq, jwt = search.hq, search.jwt
    for echoing in (hq, jwt):
        echoing.lists.extend(_list_echoes(echoing.vms.other_url))
    for deed, end in (
        ("plain", "saved"), ("fail", "saved"), ("page", "saved"), ("gone", "waiting"),
        ("other", "saved"), ("back", "saved"), ("evil", "parked"), ("crash", "parked"),
    ):  # fmt: skip
        search.offer(deed, end)
    search.offer("plain", "saved", origin="")
    search.offer("plain", "saved", origin=hq.vms.other_url)
    search.offer("plain", "parked", origin="http://127.0.0.2:9")
    search.offer("plain", "parked", origin="ftp://127.0.0.1")
    search.offer("plain", "saved", at=jwt)
    search.offer("other", "saved", at=jwt)
    hq.vms.script(search.offer("plain", "saved"), "cut", "reset")
    async with Service(search, planted) as service:
        await search.ended()
        async with asyncio.timeout(30):
            while hq.lists or jwt.lists:
                await asyncio.sleep(0.1)
        await service.judge()
        search.judge_kept()
        await _rotate(search, service)
        if commands:
            async with Processes.open() as processes:
                await _judge_commands(search, processes)
    search.judge_kept()
    search.judge_sent()


def _met(search: SecretSearch) -> Counter[str]:
    """Count what must have happened, for the search to mean anything."""
    vms = search.hq.vms
    met: Counter[str] = Counter()
    for request in vms.requests:
        place = "own" if request.host in vms.url else "other"
        met[
            f"{request.kind} {place} {'with' if request.authorized else 'without'}"
        ] += 1
    return met


@pytest.mark.timeout(300)
async def test_nobody_sees_a_secret(tmp_path, figures: Figures):
    """In logs, metrics, errors, records, commands, the process and other origins."""
    canaries = Canaries.draw(figures.round(0))
    async with _search(tmp_path, canaries) as search:
        await _live(search, commands=True)
        await _crash(search)
        met = _met(search)

    assert search.leaks == []
    assert met["list own with"] and met["file own with"] and met["file other without"]
    assert not met["list other with"] and not met["file other with"]
    log = (tmp_path / "service.log").read_text()
    assert "fetch.crashed" in log and "list.crashed" in log and "Traceback" in log
    assert "[token]" in log and "[redacted]" in log and "self-signed" in log
    unit = PROJECT / "deploy" / "archive-mirror.service"
    assert "LimitCORE=0" in unit.read_text().splitlines()
    figures.record(17, met=dict(met), leaks=0)


@pytest.mark.parametrize(
    "planted",
    [
        {"logged_token": "a token in the log"},
        {
            "printed_url": "a file's url in the log",
            "kept_token": "a token in the ledger",
            "kept_url": "a file's url in hq/",
            "sent_device_id": "went to another origin",
        },
    ],
)
async def test_a_leak_shows(tmp_path, figures: Figures, planted):
    """Each that is planted is found, and found where it is."""
    canaries = Canaries.draw(figures.round(0))
    async with _search(tmp_path, canaries) as search:
        await _live(search, commands=False, planted=",".join(["crashing", *planted]))

    for where in planted.values():
        assert any(where in leak for leak in search.leaks), (where, search.leaks)
