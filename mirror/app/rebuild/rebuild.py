"""Make a new ledger from what the targets hold."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from mirror import sidecar
from mirror.app import lock
from mirror.app.engine import target_for
from mirror.app.rebuild import spool_files
from mirror.errors import DamagedLedgerError, LedgerError, MirrorError, TargetError
from mirror.ledger import FAULTS, LEDGER_NAME, Ledger, SidecarVerdict
from mirror.model import to_us, utc_now
from mirror.pipeline.verify.read_copy import unless_hung
from mirror.sidecar import SidecarError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from mirror.app.rebuild.spool_files import Unclaimed
    from mirror.config import Settings
    from mirror.ledger import WithoutSidecar
    from mirror.ports import Beside
    from mirror.targets.directory.target import DirectoryTarget

_FOLDER = "rebuilding"
_NODE_ID = "rebuild"
_GROUP = 1000
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
class Odd:
    """One such thing, in words."""

    oddity: Oddity
    target: str
    path: str
    text: str


@dataclass(slots=True, kw_only=True)
class Tally:
    """What one target came to, or has come to so far.

    Attributes:
        sidecars: Looked at.
        copies: On it in the new ledger, by state; known at the end.
        odd: How many of each oddity.
    """

    sidecars: int = 0
    copies: dict[str, int] = field(default_factory=dict)
    odd: dict[Oddity, int] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Progress:
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
    targets: dict[str, Tally] = field(default_factory=dict)
    exports: dict[str, int] = field(default_factory=dict)
    unclaimed: list[Unclaimed] = field(default_factory=list)


async def run(
    settings: Settings,
    *,
    targets: Collection[str],
    force: bool,
    told: Callable[[Odd], None],
    watch: Callable[[Progress], None],
) -> Progress:
    """Make a new ledger; the old one is moved aside at the end.

    Args:
        settings: The configuration.
        targets: Names of those to be read.
        force: Replace a ledger that is not damaged, too.
        told: Given each oddity as it comes.
        watch: Called from time to time, to show progress.

    Raises:
        ConfigError: The state directory cannot be used.
        LedgerError: The new one cannot be written.
        LockedError: A service runs on it.
        MirrorError: A target cannot be read, or the ledger is not to be replaced; it
            is as it was.
    """
    with lock.held(settings.state_dir):
        progress = Progress(targets={name: Tally() for name in sorted(targets)})
        progress.old = await asyncio.to_thread(_judge, settings.state_dir, force=force)
        folder = settings.state_dir / _FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(mode=0o700)
            await _Rebuild(settings, folder, progress, told, watch).run()
            progress.aside = _replace(settings.state_dir, folder)
        except (OSError, *FAULTS) as exc:
            raise LedgerError(
                f"a new ledger cannot be written to {settings.state_dir} ({exc}); free "
                "some space there, and run it again"
            ) from exc
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return progress


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


class _Rebuild:
    """One run, into a ledger in a folder of its own."""

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        progress: Progress,
        told: Callable[[Odd], None],
        watch: Callable[[Progress], None],
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._progress = progress
        self._told = told
        self._watch = watch
        self._now_us = to_us(utc_now())

    async def run(self) -> None:
        """Fill the new ledger."""
        built = {
            name: target_for(self._settings.targets[name], node_id=_NODE_ID)
            for name in self._progress.targets
        }
        found = {name: await self._identify(one) for name, one in built.items()}
        with closing(Ledger.open(self._folder)) as ledger:
            await asyncio.to_thread(self._carry, ledger)
            for name, target in built.items():
                await self._adopt(ledger, target, found[name])
            for target in built.values():
                await self._read(ledger, target, found[target.name])
                await self._read_bare(ledger, target, found[target.name])
            await asyncio.to_thread(ledger.inventory.settle)
            await asyncio.to_thread(self._keep_spooled, ledger)
            ledger.count_on(self._settings.state_dir)
            for name, tally in self._progress.targets.items():
                tally.copies = ledger.inventory.counts(name)
            for (_, state), number in ledger.queries.counts().items():
                exports = self._progress.exports
                exports[state] = exports.get(state, 0) + number
        for target in built.values():
            await target.close()

    def _carry(self, ledger: Ledger) -> None:
        def carried(number: int) -> None:
            self._progress.carried = number
            self._watch(self._progress)

        old = self._settings.state_dir / LEDGER_NAME
        if old.is_file() and old.stat().st_size:
            self._progress.unsound = ledger.carry(old, carried)
        for target in self._progress.targets:
            ledger.inventory.mark_unconfirmed(target)

    def _keep_spooled(self, ledger: Ledger) -> None:
        known = ledger.known_node_id()
        if known is None:
            known = spool_files.node_of_spool(self._settings, ledger)
        ledger.node_id(self._now_us, known)
        self._progress.unclaimed = spool_files.keep(self._settings, ledger, known)

    async def _identify(self, target: DirectoryTarget) -> str:
        return await unless_hung(target.identify(), target.name)

    async def _adopt(self, ledger: Ledger, target: DirectoryTarget, found: str) -> None:
        """Remember a target's marker, if the old ledger knew no other."""
        known = ledger.targets.marker(target.name)
        if known not in {None, found}:
            await target.look(known)
        ledger.targets.checked(
            target.name,
            marker_id=found,
            free_bytes=None,
            problem=None,
            now_us=self._now_us,
        )

    async def _read(
        self, ledger: Ledger, target: DirectoryTarget, marker_id: str
    ) -> None:
        tally = self._progress.targets[target.name]
        survey = target.survey(marker_id)
        while found := await unless_hung(anext(survey, None), target.name):
            with ledger.together():
                for one in found:
                    self._take(ledger, target.name, one)
            tally.sidecars += len(found)
            self._watch(self._progress)

    def _take(self, ledger: Ledger, target: str, found: Beside) -> None:
        try:
            found.path.encode()
            told = sidecar.export_of(found, self._now_us)
        except UnicodeEncodeError:
            self._odd(Oddity.UNREADABLE, target, found.path, "its path is no text")
            return
        except SidecarError as exc:
            self._odd(Oddity.UNREADABLE, target, found.path, str(exc))
            return
        if told.source not in self._settings.sources:
            text = f"it is of source {told.source}, which is not configured"
            self._odd(Oddity.FOREIGN, target, found.path, text)
            return
        whole = sidecar.is_whole(found, told)
        taken = ledger.inventory.take(told, target=target, path=found.path, whole=whole)
        if taken is not SidecarVerdict.KEPT:
            size = found.size_bytes
            beside = "no file" if size is None else f"a file of {size} bytes"
            text = f"{told.label}, {told.size_bytes} bytes: {beside} lies beside it"
            self._odd(Oddity(taken.value), target, found.path, text)

    async def _read_bare(
        self, ledger: Ledger, target: DirectoryTarget, marker_id: str
    ) -> None:
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
            self._watch(self._progress)

    def _odd(self, oddity: Oddity, target: str, path: str, text: str) -> None:
        counts = self._progress.targets[target].odd
        counts[oddity] = counts.get(oddity, 0) + 1
        self._told(Odd(oddity=oddity, target=target, path=path, text=text))


async def _lies(target: DirectoryTarget, marker_id: str, bare: WithoutSidecar) -> bool:
    """Tell whether a file lies where it was saved, or cannot be looked at just now."""
    try:
        found = await unless_hung(target.beside(bare.path, marker_id), target.name)
    except TargetError:
        await target.look(marker_id)
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
    _flush(new)
    new.rename(path)
    _flush(state_dir)
    return aside


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
