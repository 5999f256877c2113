"""A publish that hangs gives its slot back, and does no harm when it ends at last."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typing_extensions import override

from mirror.disk import durable, lanes
from mirror.errors import TargetError
from mirror.ledger import Ledger
from mirror.model import CopyState, State
from mirror.ports import Kept, KeptCopy
from mirror.simulator import Vms
from tests.directory_bench import World, publish_to
from tests.memory_target import Memory, MemoryTarget
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from mirror.model import Copy
    from mirror.simulator import Export as Served

SIZE = 20_000
HIDDEN = ".archive-mirror"


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as served:
        yield served


class Stuck:
    """Lets one call of `os` about a large file below a folder hang.

    Args:
        after: So many such calls before do not.

    Attributes:
        began: It hangs.
        wakes: It may end now.
        ended: It has.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, call: str, root: Path, after: int = 0
    ) -> None:
        self._left = after
        self.began, self.wakes = threading.Event(), threading.Event()
        self.ended = threading.Event()
        self._real, self._root = getattr(os, call), root
        monkeypatch.setattr(os, call, self)

    def __call__(self, fd: Any, *given: Any, **named: Any) -> Any:
        if not self._is_about_it(fd, named.get("dst_dir_fd")) or self.began.is_set():
            return self._real(fd, *given, **named)
        self._left -= 1
        if self._left >= 0:
            return self._real(fd, *given, **named)
        self.began.set()
        assert self.wakes.wait(60)
        try:
            return self._real(fd, *given, **named)
        finally:
            self.ended.set()

    def _is_about_it(self, fd: Any, folder: int | None) -> bool:
        """Tell whether a descriptor, or what is linked into a folder, is meant."""
        size = Path(fd).stat().st_size if folder else os.fstat(fd).st_size
        there = Path(f"/proc/self/fd/{folder or fd}").readlink()
        return size >= SIZE and self._root in (there, *there.parents)


def copies(site: Site, served: Served) -> dict[str, Copy]:
    """Return the ledger's records of the copies of an export."""
    with contextlib.suppress(IndexError):
        return {copy.target: copy for copy in site.dossier(served).copies}
    return {}


def problem(site: Site, target: str) -> str | None:
    """Return what the ledger says is wrong with a target."""
    with contextlib.closing(Ledger.read(site.settings().state_dir)) as ledger:
        (found,) = [one for one in ledger.queries.targets() if one.name == target]
    return found.problem


@pytest.mark.parametrize("call", ["fsync", "link"])
async def test_a_publish_that_hangs_holds_up_nothing(
    tmp_path: Path, vms: Vms, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """It goes back to the queue and its target is told; all else goes on."""
    monkeypatch.setattr(lanes, "PATIENCE_S", 1.0)
    site = Site.make(tmp_path, vms)
    site.tables["targets"]["nas"] |= {"required": False, "concurrency": 1}
    usb = {"type": "directory", "path": str(tmp_path / "usb")}
    nas = site.tables["targets"].pop("nas")
    # The first one links, the second one copies.
    both = {"usb": usb, "nas": nas} if call == "fsync" else {"nas": nas, "usb": usb}
    site.tables["targets"] |= both
    stuck = Stuck(monkeypatch, call, site.archive)
    first = vms.add(size=SIZE)
    try:
        async with site.service():
            await site.until(stuck.began.is_set)
            await site.until(
                lambda: copies(site, first)["nas"].state is CopyState.PENDING
            )
            await site.until_state(first, State.SAVED)
            second = vms.add(size=SIZE)
            await site.until_state(second, State.SAVED)
            hung = copies(site, first)["nas"]
            told, shown = problem(site, "nas"), site.media()

            stuck.wakes.set()
            await site.until(stuck.ended.is_set)
            await site.until(
                lambda: all(
                    copies(site, served)["nas"].state is CopyState.SAVED
                    for served in (first, second)
                )
            )
            await site.until(lambda: problem(site, "nas") is None)
    finally:
        stuck.wakes.set()

    assert "hangs" in (hung.last_error or "")
    assert "hangs" in (told or "")
    assert hung.path == copies(site, first)["nas"].path
    assert shown == {}
    assert set(site.kept()) == {
        path
        for served in (first, second)
        for media in [str(copies(site, served)["nas"].path)]
        for path in (media, f"{media}.json")
    }
    assert sorted(site.media().values()) == sorted(
        str(vms.truth(served).sha256) for served in (first, second)
    )
    assert list((site.archive / HIDDEN / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("folders", "kept"), [(["a", "b", "c"], [Kept]), (["a", "a", "a"], [])]
)
async def test_a_late_end_names_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folders: list[str],
    kept: list[type],
) -> None:
    """What was flushed before counts; what hung is as if it had never begun."""
    (tmp_path / "root").mkdir()
    world = World(root=tmp_path / "root", spool=tmp_path / "spooled")
    batch = [
        world.publication(
            path=f"{folder}/{number}.mp4", token=f"n-{number}", may_link=False
        )
        for number, folder in enumerate(folders)
    ]
    target = world.target()
    known = (await target.probe(None, write=True)).marker_id
    monkeypatch.setattr(lanes, "PATIENCE_S", 1.0)
    stuck = Stuck(monkeypatch, "fsync", world.root, after=1)
    try:
        results = await target.publish(batch)
        with pytest.raises(TargetError) as probed:
            await target.probe(known, write=True)
        before = world.visible()
    finally:
        stuck.wakes.set()
    async with asyncio.timeout(60):
        while target._lane.hangs:
            await asyncio.sleep(0.01)
    after = world.visible()
    await target.probe(known, write=True)
    again = await target.publish(batch)

    assert [type(each) for each in results] == kept + [TargetError] * (3 - len(kept))
    assert {each.reason for each in results if isinstance(each, TargetError)} == {
        "hung"
    }
    assert probed.value.reason == "hung"
    assert before.keys() == after.keys() == {"a/0.mp4", "a/0.mp4.json"}
    assert [type(each) for each in again] == [Kept] * 3
    assert len(world.visible()) == 6
    assert world.temporaries() == []
    await target.close()


async def test_a_slow_publish_is_no_hung_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as it gets on, be it from a slow disk or from a slow copy elsewhere."""
    monkeypatch.setattr(lanes, "PATIENCE_S", 1.0)
    monkeypatch.setattr(durable, "READ_BYTES", 1000)
    (tmp_path / "root").mkdir()
    world = World(root=tmp_path / "root", spool=tmp_path / "spooled")
    target, real = world.target(), durable.chunks_of
    await target.probe(None, write=True)

    def slowly(fd: int) -> Iterator[bytes]:
        for chunk in real(fd):
            time.sleep(0.05)
            yield chunk

    monkeypatch.setattr(durable, "chunks_of", slowly)
    assert (await publish_to(target, world.publication(may_link=False))).verified
    await target.close()


async def test_a_copy_that_comes_slowly_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the other target gives no byte for long is no fault of this one."""
    monkeypatch.setattr(lanes, "PATIENCE_S", 2.0)
    (tmp_path / "root").mkdir()
    world = World(root=tmp_path / "root", spool=tmp_path / "spooled")
    wanted, memory = world.publication(), Memory()
    other, target = MemoryTarget("usb", memory), world.target()
    known = (await other.probe(None, write=True)).marker_id
    await publish_to(other, wanted)
    await target.probe(None, write=True)

    class Slow(MemoryTarget):
        @override
        async def read(self, path: str, marker_id: str) -> AsyncGenerator[bytes, None]:
            await asyncio.sleep(3.0)
            async for chunk in super().read(path, marker_id):
                yield chunk

    copy = KeptCopy(target=Slow("usb", memory), marker_id=known, path=wanted.path)
    assert (await publish_to(target, replace(wanted, content=copy))).verified
    await target.close()
