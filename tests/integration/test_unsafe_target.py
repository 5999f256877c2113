"""A target's root that others may write to, and one that is full, in a whole run."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

from mirror.app.status import nagios, overview
from mirror.ledger import Ledger
from mirror.model import State
from mirror.pipeline.spool import places
from mirror.simulator import Vms
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FILES = 3
HIDDEN = ".archive-mirror"


@pytest.fixture
async def vms() -> AsyncIterator[Vms]:
    async with Vms() as served:
        yield served


def status(site: Site) -> dict[str, Any]:
    """Return what `/status.json` gives."""
    settings = site.settings()
    ledger = Ledger.read(settings.state_dir)
    try:
        return overview.read(
            ledger, settings, now_us=time.time_ns() // 1000, token_expiry_s={}
        )
    finally:
        ledger.close()


async def test_a_hidden_folder_that_was_laid_out_for_us(
    tmp_path: Path, vms: Vms
) -> None:
    """Nothing is written there, and nothing of it is kept; the bytes wait elsewhere."""
    site = Site.make(tmp_path, vms)
    for name in ("", "tmp", "spool"):
        (site.archive / HIDDEN / name).mkdir(parents=True)
        (site.archive / HIDDEN / name).chmod(0o777)
    served = [vms.add(size=20_000) for _ in range(FILES)]
    report = await site.once()

    assert report.exit_code == 3
    assert {site.export(one).state for one in served} == {State.SPOOLED}
    assert [*site.media()] == []
    assert [one for one in site.archive.rglob("*") if one.is_file()] == []
    assert {site.export(one).spool_dir for one in served} == {
        str(tmp_path / "state" / "spool")
    }
    shown = status(site)
    assert "others may write to" in shown["targets"][0]["problem"]
    assert "chmod -R go-w" in nagios.judge(shown)[1]

    shutil.rmtree(site.archive / HIDDEN)
    assert (await site.once()).exit_code == 0
    assert set(site.media().values()) == {vms.truth(one).sha256 for one in served}


@pytest.mark.parametrize("folder", [HIDDEN, f"{HIDDEN}/spool"])
async def test_a_spool_that_others_may_write_to_is_left(
    tmp_path: Path, vms: Vms, folder: str
) -> None:
    """Beside the ledger is room for it; where the target is, is looked at each time."""
    site = Site.make(tmp_path, vms)
    async with site.engine() as engine:
        await engine.prepare()
        place = engine.places.now()[0]
        assert place.guard is not None
        place.guard()
        (site.archive / folder).chmod(0o730)

        with pytest.raises(PermissionError, match="others may write to"):
            place.guard()
        engine.publishers["nas"].monitor.warning = "its file system keeps no modes"
        place.guard()


@pytest.mark.parametrize("lies", ["elsewhere", "there, of another disk"])
async def test_another_disk_where_the_spool_lay_is_not_written_to(
    tmp_path: Path, vms: Vms, monkeypatch: pytest.MonkeyPatch, lies: str
) -> None:
    """At once where the folder differs; else when the marker is read again."""
    site = Site.make(tmp_path, vms)
    async with site.engine() as engine:
        await engine.prepare()
        place = engine.places.now()[0]
        assert place.guard is not None
        place.guard()
        hidden = site.archive / HIDDEN
        (hidden / "target.json").write_text('{"target_id": "another"}')
        if lies == "elsewhere":
            shutil.copytree(hidden, site.archive / "new")
            hidden.rename(site.archive / "old")
            (site.archive / "new").rename(hidden)
        else:
            monkeypatch.setattr(places, "READY_S", 0.0)

        with pytest.raises(OSError, match="another disk lies"):
            place.guard()


async def test_a_spool_dir_that_others_may_write_to_is_left(
    tmp_path: Path, vms: Vms
) -> None:
    """What the operator named is not used as long as they may."""
    site = Site.make(tmp_path, vms)
    chosen = tmp_path / "chosen"
    chosen.mkdir(mode=0o700)
    chosen.chmod(0o770)
    site.tables |= {"spool_dir": str(chosen)}
    site.tables["targets"]["nas"] |= {"mount": True}  # never there: files stay spooled
    served = vms.add(size=20_000)
    await site.once()
    assert site.export(served).spool_dir == str(tmp_path / "state" / "spool")
    assert [*chosen.iterdir()] == []

    chosen.chmod(0o700)
    later = vms.add(size=20_000)
    await site.once()
    assert site.export(later).spool_dir == str(chosen)


async def test_a_full_target_is_seen_everywhere(tmp_path: Path, vms: Vms) -> None:
    """In the status, as a concern, by nagios; and over when there is room."""
    site = Site.make(tmp_path, vms)
    site.tables |= {"spool_dir": str(tmp_path / "spool")}
    site.tables["targets"]["nas"] |= {"min_free": "1024TiB"}
    served = [vms.add(size=20_000) for _ in range(FILES)]
    report = await site.once()
    shown = status(site)
    (target,) = shown["targets"]
    result, line = nagios.judge(shown)

    assert report.exit_code == 3
    assert {site.export(one).state for one in served} == {State.SPOOLED}
    assert target["free_bytes"] == 0
    assert "free some space there" in target["problem"]
    assert any("nas cannot be used" in one["text"] for one in shown["concerns"])
    assert result is nagios.Result.WARNING
    assert "targets_down=1" in line

    del site.tables["targets"]["nas"]["min_free"]
    assert (await site.once()).exit_code == 0
    assert status(site)["targets"][0]["problem"] is None
    assert len(site.media()) == FILES


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
async def test_a_target_of_mapped_users_is_used_with_a_warning(
    tmp_path: Path, vms: Vms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told in the status, and no cause for an alarm."""
    monkeypatch.setattr("mirror.disk.filesystem.keeps_modes", lambda _: False)
    site = Site.make(tmp_path, vms)
    for name in ("", "tmp", "spool"):
        (site.archive / HIDDEN / name).mkdir(parents=True)
        os.chown(site.archive / HIDDEN / name, 54_321, -1)
    served = vms.add(size=20_000)
    assert (await site.once()).exit_code == 0
    shown = status(site)

    assert "copies are read back" in shown["targets"][0]["warning"]
    assert nagios.judge(shown)[0] is nagios.Result.OK
    assert [*site.media().values()] == [vms.truth(served).sha256]
