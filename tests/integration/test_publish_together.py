"""Small files that are due are published together; a bad one harms no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirror.model import State
from mirror.pipeline.publish import publisher as publishing
from mirror.simulator import Vms
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mirror.pipeline.engine import Engine
    from mirror.simulator import Export as Served

SIZE = 20_000


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as served:
        yield served


async def spooled(folder: Path, vms: Vms, *sizes: int) -> tuple[Site, list[Served]]:
    """Return a site with files of these sizes in its spool, due in this order."""
    site = Site.make(folder, vms)
    site.tables["targets"]["nas"]["mount"] = True
    served = [vms.add(size=size) for size in reversed(sizes)]
    await site.once()
    site.tables["targets"]["nas"]["mount"] = False
    served.sort(key=lambda each: site.export(each).stored_key)
    assert [site.export(each).size_bytes for each in served] == [*sizes]
    return site, served


async def claim(engine: Engine) -> list[int]:
    """Claim what is published together, and publish it; return the exports' ids."""
    publisher = engine.publishers["nas"]
    assert await publisher.monitor.check()
    duties = await publisher.claim()
    if duties:
        await publisher.copies.publish(duties)
    return [duty.export.export_id for duty in duties]


async def test_small_files_go_together_and_a_large_one_alone(
    tmp_path: Path, vms: Vms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that has been due longest is always among them."""
    monkeypatch.setattr(publishing, "SMALL_BYTES", SIZE)
    sizes = [SIZE] * 2 + [10 * SIZE] * 2 + [SIZE] * 17
    site, served = await spooled(tmp_path, vms, *sizes)
    ids = [each.export_id for each in served]
    async with site.engine() as engine:
        await engine.prepare()
        batches = [await claim(engine) for _ in range(5)]

    assert batches == [ids[:2] + ids[4:18], ids[2:3], ids[3:4], ids[18:], []]
    assert {site.export(each).state for each in served} == {State.SAVED}
    assert set(site.media().values()) == {vms.truth(each).sha256 for each in served}
    assert site.spool_files() == []


async def test_a_bad_one_harms_no_other(tmp_path: Path, vms: Vms) -> None:
    """A path that is taken, a spooled file that is gone."""
    site, served = await spooled(tmp_path, vms, *[SIZE] * 5)
    taken = site.archive / "hq" / f"{served[0].export_id}.mp4"
    site.tables["targets"]["nas"]["layout"] = "{source}/{id}"
    taken.parent.mkdir(parents=True)
    taken.write_bytes(b"of somebody else")
    async with site.engine() as engine:
        await engine.prepare()
        gone = engine.spool.path_of(site.export(served[1]))
        assert gone is not None
        gone.unlink()
        assert len(await claim(engine)) == 5

    states = [site.export(each).state for each in served]
    assert states == [State.SAVED, State.READY, *[State.SAVED] * 3]
    assert taken.read_bytes() == b"of somebody else"
    assert f"hq/{served[0].export_id}~2.mp4" in site.media()
    assert len(site.media()) == 4 + 1


@pytest.mark.parametrize("mode", ["0640", "0660"])
async def test_the_spooled_file_itself_is_kept_whatever_its_mode(
    tmp_path: Path, vms: Vms, mode: str
) -> None:
    """Others may write to it, if they may, once it is kept and not before."""
    site = Site.make(tmp_path, vms)
    site.tables["targets"]["nas"]["file_mode"] = mode
    served = vms.add(size=SIZE)
    assert (await site.once()).exit_code == 0

    (path,) = site.media()
    assert oct((site.archive / path).stat().st_mode)[-4:] == mode
    (copy,) = site.dossier(served).copies
    assert copy.verified_us is None
