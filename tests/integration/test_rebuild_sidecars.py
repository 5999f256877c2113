"""What `rebuild` makes of sidecars and of the files beside them."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirror.app.rebuild.rebuild import Oddity
from mirror.disk import durable
from mirror.simulator import Vms
from mirror.targets.directory import scan
from tests.kept_site import HIDDEN, SIZE, alter, keep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as served:
        yield served


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
    real = scan.scan
    monkeypatch.setattr(
        scan,
        "scan",
        lambda root: iter(
            sorted(real(root), key=lambda one: one.path, reverse=reverse)
        ),
    )
