"""Kept copies read again: what is found, what is said of it, what is repaired."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mirror.app import lock
from mirror.app import verify as verifying
from mirror.app.status import metrics_snapshot as snapshot_of_ledger
from mirror.cli.progress import ReadLines
from mirror.disk import durable
from mirror.errors import LockedError, TargetError
from mirror.ledger import Ledger
from mirror.model import CopyState, State, iso
from mirror.pipeline.verify import read_copy
from mirror.pipeline.verify.scrub import Sample
from mirror.simulator import Fault, Kind, Vms
from mirror.targets.directory import read
from mirror.targets.directory.target import DirectoryTarget
from tests import warm_command
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mirror.pipeline.verify.judge import Finding, Tally
    from mirror.simulator import Export as Served

HIDDEN = ".archive-mirror"
SIZE = 20_000
FINDING_KEYS = {
    "source",
    "id",
    "created_at",
    "target",
    "path",
    "problem",
    "text",
    "repaired",
}


@dataclass(slots=True)
class Kept:
    """A site whose exports are kept on `nas` and, where asked for, on `usb`."""

    site: Site
    vms: Vms
    served: list[Served]

    def root(self, target: str = "nas") -> Path:
        """Return where a target lies."""
        return Path(self.site.tables["targets"][target]["path"])

    def path(self, number: int, target: str = "nas") -> Path:
        """Return where the copy of one export lies, by the ledger."""
        copies = self.site.dossier(self.served[number]).copies
        (path,) = [one.path for one in copies if one.target == target]
        return self.root(target) / str(path)

    def sidecar(self, number: int, target: str = "nas") -> Path:
        """Return where its sidecar lies."""
        return Path(f"{self.path(number, target)}.json")

    def copy(self, number: int, target: str = "nas"):
        """Return the ledger's record of one copy."""
        copies = self.site.dossier(self.served[number]).copies
        return next(one for one in copies if one.target == target)

    def truth(self, number: int) -> str:
        """Return the digest of the VMS's own file."""
        return str(self.vms.truth(self.served[number]).sha256)

    async def verify(
        self,
        *targets: str,
        sample: Sample | None = None,
        repair: bool = False,
        watch: Callable[[Any], None] = lambda _: None,
    ) -> tuple[Tally, list[Finding]]:
        """Verify within this process, so that faults can be played."""
        found: list[Finding] = []
        settings = self.site.settings()
        tally = await verifying.run(
            settings,
            targets=targets or sorted(settings.targets),
            sample=sample or Sample(),
            repair=repair,
            told=found.append,
            watch=watch,
        )
        return tally, found

    async def command(self, *options: str) -> tuple[int, str, str]:
        """Run the real command; return its exit code, stdout and stderr."""
        path = self.site.folder / "archive-mirror.toml"
        self.site.settings()
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
    served = [vms.add(size=SIZE, name=f"{n}.mp4") for n in range(number)]
    report = await site.once()
    assert (report.saved, report.owed) == (number, 0)
    return Kept(site, vms, served)


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as served:
        yield served


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    """Return all that can be seen of a tree, the hidden folder included."""
    seen: dict[str, tuple[object, ...]] = {}
    for path in (root, *sorted(root.rglob("*"))):
        about = path.lstat()
        held = hashlib.sha256(path.read_bytes()).hexdigest() if _plain(path) else None
        seen[str(path.relative_to(root))] = (
            about.st_ino,
            about.st_mode,
            about.st_nlink,
            about.st_size,
            about.st_mtime_ns,
            about.st_ctime_ns,
            held,
        )
    return seen


def _plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def flip(path: Path, offset: int = SIZE // 2) -> None:
    """Flip one bit, and leave length and time of change as they were."""
    about = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        (old,) = file.read(1)
        file.seek(offset)
        file.write(bytes([old ^ 0x10]))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def problems(found: list[Finding]) -> list[tuple[int | None, str, str]]:
    """Return which problems were told, in order of the export."""
    return sorted((one.export_id or 0, one.target, str(one.problem)) for one in found)


# -- what is found ----------------------------------------------------------------


async def test_good_copies_are_proven_and_nothing_is_touched(tmp_path, vms):
    """Exit 0; each copy carries the time it was read, also one moved by rename."""
    kept = await keep(tmp_path, vms, 3)
    assert kept.copy(0).verified_us is None
    before = snapshot(kept.root())
    code, out, err = await kept.command("verify")

    assert (code, err) == (0, "")
    assert out == "checked 3, good 3, damaged 0, repaired 0, not checked 0\n"
    assert snapshot(kept.root()) == before
    assert all(kept.copy(n).verified_us is not None for n in range(3))


def _truncate(path: Path) -> None:
    os.truncate(path, SIZE - 1)


def _lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def _link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved").name)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES = {
    "a bit": (flip, "wrong_bytes"),
    "its first byte": (lambda path: flip(path, 0), "wrong_bytes"),
    "its last byte": (lambda path: flip(path, SIZE - 1), "wrong_bytes"),
    "cut": (_truncate, "wrong_length"),
    "longer": (_lengthen, "wrong_length"),
    "empty": (lambda path: os.truncate(path, 0), "wrong_length"),
    "gone": (Path.unlink, "missing"),
    "a link to the right bytes": (_link, "not_a_file"),
    "a folder": (_folder, "not_a_file"),
    "a pipe": (_pipe, "not_a_file"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
async def test_damage_is_found_and_nothing_is_touched(tmp_path, vms, damage):
    """Exit 4; the copy and, as it was the last good one, the export are damaged."""
    do, problem = damage
    kept = await keep(tmp_path, vms, 2)
    do(kept.path(0))
    before = snapshot(kept.root())
    tally, found = await kept.verify()

    assert (tally.checked, tally.good, tally.damaged) == (2, 1, 1)
    assert tally.exit_code == 4
    assert problems(found) == [(kept.served[0].export_id, "nas", problem)]
    assert snapshot(kept.root()) == before
    copy = kept.copy(0)
    assert (copy.state, copy.last_error is None) == (CopyState.DAMAGED, False)
    assert kept.site.export(kept.served[0]).state is State.DAMAGED
    assert kept.site.export(kept.served[1]).state is State.SAVED


async def test_status_and_metrics_tell_of_damaged_copies(tmp_path, vms):
    """Damage that nobody repaired is not forgotten once `verify` has ended."""
    kept = await keep(tmp_path, vms, 3)
    flip(kept.path(0))
    kept.path(1).unlink()
    await kept.verify()
    _, out, _ = await kept.command("status")
    _, told, _ = await kept.command("status", "--json")
    ledger = Ledger.read(kept.site.settings().state_dir)
    try:
        taken = snapshot_of_ledger.take(ledger, 0)
    finally:
        ledger.close()

    assert "DAMAGED 2 files: see `verify`" in out
    assert json.loads(told)["targets"][0]["damaged_files"] == 2
    assert taken.target_damaged_files == {"nas": 2}


def _sidecar_of_another(path: Path) -> None:
    raw = json.loads(path.read_bytes())
    path.write_text(json.dumps(raw | {"size_bytes": raw["size_bytes"] + 1}))


SIDECARS = {
    "gone": (Path.unlink, "sidecar_missing"),
    "empty": (lambda path: os.truncate(path, 0), "sidecar_wrong"),
    "cut": (lambda path: os.truncate(path, 99), "sidecar_wrong"),
    "of another file": (_sidecar_of_another, "sidecar_wrong"),
    "a link": (_link, "sidecar_wrong"),
    "a folder": (_folder, "sidecar_wrong"),
}


@pytest.mark.parametrize("damage", SIDECARS.values(), ids=SIDECARS.keys())
async def test_a_sidecar_that_is_wrong_is_damage(tmp_path, vms, damage):
    """Exit 4, named; the file is good and stays saved."""
    do, problem = damage
    kept = await keep(tmp_path, vms, 1)
    do(kept.sidecar(0))
    before = snapshot(kept.root())
    tally, found = await kept.verify()

    assert tally.exit_code == 4
    assert problems(found) == [(kept.served[0].export_id, "nas", problem)]
    assert snapshot(kept.root()) == before
    copy = kept.copy(0)
    assert (copy.state, copy.verified_us is None) == (CopyState.SAVED, False)
    assert "sidecar" in str(copy.last_error)
    assert kept.site.export(kept.served[0]).state is State.SAVED


async def test_a_folder_that_is_gone_is_all_its_files(tmp_path, vms):
    """File and sidecar are told of, one by one."""
    kept = await keep(tmp_path, vms, 2)
    shutil.rmtree(kept.root() / "hq")
    tally, found = await kept.verify()

    assert (tally.damaged, tally.not_checked) == (2, 0)
    assert sum(one.problem == "missing" for one in found) == 2
    assert len(found) == 4


async def test_a_sibling_keeps_the_export_saved(tmp_path, vms):
    """Damaged is an export only when no good copy is left on any target."""
    kept = await keep(tmp_path, vms, 1, "usb")
    flip(kept.path(0, "nas"))
    await kept.verify()
    assert kept.site.export(kept.served[0]).state is State.SAVED
    assert kept.copy(0, "nas").state is CopyState.DAMAGED
    flip(kept.path(0, "usb"))
    await kept.verify()

    export = kept.site.export(kept.served[0])
    assert export.state is State.DAMAGED
    assert "bytes are not those" in str(export.last_error)


async def test_a_copy_on_a_target_that_is_configured_no_more_is_no_comfort(
    tmp_path, vms
):
    """Nobody can read it."""
    kept = await keep(tmp_path, vms, 1, "usb")
    del kept.site.tables["targets"]["usb"]
    flip(kept.path(0))
    tally, _ = await kept.verify()

    assert (tally.checked, tally.damaged) == (1, 1)
    assert kept.site.export(kept.served[0]).state is State.DAMAGED


async def test_a_copy_proven_good_again_saves_its_export_again(tmp_path, vms):
    """Whatever became of the export meanwhile."""
    kept = await keep(tmp_path, vms, 1)
    path = kept.path(0)
    good = path.read_bytes()
    flip(path)
    await kept.verify()
    assert kept.site.export(kept.served[0]).state is State.DAMAGED
    path.write_bytes(good)
    tally, found = await kept.verify()

    assert (tally.exit_code, found) == (0, [])
    export = kept.site.export(kept.served[0])
    assert (export.state, export.last_error) == (State.SAVED, None)
    copy = kept.copy(0)
    assert (copy.state, copy.last_error) == (CopyState.SAVED, None)


# -- what cannot be read is no damage ---------------------------------------------


def _away(root: Path) -> None:
    root.rename(root.with_name("away"))


def _bare(root: Path) -> None:
    _away(root)
    root.mkdir()


def _other_disk(root: Path) -> None:
    marker = root / HIDDEN / "target.json"
    marker.write_text('{"target_id": "another"}')


@pytest.mark.parametrize(
    ("vanish", "told"),
    [
        (_away, "is missing: its disk is away"),
        (_bare, "its disk is not mounted there, or was emptied"),
        (_other_disk, "is that of another target"),
    ],
)
async def test_a_target_that_is_away_is_not_damaged(tmp_path, vms, vanish, told):
    """Exit 1 with the reason, once; the other target is read to its end."""
    kept = await keep(tmp_path, vms, 3, "usb")
    vanish(kept.root())
    code, out, err = await kept.command("verify")

    assert (code, err) == (1, "")
    first, last = out.splitlines()
    assert first.startswith("not_checked  target nas: ") and told in first
    assert "3 copies there were not checked" in first
    assert last == "checked 3, good 3, damaged 0, repaired 0, not checked 3"
    for number in range(3):
        assert kept.copy(number).state is CopyState.SAVED
        assert kept.site.export(kept.served[number]).state is State.SAVED


async def test_damage_outweighs_a_target_that_is_away(tmp_path, vms):
    """Exit 4: it is what must be acted upon."""
    kept = await keep(tmp_path, vms, 1, "usb")
    kept.root().rename(tmp_path / "away")
    (kept.root("usb") / "hq" / f"{kept.served[0].export_id}.mp4").unlink()
    tally, found = await kept.verify()

    assert (tally.exit_code, tally.not_checked, tally.damaged) == (4, 1, 1)
    assert len(found) == 2
    # The copy that cannot be read just now is not known to be bad.
    assert kept.site.export(kept.served[0]).state is State.SAVED


async def test_a_target_that_goes_away_while_it_is_read(tmp_path, vms, monkeypatch):
    """What was read counts, the rest was not checked."""
    kept = await keep(tmp_path, vms, 4)
    real, calls = DirectoryTarget._examine, []

    def vanish(self: DirectoryTarget, *arguments: Any):
        calls.append(arguments)
        if len(calls) == 3:
            kept.root().rename(tmp_path / "away")
        return real(self, *arguments)

    monkeypatch.setattr(DirectoryTarget, "_examine", vanish)
    tally, found = await kept.verify()

    assert (tally.checked, tally.good, tally.not_checked) == (2, 2, 2)
    assert (tally.exit_code, len(found), found[0].path) == (1, 1, None)


@pytest.fixture
def unreadable(monkeypatch) -> dict[str, int]:
    """Let the reading of files fail: each name with its error number."""
    failing: dict[str, int] = {}
    real = durable.chunks_of

    def chunks(fd: int):
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        for chunk in real(fd):
            if name in failing:
                raise OSError(failing[name], os.strerror(failing[name]))
            yield chunk

    monkeypatch.setattr(durable, "chunks_of", chunks)
    return failing


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("suffix", ["", ".json"])
async def test_a_file_that_cannot_be_read_is_not_damaged(
    tmp_path, vms, unreadable, code, suffix
):
    """Exit 1, named, with the reason; all others are read."""
    kept = await keep(tmp_path, vms, 3)
    unreadable[f"{kept.path(1).name}{suffix}"] = code
    tally, found = await kept.verify()

    assert (tally.good, tally.not_checked, tally.exit_code) == (2, 1, 1)
    assert problems(found) == [(kept.served[1].export_id, "nas", "not_checked")]
    assert errno.errorcode[code] in found[0].text
    assert kept.copy(1).state is CopyState.SAVED


async def test_a_file_without_permission_is_not_damaged(tmp_path, vms, monkeypatch):
    """Whoever may not read it knows nothing of it."""
    kept = await keep(tmp_path, vms, 1)
    name, real = kept.path(0).name, durable.open_file

    def refuse(asked: str, *, within: int) -> int:
        if asked == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(asked, within=within)

    monkeypatch.setattr(durable, "open_file", refuse)
    tally, found = await kept.verify()

    assert (tally.exit_code, tally.damaged) == (1, 0)
    assert "give it to the service's user" in found[0].text


async def test_a_link_in_place_of_a_folder_is_not_followed(tmp_path, vms):
    """What lies behind it is not known; it is not called damaged either."""
    kept = await keep(tmp_path, vms, 1)
    (kept.root() / "hq").rename(tmp_path / "hq")
    (kept.root() / "hq").symlink_to(tmp_path / "hq")
    tally, found = await kept.verify()

    assert (tally.exit_code, tally.not_checked) == (1, 1)
    assert "a link or file lies where a folder belongs" in found[0].text


async def test_a_mount_that_hangs_is_given_up(tmp_path, vms, monkeypatch):
    """The other target is read to its end, and the command ends."""
    kept = await keep(tmp_path, vms, 2, "usb")
    monkeypatch.setattr(read_copy, "HUNG_S", 0.3)
    awake, real = threading.Event(), DirectoryTarget._run

    async def run(self: DirectoryTarget, work: Callable[[], Any], path: str):
        if self.name != "nas":
            return await real(self, work, path)

        def hang() -> Any:
            awake.wait(30)
            return work()

        return await real(self, hang, path)

    monkeypatch.setattr(DirectoryTarget, "_run", run)
    try:
        tally, found = await kept.verify()
    finally:
        awake.set()

    assert (tally.good, tally.not_checked, tally.exit_code) == (2, 2, 1)
    assert "hangs" in found[0].text


async def test_a_slow_read_is_no_hung_one(tmp_path, vms, monkeypatch):
    """As long as bytes come, it is waited for."""
    kept = await keep(tmp_path, vms, 1)
    monkeypatch.setattr(read_copy, "HUNG_S", 0.4)
    monkeypatch.setattr(durable, "READ_BYTES", SIZE // 10)
    real, pause = durable.chunks_of, threading.Event()

    def slowly(fd: int):
        for chunk in real(fd):
            pause.wait(0.1)
            yield chunk

    monkeypatch.setattr(durable, "chunks_of", slowly)
    tally, _ = await kept.verify()

    assert (tally.good, tally.exit_code) == (1, 0)


async def test_a_target_that_the_ledger_does_not_know(tmp_path, vms):
    """Its marker cannot be compared: nothing is concluded."""
    kept = await keep(tmp_path, vms, 1)
    _sql(kept, "UPDATE targets SET marker_id = NULL")
    tally, found = await kept.verify()

    assert (tally.exit_code, tally.not_checked) == (1, 1)
    assert "check --adopt nas" in found[0].text


# -- which copies are read --------------------------------------------------------


def _sql(kept: Kept, statement: str, *values: object) -> list[Any]:
    ledger = Ledger.read(kept.site.settings().state_dir)
    try:
        return ledger._db.connection.execute(statement, values).fetchall()
    finally:
        ledger.close()


async def test_samples_come_round_to_everything(tmp_path, vms, unreadable):
    """Also to what is good, past what is damaged or cannot be read."""
    kept = await keep(tmp_path, vms, 7, "usb")
    flip(kept.path(0))
    unreadable[kept.path(1).name] = errno.EIO
    read = []
    for _ in range(5):
        before = _sql(kept, "SELECT export, target, checked_us FROM copies")
        await kept.verify(sample=Sample(count=3))
        after = _sql(kept, "SELECT export, target, checked_us FROM copies")
        read.append({new[:2] for new in after if new not in before})

    assert [len(one) for one in read] == [3, 3, 3, 3, 3]
    assert len(set().union(*read)) == 14
    # The fifth began anew with what was read longest ago, the damaged included.
    assert len(read[4] & read[0]) == 1


async def test_a_share_of_one_target(tmp_path, vms):
    """The share is of that target's copies, rounded up."""
    kept = await keep(tmp_path, vms, 5, "usb")
    tally, _ = await kept.verify("usb", sample=Sample(percent=41))

    assert tally.checked == 3
    assert len(_sql(kept, "SELECT 1 FROM copies WHERE checked_us > 0")) == 3
    assert (
        _sql(kept, "SELECT 1 FROM copies WHERE checked_us > 0 AND target = 'nas'") == []
    )


async def test_a_copy_read_back_when_it_was_published_comes_last(tmp_path, vms):
    """One moved by rename was never read: it comes first."""
    kept = await keep(tmp_path, vms, 2, "usb")
    linked = _sql(kept, "SELECT target FROM copies WHERE verified_us IS NULL")
    assert len({one[0] for one in linked}) == 1
    await kept.verify(sample=Sample(count=2))

    assert _sql(kept, "SELECT 1 FROM copies WHERE verified_us IS NULL") == []


async def test_progress_is_told(tmp_path, vms, monkeypatch, capsys):
    """A line now and then, on stderr."""
    kept = await keep(tmp_path, vms, 3)
    monkeypatch.setattr("mirror.cli.progress._LINE_S", 0.0)
    lines = ReadLines()
    await kept.verify(watch=lines.update)
    told = capsys.readouterr().err.splitlines()

    assert re.fullmatch(
        r"\d of \d files read, [\d.]+ (B|KiB), [\d.]+ \w+/s, 0 damaged", told[-1]
    )


async def test_bars_on_a_terminal(tmp_path, vms):
    """One for each target, on stderr; the results are on stdout alone."""
    kept = await keep(tmp_path, vms, 3, "usb")
    path = kept.site.folder / "archive-mirror.toml"
    arguments = [sys.executable, "-m", "mirror", "-c", str(path), "verify"]
    ours, theirs = os.openpty()
    running = await asyncio.create_subprocess_exec(
        *arguments, stdout=subprocess.PIPE, stderr=theirs, env=environ_of_a_terminal()
    )
    out, _ = await asyncio.wait_for(running.communicate(), 60)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(ours, 65536):
            shown += chunk
    os.close(ours)

    assert out.decode().startswith("checked 6, good 6,")
    assert b"nas" in shown and b"usb" in shown
    assert b"3 of 3 files" in shown


def environ_of_a_terminal() -> dict[str, str]:
    """Return an environment in which bars have room."""
    return os.environ | {"TERM": "xterm", "COLUMNS": "200", "LINES": "40"}


# -- the command ------------------------------------------------------------------


async def test_json_is_one_object_with_the_promised_keys(tmp_path, vms):
    """A finding says where, what, and what helps."""
    kept = await keep(tmp_path, vms, 2, "usb")
    flip(kept.path(1))
    code, out, err = await kept.command("verify", "--json")
    shown = json.loads(out)

    assert (code, err) == (4, "")
    (finding,) = shown.pop("findings")
    assert shown == {
        "checked": 4,
        "good": 3,
        "damaged": 1,
        "repaired": 0,
        "not_checked": 0,
    }
    assert set(finding) == FINDING_KEYS
    export = kept.site.export(kept.served[1])
    text = finding.pop("text")
    assert (
        "`archive-mirror verify --repair` brings it back from the copy on usb" in text
    )
    assert finding == {
        "source": "hq",
        "id": export.export_id,
        "created_at": export.created_at,
        "target": "nas",
        "path": f"hq/{export.export_id}.mp4",
        "problem": "wrong_bytes",
        "repaired": False,
    }


async def test_a_line_per_finding_says_what_to_do(tmp_path, vms):
    """For people: which file, what is wrong, what helps; then the sums."""
    kept = await keep(tmp_path, vms, 2)
    kept.path(0).unlink()
    kept.sidecar(1).unlink()
    code, out, _ = await kept.command("verify")
    one, other = (each.export_id for each in kept.served)

    assert code == 4
    *lines, last = out.splitlines()
    missing, beside = sorted(lines)
    assert missing == (
        f"missing  hq/{one}  nas:hq/{one}.mp4: the file is gone; no good copy of it is "
        "known on another target; the VMS should list its file until "
        f"{_until(kept)}: the service fetches it at its next walk"
    )
    assert beside == (
        f"sidecar_missing  hq/{other}  nas:hq/{other}.mp4: its sidecar is gone; "
        "`archive-mirror verify --repair` writes it anew"
    )
    assert last == "checked 2, good 0, damaged 2, repaired 0, not checked 0"


def _until(kept: Kept) -> str:
    return str(iso(kept.site.export(kept.served[0]).deadline_us))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--target", "tape"], "there is no target tape"),
        (["--sample", "0"], "--sample takes a number above 0"),
        (["--sample", "-1"], "--sample takes a number above 0"),
        (["--sample", "many"], "--sample takes a number above 0"),
        (["--sample", "0%"], "--sample takes a number above 0"),
        (["--sample", "101%"], "--sample takes a number above 0"),
        (["--sample", "nan%"], "--sample takes a number above 0"),
    ],
)
async def test_wrong_usage_is_2(tmp_path, vms, options, told):
    """Said before anything is read."""
    kept = Kept(Site.make(tmp_path, vms), vms, [])
    code, out, err = await kept.command("verify", *options)

    assert (code, out) == (2, "")
    assert told in " ".join(err.replace("│", " ").split())


async def test_a_sample_of_any_size_is_taken(tmp_path, vms):
    """Larger than there are copies, or a small share."""
    kept = await keep(tmp_path, vms, 2)
    huge = await kept.command("verify", "--sample", "9" * 30)
    small = await kept.command("verify", "--sample", "0.5%", "--target", "nas")

    assert (huge[0], small[0]) == (0, 0)
    assert huge[1].startswith("checked 2,") and small[1].startswith("checked 1,")


async def test_without_a_ledger_there_is_nothing_to_verify(tmp_path, vms):
    """Exit 0, and nothing is made."""
    kept = Kept(Site.make(tmp_path, vms), vms, [])
    code, out, _ = await kept.command("verify")

    assert (code, out.split(",")[0]) == (0, "checked 0")
    assert not (tmp_path / "state").exists()


# -- beside a running service, and what it does with what was found ---------------


async def test_beside_a_running_service(tmp_path, vms):
    """Neither disturbs the other."""
    kept = await keep(tmp_path, vms, 3)
    async with kept.site.service():
        more = vms.add(size=300_000)
        code, _, _ = await kept.command("verify")
        await kept.site.until_state(more, State.SAVED)
        again, out, _ = await kept.command("verify")

    assert (code, again) == (0, 0)
    assert out.startswith("checked 4, good 4,")


async def test_a_damaged_export_is_fetched_again_beside_the_damaged_file(tmp_path, vms):
    """The VMS lists it still: the new file lies at ~2, the old one is not touched."""
    kept = await keep(tmp_path, vms, 1)
    path = kept.path(0)
    flip(path)
    before = snapshot(kept.root() / "hq")
    async with kept.site.service():
        code, _, _ = await kept.command("verify")
        assert code == 4
        await kept.site.until_state(kept.served[0], State.SAVED)

    after = snapshot(kept.root() / "hq")
    # The folder itself has changed: something new lies in it.
    assert {k: v for k, v in after.items() if k in before and k != "."} == {
        k: v for k, v in before.items() if k != "."
    }
    new = kept.path(0)
    assert new.name == f"{kept.served[0].export_id}~2.mp4"
    assert digest(new) == kept.truth(0)
    tally, _ = await kept.verify()
    assert (tally.checked, tally.good) == (1, 1)


async def test_retry_fetches_a_damaged_export(tmp_path, vms):
    """Though no walk shows its row any more, if the VMS has the file still."""
    kept = await keep(tmp_path, vms, 1)
    kept.path(0).unlink()
    vms.script_list(then=Fault(kind=Kind.STATUS, status=500))
    assert (await kept.command("verify"))[0] == 4
    code, out, _ = await kept.command("retry", f"hq/{kept.served[0].export_id}")
    assert (code, out) == (0, "1 of 1 exports are due now\n")
    export = kept.site.export(kept.served[0])
    assert (export.state, export.reason) == (State.READY, "made_again")
    await kept.site.once()

    assert kept.site.export(kept.served[0]).state is State.SAVED
    assert digest(kept.path(0)) == kept.truth(0)


async def test_a_damaged_export_whose_file_the_vms_has_no_more_is_lost(tmp_path, vms):
    """Told as what it is; proven good again, it is saved again."""
    kept = await keep(tmp_path, vms, 1, file_lifetime="1s")
    path = kept.path(0)
    good = path.read_bytes()
    flip(path)
    await kept.verify()
    vms.script(kept.served[0], then=Fault(kind=Kind.STATUS, status=404))
    async with kept.site.service():
        await kept.site.until_state(kept.served[0], State.LOST)
        path.write_bytes(good)
        assert (await kept.command("verify"))[0] == 0
        export = kept.site.export(kept.served[0])

    assert (export.state, export.reason) == (State.SAVED, None)
    assert kept.copy(0).state is CopyState.SAVED


async def _half_kept(folder: Path, vms: Vms) -> Kept:
    """Keep one export on `nas`, which it needs; `usb` waits for the spooled file."""
    site = Site.make(folder, vms)
    for name in ("nas", "usb"):
        path = site.tables["targets"]["nas"]["path"] if name == "nas" else folder / name
        site.tables["targets"][name] = {
            "type": "directory",
            "path": str(path),
            "layout": "{source}/{id}",
            "required": name == "nas",
        }
    (folder / "usb").write_text("a file where the target should be")
    kept = Kept(site, vms, [vms.add(size=SIZE)])
    await site.once()
    assert site.export(kept.served[0]).state is State.SAVED
    return kept


async def test_a_copy_whose_file_is_in_the_spool_is_published_again(tmp_path, vms):
    """Not from the VMS: from the spool, beside the damaged file."""
    kept = await _half_kept(tmp_path, vms)
    path = kept.path(0)
    own = path.read_bytes()
    path.unlink()
    path.write_bytes(own[:-1] + b"x")
    tally, found = await kept.verify(repair=True)
    assert (tally.damaged, tally.repaired) == (1, 0)
    assert "the spool holds its file still" in found[0].text
    export = kept.site.export(kept.served[0])
    assert (export.state, kept.copy(0).state) == (State.SPOOLED, CopyState.PENDING)
    requests = len(vms.file_requests(kept.served[0]))
    async with kept.site.service():
        await kept.site.until_state(kept.served[0], State.SAVED)

    assert len(vms.file_requests(kept.served[0])) == requests
    assert path.read_bytes() == own[:-1] + b"x"
    assert digest(kept.path(0)) == kept.truth(0)
    assert kept.path(0) != path


async def test_a_kept_file_that_is_the_spooled_one_rots_with_it(tmp_path, vms):
    """Linked on one file system: both are bad, so it is fetched anew."""
    kept = await _half_kept(tmp_path, vms)
    path = kept.path(0)
    assert path.stat().st_nlink == 2
    flip(path)
    rotten = digest(path)
    await kept.verify()
    async with kept.site.service():
        await kept.site.until_state(kept.served[0], State.SAVED)

    assert digest(kept.path(0)) == kept.truth(0)
    assert (digest(path), kept.path(0) == path) == (rotten, False)
    (tmp_path / "usb").unlink()
    await kept.site.once()
    assert digest(kept.path(0, "usb")) == kept.truth(0)


async def test_a_result_that_came_too_late_changes_nothing(tmp_path, vms):
    """The copy became another one while it was read."""
    kept = await keep(tmp_path, vms, 1)
    ledger = Ledger.read(kept.site.settings().state_dir)
    key = kept.site.export(kept.served[0]).stored_key
    subject = ledger.verification.copy_to_read(key, "nas")
    assert subject is not None
    given: dict[str, Any] = {"error": "gone", "targets": ["nas"], "now_us": 5}
    for change in ("state = 'pending'", "path = 'hq/other.mp4'"):
        before = _sql(kept, "SELECT state, path FROM copies")[0]
        _sql(kept, f"UPDATE copies SET {change}")
        assert not ledger.verification.bad(subject, **given)
        assert not ledger.verification.good(subject, note=None, now_us=5)
        _sql(kept, "UPDATE copies SET state = ?, path = ?", *before)
    _sql(kept, "UPDATE exports SET sha256 = 'ab'")
    assert not ledger.verification.bad(subject, **given)
    ledger.close()

    assert _sql(kept, "SELECT state, checked_us FROM copies") == [("saved", 0)]


async def test_a_good_copy_does_not_end_a_fetch_under_way(tmp_path, vms):
    """The fetch owes the copy anew, and takes what lies there for it."""
    kept = await keep(tmp_path, vms, 1)
    good = kept.path(0).read_bytes()
    kept.path(0).write_bytes(b"x")
    await kept.verify()
    kept.path(0).write_bytes(good)
    _sql(kept, "UPDATE exports SET state = 'fetching'")
    tally, _ = await kept.verify()
    assert (tally.good, kept.copy(0).state) == (1, CopyState.DAMAGED)
    await kept.site.once()

    assert kept.site.export(kept.served[0]).state is State.SAVED
    assert (kept.copy(0).state, kept.path(0).name) == (
        CopyState.SAVED,
        f"{kept.served[0].export_id}.mp4",
    )


async def test_a_partial_of_a_saved_export_does_not_stay_in_the_spool(tmp_path, vms):
    """Made again and begun, then proven good: no copy waits for the rest of it."""
    kept = await keep(tmp_path, vms, 1, "usb")
    good = kept.path(0).read_bytes()
    for target in ("nas", "usb"):
        flip(kept.path(0, target))
    await kept.verify()
    _sql(kept, "UPDATE exports SET state = 'ready', spool_dir = '/s', part_bytes = 9")
    kept.path(0).write_bytes(good)
    await kept.verify()
    ledger = Ledger.read(kept.site.settings().state_dir)
    free = ledger.copies.freeable(["nas", "usb"])
    ledger.close()

    assert kept.copy(0, "usb").state is CopyState.DAMAGED
    assert [one.state for one in free] == [State.SAVED]


# -- repair -----------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
async def test_repair_brings_the_file_back_from_a_sibling(tmp_path, vms, damage):
    """At its own path, a file of its own; what lay there is kept aside as it was."""
    do, problem = damage
    kept = await keep(tmp_path, vms, 2, "usb")
    path, sibling = kept.path(0), kept.path(0, "usb")
    do(path)
    old = path.lstat() if problem != "missing" else None
    before = snapshot(kept.root("usb"))
    tally, found = await kept.verify(repair=True)

    assert (tally.exit_code, tally.damaged, tally.repaired) == (4, 1, 1)
    assert [(one.problem, one.repaired) for one in found] == [(problem, True)]
    assert "brought back from the copy on usb" in found[0].text
    assert digest(path) == kept.truth(0)
    assert path.stat().st_ino != sibling.stat().st_ino
    assert (path.stat().st_nlink, path.is_symlink()) == (1, False)
    assert snapshot(kept.root("usb")) == before
    aside = kept.root() / HIDDEN / "damaged" / "hq" / path.name
    if old is not None:
        assert aside.lstat().st_ino == old.st_ino
        assert aside.lstat().st_mtime_ns == old.st_mtime_ns
        assert f"{HIDDEN}/damaged/hq/{path.name}" in found[0].text
    assert kept.copy(0).state is CopyState.SAVED
    assert kept.copy(0).path == f"hq/{path.name}"
    assert list((kept.root() / HIDDEN / "tmp").iterdir()) == []
    tally, found = await kept.verify()
    assert (tally.exit_code, found) == (0, [])


async def test_what_is_moved_aside_never_replaces_what_was_moved_before(tmp_path, vms):
    """Each damaged file is kept."""
    kept = await keep(tmp_path, vms, 1, "usb")
    name = kept.path(0).name
    for content in (b"one", b"two", b"three"):
        kept.path(0).write_bytes(content)
        tally, _ = await kept.verify(repair=True)
        assert tally.repaired == 1
    aside = kept.root() / HIDDEN / "damaged" / "hq"

    assert {path.name: path.read_bytes() for path in aside.iterdir()} == {
        name: b"one",
        f"{name}~2": b"two",
        f"{name}~3": b"three",
    }


@pytest.mark.parametrize("damage", SIDECARS.values(), ids=SIDECARS.keys())
async def test_repair_writes_a_sidecar_anew(tmp_path, vms, damage):
    """As it was; the file is not touched, the wrong one is kept aside."""
    do, problem = damage
    kept = await keep(tmp_path, vms, 1)
    beside = kept.sidecar(0)
    right = json.loads(beside.read_bytes())
    do(beside)
    old = beside.lstat() if problem != "sidecar_missing" else None
    file = kept.path(0).stat()
    tally, found = await kept.verify(repair=True)

    assert (tally.damaged, tally.repaired) == (1, 1)
    assert "its sidecar was written anew" in found[0].text
    assert json.loads(beside.read_bytes()) == right
    now = kept.path(0).stat()
    assert (now.st_ino, now.st_mtime_ns) == (file.st_ino, file.st_mtime_ns)
    if old is not None:
        aside = kept.root() / HIDDEN / "damaged" / "hq" / beside.name
        assert aside.lstat().st_ino == old.st_ino
    assert kept.copy(0).last_error is None
    assert (await kept.verify())[0].exit_code == 0


@pytest.mark.parametrize("targets", [(), ("usb",)], ids=["alone", "sibling"])
async def test_a_sidecar_of_which_the_ledger_holds_no_item(tmp_path, vms, targets):
    """It is the sibling's, else it lacks the item."""
    kept = await keep(tmp_path, vms, 1, *targets)
    beside = kept.sidecar(0)
    right = json.loads(beside.read_bytes())
    _sql(kept, "DELETE FROM items")
    beside.write_text(json.dumps(right | {"id": 1}))
    tally, _ = await kept.verify("nas", repair=True)

    assert (tally.damaged, tally.repaired) == (1, 1)
    written = json.loads(beside.read_bytes())
    if not targets:
        assert written.pop("item") is None and right.pop("item") is not None
        del written["item_sha256"], right["item_sha256"]
    assert written == right


async def test_file_and_sidecar_are_repaired_together(tmp_path, vms):
    """The sibling's record serves where the ledger holds no item any more."""
    kept = await keep(tmp_path, vms, 1, "usb")
    _sql(kept, "DELETE FROM items")
    shutil.rmtree(kept.root() / "hq")
    tally, found = await kept.verify(repair=True)

    assert (tally.damaged, tally.repaired, len(found)) == (1, 1, 2)
    record = json.loads(kept.sidecar(0).read_bytes())
    sibling = json.loads(kept.sidecar(0, "usb").read_bytes())
    assert record == sibling | {"target": "nas"}
    assert digest(kept.path(0)) == kept.truth(0)


async def test_without_a_sibling_nothing_is_moved(tmp_path, vms):
    """Said plainly, with what the VMS has."""
    kept = await keep(tmp_path, vms, 1)
    flip(kept.path(0))
    before = snapshot(kept.root())
    code, out, _ = await kept.command("verify", "--repair")

    assert code == 4
    assert "not repaired: no good copy of it is known on another target" in out
    assert f"the VMS should list its file until {_until(kept)}" in out
    assert out.endswith("checked 1, good 0, damaged 1, repaired 0, not checked 0\n")
    assert snapshot(kept.root()) == before


async def test_a_sibling_is_taken_only_after_it_was_read(tmp_path, vms):
    """Be it asked for or not: a rotten one repairs nothing, a good one does."""
    kept = await keep(tmp_path, vms, 1, "tape", "usb")
    for target in ("nas", "tape"):
        flip(kept.path(0, target))
    await kept.verify("tape")
    # The ledger believes in `usb` and in `nas`; only `usb` is good.
    tally, found = await kept.verify("nas", repair=True)
    assert tally.repaired == 1 and "from the copy on usb" in found[0].text
    for target in ("nas", "usb"):
        flip(kept.path(0, target))
    before = snapshot(kept.root())
    tally, found = await kept.verify("nas", repair=True)

    assert (tally.damaged, tally.repaired) == (1, 0)
    assert "no good copy of it is known" in found[0].text
    assert snapshot(kept.root()) == before


async def test_a_sibling_that_is_away_repairs_nothing(tmp_path, vms):
    """Its copy is not known to be good."""
    kept = await keep(tmp_path, vms, 1, "usb")
    flip(kept.path(0))
    kept.root("usb").rename(tmp_path / "away")
    before = snapshot(kept.root())
    tally, _ = await kept.verify("nas", repair=True)

    assert (tally.damaged, tally.repaired) == (1, 0)
    assert snapshot(kept.root()) == before
    assert kept.site.export(kept.served[0]).state is State.SAVED


async def test_a_file_that_reads_well_the_second_time_is_not_moved(
    tmp_path, vms, monkeypatch
):
    """A bad cable or memory: the file is looked at once more before it is moved."""
    kept = await keep(tmp_path, vms, 1, "usb")
    real, lies = read._digest, ["0" * 64]

    def digest_of(fd: int, read: Callable[[int], None]) -> str:
        return lies.pop() if lies else real(fd, read)

    monkeypatch.setattr(read, "_digest", digest_of)
    before = snapshot(kept.root())
    tally, found = await kept.verify("nas", repair=True)

    assert (tally.damaged, tally.repaired) == (1, 1)
    assert "read a second time it is right" in found[0].text
    assert snapshot(kept.root()) == before
    assert kept.copy(0).state is CopyState.SAVED


class Cut(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (DirectoryTarget, "_set_aside"),
        (durable, "move_numbered"),
        (DirectoryTarget, "_publish"),
        (durable, "write_new"),
        (durable, "place"),
        ("mirror.targets.directory.place.Placing", "_place_file"),
        ("mirror.targets.directory.place.Placing", "_place_sidecar"),
        ("mirror.ledger.verification.Verification", "good"),
    ],
)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_an_interrupted_repair_is_repeated(
    tmp_path, vms, monkeypatch, where, name, after
):
    """Wherever it was cut, the next run ends it, and the old files are kept."""
    kept = await keep(tmp_path, vms, 1, "usb")
    path = kept.path(0)
    flip(path)
    kept.sidecar(0).write_text("{}")
    rotten = path.read_bytes()
    spot = f"{where}.{name}" if isinstance(where, str) else None
    real = _resolve(spot) if spot else getattr(where, name)

    def cut(*arguments: Any, **named: Any) -> Any:
        if after:
            real(*arguments, **named)
        raise Cut

    with monkeypatch.context() as patched:
        if spot:
            patched.setattr(spot, cut)
        else:
            patched.setattr(where, name, cut)
        with pytest.raises(BaseExceptionGroup):
            await kept.verify("nas", repair=True)
    aside = kept.root() / HIDDEN / "damaged" / "hq"
    await kept.verify(repair=True)
    tally, found = await kept.verify()

    assert (tally.exit_code, found) == (0, [])
    assert digest(path) == kept.truth(0)
    assert [one.read_bytes() for one in aside.glob("*.mp4")] == [rotten]
    assert [one.read_bytes() for one in aside.glob("*.json")] == [b"{}"]
    assert list((kept.root() / HIDDEN / "tmp").iterdir()) == []
    assert kept.copy(0).state is CopyState.SAVED


def _resolve(spot: str) -> Any:
    """Return the function of a dotted name."""
    module, holder, name = spot.rsplit(".", 2)
    return getattr(getattr(sys.modules[module], holder), name)


async def test_a_repair_that_fails_says_where_the_old_file_is(
    tmp_path, vms, monkeypatch
):
    """And the next run repairs what is then missing."""
    kept = await keep(tmp_path, vms, 1, "usb")
    flip(kept.path(0))

    def full(*_: Any) -> None:
        raise TargetError("no_space", "no space there")

    with monkeypatch.context() as patched:
        patched.setattr(DirectoryTarget, "_reserve", full)
        tally, found = await kept.verify(repair=True)
    assert (tally.damaged, tally.repaired) == (1, 0)
    assert "not repaired: no space there; what lay there is now at" in found[0].text
    assert not kept.path(0).exists()
    tally, found = await kept.verify(repair=True)

    assert [(one.problem, one.repaired) for one in found] == [("missing", True)]
    assert digest(kept.path(0)) == kept.truth(0)


async def test_repair_beside_a_running_service(tmp_path, vms):
    """Neither takes away the other's temporary files."""
    kept = await keep(tmp_path, vms, 2, "usb")
    leftover = kept.root() / HIDDEN / "tmp"
    async with kept.site.service():
        await kept.site.until_state(vms.add(size=SIZE), State.SAVED)
        node = _sql(kept, "SELECT node_id FROM node")[0][0]
        (leftover / f"{node}-9-abcd.part").write_bytes(b"the service writes this")
        (leftover / f"{node}repair-9-abcd.part").write_bytes(b"of a killed repair")
        flip(kept.path(0))
        more = vms.add(size=300_000)
        code, out, _ = await kept.command("verify", "--repair")
        assert (code, "repaired wrong_bytes" in out) == (4, True)
        assert [one.name for one in leftover.iterdir()] == [f"{node}-9-abcd.part"]
        await kept.site.until_state(more, State.SAVED)
        code, out, _ = await kept.command("verify")

    assert (code, out.split(",")[0]) == (0, "checked 8")


async def test_two_repairs_at_once(tmp_path, vms):
    """The second one is refused: exit 75. Reading alone goes on."""
    kept = await keep(tmp_path, vms, 1)
    state_dir = kept.site.settings().state_dir
    with lock.repairing(state_dir):
        with pytest.raises(LockedError):
            await kept.verify(repair=True)
        code, _, err = await kept.command("verify", "--repair")
        reading_only = await kept.command("verify")

    assert (code, reading_only[0]) == (75, 0)
    assert "wait for its repair to end" in err
