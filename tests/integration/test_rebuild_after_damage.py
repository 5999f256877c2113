"""Of a good file and a damaged one of the same sidecar `rebuild` takes the good one."""

from __future__ import annotations

import shutil

import pytest

from mirror.simulator import Vms
from tests.integration.test_rebuild_sidecars import in_order
from tests.kept_site import keep


@pytest.fixture
async def vms():
    async with Vms() as running:
        yield running


def spoil(path):
    """Change one byte, not the length."""
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("bad", ["plain", "numbered", "both"])
async def test_of_two_files_side_by_side_the_good_one_is_taken(
    tmp_path, vms, monkeypatch, reverse, known, bad
):
    """Whichever is met first, also where the old ledger knew one."""
    kept = await keep(tmp_path, vms, 1)
    plain = kept.path(0)
    numbered = plain.with_name(f"{plain.stem}~2.mp4")
    for suffix in ("", ".json"):
        shutil.copy(f"{plain}{suffix}", f"{numbered}{suffix}")
    for path in {"plain": [plain], "numbered": [numbered]}.get(bad, [plain, numbered]):
        spoil(path)
    in_order(monkeypatch, reverse=reverse)
    if not known:
        kept.lose()
    done = await kept.rebuild(force=True)
    first = numbered if reverse else plain
    taken = {"plain": numbered, "numbered": plain, "both": first}[bad]
    left = plain if taken is numbered else numbered

    assert kept.copies(0) == {"nas": ("saved", f"hq/{taken.name}")}
    assert kept.oddities() == [("second", f"hq/{left.name}")]
    assert done.targets["nas"].copies == {"saved": 1}
    assert (await kept.command("verify"))[0] == (4 if bad == "both" else 0)


async def test_a_folder_that_somebody_has_copied_is_not_read(
    tmp_path, vms, monkeypatch
):
    """It would be all of the archive, twice."""
    kept = await keep(tmp_path, vms, 1)
    shutil.copytree(kept.root() / "hq", kept.root() / "again")
    spoil(kept.root() / "again" / kept.path(0).name)
    in_order(monkeypatch, reverse=False)
    kept.lose()
    await kept.rebuild()

    assert kept.copies(0) == {"nas": ("saved", f"again/{kept.path(0).name}")}
