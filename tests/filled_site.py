"""A site with exports of many kinds, for commands that only ask."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from mirror.simulator import Stage, Vms
from tests.site import Site

if TYPE_CHECKING:
    from pathlib import Path

DAY = datetime(2024, 5, 1, 8, 0, tzinfo=UTC)
EVIL = "Gate \x1b[31m\x07\r\n\u202e\x9b2J.mp4"


async def filled_site(folder: Path) -> Site:
    """Return a site with two sources and exports of many kinds."""
    async with Vms() as hq, Vms(seed=1) as annex:
        site = Site.make(folder, hq, sweep_depth="9999d")
        site.tables["sources"]["annex"] = {
            "url": annex.url,
            "token_file": str(folder / "token"),
            "sweep_depth": "9999d",
        }
        hq.add(export_id=7, name="Gate.mp4", camera_id=1, created_at=DAY)
        hq.add(
            export_id=8,
            name="Yard.mp4",
            camera_id=2,
            created_at=DAY + timedelta(days=1),
            stage=Stage.ASKED,
        )
        hq.add(
            export_id=9,
            name="Roof.mp4",
            created_at=DAY + timedelta(days=2),
            then="redirect_other",
        )
        hq.add(export_id=11, name=EVIL, camera_id=2, created_at=DAY, stage=Stage.ASKED)
        old = hq.add(export_id=10, name="Old.mp4", created_at=DAY)
        annex.add(export_id=7, name="Gate.mp4", created_at=DAY, camera_id=3)
        annex.add(export_id=21, name="Hall.mp4", created_at=DAY)
        await site.once()
        hq.remove_row(old)
        hq.add(export_id=10, name="New.mp4", created_at=DAY + timedelta(days=3))
        await site.once()
        return site
