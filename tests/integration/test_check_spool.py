"""`check` speaks of the spool that the service uses."""

from __future__ import annotations

import os
from types import SimpleNamespace

from mirror.app import check
from mirror.disk import mounts
from mirror.simulator import Vms
from tests.site import Site


async def spool(site: Site) -> tuple[str, str]:
    """Return what `check` says of the spool."""
    found = await check.run(site.settings(), secret=lambda _: None)
    return next((one.grade.value, one.detail) for one in found if one.name == "spool")


async def test_the_spool_of_the_only_target_is_named(tmp_path):
    """And the folder that stands in for it while the target is away."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        vms.add()
        await site.once()
        async with site.engine() as engine:
            await engine.prepare()
            used = engine.places.now()
        grade, detail = await spool(site)

    assert used[0].path == site.archive / ".archive-mirror/spool"
    assert grade == "pass"
    assert detail.startswith(f"{used[0].path} has ")
    assert f"while target nas is away, {used[1].path} has " in detail


async def test_room_is_told_where_files_wait_while_the_target_is_away(
    tmp_path, monkeypatch
):
    """How long they can is a matter of the folder that stands in."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        vms.add(size=1_000_000)
        await site.once()

        def room(path: object) -> SimpleNamespace:
            free = 499_000 if str(path).startswith(str(tmp_path / "state")) else 10**7
            return SimpleNamespace(f_blocks=free, f_bavail=free, f_frsize=1)

        monkeypatch.setattr(os, "statvfs", room)
        grade, detail = await spool(site)

    assert grade == "warn"
    assert "has 9.5 MiB free; while" in detail
    assert f"{tmp_path / 'state/spool'} has 487.3 KiB free, enough for 11 h" in detail


async def test_one_of_several_targets_or_a_network_one_holds_no_spool(
    tmp_path, monkeypatch
):
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        (tmp_path / "archive").mkdir()
        with monkeypatch.context() as patch:
            network = mounts.Mount(device="0:0", kind="nfs4")
            known = mounts.mount_of
            patch.setattr(
                mounts,
                "mount_of",
                lambda path: network if path == site.archive else known(path),
            )
            lone = await spool(site)
        other = {"type": "directory", "path": str(tmp_path / "other")}
        site.tables["targets"]["other"] = other
        many = await spool(site)

    assert lone[1].startswith(f"{tmp_path / 'state/spool'} has ")
    assert many[1].startswith(f"{tmp_path / 'state/spool'} has ")
