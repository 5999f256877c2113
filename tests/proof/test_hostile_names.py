"""Hostile names and urls: nothing is written outside, and nobody else is asked."""

from __future__ import annotations

import json
import re
import unicodedata
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mirror.simulator import Vms
from mirror.simulator.answer import Body
from mirror.simulator.faults import fault
from mirror.simulator.rows import row_json, stamp
from tests.proof.checker import Checker, Offered
from tests.proof.hostile_names import NAMES, URLS
from tests.proof.planted_bugs.leaks import NAMED
from tests.proof.strace_run import run, snapshot, witness
from tests.site import IMPATIENT, Site

if TYPE_CHECKING:
    from mirror.simulator import Export
    from tests.proof.figures import Effort
    from tests.proof.hostile_names import Url

_FIRST_ID = 1000
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"|?*\\]')
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$", "clock$"} | {
    f"{port}{number}"
    for port in ("com", "lpt")
    for number in "0123456789\u00b9\u00b2\u00b3"
}
_VAULT = "{source}/{stream_type}/{name}{id}"


class Scene:
    """A simulated VMS, a mirror of it, and the checker, with names and urls to come."""

    def __init__(self, folder: Path, vms: Vms, *, host: str = "127.0.0.1") -> None:
        self.vms = vms
        self.host = host
        self.folder = folder
        self.world = folder / "world"
        self.home = self.world / "a" / "b" / "home"
        self.home.mkdir(parents=True)
        self.site = Site.make(self.home, vms)
        self.site.tables["transfer"] |= IMPATIENT
        self.site.tables["sources"]["hq"]["url"] = f"http://{host}:{vms.port}"
        self.checker = Checker({"nas": self.site.archive})
        self.roots = [self.site.archive, self.home / "state"]
        self.names: dict[tuple[int, str], object] = {}

    def add_target(self, name: str, layout: str) -> None:
        root = self.home / name
        self.site.tables["targets"][name] = {
            "type": "directory",
            "path": str(root),
            "layout": layout,
        }
        self.checker.roots[name] = root
        self.roots.append(root)

    def offer(self, name: object, **more: Any) -> Export:
        """List an export under any name, with a real file of its own behind it."""
        export = self.vms.add(name="clip", **more)
        row = json.loads(row_json(export, self.vms.behaviour, self.vms.url))
        row["name"] = row["stream"]["type"] = name
        export.literal = row
        self.names[export.export_id, stamp(export.created_at)] = name
        self.tell(export)
        return export

    def tell(self, export: Export, *, must: bool = True) -> None:
        """Let the checker know of an export."""
        self.checker.offer(
            Offered(
                source="hq",
                export_id=export.export_id,
                created_at=stamp(export.created_at),
                hashes=frozenset(sha for _, sha in self.vms.truth(export).versions),
                must=must,
            )
        )

    @property
    def config(self) -> Path:
        return self.home / "archive-mirror.toml"

    async def listed(self) -> list[dict[str, Any]]:
        """Return the lines of `list --json`."""
        out = (await run("list", "--json", config=self.config)).out
        return [json.loads(line) for line in out.splitlines()]

    async def once(self, *, openings: str = "") -> list[str]:
        """Run `once`; return every change outside and every address but the VMS's."""
        self.site.settings()
        before = snapshot(self.world, *self.roots)
        trace = self.folder / "trace"
        seen = await witness("once", config=self.config, trace=trace, openings=openings)
        after = snapshot(self.world, *self.roots)
        # The roots are made in it.
        del before[self.home], after[self.home]
        differ = {path for path, _ in before.items() ^ after.items()}
        changed = [f"{path} is not as it was" for path in differ]
        touched = [f"{path} was touched" for path in seen.outside(*self.roots)]
        # Whoever looks up a user's name asks the machine's own cache of them.
        allowed = {f"127.0.0.1:{self.vms.port}", "AF_UNIX /var/run/nscd/socket"}
        reached = [f"{address} was reached" for address in seen.reached - allowed]
        assert seen.changed and seen.reached, "the trace cannot be right"
        return changed + touched + reached

    async def settle(self) -> list[str]:
        """Have the checker judge; return what is wrong."""
        self.checker.settle(await self.listed())
        return self.checker.breaks


def _unsafe(root: Path) -> list[str]:
    """Return what is wrong with the names on a target, for the strictest reader."""
    found: list[str] = []
    met: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if relative.parts[0] == ".archive-mirror":
            continue
        folded = unicodedata.normalize("NFC", str(relative)).casefold()
        twin = met.setdefault(folded, path)
        # Folders that are one to SMB are one there: their files are told apart.
        if twin != path and (twin.is_file() or path.is_file()):
            found.append(f"{relative} and {twin.name} are one to SMB")
        found += [f"{path.name!r}: {wrong}" for wrong in _wrong_with(path)]
    return found


def _wrong_with(path: Path) -> list[str]:
    name = path.name
    own = re.sub(r"(~\d+)?(\.mp4)(\.json)?\Z", r"\2", name) if path.is_file() else name
    try:
        size, own_size = len(name.encode()), len(own.encode())
    except UnicodeEncodeError:
        return ["no UTF-8"]
    wrong = {
        "too long": own_size > 240 or size > 255,
        "forbidden character": _FORBIDDEN.search(name),
        "invisible": any(unicodedata.category(char) in _INVISIBLE for char in name),
        "first or last character": name[0] in " .-~" or name[-1] in " .",
        "a device": name.split(".")[0].rstrip().lower() in _DEVICES,
        "not NFC": not unicodedata.is_normalized("NFC", name),
    }
    return [what for what, is_so in wrong.items() if is_so]


def _raw_names(scene: Scene) -> list[str]:
    """Return the sidecars that do not hold the name as it was listed.

    A list or an object in its place may hold anything: nothing of it is kept.
    """
    found = []
    for root in scene.checker.roots.values():
        for path in filter(Path.is_file, root.rglob("*.mp4.json")):
            record = json.loads(path.read_bytes())
            listed = scene.names[record["id"], record["created_at"]]
            listed = None if isinstance(listed, list | dict) else listed
            kept = record["item"]["name"]
            if kept != listed and not _same_bytes(kept, listed):
                found.append(f"{path.name!r} holds {kept!r} for {listed!r}")
    return found


def _same_bytes(kept: object, listed: object) -> bool:
    """Tell whether a name that was listed as no UTF-8 is kept byte for byte."""
    if not isinstance(kept, str) or not isinstance(listed, str):
        return False
    given = listed.encode("utf-8", "surrogatepass")
    return kept == given.decode("utf-8", "surrogateescape")


def _escaped(vms: Vms) -> None:
    """Let the VMS write its list in ASCII, all else as escapes, as PHP does."""
    honest = vms.responder._honest_list

    def list_in_ascii(*given: Any) -> Any:
        answer = honest(*given)
        body = b"".join(bytes(chunk) for chunk in answer.body.chunks())
        text = json.dumps(json.loads(body.decode("utf-8", "surrogatepass")))
        answer.body = Body.of(text.replace("/", "\\/").encode())
        return answer

    vms.responder._honest_list = list_in_ascii  # type: ignore[assignment, method-assign]


def _swapped(name: object) -> object:
    """Return a name that a reader without case or Unicode forms takes for the same."""
    if not isinstance(name, str):
        return name
    swapped = name.swapcase()
    if unicodedata.is_normalized("NFC", name):
        return unicodedata.normalize("NFD", swapped)
    return unicodedata.normalize("NFC", swapped)


def _same(name: object) -> object:
    return name


def _numbered(name: object) -> object:
    return f"{name}~2" if isinstance(name, str) else name


def _list_names(scene: Scene, names: list[object], created_at: datetime) -> None:
    """List exports of these names instead of what was listed, their ids the same."""
    for export in list(scene.vms.catalogue):
        scene.vms.remove_row(export)
    for number, name in enumerate(names):
        moment = created_at + timedelta(milliseconds=number)
        scene.offer(name, export_id=_FIRST_ID + number, created_at=moment)
    for number, name in ((15, "pair"), (5, "pair1")):
        twin = scene.offer(name, export_id=number, created_at=created_at)
        assert twin.literal is not None
        twin.literal["stream"]["type"] = "twins"


@pytest.mark.timeout(300)
async def test_hostile_names(tmp_path, effort: Effort):
    """All are kept, each under a name of its own that is safe everywhere.

    The VMS is installed anew twice and counts its ids again, once with names that
    differ in case and Unicode form only, once with names as we number them.
    """
    began = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    listed = 0
    async with Vms(other_origin=False) as vms:
        scene = Scene(tmp_path, vms)
        scene.add_target("vault", _VAULT)
        scene.site.tables["sources"]["hq"]["concurrency"] = 16
        wrong: list[str] = []
        for age, change, names in (
            (0, _same, NAMES),
            (1, _swapped, NAMES[::2]),
            (2, _numbered, NAMES[::6]),
        ):
            if age:
                _escaped(vms)
            changed = [change(name) for name in names]
            _list_names(scene, changed, began + timedelta(minutes=age))
            listed += len(vms.catalogue)
            wrong += await scene.once()
        wrong += await scene.settle()
        for root in scene.checker.roots.values():
            wrong += _unsafe(root)
        wrong += _raw_names(scene)
        shown = (await run("list", config=scene.config)).out
        media = [path for path in scene.home.rglob("*.mp4") if path.is_file()]

    assert wrong == []
    assert len(NAMES) >= 300 and len(media) == 2 * listed
    assert (scene.home / "vault" / "hq" / "twins" / "pair15~2.mp4").is_file()
    assert not re.search(
        r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown
    )
    effort.record(8, names=len(NAMES), files=len(media), escapes=0, collisions=0)


@pytest.mark.parametrize("openings", ["unsanitised", "unsanitised,unguarded"])
async def test_names_taken_as_they_are_show(tmp_path, openings):
    """Without our cleaning not all are kept; without the target's too, some escape."""
    async with Vms(other_origin=False) as vms:
        scene = Scene(tmp_path, vms)
        scene.add_target("vault", "{name}-{id}")
        scene.site.tables["transfer"]["retry_max"] = "20ms"
        for name in ("x", "../escaped", "x?", "con", "Gate."):
            scene.offer(name)
        escapes = await scene.once(openings=openings)
        lost = await scene.settle()
        unsafe = _unsafe(scene.home / "vault")

    assert unsafe
    assert bool(escapes) == ("unguarded" in openings)
    assert bool(lost) == ("unguarded" not in openings)


def _fill(url: Url, scene: Scene, path: str) -> str:
    text = url.text.replace("{path}", path).replace("{host}", scene.host)
    elsewhere = _port(scene.vms.other_url)
    return text.replace("{port}", str(scene.vms.port)).replace("{elsewhere}", elsewhere)


def _port(url: str) -> str:
    return url.rpartition(":")[2]


def _list_urls(scene: Scene, urls: list[Url]) -> dict[int, tuple[Url, str]]:
    """List each url, and where it can be, redirect to it from a legal one."""
    vms, wanted = scene.vms, {}
    for url in urls:
        end = url.abroad if scene.host == NAMED and url.abroad else url.end
        listed = vms.add()
        listed.url = _fill(url, scene, vms.file_path(listed))
        wanted[listed.export_id] = (url, end)
        scene.tell(listed, must=end == "saved")
        if not url.as_location:
            continue
        led = vms.add()
        led.url = f"http://{scene.host}:{vms.port}{vms.file_path(led)}"
        location = _fill(url, scene, vms.file_path(led))
        vms.script(led, fault("redirect", to=location))
        wanted[led.export_id] = (url, end)
        scene.tell(led, must=end == "saved")
    return wanted


def _ended_as(row: dict[str, Any]) -> str:
    if (row["state"], row["reason"]) == ("parked", "origin_refused"):
        return "refused"
    if (row["state"], row["reason"]) == ("waiting", "file_gone"):
        return "missing"
    return str(row["state"])


async def _judge_urls(
    scene: Scene, urls: list[Url], *, openings: str = ""
) -> tuple[int, list[str]]:
    """Mirror what the urls lead to; return how many were tried, and what is wrong."""
    wanted = _list_urls(scene, urls)
    plain = [scene.offer("plain") for _ in range(10)]
    wrong = await scene.once(openings=openings)
    listed = {row["id"]: row for row in await scene.listed()}
    for export_id, (url, end) in wanted.items():
        row = listed[export_id]
        if _ended_as(row) != end:
            wrong.append(f"{url} ended {row['state']}: {row['last_error']}")
    wrong += [
        f"{export.export_id} was harmed"
        for export in plain
        if listed[export.export_id]["state"] != "saved"
    ]
    wrong += [
        f"{request.host} was asked"
        for request in scene.vms.requests
        if request.host != f"{scene.host}:{scene.vms.port}"
    ]
    return len(wanted), wrong


@pytest.mark.timeout(300)
@pytest.mark.parametrize("host", ["127.0.0.1", NAMED])
async def test_hostile_urls(tmp_path, effort: Effort, host):
    """Listed or redirected to: nobody but the source is asked, or looked up."""
    async with Vms() as vms:
        scene = Scene(tmp_path, vms, host=host)
        scene.site.tables["sources"]["hq"]["concurrency"] = 16
        openings = "named" if host == NAMED else ""
        tried, wrong = await _judge_urls(scene, list(URLS), openings=openings)

    assert wrong == []
    assert len(URLS) >= 150
    effort.record(8, urls=len(URLS), tried=tried, host=host, others_reached=0)


async def test_a_url_followed_anywhere_shows(tmp_path):
    """Without the check of origins the other server is asked, and the trace says so."""
    elsewhere = [url for url in URLS if url.text == "//{host}:{elsewhere}{path}"]
    async with Vms() as vms:
        scene = Scene(tmp_path, vms)
        _, wrong = await _judge_urls(scene, elsewhere, openings="any_origin")
        address = f"127.0.0.1:{_port(vms.other_url)}"

    assert f"{address} was reached" in wrong and f"{address} was asked" in wrong
