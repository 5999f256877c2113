"""Make a new ledger from what the targets hold."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from mirror import sidecar
from mirror.app import lock
from mirror.app.build import target_for
from mirror.app.rebuild import spool_files
from mirror.app.status import public_json
from mirror.disk import durable
from mirror.errors import DamagedLedgerError, LedgerError, MirrorError, TargetError
from mirror.layout import is_numbered
from mirror.ledger import FAULTS, LEDGER_NAME, Ledger, SidecarVerdict
from mirror.model import to_us, utc_now
from mirror.sidecar import SidecarError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from mirror.app.rebuild.spool_files import Unclaimed
    from mirror.config import Settings
    from mirror.ledger import WithoutSidecar
    from mirror.model import Export
    from mirror.ports import StoredFile, Target

_FOLDER = "rebuilding"
_NODE_ID = "rebuild"
_GROUP = 1000
_PROBE_S = 60.0
_BESIDE = ("-wal", "-shm")


class Oddity(StrEnum):
    """What was met on a target that is not a saved copy."""

    UNREADABLE = "unreadable"
    FOREIGN = "foreign"
    DAMAGED = "damaged"
    KNOWN_DAMAGED = "known_damaged"
    SECOND = "second"
    PATH_TAKEN = "path_taken"


@dataclass(frozen=True, slots=True, kw_only=True)
class OddCopy:
    """One such thing, in words."""

    oddity: Oddity
    target: str
    path: str
    text: str


@dataclass(slots=True, kw_only=True)
class TargetReport:
    """What one target came to, or has come to so far.

    Attributes:
        sidecars: Looked at.
        copies: On it in the new ledger, by state; known at the end.
        odd: How many of each oddity.
    """

    sidecars: int = 0
    copies: dict[str, int] = field(default_factory=dict)
    odd: Counter[Oddity] = field(default_factory=Counter)


@dataclass(slots=True, kw_only=True)
class RebuildReport:
    """How far a rebuild is, and in the end what it came to.

    Attributes:
        old: What was there before, in words.
        aside: Where it lies now; None if there was none.
        carried: Exports carried over from it.
        unsound: Exports in it that could not be.
        exports: In the new ledger, by state.
        unclaimed: Files in the spool that it does not know.
    """

    old: str = ""
    aside: Path | None = None
    carried: int = 0
    unsound: int = 0
    targets: dict[str, TargetReport] = field(default_factory=dict)
    exports: dict[str, int] = field(default_factory=dict)
    unclaimed: list[Unclaimed] = field(default_factory=list)


async def run(
    settings: Settings,
    *,
    targets: Collection[str],
    force: bool,
    told: Callable[[OddCopy], None],
    watch: Callable[[RebuildReport], None],
) -> RebuildReport:
    """Make a new ledger; the old one is moved aside at the end.

    Args:
        settings: The configuration.
        targets: Names of those to be read.
        force: Replace a ledger that is not damaged, too.
        told: Given each oddity as it comes.
        watch: Called from time to time, to show how far it is.

    Raises:
        ConfigError: The state directory cannot be used.
        LedgerError: The new one cannot be written.
        LockedError: A service runs on it.
        MirrorError: A target cannot be read, or the ledger is not to be replaced; it
            is as it was.
    """
    with lock.held(settings.state_dir):
        report = RebuildReport(
            targets={name: TargetReport() for name in sorted(targets)}
        )
        report.old = await asyncio.to_thread(_judge, settings.state_dir, force=force)
        folder = settings.state_dir / _FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(mode=0o700)
            now_us = to_us(utc_now())
            await _Rebuild(settings, folder, report, told, watch, now_us).run()
            report.aside = _replace(settings.state_dir, folder)
        except (OSError, *FAULTS) as exc:
            raise LedgerError(
                f"a new ledger cannot be written to {settings.state_dir} ({exc}); free "
                "some space there, and run it again"
            ) from exc
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return report


def _judge(state_dir: Path, *, force: bool) -> str:
    """Say what the ledger there is worth.

    Raises:
        MirrorError: It is not to be replaced.
    """
    path = state_dir / LEDGER_NAME
    if not os.path.lexists(path):
        return "there was no ledger"
    if path.is_file() and not path.stat().st_size:
        return f"{path} was empty"
    try:
        with closing(Ledger.open(state_dir)) as ledger:
            exports = sum(ledger.queries.counts().values())
            lost_commits = ledger.lost_commits
    except DamagedLedgerError as exc:
        return str(exc).partition(". ")[0]
    except LedgerError as exc:
        if force:
            return str(exc).partition(": ")[0]
        raise
    if not exports:
        return f"{path} held no exports"
    if lost_commits or force:
        return f"{path} was sound and held {exports} exports"
    raise MirrorError(
        f"the ledger {path} is sound and holds {exports} exports; there is nothing to "
        "rebuild. Copies that it does not know of are taken up with --force: what it "
        "knows is carried over, and it is moved aside"
    )


@dataclass(slots=True)
class _Rebuild:
    """One run, into a ledger in a folder of its own.

    Attributes:
        seconds: Files of exports that have a copy already, still to be compared.
    """

    settings: Settings
    folder: Path
    report: RebuildReport
    told: Callable[[OddCopy], None]
    watch: Callable[[RebuildReport], None]
    now_us: int
    seconds: list[tuple[Export, str]] = field(default_factory=list)

    async def run(self) -> None:
        """Fill the new ledger."""
        built = {
            name: target_for(self.settings.targets[name], node_id=_NODE_ID)
            for name in self.report.targets
        }
        markers = {
            name: (await target.probe(None, write=False, patience_s=_PROBE_S)).marker_id
            for name, target in built.items()
        }
        with closing(Ledger.open(self.folder)) as ledger:
            await asyncio.to_thread(self._carry, ledger)
            for name, target in built.items():
                await self._adopt(ledger, target, markers[name])
            for target in built.values():
                await self._read(ledger, target, markers[target.name])
                await self._read_bare(ledger, target, markers[target.name])
            await asyncio.to_thread(ledger.inventory.settle)
            await asyncio.to_thread(self._keep_spooled, ledger)
            ledger.count_on(self.settings.state_dir)
            for name, counts in self.report.targets.items():
                counts.copies = ledger.inventory.counts(name)
            self.report.exports = public_json.by_state(ledger.queries.counts())
        for target in built.values():
            await target.close()

    def _carry(self, ledger: Ledger) -> None:
        def carried(number: int) -> None:
            self.report.carried = number
            self.watch(self.report)

        old = self.settings.state_dir / LEDGER_NAME
        if old.is_file() and old.stat().st_size:
            self.report.unsound = ledger.carry(old, carried)
        for target in self.report.targets:
            ledger.inventory.mark_unconfirmed(target)

    def _keep_spooled(self, ledger: Ledger) -> None:
        known = ledger.known_node_id()
        if known is None:
            known = spool_files.node_of_spool(self.settings, ledger)
        ledger.node_id(self.now_us, known)
        self.report.unclaimed = spool_files.keep(self.settings, ledger, known)

    async def _adopt(self, ledger: Ledger, target: Target, marker_id: str) -> None:
        """Remember a target's marker, if the old ledger knew no other."""
        known = ledger.targets.marker(target.name)
        if known not in {None, marker_id}:
            await target.probe(known, write=False)
        ledger.targets.checked(
            target.name,
            marker_id=marker_id,
            free_bytes=None,
            problem=None,
            now_us=self.now_us,
        )

    async def _read(self, ledger: Ledger, target: Target, marker_id: str) -> None:
        counts = self.report.targets[target.name]
        async for files in target.scan(marker_id):
            with ledger.together():
                for file in files:
                    self._take(ledger, target.name, file)
            while self.seconds:
                await self._compare(ledger, target, marker_id, *self.seconds.pop())
            counts.sidecars += len(files)
            self.watch(self.report)

    def _take(self, ledger: Ledger, target: str, found: StoredFile) -> None:
        try:
            found.path.encode()
            kept = sidecar.export_of(found, self.now_us)
        except UnicodeEncodeError:
            self._odd(Oddity.UNREADABLE, target, found.path, "its path is no text")
            return
        except SidecarError as exc:
            self._odd(Oddity.UNREADABLE, target, found.path, str(exc))
            return
        if kept.source not in self.settings.sources:
            text = f"it is of source {kept.source}, which is not configured"
            self._odd(Oddity.FOREIGN, target, found.path, text)
            return
        whole = sidecar.is_whole(found, kept)
        verdict = ledger.inventory.take(
            kept, target=target, path=found.path, whole=whole
        )
        if (
            verdict is SidecarVerdict.SECOND
            and whole
            and self._beside(ledger, kept, target, found)
        ):
            self.seconds.append((kept, found.path))
        elif verdict is not SidecarVerdict.KEPT:
            size = found.size_bytes
            beside = "no file" if size is None else f"a file of {size} bytes"
            text = f"{kept.label}, {kept.size_bytes} bytes: {beside} lies beside it"
            self._odd(Oddity(verdict.value), target, found.path, text)

    @staticmethod
    def _beside(ledger: Ledger, kept: Export, target: str, found: StoredFile) -> bool:
        """Tell whether the copy taken before has the same name but for a number.

        Such a file was published beside one that was damaged.
        """
        path = ledger.inventory.path_of(kept, target) or ""
        return is_numbered(found.path, path) or is_numbered(path, found.path)

    async def _compare(
        self, ledger: Ledger, target: Target, marker_id: str, kept: Export, path: str
    ) -> None:
        """Read two files of the same length and sidecar; take the one that is good."""
        taken = ledger.inventory.path_of(kept, target.name) or ""
        left = path
        if not await _reads(target, marker_id, kept, taken) and await _reads(
            target, marker_id, kept, path
        ):
            ledger.inventory.exchange(kept, target=target.name, path=path)
            left = taken
        text = f"{kept.label}, {kept.size_bytes} bytes: another file of it is taken"
        self._odd(Oddity.SECOND, target.name, left, text)

    async def _read_bare(self, ledger: Ledger, target: Target, marker_id: str) -> None:
        """Look for files whose sidecars are gone, where the old ledger had them."""
        after = 0
        while bare := ledger.inventory.without_sidecar(target.name, after, _GROUP):
            good = {one.key for one in bare if await _lies(target, marker_id, one)}
            ledger.inventory.judge_without_sidecar(bare, target.name, good)
            for one in bare:
                if one.key not in good:
                    text = "it was saved, and neither it nor its sidecar is there"
                    self._odd(Oddity.DAMAGED, target.name, one.path, text)
            after = bare[-1].key
            self.watch(self.report)

    def _odd(self, oddity: Oddity, target: str, path: str, text: str) -> None:
        self.report.targets[target].odd[oddity] += 1
        self.told(OddCopy(oddity=oddity, target=target, path=path, text=text))


async def _reads(target: Target, marker_id: str, kept: Export, path: str) -> bool:
    """Tell whether a file's bytes are those that its sidecar tells of."""
    try:
        file = await target.examine(
            path,
            size_bytes=kept.size_bytes or 0,
            marker_id=marker_id,
            came=lambda _: None,
        )
    except TargetError:
        await target.probe(marker_id, write=False)
        return False
    return file.sha256 == kept.sha256


async def _lies(target: Target, marker_id: str, bare: WithoutSidecar) -> bool:
    """Tell whether a file lies where it was saved, or cannot be looked at just now."""
    try:
        found = await target.find(bare.path, marker_id)
    except TargetError:
        await target.probe(marker_id, write=False)
        return True
    return found is not None and found.size_bytes == bare.size_bytes


def _replace(state_dir: Path, folder: Path) -> Path | None:
    """Move the old ledger aside and the new one into its place.

    What a -wal file holds that could not be worked into the old ledger is of no use
    without it, and would spoil a new one: it goes first.
    """
    path = state_dir / LEDGER_NAME
    aside: Path | None = None
    if os.path.lexists(path):
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
        aside = path.with_name(f"{LEDGER_NAME}.replaced-{stamp}")
        for suffix in _BESIDE:
            log = path.with_name(f"{LEDGER_NAME}{suffix}")
            if log.exists():
                log.rename(aside.with_name(f"{aside.name}{suffix}"))
        try:
            # Linked, so that there is never no ledger.
            os.link(path, aside, follow_symlinks=False)
        except OSError:
            path.rename(aside)
    new = folder / LEDGER_NAME
    if os.geteuid() == 0:
        # The service's user must be able to use what root has made.
        owner = state_dir.stat()
        os.chown(new, owner.st_uid, owner.st_gid, follow_symlinks=False)
    durable.flush(new)
    new.rename(path)
    durable.flush(state_dir)
    return aside
