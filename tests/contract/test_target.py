"""What any target must do: `mirror/ports.py::Target`, tried on each kind."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mirror.errors import TargetError
from mirror.ports import (
    ContentError,
    Kept,
    KeptCopy,
    PathTakenError,
    Publication,
    SpooledFile,
)
from tests.contract.subjects import DirectorySubject, MemorySubject, Subject
from tests.memory_target import CrashError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mirror.ports import StoredFile, Target

BYTES = bytes(range(256)) * 100
PATH = "hq/2026/11/6414-gate.mp4"
KINDS = ["directory", "memory"]

pytestmark = pytest.mark.usefixtures("dead_descriptors_closed")


def make(kind: str, folder: Path) -> Subject:
    """Return a subject of one kind."""
    folder.mkdir()
    return DirectorySubject(folder) if kind == "directory" else MemorySubject()


@pytest.fixture(params=KINDS)
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    return make(request.param, tmp_path / "subject")


@pytest.fixture
async def target(subject: Subject) -> AsyncIterator[Target]:
    """Return the target, ready to be written to."""
    ready = subject.target()
    await ready.probe(None, write=True)
    yield ready
    await ready.close()


def record(content: bytes, **fields: object) -> bytes:
    """Return a sidecar for some bytes."""
    sha256 = hashlib.sha256(content).hexdigest()
    known = {"source": "hq", "id": 6414, "sha256": sha256, "attempts": 1}
    return json.dumps(known | fields).encode()


def publication(
    folder: Path, content: bytes = BYTES, *, path: str = PATH, may_link: bool = False
) -> Publication:
    """Return what is to be published, with its file in a spool."""
    spooled = folder / f"{path.replace('/', '-')}.part"
    spooled.write_bytes(content)
    return Publication(
        content=SpooledFile(path=spooled, may_link=may_link),
        path=path,
        sidecar=record(content),
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        token=f"n0de-{len(path)}",
    )


def whole(wanted: Publication, content: bytes = BYTES) -> dict[str, bytes]:
    """Return what lies on a target that keeps it."""
    return {wanted.path: content, f"{wanted.path}.json": wanted.sidecar}


async def publish(target: Target, wanted: Publication) -> Kept:
    """Publish one file, and raise why not."""
    (result,) = await target.publish([wanted])
    if isinstance(result, Exception):
        raise result
    return result


async def marker_of(target: Target) -> str:
    return (await target.probe(None, write=False)).marker_id


async def bytes_of(target: Target, path: str = PATH) -> bytes:
    marker_id = await marker_of(target)
    return b"".join([chunk async for chunk in target.read(path, marker_id)])


async def scanned(target: Target) -> dict[str, StoredFile]:
    marker_id = await marker_of(target)
    return {
        stored.path: stored async for some in target.scan(marker_id) for stored in some
    }


# --- identity -------------------------------------------------------------------


async def test_the_marker_is_made_once(subject: Subject) -> None:
    """Whoever asks later finds the same, whether it writes or not."""
    first = (await subject.target().probe(None, write=True)).marker_id
    again = [
        (await subject.target().probe(known, write=write)).marker_id
        for known in (None, first)
        for write in (False, True)
    ]

    assert again == [first] * 4


async def test_a_question_makes_no_marker(subject: Subject) -> None:
    """Nor does a probe that knows which target it wants."""
    with pytest.raises(TargetError):
        await subject.target().probe(None, write=False)
    with pytest.raises(TargetError):
        await subject.target().probe("known", write=True)
    with pytest.raises(TargetError):
        await subject.target().probe(None, write=False)

    assert subject.visible() == {}


@pytest.mark.parametrize("write", [False, True])
async def test_another_target_is_told(subject: Subject, write: bool) -> None:
    """By its marker; it is not taken over."""
    first = await subject.target().probe(None, write=True)
    with pytest.raises(TargetError):
        await subject.target().probe("another", write=write)

    assert await marker_of(subject.target()) == first.marker_id


async def test_nothing_is_written_before_a_probe(
    subject: Subject, target: Target, tmp_path: Path
) -> None:
    fresh = subject.target()
    (result,) = await fresh.publish([publication(tmp_path)])
    with pytest.raises(TargetError):
        await fresh.delete(PATH)

    assert isinstance(result, TargetError)
    assert subject.visible() == {}


async def test_nothing_is_done_to_another_target(
    subject: Subject, target: Target, tmp_path: Path
) -> None:
    """One that lies there since the probe is neither written nor believed."""
    known = await marker_of(target)
    subject.swap()
    results = await target.publish(
        [publication(tmp_path), publication(tmp_path, path="hq/other.mp4")]
    )

    assert [type(each) for each in results] == [TargetError] * 2
    await _refuses_all(target, known)
    assert subject.visible() == {}


async def test_a_target_that_is_away_concludes_nothing(
    subject: Subject, target: Target, tmp_path: Path
) -> None:
    """Each method says that it is the target's fault; later all is as it was."""
    known, wanted = await marker_of(target), publication(tmp_path)
    await publish(target, wanted)
    with subject.away():
        for write in (False, True):
            with pytest.raises(TargetError):
                await target.probe(known, write=write)
        results = await target.publish([wanted, wanted])
        assert [type(each) for each in results] == [TargetError] * 2
        await _refuses_all(target, known)

    assert subject.visible() == whole(wanted)
    assert (await publish(target, wanted)) is not None


async def _refuses_all(target: Target, known: str) -> None:
    """See that all but a publish raise a TargetError."""
    with pytest.raises(TargetError):
        await target.examine(PATH, size_bytes=1, marker_id=known, came=lambda _: None)
    with pytest.raises(TargetError):
        await target.find(PATH, known)
    with pytest.raises(TargetError):
        [chunk async for chunk in target.read(PATH, known)]
    with pytest.raises(TargetError):
        [some async for some in target.scan(known)]
    with pytest.raises(TargetError):
        await target.set_aside(PATH, sidecar=False)
    with pytest.raises(TargetError):
        await target.delete(PATH)


async def test_a_target_that_hangs_is_given_up(subject: Subject) -> None:
    """A probe ends all the same, and the next one works when it wakes up."""
    target = subject.target()
    with subject.hanging():
        with pytest.raises(TargetError) as failed:
            await target.probe(None, write=True, patience_s=0.2)
        await target.close()

    assert failed.value.reason == "hung"
    assert (await subject.target().probe(None, write=True)).marker_id


# --- publish --------------------------------------------------------------------


async def test_what_is_kept_is_whole_and_visible(
    subject: Subject, target: Target, tmp_path: Path
) -> None:
    """File and sidecar, byte for byte; a copy is proven by what the traits say."""
    wanted = publication(tmp_path)
    kept = await publish(target, wanted)

    assert kept.verified
    assert subject.visible() == whole(wanted)
    assert subject.leftovers() == 0


async def test_only_what_links_keeps_the_spooled_file(
    subject: Subject, target: Target, tmp_path: Path
) -> None:
    """Then nothing was proven by reading; all others copy, and prove."""
    kept = await publish(target, publication(tmp_path, may_link=True))

    assert kept.verified is (target.traits.links_in is None)


@pytest.mark.parametrize("may_link", [True, False])
async def test_to_publish_again_changes_nothing(
    subject: Subject, target: Target, tmp_path: Path, may_link: bool
) -> None:
    """Also after a restart, and with a sidecar that tells of more attempts."""
    wanted = publication(tmp_path, may_link=may_link)
    await publish(target, wanted)
    again = subject.target()
    await again.probe(None, write=True)
    later = replace(wanted, sidecar=record(BYTES, attempts=2))

    assert isinstance(await publish(target, wanted), Kept)
    assert isinstance(await publish(again, later), Kept)
    assert subject.visible() == whole(wanted)
    await again.close()


@pytest.mark.parametrize("there", [BYTES[::-1], BYTES + b"x", b""])
async def test_what_lies_there_is_never_overwritten(
    subject: Subject, target: Target, tmp_path: Path, there: bytes
) -> None:
    """Nor does a sidecar of ours come beside it."""
    subject.put(PATH, there)
    with pytest.raises(PathTakenError):
        await publish(target, publication(tmp_path))

    assert subject.visible() == {PATH: there}


async def test_equal_bytes_are_ours(
    subject: Subject, target: Target, tmp_path: Path
) -> None:
    """A run that was killed may have left them."""
    wanted = publication(tmp_path)
    subject.put(PATH, BYTES)
    await publish(target, wanted)

    assert subject.visible() == whole(wanted)


@pytest.mark.parametrize("there", [b"", b"{", record(b"other"), record(BYTES, id=7)])
async def test_no_file_comes_beside_a_foreign_sidecar(
    subject: Subject, target: Target, tmp_path: Path, there: bytes
) -> None:
    subject.put(f"{PATH}.json", there)
    with pytest.raises(PathTakenError):
        await publish(target, publication(tmp_path))

    assert subject.visible() == {f"{PATH}.json": there}


@pytest.mark.parametrize("damage", ["gone", "short", "flipped"])
async def test_damaged_content_is_not_kept(
    subject: Subject, target: Target, tmp_path: Path, damage: str
) -> None:
    """It is the content's fault, not the target's."""
    wanted = publication(tmp_path)
    assert isinstance(wanted.content, SpooledFile)
    if damage == "gone":
        wanted.content.path.unlink()
    else:
        wanted.content.path.write_bytes(
            BYTES[:-1] if damage == "short" else BYTES[:-1] + b"?"
        )
    with pytest.raises(ContentError):
        await publish(target, wanted)

    assert subject.visible() == {}
    assert subject.leftovers() == 0


@pytest.mark.parametrize("path", ["../a.mp4", "/a.mp4", "a//b.mp4", "a.json", ""])
async def test_no_file_is_kept_at_a_bad_path(
    subject: Subject, target: Target, tmp_path: Path, path: str
) -> None:
    with pytest.raises(TargetError) as failed:
        await publish(target, replace(publication(tmp_path), path=path))

    assert failed.value.reason == "bad_path"
    assert subject.visible() == {}


async def test_a_bad_member_harms_no_other(
    subject: Subject, target: Target, tmp_path: Path
) -> None:
    """One result per member, in order."""
    good = [publication(tmp_path, path=f"hq/{n}.mp4") for n in range(3)]
    taken, gone = (publication(tmp_path, path=f"hq/{n}.mp4") for n in ("a", "b"))
    bad = replace(publication(tmp_path, path="hq/c.mp4"), path="../c.mp4")
    subject.put(taken.path, b"of a stranger")
    assert isinstance(gone.content, SpooledFile)
    gone.content.path.unlink()
    results = await target.publish([good[0], taken, good[1], gone, bad, good[2]])

    assert [type(each) for each in results] == [
        Kept,
        PathTakenError,
        Kept,
        ContentError,
        TargetError,
        Kept,
    ]
    kept = [name for wanted in good for name in whole(wanted)]
    assert set(subject.visible()) == {*kept, taken.path}


async def test_an_empty_batch_has_no_results(target: Target) -> None:
    assert await target.publish([]) == []


async def test_publishes_at_once_do_not_meet(
    subject: Subject, target: Target, tmp_path: Path
) -> None:
    """Neither of several files nor of one and the same."""
    same = publication(tmp_path)
    others = [publication(tmp_path, path=f"hq/2026/{n}.mp4") for n in range(6)]
    wanted = [same, same, *others]
    results = await asyncio.gather(*(target.publish([each]) for each in wanted))

    assert [type(result) for (result,) in results] == [Kept] * 8
    assert subject.visible() == {
        name: content
        for each in (same, *others)
        for name, content in whole(each).items()
    }
    assert subject.leftovers() == 0


@pytest.mark.parametrize("may_link", [True, False])
async def test_a_crash_between_any_two_steps(
    subject: Subject, tmp_path: Path, may_link: bool
) -> None:
    """Nothing partial shows, and a repeat by a new process ends right."""
    wanted = publication(tmp_path, may_link=may_link)
    await subject.target().probe(None, write=True)
    for steps in range(500):
        for name in list(subject.visible()):
            subject.remove(name)
        target = subject.target()
        await target.probe(None, write=True)
        with subject.killed_after(steps) as counted:
            try:
                await publish(target, wanted)
            except (CrashError, TargetError, ContentError):
                assert counted.crashed
        await target.close()
        seen = subject.visible()
        assert seen.items() <= whole(wanted).items(), steps
        after = subject.target()
        await after.probe(None, write=True)
        await publish(after, wanted)
        await after.close()
        assert subject.visible() == whole(wanted), steps
        assert subject.leftovers() == 0
        if not counted.crashed:
            assert steps > 1
            return
    pytest.fail("it never ends")


# --- content that lies on another target ----------------------------------------


@pytest.fixture(params=KINDS)
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    """Return where the bytes come from."""
    return make(request.param, tmp_path / "other")


async def copied(other: Subject, folder: Path) -> Publication:
    """Return a publication of what another target keeps."""
    elsewhere = other.target()
    marker_id = (await elsewhere.probe(None, write=True)).marker_id
    wanted = publication(folder, path="there/6414.mp4")
    await publish(elsewhere, wanted)
    content = KeptCopy(target=elsewhere, marker_id=marker_id, path=wanted.path)
    return replace(wanted, content=content, path=PATH)


async def test_a_copy_is_made_from_any_target(
    subject: Subject, target: Target, other: Subject, tmp_path: Path
) -> None:
    """Its bytes are proven as all are, and the one it came from stays as it is."""
    wanted = await copied(other, tmp_path)
    before = other.visible()
    kept = await publish(target, wanted)

    assert kept.verified
    assert subject.visible() == whole(wanted)
    assert other.visible() == before


@pytest.mark.parametrize("damage", ["gone", "short", "flipped"])
async def test_a_damaged_copy_is_not_copied(
    subject: Subject, target: Target, other: Subject, tmp_path: Path, damage: str
) -> None:
    """It is the content's fault."""
    wanted = await copied(other, tmp_path)
    if damage == "gone":
        other.remove("there/6414.mp4")
    else:
        rest = b"" if damage == "short" else b"?"
        other.put("there/6414.mp4", BYTES[:-1] + rest)
    with pytest.raises(ContentError):
        await publish(target, wanted)

    assert subject.visible() == {}
    assert subject.leftovers() == 0


async def test_a_copy_that_cannot_be_read_now_concludes_nothing(
    subject: Subject, target: Target, other: Subject, tmp_path: Path
) -> None:
    """It is not the fault of the target that is written to, either."""
    wanted = await copied(other, tmp_path)
    with other.away():
        with pytest.raises(TargetError) as failed:
            await publish(target, wanted)

    assert failed.value.reason == "no_origin"
    assert isinstance(await publish(target, wanted), Kept)


# --- what lies there ------------------------------------------------------------


async def test_what_was_published_is_read(target: Target, tmp_path: Path) -> None:
    """Byte for byte; nobody is given what is not there."""
    await publish(target, publication(tmp_path))

    assert await bytes_of(target) == BYTES
    with pytest.raises(ContentError):
        await bytes_of(target, "hq/none.mp4")


async def test_what_was_published_is_examined(
    subject: Subject, target: Target, tmp_path: Path
) -> None:
    """Length, digest and sidecar as they are; the bytes are counted as they come."""
    wanted = publication(tmp_path)
    await publish(target, wanted)
    before, came = subject.visible(), [0]

    async def examined() -> StoredFile:
        return await subject.target().examine(
            PATH,
            size_bytes=len(BYTES),
            marker_id=await marker_of(target),
            came=came.append,
        )

    good = await examined()
    assert (good.present, good.size_bytes) == (True, len(BYTES))
    assert (good.sha256, good.sidecar) == (wanted.sha256, wanted.sidecar)
    assert sum(came) == len(BYTES)
    assert subject.visible() == before

    subject.put(PATH, BYTES[::-1])
    flipped = await examined()
    assert flipped.size_bytes == len(BYTES)
    assert flipped.sha256 == hashlib.sha256(BYTES[::-1]).hexdigest()

    subject.put(PATH, BYTES[:-1])
    subject.remove(f"{PATH}.json")
    short = await examined()
    assert (short.present, short.size_bytes) == (True, len(BYTES) - 1)
    assert (short.sha256, short.sidecar) == (None, None)

    subject.remove(PATH)
    gone = await examined()
    assert (gone.present, gone.size_bytes, gone.sha256) == (False, None, None)


async def test_a_scan_finds_what_was_published(
    subject: Subject, target: Target, tmp_path: Path
) -> None:
    """And sidecars whose files are gone; a file without a sidecar tells nothing."""
    wanted = [publication(tmp_path, path=f"hq/{n}/a.mp4") for n in range(5)]
    await target.publish(wanted)
    subject.remove("hq/3/a.mp4")
    subject.remove("hq/4/a.mp4.json")
    found = await scanned(subject.target())

    assert {path: stored.size_bytes for path, stored in found.items()} == {
        "hq/0/a.mp4": len(BYTES),
        "hq/1/a.mp4": len(BYTES),
        "hq/2/a.mp4": len(BYTES),
        "hq/3/a.mp4": None,
    }
    assert {stored.sidecar for stored in found.values()} == {wanted[0].sidecar}
    assert not found["hq/3/a.mp4"].present


async def test_one_path_is_found(
    subject: Subject, target: Target, tmp_path: Path
) -> None:
    """As a scan finds it; None where nothing lies."""
    await publish(target, publication(tmp_path))
    marker_id = await marker_of(target)

    assert await target.find(PATH, marker_id) == (await scanned(target))[PATH]
    assert await target.find("hq/none.mp4", marker_id) is None
    subject.remove(f"{PATH}.json")
    bare = await target.find(PATH, marker_id)
    assert bare is not None
    assert (bare.size_bytes, bare.sidecar) == (len(BYTES), None)


# --- what is moved, what is removed ---------------------------------------------


async def test_what_is_set_aside_is_kept_and_out_of_the_way(
    subject: Subject, target: Target, tmp_path: Path
) -> None:
    """File and sidecar each alone; what was set aside before is never replaced."""
    wanted = publication(tmp_path)
    for content in (b"first", b"second"):
        await publish(target, wanted)
        subject.put(PATH, content)
        places = {await target.set_aside(PATH, sidecar=False)}
        assert subject.visible() == {f"{PATH}.json": wanted.sidecar}
        places.add(await target.set_aside(PATH, sidecar=True))
        assert len(places) == 2
        assert subject.visible() == {}

    aside = [b"first", b"second", wanted.sidecar, wanted.sidecar]
    assert sorted(subject.aside()) == sorted(aside)
    await publish(target, wanted)
    assert subject.visible() == whole(wanted)
    assert list(await scanned(target)) == [PATH]


async def test_what_is_deleted_is_gone(
    subject: Subject, target: Target, tmp_path: Path
) -> None:
    """With its sidecar, once and again; nothing else goes."""
    wanted, stays = publication(tmp_path), publication(tmp_path, path="hq/b.mp4")
    await target.publish([wanted, stays])
    for _ in range(2):
        await target.delete(PATH)
        await target.delete("hq/never/there.mp4")

    assert subject.visible() == whole(stays)
    await publish(target, wanted)
    assert subject.visible() == whole(wanted) | whole(stays)


async def test_a_crash_while_something_is_deleted(
    subject: Subject, tmp_path: Path
) -> None:
    """The sidecar goes last, and a repeat ends it."""
    wanted = publication(tmp_path)
    for steps in range(500):
        target = subject.target()
        await target.probe(None, write=True)
        await publish(target, wanted)
        with subject.killed_after(steps) as counted:
            try:
                await target.delete(PATH)
            except (CrashError, TargetError):
                assert counted.crashed
        assert PATH not in subject.visible() or f"{PATH}.json" in subject.visible()
        await target.close()
        after = subject.target()
        await after.probe(None, write=True)
        await after.delete(PATH)
        await after.close()
        assert subject.visible() == {}
        if not counted.crashed:
            assert steps > 1
            return
    pytest.fail("it never ends")


# --- what it says of itself -----------------------------------------------------


async def test_it_says_what_it_can_do(subject: Subject) -> None:
    """Without being touched; it offers the spool a folder only where it links."""
    with subject.away():
        target = subject.target()
        traits, folder = target.traits, target.spool_folder

    assert traits.at_once >= 1
    assert target.place
    assert folder is None or traits.links_in is not None
