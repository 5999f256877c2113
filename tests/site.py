"""Run the real parts against the simulated VMS, in a temporary folder."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from mirror import config
from mirror.app import build, instance, once
from mirror.app.build_engine import engine_for
from mirror.app.service import Service
from mirror.ledger import ExportDetails, Filter, Ledger
from mirror.metrics import Metrics
from mirror.model import State
from mirror.systemd import Notifier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from mirror.app.once import OnceReport
    from mirror.model import Export
    from mirror.pipeline.engine import Engine
    from mirror.simulator import Export as Served
    from mirror.simulator import Vms

FAST = {
    "retry_initial": "20ms",
    "retry_max": "100ms",
    "stall_timeout": "20s",
    "first_byte_timeout": "20s",
    "shutdown_grace": "5s",
}
IMPATIENT = {"stall_timeout": "1s", "first_byte_timeout": "1s"}
"""Where an answer stalls; a busy machine may stall others too."""


@dataclass(slots=True)
class Site:
    """One archive-mirror: its folder and its configuration.

    Attributes:
        folder: Holds configuration and token.
        tables: The configuration as TOML tables; change them before a run.
        kept_in: Holds state and archive; by default `folder`.
        registry: Of the metrics of the last engine.
    """

    folder: Path
    tables: dict[str, Any]
    kept_in: Path | None = None
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    @classmethod
    def make(
        cls, folder: Path, vms: Vms, *, kept_in: Path | None = None, **source: Any
    ) -> Site:
        """Return a site with one source and one directory target."""
        home = kept_in or folder
        (folder / "token").write_text(vms.token)
        tables = {
            "state_dir": str(home / "state"),
            "sources": {
                "hq": {
                    "url": vms.url,
                    "token_file": str(folder / "token"),
                    "poll_interval": "100ms",
                    "sweep_interval": "300ms",
                    **source,
                }
            },
            "targets": {"nas": {"type": "directory", "path": str(home / "archive")}},
            "http": {"listen": "127.0.0.1:0"},
            "transfer": dict(FAST),
        }
        return cls(folder, tables, kept_in)

    @property
    def archive(self) -> Path:
        """The root of the target."""
        return (self.kept_in or self.folder) / "archive"

    def settings(self) -> config.Settings:
        """Write the configuration and read it back as a user's would be."""
        path = self.folder / "archive-mirror.toml"
        # Whole at any moment: a service may be reading it.
        fresh = path.with_suffix(".new")
        fresh.write_text(_toml(self.tables))
        fresh.replace(path)
        return config.load(path, {})

    async def once(self) -> OnceReport:
        """Run `once`."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(once, "_LOOK_S", 0.02)
            return await once.run(self.settings(), secret=_ignore)

    @contextlib.asynccontextmanager
    async def service(self) -> AsyncIterator[Service]:
        """Run the service for as long as the block lasts."""
        settings = self.settings()
        service = Service(
            settings,
            reread=self.settings,
            metrics=Metrics(CollectorRegistry()),
            secret=_ignore,
            notifier=Notifier(None),
        )
        running = asyncio.create_task(service.run())
        try:
            yield service
            assert not running.done(), running
        finally:
            service.stop()
            await running

    @contextlib.asynccontextmanager
    async def engine(self) -> AsyncIterator[Engine]:
        """Give a built engine whose parts a test drives itself."""
        settings = self.settings()
        self.registry = CollectorRegistry()
        async with (
            instance.open_instance(settings) as node,
            build.open_clients(
                settings,
                device_uuids=await instance.device_uuids(node.ledger, settings.sources),
                secret=_ignore,
            ) as clients,
        ):
            engine = engine_for(
                settings,
                clients=clients,
                ledger=node.ledger,
                node_id=node.node_id,
                metrics=Metrics(self.registry),
            )
            try:
                yield engine
            finally:
                await engine.close()

    def all_exports(self) -> list[Export]:
        """Return all versions of what the ledger has, oldest version first."""
        ledger = Ledger.read(self.settings().state_dir)
        try:
            exports = [export for export, _ in ledger.queries.exports(Filter())]
        finally:
            ledger.close()
        return sorted(exports, key=lambda export: export.version)

    def exports(self) -> dict[int, Export]:
        """Return the newest versions of what the ledger has, by id."""
        return {export.export_id: export for export in self.all_exports()}

    def export(self, served: Served) -> Export:
        """Return the ledger's record of one export."""
        return self.exports()[served.export_id]

    def dossier(self, served: Served) -> ExportDetails:
        """Return all the ledger knows of one export."""
        ledger = Ledger.read(self.settings().state_dir)
        try:
            return ledger.queries.details(ledger.queries.find(served.export_id)[0])
        finally:
            ledger.close()

    def swept(self) -> bool:
        """Tell whether each source was read whole once: what is new then is ours."""
        with contextlib.closing(Ledger.read(self.settings().state_dir)) as ledger:
            sources = ledger.queries.sources()
        return bool(sources) and all(source.first_sweep_us for source in sources)

    def kept(self) -> dict[str, str]:
        """Return the SHA-256 of each visible file on the target, by its path."""
        return {
            str(path.relative_to(self.archive)): hashlib.sha256(
                path.read_bytes()
            ).hexdigest()
            for path in self.archive.rglob("*")
            if path.is_file() and ".archive-mirror" not in path.parts
        }

    def spool_files(self) -> list[Path]:
        """Return the parts in the spool of the only target."""
        return list((self.archive / ".archive-mirror" / "spool").glob("*.part"))

    def media(self) -> dict[str, str]:
        """Return what `kept` does, without the sidecars."""
        return {p: s for p, s in self.kept().items() if not p.endswith(".json")}

    async def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait until something is so; see `until`."""
        await until(condition, seconds)

    async def lose_one(self, vms: Vms) -> None:
        """Have the VMS delete an export's file before it could be had."""
        await self.until(self.swept)
        served = vms.add(then="status_404")
        await self.until(lambda: bool(vms.file_requests(served)))
        vms.delete_file(served)
        await self.until_state(served, State.LOST)

    async def until_state(self, served: Served, state: State) -> None:
        """Wait until an export is in a state."""

        def reached() -> bool:
            export = self.exports().get(served.export_id)
            return export is not None and export.state is state

        await self.until(reached)


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until something is so, looking often.

    Raises:
        TimeoutError: It was not so in time.
    """
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


def _toml(tables: dict[str, Any], prefix: str = "") -> str:
    plain = {k: v for k, v in tables.items() if not isinstance(v, dict)}
    lines = [f"{key} = {_value(value)}" for key, value in plain.items()]
    for key, value in tables.items():
        if isinstance(value, dict):
            name = f"{prefix}{key}"
            lines += ["", f"[{name}]", _toml(value, f"{name}.")]
    return "\n".join(lines)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    return str(value) if isinstance(value, int | float) else f'"{value}"'


def _ignore(_: str) -> None:
    """Take a secret and do nothing."""
