"""A publish that hangs gives its slot back, and does no harm when it ends at last."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mirror.disk import lanes
from mirror.ledger import Ledger
from mirror.model import CopyState, State
from mirror.simulator import Vms
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mirror.model import Copy
    from mirror.simulator import Export as Served

SIZE = 300_000
HIDDEN = ".archive-mirror"


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as served:
        yield served


class Stuck:
    """Lets one call of `os` about a large file below a folder hang, the first.

    Attributes:
        began: It hangs.
        wakes: It may end now.
        ended: It has.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: str, root: Path) -> None:
        self.began, self.wakes = threading.Event(), threading.Event()
        self.ended = threading.Event()
        self._real, self._root = getattr(os, call), root
        monkeypatch.setattr(os, call, self)

    def __call__(self, fd: Any, *given: Any, **named: Any) -> Any:
        if self._is_about_it(fd, named.get("dst_dir_fd")) and not self.began.is_set():
            self.began.set()
            assert self.wakes.wait(60)
            try:
                return self._real(fd, *given, **named)
            finally:
                self.ended.set()
        return self._real(fd, *given, **named)

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
        (found,) = [one for one in ledger.reads.targets() if one.name == target]
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
