"""`check`: its exit codes; `--adopt`."""

from __future__ import annotations

from mirror.simulator import Vms
from tests.command import on, run_beside
from tests.site import Site


async def test_check_passes(tmp_path):
    """Exit 0; each finding on stdout, in words or as one object."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        site.settings()
        words = await run_beside(*on(site), "check")
        (shown,) = (await run_beside(*on(site), "check", "--json")).lines

    assert words.code == 0
    assert {line[:4] for line in words.out.splitlines()} <= {"pass", "warn"}
    for name in ("state_dir", "source hq"):
        assert f"pass  {name}: " in words.out
    assert shown["ok"] is True
    assert {one["name"] for one in shown["checks"]} >= {
        "state_dir",
        "source hq",
        "target nas",
    }
    assert vms.token not in words.out + words.err
    assert not (tmp_path / "state").exists()


async def test_check_fails(tmp_path):
    """Exit 1; every failed check is told, with its remedy, on stdout."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        (tmp_path / "token").write_text("a-wrong-token")
        (tmp_path / "archive").write_text("no folder")
        site.settings()
        ran = await run_beside(*on(site), "check")
        (shown,) = (await run_beside(*on(site), "check", "--json")).lines

    failed = [line for line in ran.out.splitlines() if line.startswith("fail")]
    assert ran.code == 1 and len(failed) == 2
    assert "401" in failed[0] and "token" in failed[0] and "nas" in failed[1]
    assert shown["ok"] is False
    assert "a-wrong-token" not in ran.out + ran.err


async def test_check_adopts_another_disk(tmp_path):
    """Another disk at the path fails; once adopted it is ours, for `once` too."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        vms.add()
        await site.once()
        site.archive.rename(tmp_path / "old")
        site.archive.mkdir()
        refused = await run_beside(*on(site), "check")
        adopted = await run_beside(*on(site), "check", "--adopt", "nas")
        again = await run_beside(*on(site), "check")
        unknown = await run_beside(*on(site), "check", "--adopt", "floppy")
        served = vms.add(size=50_000)
        after = await run_beside(*on(site), "once")

    assert refused.code == 1 and "--adopt" in refused.out
    assert adopted.code == 0 and "adopted" in adopted.out
    assert again.code == 0
    assert unknown.code == 2 and "floppy" in unknown.err
    assert after.code == 0
    assert vms.truth(served).sha256 in site.media().values()
