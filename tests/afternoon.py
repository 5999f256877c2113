"""An ordinary afternoon with one outage, for the status page: its tests, its picture.

`python -m tests.afternoon docs/images/status-page.png` makes the picture in the README;
it needs Debian's packages chromium, fonts-dejavu-core and pngquant.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from mirror import config
from mirror.app.status import overview
from mirror.ledger import Ledger, rows
from mirror.model import Export, State, from_us, iso, to_us
from mirror.web import HttpServer
from tests.browser import Browser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

NOW_US = to_us(datetime(2026, 11, 23, 14, 20, tzinfo=UTC))
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
_CAMERAS = (
    (317, "North gate"),
    (318, "Loading bay 2"),
    (321, "Lobby"),
    (402, "Quay crane"),
    (411, "Perimeter east"),
    (507, "Car park, level 1"),
)
_CONFIGURATION = """
timezone = "Europe/Prague"
[defaults.source]
token_file = "token"
[sources.hq]
url = "https://vms.example"
[sources.harbour]
url = "https://harbour.example"
[sources.depot]
url = "https://depot.example"
[targets.nas]
type = "directory"
path = "nas"
[targets.vault]
type = "directory"
path = "vault"
layout = "{source}/{id}-{name}"
"""


@dataclass(slots=True)
class HandmadeSite:
    """A site whose ledger is filled by hand, and what its status page shows."""

    folder: Path
    ledger: Ledger
    settings: config.Settings
    now_us: int = NOW_US
    ids: int = 6414

    @classmethod
    def make(cls, folder: Path) -> HandmadeSite:
        """Return one in which all is well and nothing has happened."""
        path = folder / "archive-mirror.toml"
        path.write_text(f'state_dir = "{folder}"\n{_CONFIGURATION}')
        site = cls(folder, Ledger.open(folder), config.load(path, {}))
        for name in site.settings.sources:
            site.read(name, ago_us=20 * SECOND)
        for name, free in (("nas", 3.1 * 2**40), ("vault", 0.8 * 2**40)):
            site.target(name, free_bytes=int(free))
        return site

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path) -> Iterator[HandmadeSite]:
        """Give such a one; its ledger is closed at the end."""
        site = cls.make(folder)
        with contextlib.closing(site.ledger):
            yield site

    def add(self, source: str, state: State, *, made_us: int, **given: Any) -> int:
        """Add an export made so long ago; return its id."""
        self.ids += 1
        camera, place = _CAMERAS[self.ids % len(_CAMERAS)]
        made = self.now_us - made_us
        values: dict[str, Any] = {
            "name": f"{place} {from_us(made - 7 * MINUTE):%Y-%m-%d %H.%M}.mp4",
            "camera_id": camera,
            "created_at": iso(made),
            "created_us": made,
            "url": "https://vms.example/storage/secret-capability/1.mp4",
            "deadline_us": made + 3 * HOUR,
            "had_file": True,
            "has_file": True,
            "counts_as_ours": True,
        }
        export = Export(
            source=source,
            export_id=self.ids,
            created_key=str(made),
            updated_at=None,
            state=state,
            first_seen_us=made + MINUTE,
            order_us=made,
            **(values | given),
        )
        with self.ledger._db.transaction() as connection:
            key = rows.insert(connection, export)
            if state is State.LOST and export.counts_as_ours:
                rows.add_total(connection, source, "lost", export.reason or "")
            if state in {State.SAVED, State.SPOOLED}:
                connection.executemany(
                    "INSERT INTO copies (export, target, state, path, saved_us) "
                    "VALUES (?, ?, ?, ?, ?)",
                    [
                        (key, "nas", "saved", f"hq/{key}.mp4", export.saved_us),
                        (
                            key,
                            "vault",
                            "saved" if state is State.SAVED else "pending",
                            f"hq/{key}.mp4" if state is State.SAVED else None,
                            export.saved_us,
                        ),
                    ],
                )
        return self.ids

    def keep(self, source: str, *, made_us: int, took_us: int, **given: Any) -> int:
        """Add an export that is kept; it took so long from the VMS to the spool."""
        spooled = self.now_us - made_us + took_us
        size = 8_000_000 + self.ids * 7919 % 61 * 3_000_000
        values = {
            "spooled_us": spooled,
            "saved_us": spooled + 4 * SECOND,
            "size_bytes": size,
            "sha256": "ab" * 32,
            "attempts": 1,
        } | given
        return self.add(source, State.SAVED, made_us=made_us, **values)

    def doubt(
        self,
        source: str,
        *,
        kept_us: int,
        then: State | None = None,
        more: dict[str, Any] | None = None,
    ) -> int:
        """Add an export kept so long ago, not proven whole, and a version after it."""
        doubtful: dict[str, Any] = {
            "reason": "doubtful",
            "proof": "doubtful",
            "doubt": "mdat ends at 900, the file at 700",
            "last_error": "not proven whole: mdat ends at 900, the file at 700",
            "spooled_us": self.now_us - kept_us,
            "saved_us": self.now_us - kept_us,
            "size_bytes": 700,
        }
        made_us = kept_us + HOUR
        number = self.add(source, State.DOUBTFUL, made_us=made_us, **doubtful)
        if then is not None:
            self.ids -= 1
            given = doubtful if then is State.DOUBTFUL else {}
            if then is State.SAVED:
                given = {"proof": "whole"}
            self.add(source, then, made_us=made_us, version=2, **(given | (more or {})))
        return number

    def read(self, source: str, *, ago_us: int, problem: str | None = None) -> None:
        """Let a source have been read so long ago, and fail since with `problem`."""
        self.ledger.walks.source(source)
        with self.ledger._db.transaction() as connection:
            connection.execute(
                "UPDATE sources SET first_sweep_us = 1, last_success_us = ?, "
                "last_failure_us = ?, problem = ? WHERE name = ?",
                (
                    self.now_us - ago_us,
                    self.now_us if problem else None,
                    problem,
                    source,
                ),
            )

    def target(
        self, name: str, *, free_bytes: int | None = None, problem: str | None = None
    ) -> None:
        """Let a target have been looked at just now."""
        self.ledger.targets.checked(
            name,
            marker_id=f"m-{name}",
            free_bytes=free_bytes,
            problem=problem,
            now_us=self.now_us - 24 * SECOND,
        )

    def status(self, *, running: bool = True) -> dict[str, Any]:
        """Return what `/status.json` gives."""
        return overview.read(
            self.ledger,
            self.settings,
            now_us=self.now_us,
            token_expiry_s={},
            spool_free_bytes=212 * 2**30,
            running=running,
        )

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """Serve the page as the service does; yield its address."""

        async def nothing() -> list[str]:
            return []

        async def unchanged() -> None:
            return None

        async def status() -> dict[str, Any]:
            return self.status()

        server = HttpServer(
            CollectorRegistry(),
            healthy=nothing,
            ready=nothing,
            refresh=unchanged,
            status=status,
            pages=("status",),
            zone=self.settings.timezone,
        )
        port = await server.start("127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            await server.stop()


def afternoon(site: HandmadeSite) -> HandmadeSite:
    """Fill a site with an outage, one export at risk and one lost."""
    draw = random.Random(5)
    for number in range(46):
        made = 5 * MINUTE + number * 7 * MINUTE + draw.randrange(4 * MINUTE)
        took = 70 * SECOND + draw.randrange(9 * MINUTE)
        if 16 <= number <= 21:
            # The VMS was away for an hour and a half.
            took = made - 135 * MINUTE + 40 * MINUTE + draw.randrange(5 * MINUTE)
        name = ("hq", "depot", "hq", "harbour")[number % 4]
        if name == "harbour" and made < 110 * MINUTE:
            name = "hq"
        site.keep(name, made_us=made, took_us=took)
    cut = "the transfer broke off: no byte for 30 s (41.3 MiB held)"
    site.add(
        "harbour",
        State.READY,
        made_us=162 * MINUTE,
        attempts=7,
        last_error=cut,
        part_bytes=43_300_000,
        part_total=96_100_000,
    )
    here = {"part_bytes": 88_000_000, "part_total": 118_000_000}
    site.add("hq", State.FETCHING, made_us=3 * MINUTE, attempts=1, **here)
    site.add("hq", State.READY, made_us=2 * MINUTE)
    site.add(
        "depot",
        State.WAITING,
        made_us=1 * MINUTE,
        reason="no_file_yet",
        deadline_us=None,
        has_file=False,
        had_file=False,
    )
    site.add(
        "depot",
        State.SPOOLED,
        made_us=4 * MINUTE,
        attempts=1,
        spooled_us=NOW_US - MINUTE,
        spool_dir="spool",
        part_bytes=48_000_000,
        size_bytes=48_000_000,
    )
    site.add(
        "harbour",
        State.LOST,
        made_us=7 * HOUR + 20 * MINUTE,
        reason="expired",
        attempts=4,
        last_error="the VMS answers 404 for the file",
    )
    site.read(
        "harbour",
        ago_us=107 * MINUTE,
        problem="no connection to harbour.example: Connection refused",
    )
    return site


async def picture() -> bytes:
    """Return the picture of the page, down to what is to be fetched."""
    with (
        tempfile.TemporaryDirectory() as folder,
        HandmadeSite.open(Path(folder)) as site,
    ):
        async with (
            afternoon(site).served() as url,
            Browser.started() as browser,
        ):
            await browser.size(1120, 800)
            await browser.open(url)
            end = "document.querySelector('.plot').closest('.card').offsetTop - 16"
            await browser.size(1120, round(await browser.evaluate(end)) + 16)
            return await browser.screenshot()


def write(path: Path, seen: bytes) -> None:
    """Write a picture with as few colours as do."""
    small = subprocess.run(
        ["pngquant", "--strip", "--speed", "1", "-"],
        input=seen,
        capture_output=True,
        check=True,
    )
    path.write_bytes(small.stdout)


if __name__ == "__main__":
    write(Path(sys.argv[1]), asyncio.run(picture()))
