"""Odd files are kept, whole or doubtful; a file that changes gets versions."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mirror.model import Export, State
from mirror.simulator import Fault, Kind, Stage, Vms
from mirror.vms import VmsClient
from tests.site import Site

if TYPE_CHECKING:
    from mirror.simulator import Export as Served

FIELD = Path(__file__).parent.parent / "data" / "field"
SOUND = (
    "good_base.mp4",
    "trail_crlf.mp4",
    "trail_kenwood_CCCC.mp4",
    "mdat_plus8.mp4",
    "first_free.mp4",
    "no_ftyp_wide_first.mov",
    "box_nonascii_type.mp4",
    "growing.mp4",
)
DOUBTFUL = (
    "gst_frag_killed.mp4",
    "hik_imkh_named_mp4.mp4",
    "empty_moov_only.mp4",
    "moov_points_beyond.mp4",
)
BINARY = bytes(range(256)) * 512
"""No file format at all, and more than a placeholder has."""


def serve(vms: Vms, body: bytes, **given: Any) -> Served:
    export = vms.add(stage=Stage.ASKED, **given)
    vms.make_file(export, body=body)
    return export


def versions(site: Site, served: Served) -> list[Export]:
    """Return all versions of an export, oldest first."""
    found = [
        export for export in site.all_exports() if export.export_id == served.export_id
    ]
    return sorted(found, key=lambda export: export.version)


async def test_no_byte_of_the_field_is_thrown_away(tmp_path):
    """None but the sound files are called saved; all are there, to the byte."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        names = [*SOUND, *DOUBTFUL]
        served = {
            name: serve(vms, (FIELD / name).read_bytes(), name=name) for name in names
        }
        report = await site.once()

        kept = site.exports()
        found = {name: kept[served[name].export_id] for name in names}
        bytes_kept = site.media()
        for name, export in found.items():
            whole = name in SOUND
            assert export.state is (State.SAVED if whole else State.DOUBTFUL), name
            [path] = [p for p, s in bytes_kept.items() if s == export.sha256]
            assert export.sha256 == vms.truth(served[name]).sha256
            assert path.endswith(".doubtful.mp4") is not whole
            assert path.count(".mp4") == 1
            record = json.loads((site.archive / f"{path}.json").read_bytes())
            assert record["proof"] == ("whole" if whole else "doubtful")
            assert bool(record["doubt"]) is not whole
    assert report.exit_code == 3
    assert report.doubtful == len(DOUBTFUL)
    assert report.lost == report.owed == 0


async def test_a_run_after_it_is_quiet(tmp_path):
    """What is doubtful is kept: it is not fetched again, and newly doubtful once."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        export = serve(vms, BINARY)
        first = await site.once()
        asked = len(vms.file_requests(export))
        second = await site.once()

    assert (first.exit_code, second.exit_code) == (3, 0)
    assert asked == len(vms.file_requests(export)) == 2


class Growing:
    """A file that is longer at each step, with the validators of its own.

    Attributes:
        edges: Where its parts end.
    """

    def __init__(self, vms: Vms) -> None:
        self._vms = vms
        self._body = (FIELD / "growing.mp4").read_bytes()
        self.edges = [*_fragment_ends(self._body), len(self._body)]
        self.served = vms.add(stage=Stage.ASKED)

    def grow(self, step: int) -> None:
        self._vms.make_file(self.served, body=self._body[: self.edges[step]])


def _fragment_ends(body: bytes) -> list[int]:
    """Return where each `mdat` of a fragmented file ends."""
    ends, offset = [], 0
    while offset < len(body):
        size = int.from_bytes(body[offset : offset + 4], "big")
        if body[offset + 4 : offset + 8] == b"mdat":
            ends.append(offset + size)
        offset += size
    return ends[:-1]


async def test_a_file_that_was_still_being_written(tmp_path):
    """Its first bytes are kept, and its last ones as a further version."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms, file_lifetime="6s")
        growing = Growing(vms)
        growing.grow(0)
        async with site.service():
            await site.until_state(growing.served, State.SAVED)
            growing.grow(-1)

            def all_kept() -> bool:
                return {one.sha256 for one in versions(site, growing.served)} == {
                    sha256 for _, sha256 in growing.served.truth.versions
                }

            await site.until(all_kept)
            await site.until_state(growing.served, State.SAVED)
    first, second = versions(site, growing.served)

    assert (first.state, second.state) == (State.SAVED, State.SAVED)
    assert second.deadline_us == first.deadline_us
    paths = sorted(site.media())
    assert [path.count("~2") for path in paths] == [0, 1]
    assert set(site.media().values()) == {first.sha256, second.sha256}
    looks = [
        each for each in vms.file_requests(growing.served) if each.range == "bytes=0-0"
    ]
    assert 2 <= len(looks) <= 12


@pytest.mark.parametrize(
    ("steps", "asked"),
    [
        # An ETag that is another at every answer, the bytes the same.
        ([Fault(kind=Kind.OTHER_ETAG)], 2),
    ],
)
async def test_the_same_bytes_under_another_validator(tmp_path, steps, asked):
    """Nothing changed: no version stays, and the validator counts no more."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms, file_lifetime="5s")
        export = serve(vms, (FIELD / "good_base.mp4").read_bytes())
        async with site.service():
            await site.until_state(export, State.SAVED)
            vms.script(export, then=tuple(steps))
            await site.until(lambda: versions(site, export)[0].drops == 1)
    [kept] = versions(site, export)

    bodies = [r for r in vms.file_requests(export) if r.range != "bytes=0-0"]
    assert len(bodies) == asked
    assert kept.state is State.SAVED
    assert list(site.media().values()) == [kept.sha256]


async def test_a_placeholder_gives_way_to_the_file(tmp_path):
    """A picture is served for every file until it is made."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        export = serve(vms, b"\xff\xd8\xff\xe0" + bytes(range(200)) * 20)
        async with site.service():
            await site.until(lambda: any(one.held for one in versions(site, export)))
            vms.make_file(export, body=(FIELD / "good_base.mp4").read_bytes())
            await site.until_state(export, State.SAVED)
    [kept] = versions(site, export)

    assert kept.sha256 == vms.truth(export).sha256
    assert list(site.media().values()) == [kept.sha256]
    assert not list((tmp_path / "archive" / ".archive-mirror").rglob("*.part"))


@pytest.mark.parametrize("how", ["deleted", "row_gone_url"])
async def test_what_is_held_is_kept_when_the_file_goes(tmp_path, how):
    """A body that came to its end is never lost."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        export = serve(vms, BINARY)
        async with site.service():
            await site.until(lambda: any(one.held for one in versions(site, export)))
            if how == "deleted":
                vms.delete_file(export)
            else:
                export.url = None
            await site.until_state(export, State.DOUBTFUL)
    [kept] = versions(site, export)

    assert kept.sha256 == vms.truth(export).sha256
    assert kept.doubt
    [path] = site.media()
    assert path.endswith(".doubtful.mp4")


async def test_other_footage_under_one_identity(tmp_path):
    """A VMS that counts anew within a second: both are kept, with their own facts."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        export = vms.add(camera_id=1)
        async with site.service():
            await site.until_state(export, State.SAVED)
            export.camera_id = 2
            vms.make_file(export)
            await site.until(lambda: len(versions(site, export)) == 2)
            await site.until_state(export, State.SAVED)
    first, second = versions(site, export)

    assert (first.camera_id, second.camera_id) == (1, 2)
    assert (second.version, second.reason) == (2, None)
    assert {path.split("/")[1] for path in site.media()} == {"camera-1", "camera-2"}
    assert set(site.media().values()) == {first.sha256, second.sha256}


async def test_a_look_that_crashes_stops_only_itself(tmp_path, monkeypatch):
    """A fault of ours; the service goes on, and what is kept stays."""
    crashed = asyncio.Event()

    async def look(*_: object) -> None:
        crashed.set()
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(VmsClient, "look", look)
    async with Vms() as vms:
        site = Site.make(tmp_path, vms, file_lifetime="2s")
        first = serve(vms, (FIELD / "good_base.mp4").read_bytes())
        async with site.service():
            async with asyncio.timeout(60):
                await crashed.wait()
            second = serve(vms, (FIELD / "trail_crlf.mp4").read_bytes())
            await site.until_state(second, State.SAVED)

    assert site.export(first).state is State.SAVED


async def test_what_is_kept_as_doubtful_is_looked_at_again(tmp_path):
    """It may be the beginning of a file that is still being written."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms, file_lifetime="20s")
        export = serve(vms, BINARY)
        async with site.service():
            await site.until_state(export, State.DOUBTFUL)
            [kept] = versions(site, export)
            await site.until(lambda: versions(site, export)[0].looks > kept.looks)

    assert kept.look_due_us is not None
    assert kept.deadline_us is not None
    assert kept.look_due_us < kept.deadline_us
