"""A busy afternoon with some trouble, for the picture of the dashboard in the README.

`python -m tests.busy_afternoon docs/images/dashboard-data.png` runs one service, three
VMSes and a Prometheus for 15 minutes, and draws the last 13. It needs Debian's packages
prometheus, prometheus-alertmanager, chromium, fonts-dejavu-core and pngquant.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from mirror.simulator import Life, Vms
from tests import dashboards
from tests.prometheus import free_port, running, watching
from tests.site import Site

_MINUTE_S = 60.0
_SHOWN_S = 13 * _MINUTE_S
_ARRIVALS_PER_MIN = {"hq": 12, "harbour": 6, "depot": 3}
_RATE = 250_000


async def picture(folder: Path, path: Path) -> None:
    """Live through the afternoon and draw it."""
    async with contextlib.AsyncExitStack() as stack:
        vms = {
            name: await stack.enter_async_context(
                Vms(
                    seed=number,
                    life=Life(
                        arrivals_per_min=arrivals,
                        generation_delay=timedelta(seconds=20),
                        sizes=(200_000, 3_000_000),
                        seed=number,
                    ),
                )
            )
            for number, (name, arrivals) in enumerate(_ARRIVALS_PER_MIN.items())
        }
        for each in vms.values():
            each.behaviour = dataclasses.replace(each.behaviour, rate=_RATE)
        site = _site(folder, vms)
        listen = site.tables["http"]["listen"]
        monitors = await stack.enter_async_context(watching(folder, [listen], pace=1))
        config = str(folder / "archive-mirror.toml")
        argv = (sys.executable, "-m", "mirror", "-c", config)
        await stack.enter_async_context(running(folder / "log", *argv, "run"))
        await _live(vms, folder, argv)
        await dashboards.picture(monitors.prometheus, _SHOWN_S, path)


async def _live(vms: dict[str, Vms], folder: Path, argv: tuple[str, ...]) -> None:
    """Have one VMS away for a while, a share unmounted, a token refused."""
    await asyncio.sleep(4 * _MINUTE_S)
    async with running(folder / "verify.log", *argv, "verify") as verify:
        await verify.wait()
    vms["harbour"].script_list(then="status_503")
    vms["harbour"].script_files(then="status_503")
    await asyncio.sleep(2 * _MINUTE_S)
    vms["harbour"].script_list()
    vms["harbour"].script_files()
    await asyncio.sleep(2 * _MINUTE_S)
    (folder / "vault").rename(folder / "unmounted")
    (folder / "vault").mkdir()
    vms["depot"].token = "another"
    await asyncio.sleep(7 * _MINUTE_S)


def _site(folder: Path, vms: dict[str, Vms]) -> Site:
    sources: dict[str, Any] = {}
    for name, each in vms.items():
        token = folder / f"{name}.token"
        token.write_text(each.token)
        sources[name] = {
            "url": each.url,
            "token_file": str(token),
            "poll_interval": "15s",
        }
    site = Site(
        folder,
        {
            "state_dir": str(folder / "state"),
            "http": {"listen": f"127.0.0.1:{free_port()}"},
            "sources": sources,
            "targets": {
                name: {"type": "directory", "path": str(folder / name)}
                for name in ("nas", "vault")
            },
        },
    )
    site.settings()
    return site


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        asyncio.run(picture(Path(made), Path(sys.argv[1]).resolve()))
