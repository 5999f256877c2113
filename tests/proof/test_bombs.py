"""Answers made to eat memory or time: each ends by its limit, in little memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mirror.simulator import Fault, Kind, Vms, fault
from tests.proof.processes import CheckedMirror, Processes

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.simulator import Step
    from tests.proof.figures import Figures

_MIB = 1024 * 1024
_MORE_BYTES = 16 * _MIB
_LISTS = {
    "100 MB page": fault("huge_body", size=100 * _MIB),
    "8 MB of tiny rows": Fault(
        kind=Kind.JSON_PAGE, text='{"data": [' + "0," * 4_000_000 + "0]}"
    ),
    "depth of 100,000": fault("deep_json", size=100_000),
    "endless paging": fault("endless_pages"),
    "endless rows": fault("endless_rows"),
    "100,000 headers": fault("many_headers", size=100_000),
}
_FILES = {
    "endless body": fault("endless"),
    "100,000 headers": fault("many_headers", size=100_000),
}
_DRIP = fault("drip", size=1, seconds=1.0)
"""Its limits, a minute for a page and five for a file, are for the long form alone."""


async def _peak(
    folder: Path,
    *,
    listed: Step = None,
    filed: Step = None,
    plant: str | None = None,
) -> tuple[int, list[str]]:
    """Run `once` into a bomb, a good export beside it.

    Returns:
        The most resident memory of the process, and what the judge finds wrong.
    """
    folder.mkdir()
    async with Vms(other_origin=False) as vms, Processes.open() as processes:
        mirror = CheckedMirror.make(folder, vms, processes)
        mirror.site.tables["transfer"] |= {
            "max_file_size": "16MiB",
            "min_rate": "1KiB/s",
        }
        mirror.offer(vms.add(size=4 * _MIB))
        if listed is not None:
            vms.script_list(listed)
        if filed is not None:
            mirror.offer(vms.add(size=300_000, then=filed), must=False)
        child = await mirror.run("once", plant=plant)
        mirror.hear(child)
        found = child.out.read_text() + child.err.read_text()
        assert "unexpected" not in found
        assert "Traceback" not in found
        assert child.code.result() in {0, 1, 3}
        mirror.checker.look(await mirror.listed())
        saved = [row for row in await mirror.listed() if row["state"] == "saved"]
        if listed is None:
            assert len(saved) == 1
        return child.peak_bytes, mirror.checker.breaks


@pytest.mark.timeout(300)
async def test_bombs(tmp_path, figures: Figures):
    """Each ends by its limit, takes 16 MiB at most, and costs a good export nothing."""
    base, _ = await _peak(tmp_path / "base")
    more = {}
    bombs: list[tuple[str, dict[str, Any]]] = [
        (name, {"listed": step}) for name, step in _LISTS.items()
    ]
    bombs += [(name, {"filed": step}) for name, step in _FILES.items()]
    if figures.long:
        bombs += [("one byte a second", {kind: _DRIP}) for kind in ("listed", "filed")]
    for number, (name, bomb) in enumerate(bombs):
        peak, breaks = await _peak(tmp_path / str(number), **bomb)
        assert breaks == []
        more[f"{name} ({'page' if 'listed' in bomb else 'file'})"] = peak - base
    figures.record(
        9,
        bombs=len(bombs),
        base_mib=round(base / _MIB),
        most_more_mib=round(max(more.values()) / _MIB, 1),
    )
    assert {name: n for name, n in more.items() if n > _MORE_BYTES} == {}


async def test_a_planted_bug_shows_in_memory(tmp_path):
    """A page that is held whole takes more than the limit."""
    base, _ = await _peak(tmp_path / "base")
    bomb = _LISTS["100 MB page"]
    peak, _ = await _peak(tmp_path / "bomb", listed=bomb, plant="boundless_pages")
    assert peak - base > _MORE_BYTES
