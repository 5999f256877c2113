"""Each call to the disk fails, once and for ever: nothing is lost, nothing is wrong."""

from __future__ import annotations

import asyncio
import errno
import itertools
import random
import shutil
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from typing_extensions import override

from mirror.simulator import FAULTS, Vms
from tests.proof.processes import CheckedMirror, Processes
from tests.proof.shim import FOR_EVER, Action, Call, Shim, library

if TYPE_CHECKING:
    from pathlib import Path

    from tests.proof.figures import Figures
    from tests.proof.processes import Child

_AREAS = ("nas", "vault", "spool", "state")
_EVERY = Call(1023)
_ERRORS = (
    errno.EIO,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ESTALE,
    errno.EROFS,
    errno.EMFILE,
    errno.EINTR,
)
_LEDGER_FAILED = 74
_ENDURES_S = 0.3
_PATIENCE_S = 25.0
"""Far more than a retry, and less than any timer that is not one."""
_FOR_EVER_SHORT = 40
_STOPPED = 0.25
_TOLD = {"copy.postponed": 1, "target.lost": 1, "ledger.lost": 1, "export.postponed": 2}
"""How often one fault may show; the transfer is also cut once by the server."""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of call on the files below one folder fails at its n-th time.

    Attributes:
        error: None for a write of fewer bytes than asked.
    """

    area: str
    call: Call
    number: int
    error: int | None

    @override
    def __str__(self) -> str:
        what = "short" if self.error is None else errno.errorcode[self.error]
        return f"{self.call.name} {self.number} in {self.area}: {what}"

    def arm(self, folder: Path, *, times: int = 1) -> Shim:
        """Return the shim that lets it happen; a failed fsync loses bytes, too."""
        if self.error is None:
            action = Action.SHORT_WRITE
        else:
            loses = self.call is Call.FSYNC and self.error != errno.EINTR
            action = Action.LOSE if loses else Action.FAIL
        return Shim(folder / "shim", folder / "home" / self.area).set(
            action, at=self.number, times=times, error=self.error or 0, calls=self.call
        )


def _mirror(folder: Path, vms: Vms, processes: Processes) -> CheckedMirror:
    """Return a mirror for one file, cut once, that two targets keep.

    One of them links the spooled file, the other copies it and reads it back.
    """
    folder.mkdir()
    mirror = CheckedMirror.make(folder, vms, processes)
    mirror.site.tables["targets"].clear()
    mirror.checker.roots.clear()
    for name in ("nas", "vault"):
        mirror.add_target(name)
    mirror.site.tables["spool_dir"] = str(mirror.site.folder / "spool")
    mirror.site.tables["transfer"]["shutdown_grace"] = "1s"
    mirror.offer(vms.add(size=1_000_000, faults=[FAULTS["cut"]]))
    return mirror


async def _points(folder: Path, processes: Processes) -> list[tuple[str, Call, int]]:
    """Return each call of one file's life, numbered within its area and kind."""
    async with Vms(other_origin=False) as vms:
        mirror = _mirror(folder, vms, processes)
        home = folder / "home"
        shim = Shim(folder / "shim", home).set(Action.NONE, calls=_EVERY, log=True)
        child = await mirror.run("once", env={"PROOF_SHIM": str(shim.path)})
        assert child.code.result() == 0
    counts: Counter[tuple[str, Call]] = Counter()
    for line in shim.log():
        kind, path = line.split(" ", 1)
        area = path.removeprefix(f"{home}/").split("/")[0]
        if area in _AREAS:
            counts[area, Call[kind.upper()]] += 1
    return [
        (*key, number)
        for key, count in sorted(counts.items())
        for number in range(1, count + 1)
    ]


def _errors(call: Call) -> list[int | None]:
    return [*_ERRORS, None] if call is Call.WRITE else list(_ERRORS)


def _cases(
    points: list[tuple[str, Call, int]], figures: Figures, *, without: int | None = None
) -> list[Case]:
    """Return a case for each point; in the long form all errors at each."""
    cases = []
    for turn, (area, call, number) in enumerate(points, start=figures.seed):
        fitting = [
            error for error in _errors(call) if error is None or error != without
        ]
        chosen = fitting if figures.long else [fitting[turn % len(fitting)]]
        cases += [Case(area, call, number, error) for error in chosen]
    if figures.long:
        random.Random(figures.seed).shuffle(cases)
    return cases


def _judge_log(child: Child, case: Case) -> None:
    """See that the fault was met where it was foreseen, and tried again once."""
    events = child.events()
    crashed = [each for each in events if each["event"].endswith(".crashed")]
    assert crashed == [], f"{case}: nobody foresaw it: {crashed}"
    told = Counter((each["event"], each.get("target")) for each in events)
    often = {key: n for key, n in told.items() if n > _TOLD.get(key[0], n)}
    assert often == {}, f"{case}: more than one retry: {often}"


def _judge_end(child: Child, case: Case) -> None:
    """See that a service which ended could not open its ledger, and says so."""
    said = child.err.read_text()[-600:]
    assert child.code.result() == _LEDGER_FAILED, f"{case}: {said}"
    assert case.area == "state", f"{case}: {said}"
    assert "archive-mirror: the " in said, f"{case}: no clear text: {said}"


async def _once(
    folder: Path, processes: Processes, case: Case, *, plant: str | None = None
) -> bool:
    """Let one call fail; `once` saves all by itself. Tell whether it was made at all.

    A ledger that cannot be opened ends it with a clear text: the next start, by
    systemd, is the retry.
    """
    async with Vms(other_origin=False) as vms:
        mirror = _mirror(folder, vms, processes)
        shim = case.arm(folder)
        child = await mirror.run(
            "once", env={"PROOF_SHIM": str(shim.path)}, plant=plant
        )
        met = shim.met > 0
        shim.heal()
        mirror.hear(child)
        mirror.checker.look()
        if child.code.result() != 0:
            _judge_end(child, case)
            child = await mirror.run("once")
        _judge_log(child, case)
        assert child.code.result() == 0, f"{case}: {child.err.read_text()[-600:]}"
        mirror.hear(child)
        mirror.checker.settle(await mirror.listed())
        assert mirror.checker.breaks == [], case
    shutil.rmtree(folder)
    return met


def _is_saved(child: Child) -> bool:
    return any(each["event"] == "export.saved" for each in child.events())


async def _until_saved(child: Child, case: Case) -> None:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            while not _is_saved(child):
                assert not child.code.done(), f"{case}: {child.err.read_text()[-600:]}"
                await asyncio.sleep(0.02)
    except TimeoutError:
        said = child.err.read_text()[-600:]
        raise AssertionError(f"{case}: it did not go on by itself: {said}") from None


async def _until_met(shim: Shim, child: Child) -> bool:
    """Wait for the fault; tell whether the call was made so often at all."""
    async with asyncio.timeout(_PATIENCE_S):
        while not (shim.met or child.code.done() or _is_saved(child)):
            await asyncio.sleep(0.02)
    return shim.met > 0


async def _for_ever(
    folder: Path, processes: Processes, case: Case, rng: random.Random
) -> bool:
    """Let a kind of call fail from its n-th time on; then let it work again.

    The service lives on and answers meanwhile, and goes on by itself afterwards. Now
    and then it is told to stop while nothing works, and obeys.
    """
    async with Vms(other_origin=False) as vms:
        mirror = _mirror(folder, vms, processes)
        shim = case.arm(folder, times=FOR_EVER)
        child = await mirror.start("run", env={"PROOF_SHIM": str(shim.path)})
        met = await _until_met(shim, child)
        await asyncio.sleep(_ENDURES_S)
        mirror.hear(child)
        mirror.checker.look()
        status = await mirror.run("status")
        assert status.code.result() == 0, f"{case}: {status.err.read_text()[-600:]}"
        saved = _is_saved(child)
        if child.code.done():
            _judge_end(child, case)
        elif rng.random() < _STOPPED:
            assert await child.stop() == 0, f"{case}: {child.err.read_text()[-600:]}"
        shim.heal()
        if not saved:
            if child.code.done():
                child = await mirror.start("run")
            await _until_saved(child, case)
            mirror.hear(child)
        if not child.code.done():
            assert await child.stop() == 0, f"{case}: {child.err.read_text()[-600:]}"
        mirror.checker.settle(await mirror.listed())
        assert mirror.checker.breaks == [], case
    shutil.rmtree(folder)
    return met


@pytest.mark.timeout(900)
async def test_each_call_fails_once(tmp_path, figures: Figures):
    """`once` saves all in the same run; nothing saved is lost or wrong."""
    async with Processes.open(preload=library()) as processes:
        points = await _points(tmp_path / "points", processes)
        cases = _cases(points, figures)

        async def work(number: int, _: random.Random) -> bool:
            return await _once(tmp_path / str(number), processes, cases[number])

        met = await figures.side_by_side(work, len(cases), len(cases), share=0.08)
    assert sum(met) > 0.9 * len(met) > 100
    figures.record(5, points=len(points), once=sum(met), breaks=0)


@pytest.mark.timeout(900)
async def test_calls_fail_until_healed(tmp_path, figures: Figures):
    """EINTR for ever would have no end: whoever meets it tries again at once."""
    async with Processes.open(preload=library()) as processes:
        points = await _points(tmp_path / "points", processes)
        cases = _cases(points, figures, without=errno.EINTR)
        cases = cases if figures.long else cases[:: len(cases) // _FOR_EVER_SHORT]

        async def work(number: int, rng: random.Random) -> bool:
            return await _for_ever(
                tmp_path / str(number), processes, cases[number], rng
            )

        met = await figures.side_by_side(work, len(cases), len(cases), share=0.07)
    assert sum(met) > 0.8 * len(met) > 20
    figures.record(5, points=len(points), for_ever=sum(met), breaks=0)


@pytest.mark.parametrize("call", [Call.OPEN, Call.WRITE, Call.TRUNCATE, Call.MKDIR])
async def test_trouble_with_the_state_disk_is_no_fault_of_the_configuration(
    tmp_path, call
):
    """Exit code 78 would keep systemd from trying again."""
    case = Case("state", call, 1, errno.ENOSPC)
    async with Processes.open(preload=library()) as processes, Vms() as vms:
        mirror = _mirror(tmp_path / "mirror", vms, processes)
        shim = case.arm(tmp_path / "mirror", times=FOR_EVER)
        child = await mirror.run("run", env={"PROOF_SHIM": str(shim.path)})
        _judge_end(child, case)
        await mirror.settle()
    assert mirror.checker.breaks == []


async def test_a_dead_ledger_does_not_hold_up_the_stop(tmp_path):
    """Not even before the first engine runs: from the first flush after it is open."""
    async with Processes.open(preload=library()) as processes, Vms() as vms:
        lost, number = False, 0
        while not lost:
            number += 1
            case = Case("state", Call.FSYNC, number, errno.EIO)
            mirror = _mirror(tmp_path / str(number), vms, processes)
            shim = case.arm(tmp_path / str(number), times=FOR_EVER)
            child = await mirror.start("run", env={"PROOF_SHIM": str(shim.path)})
            async with asyncio.timeout(_PATIENCE_S):
                while not (_lost(child) or child.code.done()):
                    await asyncio.sleep(0.02)
            lost = _lost(child)
            async with asyncio.timeout(_PATIENCE_S):
                assert await child.stop() == (0 if lost else _LEDGER_FAILED)


def _lost(child: Child) -> bool:
    return any(each["event"] == "ledger.lost" for each in child.events())


@pytest.mark.parametrize(
    ("plant", "call", "error"),
    [
        ("ignored_fsync_error", Call.FSYNC, errno.EIO),
        ("ignored_write_error", Call.WRITE, errno.ENOSPC),
        ("ignored_short_write", Call.WRITE, None),
    ],
)
async def test_a_planted_bug_shows_at_a_failing_call(tmp_path, plant, call, error):
    """At one of all there are: which carries the file is up to the network."""
    async with Processes.open(preload=library()) as processes:
        for number in itertools.count(1):
            case = Case("spool", call, number, error)
            met = await _once(tmp_path / f"sound-{number}", processes, case)
            try:
                await _once(
                    tmp_path / f"planted-{number}", processes, case, plant=plant
                )
            except AssertionError:
                return
            if not met:
                break
    pytest.fail(f"{plant} showed nowhere")
