"""A new ledger from what the targets hold: nothing saved is lost, nothing invented."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import sqlite3
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mirror.app import instance, lock
from mirror.app.rebuild import rebuild as rebuilding
from mirror.app.rebuild.rebuild import Oddity
from mirror.app.status import public_json
from mirror.disk import durable
from mirror.errors import LedgerError, LockedError, MirrorError, TargetError
from mirror.ledger import LEDGER_NAME, Filter, Ledger, Partial, checksums
from mirror.model import CopyState, State
from mirror.simulator import Fault, Kind, Stage, Vms
from mirror.targets.directory import scan
from tests import warm_command
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mirror.app.rebuild.rebuild import Odd, Progress
    from mirror.simulator import Export as Served

SIZE = 20_000
HIDDEN = ".archive-mirror"
PARTIAL = Partial(
    spool_dir="x",
    size_bytes=1,
    sha256="x",
    total_bytes=None,
    etag=None,
    last_modified=None,
)
FACTS = (
    *("source", "id", "state", "reason", "name", "camera_id", "stream_type"),
    *("footage_from", "footage_to", "created_at", "first_seen", "deadline"),
    *("size_bytes", "sha256", "attempts", "last_error"),
)


@dataclass(slots=True)
class Kept:
    """A site whose exports are kept on `nas` and, where asked for, on more targets."""

    site: Site
    vms: Vms
    served: list[Served]
    odd: list[Odd] = field(default_factory=list)

    @property
    def ledger(self) -> Path:
        """Where the ledger lies."""
        return self.site.settings().state_dir / LEDGER_NAME

    def root(self, target: str = "nas") -> Path:
        """Return where a target lies."""
        return Path(self.site.tables["targets"][target]["path"])

    def path(self, number: int, target: str = "nas") -> Path:
        """Return where the layout puts the copy of an export."""
        return self.root(target) / f"hq/{self.served[number].export_id}.mp4"

    def sidecar(self, number: int, target: str = "nas") -> Path:
        """Return where its sidecar lies."""
        return Path(f"{self.path(number, target)}.json")

    def rows(self) -> dict[tuple[str, int, str], dict[str, Any]]:
        """Return what `list --json` shows, by identity."""
        ledger = Ledger.read(self.site.settings().state_dir, check=True)
        with contextlib.closing(ledger):
            shown = [
                public_json.export(*one) for one in ledger.queries.exports(Filter())
            ]
        return {(one["source"], one["id"], one["created_at"]): one for one in shown}

    def state(self, number: int) -> str:
        """Return the state of an export."""
        return str(self.site.export(self.served[number]).state)

    def copies(self, number: int) -> dict[str, tuple[str, str | None]]:
        """Return state and path of each copy of an export, by target."""
        copies = self.site.dossier(self.served[number]).copies
        return {one.target: (str(one.state), one.path) for one in copies}

    async def rebuild(self, *targets: str, force: bool = False) -> Progress:
        """Rebuild within this process, so that faults can be played."""
        settings = self.site.settings()
        self.odd = []
        return await rebuilding.run(
            settings,
            targets=targets or sorted(settings.targets),
            force=force,
            told=self.odd.append,
            watch=lambda _: None,
        )

    def oddities(self) -> list[tuple[str, str]]:
        """Return what the last rebuild named, as (oddity, path)."""
        return sorted((str(one.oddity), one.path) for one in self.odd)

    def lose(self) -> None:
        """Remove the ledger and what lies beside it."""
        for path in self.ledger.parent.glob("ledger*"):
            path.unlink()

    async def command(self, *options: str) -> tuple[int, str, str]:
        """Run the real command; return its exit code, stdout and stderr."""
        self.site.settings()
        path = self.site.folder / "archive-mirror.toml"
        ran = await asyncio.to_thread(warm_command.run, ["-c", str(path), *options])
        return ran.code, ran.out.decode(), ran.err.decode()


async def keep(
    folder: Path, vms: Vms, number: int, *targets: str, **source: Any
) -> Kept:
    """Let the real pipeline keep so many exports."""
    site = Site.make(folder, vms, **source)
    site.tables["targets"]["nas"]["layout"] = "{source}/{id}"
    for target in targets:
        site.tables["targets"][target] = {
            "type": "directory",
            "path": str(folder / target),
            "layout": "{source}/{id}",
        }
    served = [vms.add(size=SIZE, name=f"{n}.mp4", camera_id=n) for n in range(number)]
    report = await site.once()
    assert (report.saved, report.owed) == (number, 0)
    return Kept(site, vms, served)


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as served:
        yield served


def alter(sidecar: Path, **given: Any) -> None:
    """Change fields of a sidecar."""
    sidecar.write_text(json.dumps(json.loads(sidecar.read_bytes()) | given))


def alter_ledger(kept: Kept, statement: str) -> None:
    """Change a row past the program: its checksum no longer fits."""
    with contextlib.closing(sqlite3.connect(kept.ledger)) as connection:
        connection.execute(statement)
        connection.commit()


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return all that lies on a target."""
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


# --- what comes back ----------------------------------------------------------


async def test_all_that_is_saved_comes_back(tmp_path, vms):
    """Each fact of each export, each copy; nothing on a target is changed."""
    kept = await keep(tmp_path, vms, 5, "usb")
    before, held = kept.rows(), [tree(kept.root(one)) for one in ("nas", "usb")]
    kept.lose()
    done = await kept.rebuild()
    after = kept.rows()

    assert done.exports == {"saved": 5}
    assert done.aside is None
    assert after.keys() == before.keys()
    for key, row in after.items():
        for name in FACTS:
            assert row[name] == before[key][name], name
        told = [(one["target"], one["state"], one["path"]) for one in row["copies"]]
        wanted = [(o["target"], o["state"], o["path"]) for o in before[key]["copies"]]
        assert told == wanted
        # Lengths were compared, no bytes were read.
        assert [one["verified_at"] for one in row["copies"]] == [None, None]
    assert [tree(kept.root(one)) for one in ("nas", "usb")] == held
    assert kept.odd == []


async def test_what_is_saved_is_not_fetched_again_and_the_rest_is(tmp_path, vms):
    """A run after it goes on with what was not saved, and loses nothing."""
    kept = await keep(tmp_path, vms, 4)
    fresh = vms.add(size=SIZE)
    waiting = vms.add(size=SIZE, stage=Stage.ASKED)
    vms.delete_file(kept.served[0])
    vms.remove_row(kept.served[1])
    kept.lose()
    await kept.rebuild()
    report = await kept.site.once()

    assert (report.saved, report.lost) == (1, 0)
    assert [len(vms.file_requests(one)) for one in kept.served] == [1, 1, 1, 1]
    assert [kept.state(number) for number in range(4)] == ["saved"] * 4
    assert kept.site.export(fresh).state is State.SAVED
    assert kept.site.export(waiting).state is State.WAITING
    code, out, _ = await kept.command("verify")
    assert code == 0, out


async def test_a_service_goes_on_after_it(tmp_path, vms):
    """Walks and sweeps call nothing lost that is kept."""
    kept = await keep(tmp_path, vms, 3, file_lifetime="1s")
    vms.remove_row(kept.served[0])
    vms.delete_file(kept.served[1])
    kept.lose()
    await kept.rebuild()
    sweeps = vms.journal.counters["requests"]
    async with kept.site.service():
        await kept.site.until(
            lambda: vms.journal.counters["requests"] >= sweeps + 12, 60
        )

    assert [kept.state(number) for number in range(3)] == ["saved"] * 3


async def test_the_node_the_devices_and_the_markers_are_kept(tmp_path, vms):
    """They are read from the old ledger; the marker else from the target."""
    kept = await keep(tmp_path, vms, 1)

    def facts() -> tuple[object, ...]:
        with contextlib.closing(Ledger.open(kept.ledger.parent)) as ledger:
            return (
                ledger.node_id(0),
                ledger.walks.source("hq").device_uuid,
                ledger.targets.marker("nas"),
            )

    node, device, marker = facts()
    await kept.rebuild(force=True)
    assert facts() == (node, device, marker)
    kept.lose()
    await kept.rebuild()
    found = facts()

    assert found[2] == marker
    assert found[0] != node
    assert found[1] != device


async def test_the_old_ledger_is_moved_aside_whole(tmp_path, vms):
    """Never deleted; and what is sound in it is carried over."""
    kept = await keep(tmp_path, vms, 2)
    lost = vms.add(size=SIZE)
    vms.script(lost, then=Fault(kind=Kind.STATUS, status=404))
    await kept.site.once()
    history = kept.site.dossier(lost).attempts
    assert history
    done = await kept.rebuild(force=True)

    assert done.aside is not None
    assert done.carried == 3
    with contextlib.closing(sqlite3.connect(done.aside)) as old:
        assert old.execute("SELECT count(*) FROM exports").fetchone() == (3,)
    assert kept.site.dossier(lost).attempts == history
    assert kept.site.export(lost).reason == "file_gone"
    assert done.aside.stat().st_mode & 0o777 == 0o600
    assert kept.ledger.stat().st_mode & 0o777 == 0o600
    assert not list(kept.ledger.parent.glob("rebuilding*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it gives files away")
async def test_what_root_rebuilds_belongs_to_the_service(tmp_path, vms):
    """It could not start else."""
    kept = await keep(tmp_path, vms, 1)
    os.chown(kept.ledger.parent, 65534, 65534)
    await kept.rebuild(force=True)
    about = kept.ledger.stat()

    assert (about.st_uid, about.st_gid) == (65534, 65534)


async def test_totals_do_not_begin_below_what_is_kept(tmp_path, vms):
    """Neither without an old ledger, nor beside one that has counted more."""
    kept = await keep(tmp_path, vms, 3)

    def saved() -> dict[tuple[str, str], int]:
        with contextlib.closing(Ledger.open(kept.ledger.parent)) as ledger:
            return ledger.queries.totals("saved")

    with contextlib.closing(Ledger.open(kept.ledger.parent)) as ledger:
        with ledger._db.transaction() as connection:
            connection.execute("UPDATE totals SET total = 40")
    await kept.rebuild(force=True)
    assert saved() == {("hq", ""): 40}
    kept.lose()
    await kept.rebuild()

    assert saved() == {("hq", ""): 3}


async def test_what_waits_in_the_spool_is_not_forgotten(tmp_path, vms):
    """Its target was away, and the VMS has deleted the file meanwhile."""
    kept = await keep(tmp_path, vms, 1, "usb")
    away = kept.root("usb").rename(tmp_path / "away")
    served = vms.add(size=SIZE)
    await kept.site.once()
    assert kept.site.export(served).state is State.SPOOLED
    vms.delete_file(served)
    away.rename(kept.root("usb"))
    await kept.rebuild(force=True)
    report = await kept.site.once()

    assert (report.saved, report.owed, report.lost) == (1, 0, 0)
    assert len(vms.file_requests(served)) == 1
    assert kept.site.export(served).state is State.SAVED


def spooled(kept: Kept) -> list[Path]:
    """Return what lies in the spool."""
    return sorted((kept.ledger.parent / "spool").iterdir())


async def wait(kept: Kept, vms: Vms) -> Served:
    """Let one export wait in the spool while its targets are away."""
    roots = [kept.root(name) for name in kept.site.tables["targets"]]
    away = [root.rename(f"{root}-away") for root in roots]
    served = vms.add(size=SIZE)
    await kept.site.once()
    assert kept.site.export(served).state is State.SPOOLED
    for root, one in zip(roots, away, strict=True):
        one.rename(root)
    return served


async def test_what_waits_in_the_spool_keeps_its_node(tmp_path, vms):
    """The node's id is part of its name; the row that holds it may be the damaged."""
    kept = await keep(tmp_path, vms, 1, "usb")
    served = await wait(kept, vms)
    vms.delete_file(served)
    alter_ledger(kept, "UPDATE node SET node_id = 'ffffffff'")
    progress = await kept.rebuild()
    report = await kept.site.once()

    assert progress.unclaimed == []
    assert (report.saved, report.owed, report.lost) == (1, 0, 0)
    assert kept.site.export(served).state is State.SAVED
    assert spooled(kept) == []


@pytest.mark.parametrize("how", ["lost", "its row is damaged", "on a target"])
async def test_what_nobody_knows_in_the_spool_is_kept_and_named(tmp_path, vms, how):
    """No fetch empties it, no tidying removes it; it may be all that is left."""
    kept = await keep(tmp_path, vms, 1, "usb")
    served = await wait(kept, vms)
    (before,) = spooled(kept)
    body = before.read_bytes()
    if how == "on a target":
        hidden = kept.root() / ".archive-mirror/spool"
        hidden.mkdir(exist_ok=True)
        before = before.rename(hidden / before.name)
    if how == "its row is damaged":
        change = "UPDATE exports SET order_us = order_us + 1 WHERE export_id = "
        alter_ledger(kept, f"{change}{served.export_id}")
    else:
        kept.lose()
    code, out, _ = await kept.command("rebuild")
    (path,) = before.parent.iterdir()
    await kept.site.once()

    assert code == 0
    assert f"unclaimed  {path}: of hq/{served.export_id}, {SIZE} bytes" in out
    assert ("1 exports in it cannot be read" in out) == (how == "its row is damaged")
    assert kept.site.export(served).state is State.SAVED
    assert path.read_bytes() == body


async def test_what_other_machines_have_spooled_is_not_ours(tmp_path, vms):
    """They may share the target; as long as we know our own node's id."""
    kept = await keep(tmp_path, vms, 1)
    hidden = kept.root() / ".archive-mirror/spool"
    hidden.mkdir(exist_ok=True)
    other = hidden / "hq-7-0123abcd.deadbeef.part"
    other.write_bytes(b"theirs")
    progress = await kept.rebuild(force=True)

    assert progress.unclaimed == []
    assert other.read_bytes() == b"theirs"


# --- what is not as it should be ----------------------------------------------


@pytest.mark.parametrize("sibling", [False, True])
@pytest.mark.parametrize("how", ["gone", "short", "long", "folder", "link"])
async def test_a_file_that_is_not_there_is_not_called_saved(
    tmp_path, vms, how, sibling
):
    """Its copy is damaged; the export too, unless another target has it."""
    kept = await keep(tmp_path, vms, 2, *(["usb"] if sibling else []))
    path = kept.path(0)
    content = path.read_bytes()
    path.unlink()
    match how:
        case "short":
            path.write_bytes(content[:-1])
        case "long":
            path.write_bytes(content + b"x")
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(kept.path(1))
    kept.lose()
    done = await kept.rebuild()

    assert kept.copies(0)["nas"][0] == "damaged"
    assert kept.state(0) == ("saved" if sibling else "damaged")
    assert kept.state(1) == "saved"
    assert done.targets["nas"].odd == {Oddity.DAMAGED: 1}
    name = path.relative_to(kept.root()).as_posix()
    assert kept.oddities() == [("damaged", name)]
    assert (await kept.site.once()).owed == 0
    assert kept.state(0) == "saved"


@pytest.mark.parametrize(
    "given", [None, {"id": -1}, {"item": {"id": 1}}, {"created_key": "\ud800"}]
)
async def test_a_sidecar_that_proves_nothing_is_named(tmp_path, vms, given):
    """Never fatal; the file beside it is left alone and not called saved."""
    kept = await keep(tmp_path, vms, 2)
    if given is None:
        kept.sidecar(0).write_bytes(b'{"a": ' * 100_000)
    else:
        alter(kept.sidecar(0), **given)
    kept.lose()
    done = await kept.rebuild()

    assert done.exports == {"saved": 1}
    assert done.targets["nas"].odd == {Oddity.UNREADABLE: 1}
    assert kept.odd[0].text


@pytest.mark.parametrize(
    "given", [{"name": "\ud800.mp4"}, {"item": None, "path": "/etc/passwd"}]
)
async def test_what_only_describes_may_be_missing(tmp_path, vms, given):
    """Identity, length and digest are enough."""
    kept = await keep(tmp_path, vms, 1)
    alter(kept.sidecar(0), **given)
    kept.lose()
    await kept.rebuild()

    assert kept.state(0) == "saved"
    assert kept.copies(0) == {"nas": ("saved", f"hq/{kept.served[0].export_id}.mp4")}
    assert (await kept.site.once()).owed == 0
    assert len(vms.file_requests(kept.served[0])) == 1


async def test_files_of_other_sources_and_of_other_people_are_left_alone(tmp_path, vms):
    """Several machines may share a target; people put files there."""
    kept = await keep(tmp_path, vms, 2)
    shutil.copytree(kept.root() / "hq", kept.root() / "annex")
    for path in (kept.root() / "annex").glob("*.json"):
        alter(path, source="annex")
    (kept.root() / "notes.json").write_text("{}")
    (kept.root() / "film.mp4").write_bytes(b"film")
    kept.lose()
    done = await kept.rebuild()

    assert done.exports == {"saved": 2}
    assert done.targets["nas"].odd == {Oddity.FOREIGN: 2}
    assert "annex" in kept.odd[0].text


async def test_the_place_where_a_file_lies_counts(tmp_path, vms):
    """Users move folders; the path that the sidecar tells is not asked."""
    kept = await keep(tmp_path, vms, 2)
    (kept.root() / "hq").rename(kept.root() / "old footage, 2026")
    await kept.rebuild(force=True)
    names = [f"old footage, 2026/{one.export_id}.mp4" for one in kept.served]

    assert [kept.copies(n)["nas"] for n in range(2)] == [("saved", n) for n in names]
    assert (await kept.command("verify"))[0] == 0
    assert (await kept.site.once()).owed == 0
    assert kept.site.media().keys() == set(names)


async def test_an_id_counted_anew_is_another_export(tmp_path, vms):
    """Identity is source, id and created_key."""
    kept = await keep(tmp_path, vms, 1)
    for suffix in ("mp4", "mp4.json"):
        old = kept.path(0).with_name(f"{kept.served[0].export_id}.{suffix}")
        shutil.copy(old, old.with_name(f"{kept.served[0].export_id}~2.{suffix}"))
    alter(
        kept.path(0).with_name(f"{kept.served[0].export_id}~2.mp4.json"),
        created_at="2020-01-01T00:00:00Z",
        created_key="2020-01-01T00:00:00.000000Z",
    )
    kept.lose()
    done = await kept.rebuild()

    assert done.exports == {"saved": 2}
    assert len({row["copies"][0]["path"] for row in kept.rows().values()}) == 2


@pytest.mark.parametrize("first", ["good", "bad"])
async def test_of_two_files_of_one_export_the_good_one_wins(
    tmp_path, vms, monkeypatch, first
):
    """In whichever order they are met; the other is named."""
    kept = await keep(tmp_path, vms, 1)
    good = kept.path(0)
    bad = good.with_name(f"{good.stem}~2.mp4")
    shutil.copy(kept.sidecar(0), f"{bad}.json")
    in_order(monkeypatch, reverse=(first == "bad"))
    kept.lose()
    await kept.rebuild()

    assert kept.copies(0) == {"nas": ("saved", f"hq/{good.name}")}
    (named,) = kept.odd
    assert named.path == f"hq/{bad.name}"
    assert named.oddity == (Oddity.SECOND if first == "good" else Oddity.DAMAGED)


@pytest.mark.parametrize("reverse", [False, True])
async def test_of_two_good_files_one_is_used_and_one_is_named(
    tmp_path, vms, monkeypatch, reverse
):
    """Somebody has copied a folder."""
    kept = await keep(tmp_path, vms, 1)
    shutil.copytree(kept.root() / "hq", kept.root() / "again")
    in_order(monkeypatch, reverse=reverse)
    kept.lose()
    await kept.rebuild()
    name = kept.path(0).name
    used, other = (f"{one}/{name}" for one in ("again", "hq"))
    if reverse:
        used, other = other, used

    assert kept.copies(0) == {"nas": ("saved", used)}
    assert kept.oddities() == [("second", other)]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("known", [False, True])
async def test_of_two_versions_the_newer_one_wins(
    tmp_path, vms, monkeypatch, reverse, known
):
    """An export made again after damage lies beside the old file."""
    kept = await keep(tmp_path, vms, 1)
    old = kept.path(0)
    old.write_bytes(old.read_bytes()[:-1] + b"?")
    assert (await kept.command("verify"))[0] == 4
    vms.make_file(kept.served[0], size=SIZE)
    assert (await kept.site.once()).owed == 0
    right = kept.site.export(kept.served[0]).sha256
    assert kept.copies(0)["nas"][1] == f"hq/{old.stem}~2.mp4"
    in_order(monkeypatch, reverse=reverse)
    if not known:
        kept.lose()
    await kept.rebuild(force=True)

    assert kept.site.export(kept.served[0]).sha256 == right
    assert kept.copies(0) == {"nas": ("saved", f"hq/{old.stem}~2.mp4")}
    assert kept.state(0) == "saved"


async def test_what_verify_found_damaged_stays_so(tmp_path, vms):
    """Its length is right, and always was."""
    kept = await keep(tmp_path, vms, 2)
    path = kept.path(0)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert (await kept.command("verify"))[0] == 4
    done = await kept.rebuild(force=True)

    assert [kept.state(number) for number in range(2)] == ["damaged", "saved"]
    assert done.targets["nas"].odd == {Oddity.KNOWN_DAMAGED: 1}


async def test_a_file_whose_sidecar_is_gone_is_known_from_the_old_ledger(tmp_path, vms):
    """By its length; one that is gone with its sidecar is damaged."""
    kept = await keep(tmp_path, vms, 3)
    kept.sidecar(0).unlink()
    kept.sidecar(1).unlink()
    kept.path(1).unlink()
    await kept.rebuild(force=True)

    states = [kept.copies(number)["nas"][0] for number in range(3)]
    assert states == ["saved", "damaged", "saved"]
    assert [kept.state(number) for number in range(3)] == states


async def test_links_and_the_hidden_folder_are_passed_over(tmp_path, vms):
    """What was set aside as damaged must not come back, wherever it was copied."""
    kept = await keep(tmp_path, vms, 1)
    outside = tmp_path / "outside"
    shutil.copytree(kept.root() / "hq", outside)
    (kept.root() / "link").symlink_to(outside)
    shutil.copytree(kept.root() / "hq", kept.root() / HIDDEN / "damaged")
    shutil.copytree(kept.root() / "hq", kept.root() / "copy" / HIDDEN / "damaged")
    kept.path(0).unlink()
    kept.lose()
    await kept.rebuild()

    assert kept.copies(0)["nas"][0] == "damaged"
    assert kept.oddities() == [("damaged", f"hq/{kept.path(0).name}")]


async def test_names_that_are_no_text_and_trees_too_deep_are_named(tmp_path, vms):
    """They cannot be written to the ledger; the rest is not held up."""
    kept = await keep(tmp_path, vms, 1)
    odd = Path(os.fsdecode(os.fsencode(kept.root()) + b"/\xff.mp4.json"))
    odd.write_bytes(kept.sidecar(0).read_bytes())
    deep = kept.root().joinpath(*["d"] * 70)
    deep.mkdir(parents=True)
    shutil.copy(kept.sidecar(0), deep / "x.mp4.json")
    kept.lose()
    done = await kept.rebuild()

    assert done.exports == {"saved": 1}
    assert done.targets["nas"].odd == {Oddity.UNREADABLE: 2}


async def test_a_folder_that_cannot_be_read_proves_nothing(tmp_path, vms, monkeypatch):
    """It is named; what the old ledger knew in it stays saved."""
    kept = await keep(tmp_path, vms, 2)
    real = durable.open_folder

    def open_folder(name: str, *, within: int) -> int:
        if name == "hq":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return real(name, within=within)

    with monkeypatch.context() as patched:
        patched.setattr(durable, "open_folder", open_folder)
        done = await kept.rebuild(force=True)

    assert done.exports == {"saved": 2}
    assert kept.oddities() == [("unreadable", "hq")]


def in_order(monkeypatch: pytest.MonkeyPatch, *, reverse: bool) -> None:
    """Let a target be read in the order of its paths."""
    real = scan.sidecars
    monkeypatch.setattr(
        scan,
        "sidecars",
        lambda root: iter(
            sorted(real(root), key=lambda one: one.path, reverse=reverse)
        ),
    )


# --- what is refused ----------------------------------------------------------


async def test_a_sound_ledger_is_refused_and_the_text_says_why(tmp_path, vms):
    """It is as it was; exit 1."""
    kept = await keep(tmp_path, vms, 2)
    before = kept.rows()
    code, out, err = await kept.command("rebuild")

    assert (code, out) == (1, "")
    assert "is sound and holds 2 exports" in err
    assert "--force" in err
    assert "Traceback" not in err
    assert kept.rows() == before
    assert not list(kept.ledger.parent.glob("*.replaced-*"))


async def test_beside_a_running_service_it_is_refused(tmp_path, vms):
    """Exit 75."""
    kept = await keep(tmp_path, vms, 1)
    with lock.held(kept.ledger.parent):
        with pytest.raises(LockedError):
            await kept.rebuild(force=True)
        assert (await kept.command("rebuild", "--force"))[0] == 75


@pytest.mark.parametrize("how", ["away", "empty", "other", "unmounted", "marker"])
@pytest.mark.parametrize("known", [False, True])
async def test_a_target_that_is_not_there_is_refused(tmp_path, vms, how, known):
    """Nothing is concluded from an empty tree; the old ledger stays."""
    kept = await keep(tmp_path, vms, 1, "usb")
    if not known:
        kept.lose()
    root = kept.root("usb")
    match how:
        case "away":
            root.rename(tmp_path / "elsewhere")
        case "empty":
            root.rename(tmp_path / "elsewhere")
            root.mkdir()
        case "other":
            marker = root / HIDDEN / "target.json"
            marker.write_text('{"target_id": "another"}')
        case "unmounted":
            kept.site.tables["targets"]["usb"]["mount"] = True
        case "marker":
            (root / HIDDEN / "target.json").write_text("?")
    before = kept.ledger.read_bytes() if known else None
    if how == "other" and not known:
        # Without a ledger, the marker that is found is taken for the right one.
        assert (await kept.rebuild()).exports == {"saved": 1}
        return
    with pytest.raises(TargetError, match="usb"):
        await kept.rebuild(force=True)

    assert (kept.ledger.read_bytes() if known else None) == before
    assert (await kept.rebuild("nas", force=True)).exports == {"saved": 1}
    # What is known of a target that was not read is carried over as it was.
    assert kept.copies(0).get("usb", ("", ""))[0] == ("saved" if known else "")


async def test_a_target_that_is_not_configured_is_a_usage_error(tmp_path, vms):
    """Exit 2."""
    kept = await keep(tmp_path, vms, 1)

    assert (await kept.command("rebuild", "--target", "nowhere"))[0] == 2


async def test_a_target_that_goes_away_meanwhile_leaves_the_old_ledger(
    tmp_path, vms, monkeypatch
):
    """Half of a tree proves nothing of the other half."""
    kept = await keep(tmp_path, vms, 2)
    before = kept.rows()
    monkeypatch.setattr(scan, "sidecars", _stale)
    with pytest.raises(TargetError, match="away"):
        await kept.rebuild(force=True)

    assert kept.rows() == before
    assert not list(kept.ledger.parent.glob("rebuilding*"))


@pytest.mark.parametrize("call", ["_flush", "_replace"])
async def test_a_full_disk_leaves_the_old_ledger(tmp_path, vms, monkeypatch, call):
    """Exit 74, with what to do."""
    kept = await keep(tmp_path, vms, 1)
    before = kept.rows()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(rebuilding, call, full)
        with pytest.raises(LedgerError, match="free some space"):
            await kept.rebuild(force=True)

    assert kept.rows() == before
    assert not list(kept.ledger.parent.glob("rebuilding*"))
    assert (await kept.rebuild(force=True)).exports == {"saved": 1}


def _stale(_: int) -> Any:
    yield from ()
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


async def test_a_target_that_hangs_is_given_up(tmp_path, vms, monkeypatch):
    """With the target's name; a mount that answers never must not hold it for ever."""
    kept = await keep(tmp_path, vms, 1)
    monkeypatch.setattr("mirror.pipeline.verify.read_copy.HUNG_S", 0.2)
    release = threading.Event()

    def hang(_: int) -> Any:
        release.wait(20)
        yield from ()

    monkeypatch.setattr(scan, "sidecars", hang)
    with pytest.raises(TargetError, match="hangs"):
        await kept.rebuild(force=True)
    release.set()


# --- the command --------------------------------------------------------------


async def test_the_command_says_what_it_found(tmp_path, vms):
    """Per target; and that `verify` proves the bytes."""
    kept = await keep(tmp_path, vms, 3, "usb")
    kept.path(0, "usb").unlink()
    kept.sidecar(1, "usb").write_text("?")
    kept.ledger.write_bytes(b"no database" * 1000)
    code, _, err = await kept.command("once")
    assert code == 74
    assert "archive-mirror rebuild" in err
    code, out, err = await kept.command("rebuild")

    assert code == 0, err
    assert "target nas: 3 sidecars read; copies: saved 3" in out
    assert "target usb: 3 sidecars read; copies: damaged 1, saved 1; not taken" in out
    assert f"damaged  usb:hq/{kept.path(0).name}" in out
    assert "the new ledger holds: saved 3" in out
    assert "archive-mirror verify" in out
    (aside,) = kept.ledger.parent.glob("*.replaced-*")
    assert str(aside) in out
    assert aside.read_bytes() == b"no database" * 1000


async def test_a_flood_of_oddities_is_counted_and_named_in_part(tmp_path, vms):
    """A shared target may hold a million files of another source."""
    kept = await keep(tmp_path, vms, 1)
    for number in range(150):
        shutil.copy(kept.sidecar(0), kept.root() / f"{number}.mp4.json")
        alter(kept.root() / f"{number}.mp4.json", source="annex")
    kept.lose()
    code, out, _ = await kept.command("rebuild")

    assert code == 0
    assert out.count("foreign  ") == 100
    assert "foreign 150" in out


# --- the -wal file, and a ledger that is older than the archive ---------------


async def test_the_log_of_a_ledger_that_is_gone_is_kept(tmp_path, vms):
    """SQLite would delete it."""
    kept = await keep(tmp_path, vms, 1)
    log = kept.ledger.with_name(f"{LEDGER_NAME}-wal")
    kept.ledger.unlink()
    log.write_bytes(b"of the old ledger")
    await kept.site.once()

    (left,) = log.parent.glob("*-wal.left-*")
    assert left.read_bytes() == b"of the old ledger"


@pytest.mark.parametrize("closer", [None, "status", "retry"])
async def test_commits_that_are_missing_are_told(tmp_path, vms, caplog, closer):
    """Whoever closed the ledger last; once, loudly, with the remedy."""
    kept = await keep(tmp_path, vms, 1)
    old = kept.ledger.read_bytes()
    vms.add(size=SIZE)
    await kept.site.once()
    if closer == "status":
        assert (await kept.command("status"))[0] == 0
    if closer == "retry":
        assert (await kept.command("retry", "--state", "saved"))[0] == 0
    assert _lost_commits(kept) == 0
    kept.ledger.write_bytes(old)
    assert _lost_commits(kept) > 0
    code, _, err = await kept.command("once", "--log-format", "json")

    assert code == 0
    (event,) = [
        one for one in map(json.loads, err.splitlines()) if one["level"] == "error"
    ]
    assert event["event"] == "ledger.set_back"
    assert event["path"] == str(kept.ledger)
    assert "archive-mirror rebuild --force" in event["error"]
    assert _lost_commits(kept) == 0


def _lost_commits(kept: Kept) -> int:
    with contextlib.closing(Ledger.open(kept.ledger.parent)) as ledger:
        return ledger.lost_commits


async def test_a_ledger_set_back_is_rebuilt_without_force(tmp_path, vms):
    """It does not know all that it knew."""
    kept = await keep(tmp_path, vms, 1)
    old = kept.ledger.read_bytes()
    kept.served.append(vms.add(size=SIZE))
    await kept.site.once()
    kept.ledger.write_bytes(old)
    assert (await kept.rebuild()).exports == {"saved": 2}
    assert _lost_commits(kept) == 0
    with pytest.raises(MirrorError, match="is sound"):
        await kept.rebuild()


async def test_a_backup_from_before_a_rebuild_is_known_to_be_older(tmp_path, vms):
    """The new ledger counts on from where the old one was."""
    kept = await keep(tmp_path, vms, 1)
    old = kept.ledger.read_bytes()
    kept.served.append(vms.add(size=SIZE))
    await kept.site.once()
    await kept.rebuild(force=True)
    assert _lost_commits(kept) == 0
    kept.ledger.write_bytes(old)
    assert _lost_commits(kept) > 0
    assert (await kept.rebuild()).exports == {"saved": 2}


async def test_an_empty_ledger_that_meets_an_archive_says_so(tmp_path, vms):
    """And goes on: a first run on a shared target is right, and footage comes first."""
    kept = await keep(tmp_path, vms, 2)
    kept.lose()
    vms.add(size=SIZE)
    code, _, err = await kept.command("once", "--log-format", "json")

    assert code == 0
    (event,) = [
        one for one in map(json.loads, err.splitlines()) if one["level"] == "error"
    ]
    assert event["event"] == "ledger.empty"
    assert "archive-mirror rebuild --force" in event["error"]
    assert (await kept.rebuild(force=True)).exports == {"saved": 3}


@pytest.mark.parametrize("how", ["first", "foreign"])
async def test_a_first_run_says_nothing_of_a_lost_ledger(tmp_path, vms, how):
    """On an empty target, or on one that holds files of other sources."""
    kept = await keep(tmp_path, vms, 1)
    kept.lose()
    if how == "first":
        shutil.rmtree(kept.root())
    else:
        alter(kept.sidecar(0), source="annex")
        kept.site.tables["targets"]["nas"]["layout"] = "{source}/new/{id}"
    code, _, err = await kept.command("once", "--log-format", "json")

    assert code == 0
    assert "ledger.empty" not in err


@pytest.mark.parametrize("vanished", ["file", "row"])
@pytest.mark.parametrize("place", ["path", "number"])
async def test_what_a_target_keeps_is_not_called_lost(tmp_path, vms, vanished, place):
    """An older ledger is put back; the VMS has deleted what was saved since."""
    kept = await keep(tmp_path, vms, 1, "usb", file_lifetime="1s")
    served = vms.add(size=SIZE)
    path = kept.root() / f"hq/{served.export_id}.mp4"
    if place == "number":
        path.write_bytes(b"of somebody else")
        path = path.with_name(f"{served.export_id}~2.mp4")
    async with kept.site.engine() as engine:
        await engine.listers["hq"].once(1)
    old = kept.ledger.read_bytes()
    assert (await kept.site.once()).saved == 1
    kept.ledger.write_bytes(old)
    assert kept.site.export(served).state is State.READY
    if vanished == "file":
        vms.delete_file(served)
    else:
        vms.remove_row(served)
        vms.script(served, then=Fault(kind=Kind.STATUS, status=503))
    async with kept.site.service():
        await kept.site.until_state(served, State.SAVED)
        await kept.site.until(
            lambda: (
                {one.target: one.state for one in kept.site.dossier(served).copies}
                == dict.fromkeys(("nas", "usb"), CopyState.SAVED)
            )
        )
        asked = vms.journal.counters["requests"]
        await kept.site.until(lambda: vms.journal.counters["requests"] > asked + 12, 60)

    assert kept.site.export(served).state is State.SAVED
    copies = {one.target: one for one in kept.site.dossier(served).copies}
    assert copies["nas"].path == str(path.relative_to(kept.root()))


@pytest.mark.parametrize("how", ["nothing", "other", "anew", "short", "garbage"])
async def test_what_no_target_keeps_is_lost_all_the_same(tmp_path, vms, how):
    """A file of another export at its path, or half of its own, saves nothing."""
    kept = await keep(tmp_path, vms, 1, file_lifetime="1s")
    served = vms.add(size=SIZE)
    async with kept.site.engine() as engine:
        await engine.listers["hq"].once(1)
    assert kept.site.export(served).state is State.READY
    vms.delete_file(served)
    path = kept.root() / f"hq/{served.export_id}.mp4"
    if how != "nothing":
        shutil.copy(kept.path(0), path)
        shutil.copy(kept.sidecar(0), f"{path}.json")
    match how:
        case "anew":
            alter(Path(f"{path}.json"), id=served.export_id, item=None)
        case "short":
            key = kept.site.export(served).created_key
            given = {"id": served.export_id, "created_key": key, "item": None}
            alter(Path(f"{path}.json"), **given)
            path.write_bytes(b"short")
        case "garbage":
            Path(f"{path}.json").write_bytes(b"\xff")
    async with kept.site.service():
        await kept.site.until_state(served, State.LOST)


async def test_a_target_that_hangs_does_not_hold_up_the_walks(
    tmp_path, vms, monkeypatch
):
    """What is looked for there is looked for at a later walk."""
    monkeypatch.setattr("mirror.pipeline.publish.already_kept.PATIENCE_S", 0.1)
    kept = await keep(tmp_path, vms, 1, file_lifetime="1s")
    served = vms.add(size=SIZE)
    async with kept.site.engine() as engine:
        await engine.listers["hq"].once(1)
    vms.delete_file(served)
    release = threading.Event()

    def hang(*_: Any) -> None:
        release.wait(20)

    monkeypatch.setattr(scan, "beside", hang)
    async with kept.site.service():
        await kept.site.until_state(served, State.LOST)
        release.set()


# --- the ledger's own defence -------------------------------------------------


async def test_a_running_service_reads_all_of_the_ledger(tmp_path, vms):
    """Beside its work, for that may take a minute; what nothing else reads, too."""
    kept = await keep(tmp_path, vms, 1)
    alter_ledger(kept, "UPDATE items SET item = x'00'")
    code, _, err = await kept.command("run")

    assert code == 74
    assert f"the ledger {kept.ledger} is damaged (1 rows of items" in err
    assert "`archive-mirror rebuild`" in err


async def test_a_stop_does_not_wait_for_the_ledger_to_be_read(
    tmp_path, vms, monkeypatch
):
    """However large it is."""
    kept = await keep(tmp_path, vms, 1)

    def endless(connection, made):
        count = "WITH RECURSIVE n AS (SELECT 1 UNION ALL SELECT 1 FROM n) SELECT 1 FROM"
        connection.execute(f"SELECT count(*) FROM ({count} n)").fetchone()

    monkeypatch.setattr(checksums, "problem", endless)
    async with asyncio.timeout(30), instance.proving(kept.ledger.parent) as reading:
        await asyncio.sleep(0.1)

        assert not reading.done()
    assert reading.done()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE exports SET sha256 = replace(sha256, 'a', 'b'), size_bytes = 1",
        "UPDATE exports SET deadline_us = deadline_us + 1",
        "UPDATE copies SET path = path || 'x'",
        "UPDATE targets SET marker_id = 'x'",
        "UPDATE items SET item = zeroblob(3)",
        "UPDATE totals SET total = total + 1",
        "UPDATE node SET node_id = 'x'",
        "UPDATE attempts SET held_bytes = 1",
        "UPDATE sources SET clock_offset_us = 5",
        "DROP INDEX exports_ready",
        "PRAGMA user_version = 0",
        "PRAGMA user_version = 2",
    ],
)
@pytest.mark.parametrize("how", [Ledger.open, None])
async def test_what_nobody_wrote_is_found(tmp_path, vms, statement, how):
    """A row that was changed past the program is as good as a flipped bit."""
    kept = await keep(tmp_path, vms, 1)
    with contextlib.closing(sqlite3.connect(kept.ledger)) as past:
        past.execute(statement)
        past.commit()
    with pytest.raises(LedgerError, match=r"is damaged.*archive-mirror rebuild"):
        if how is not None:
            how(kept.ledger.parent)
        else:
            Ledger.read(kept.ledger.parent, check=True)
    assert (await kept.rebuild()).exports == {"saved": 1}


@pytest.mark.parametrize(
    ("statement", "ask"),
    [
        ("UPDATE exports SET name = 'x'", lambda ledger: ledger.by_state(State.SAVED)),
        (
            "UPDATE copies SET path = 'x'",
            lambda ledger: list(ledger.queries.exports(Filter())),
        ),
        (
            "UPDATE exports SET order_us = 5",
            lambda ledger: ledger.fetches.checkpoint(1, PARTIAL),
        ),
        (
            "UPDATE copies SET attempts = 5",
            lambda ledger: ledger.copies.release(1, "nas"),
        ),
    ],
)
async def test_damage_is_met_in_use_too(tmp_path, vms, statement, ask):
    """It is neither given out as truth nor written over and so made true."""
    kept = await keep(tmp_path, vms, 1)
    with contextlib.closing(sqlite3.connect(kept.ledger)) as past:
        past.execute(statement)
        past.commit()
    with pytest.raises(LedgerError, match=r"is damaged.*archive-mirror rebuild"):
        with Ledger.reading(kept.ledger.parent, check=False) as ledger:
            ask(ledger)
