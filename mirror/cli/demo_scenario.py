"""The demo: the whole service against a VMS that misbehaves, then what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import aiofiles
import typer
from prometheus_client import CollectorRegistry
from rich.text import Text

from mirror import config, logs
from mirror.app.service import Service
from mirror.cli import render
from mirror.ledger import ExportDetails, Filter, Ledger
from mirror.metrics import Metrics
from mirror.model import State
from mirror.simulator import Behaviour, Fault, Kind, Stage, Unmade, Vms
from mirror.systemd import Notifier

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from mirror.simulator import Export as Served

_LIFETIME = timedelta(seconds=30)
_LEFT = timedelta(seconds=4)
"""What is left of its lifetime to the file that is never there."""
_LOOK_S = 0.15
_RESTART_S = 2.5
_LONGEST_S = 120.0
_MB = 1_000_000
_DIGITS = 8
_SLOW = Fault(kind=Kind.RATE, rate=400_000)
_CONFIGURATION = """\
state_dir = "{folder}/state"

[sources.demo]
url = "{url}"
token_file = "{folder}/demo.token"
poll_interval = "500ms"
sweep_interval = "5s"
file_lifetime = "{lifetime_s}s"

[targets.archive]
type = "directory"
path = "{folder}/archive"

[http]
listen = "127.0.0.1:0"

[transfer]
retry_initial = "300ms"
retry_max = "1s"
stall_timeout = "2s"
first_byte_timeout = "2s"
"""


@dataclass(frozen=True, slots=True)
class _Case:
    """One export of the demo.

    Attributes:
        served: On the simulated VMS.
        behaviour: What the VMS does to it.
        expected: The state it must end in.
    """

    served: Served
    behaviour: str
    expected: State = State.SAVED


async def demonstrate(keep: Path | None, redactor: logs.Redactor) -> int:
    """Run the demo; return 0 if all ended as it should, else 1.

    Args:
        keep: Folder that stays; None works in one that is removed.
        redactor: For the log, which goes to a file in that folder.
    """
    with _folder(keep) as name:
        folder = Path(name)
        with (folder / "demo.log").open("w", encoding="utf-8") as log:
            logs.configure("debug", "json", log, redactor=redactor)
            behaviour = Behaviour(unmade=Unmade.FLAGGED_FOLDER_URL, folder_files=False)
            async with Vms(behaviour=behaviour) as vms:
                cases = _list_exports(vms)
                settings = await _configure(folder, vms)
                typer.echo(
                    f"a VMS on {vms.url} keeps each file for {_LIFETIME.seconds} s; "
                    f"archive-mirror keeps them in {folder}/archive\n"
                )
                await _mirror(settings, vms, cases)
                ended_well = _tell(settings, vms, cases)
        if keep is not None:
            typer.echo(f"all of it is in {folder}")
    return 0 if ended_well else 1


def _folder(keep: Path | None) -> AbstractContextManager[Path | str]:
    if keep is None:
        return tempfile.TemporaryDirectory(prefix="archive-mirror-demo-")
    keep.mkdir(parents=True, exist_ok=True)
    return contextlib.nullcontext(keep.resolve())


async def _configure(folder: Path, vms: Vms) -> config.Settings:
    path = folder / "archive-mirror.toml"
    text = _CONFIGURATION.format(
        folder=folder, url=vms.url, lifetime_s=_LIFETIME.seconds
    )
    for file_path, content in ((folder / "demo.token", vms.token), (path, text)):
        async with aiofiles.open(file_path, "w", encoding="utf-8") as file:
            await file.write(content)
    return config.load(path, {})


def _list_exports(vms: Vms) -> list[_Case]:
    """List one export for each thing that can happen."""
    twin = "Yard, gate 2.20261123-080000-080900.mp4"
    add = vms.add
    return [
        _Case(add(size=2 * _MB), "a file, moov first"),
        _Case(add(size=2 * _MB, clip="moov-last"), "a file, moov last"),
        _Case(add(clip="fragmented"), "a fragmented file"),
        _Case(add(name=twin), "one name ..."),
        _Case(add(name=twin), "... for two exports"),
        _Case(add(name="../../etc/passwd"), "a name that leads out"),
        _Case(
            add(size=2 * _MB, stage=Stage.ASKED),
            "a folder url first, the file's url later",
        ),
        _Case(add(size=6 * _MB, faults=["cut"]), "cut in the middle"),
        _Case(
            add(size=6 * _MB, faults=["reset", "change"]),
            "cut, then another file at the same url",
        ),
        _Case(
            add(size=2 * _MB, faults=[_SLOW]),
            "slow; we are stopped and started meanwhile",
        ),
        _Case(add(size=2 * _MB, faults=["gzip"]), "compressed by a proxy"),
        _Case(add(faults=["html"]), "an HTML page instead of the file"),
        _Case(add(faults=["truncated_mp4"]), "half a file, called whole"),
        _Case(add(faults=["busy_503"]), "503, come back in 2 s"),
        _Case(add(then="redirect_other"), "sends us to another host", State.PARKED),
        _Case(
            add(then="status_404", created_at=vms.now() - (_LIFETIME - _LEFT)),
            "the file is never there, and expires",
            State.LOST,
        ),
    ]


async def _mirror(settings: config.Settings, vms: Vms, cases: list[_Case]) -> None:
    """Run the service, stop it once in the middle, and start it again."""
    began = time.monotonic()
    seen: dict[int, tuple[object, ...]] = {}
    late = next(case.served for case in cases if case.served.stage is Stage.ASKED)
    for part in ("first", "second"):
        service = Service(
            settings,
            reread=lambda: settings,
            metrics=Metrics(CollectorRegistry()),
            secret=lambda _: None,
            notifier=Notifier(None),
            signals=False,
        )
        running = asyncio.create_task(service.run())
        try:
            while not running.done():
                elapsed = time.monotonic() - began
                _tell_changes(settings, cases, seen, elapsed)
                if late.stage is Stage.ASKED and elapsed > _RESTART_S / 2:
                    vms.make_file(late)
                    _say(elapsed, Text("the VMS has made the file of the folder url"))
                if part == "first" and elapsed > _RESTART_S:
                    _say(elapsed, Text("archive-mirror is stopped and started again"))
                    break
                if _ended(settings, cases) or elapsed > _LONGEST_S:
                    break
                await asyncio.sleep(_LOOK_S)
        finally:
            service.stop()
            await running
    _tell_changes(settings, cases, seen, time.monotonic() - began)


def _ended(settings: config.Settings, cases: list[_Case]) -> bool:
    exports = [details.export for details in _exports(settings)]
    states = {export.export_id: export.state for export in exports}
    return all(states.get(case.served.export_id) is case.expected for case in cases)


def _exports(settings: config.Settings) -> list[ExportDetails]:
    with contextlib.closing(Ledger.read(settings.state_dir)) as ledger:
        exports = [export for export, _ in ledger.queries.exports(Filter())]
        return [ledger.queries.details(export) for export in exports]


def _tell_changes(
    settings: config.Settings,
    cases: list[_Case],
    seen: dict[int, tuple[object, ...]],
    elapsed: float,
) -> None:
    """Say what has changed in the ledger since the last look."""
    meant = {case.served.export_id: case.expected for case in cases}
    for details in reversed(_exports(settings)):
        export = details.export
        now = (export.state, export.reason, export.last_error)
        if seen.get(export.export_id) == now:
            continue
        seen[export.export_id] = now
        why = render.clean(export.last_error or export.reason or "")
        if export.state is State.READY and export.part_bytes:
            why += f" ({render.size(export.part_bytes)} held)"
        state = _state(export.state, meant[export.export_id])
        _say(elapsed, Text(f"{export.label:<11}").append_text(state).append(f"  {why}"))


def _state(state: State, expected: State) -> Text:
    """Return a state in colour; an end that is bad elsewhere can be right here."""
    if state is expected and state is not State.SAVED:
        return Text(f"{state}, as is meant here", "yellow")
    return render.state(state)


def _say(elapsed: float, text: Text) -> None:
    line = Text(f"{elapsed:5.1f} s  ", no_wrap=True, overflow="ellipsis")
    render.show(line.append_text(text))


def _tell(settings: config.Settings, vms: Vms, cases: list[_Case]) -> bool:
    """Print the table; tell whether all ended as it should."""
    exports = _exports(settings)
    all_details = {details.export.export_id: details for details in exports}
    rows = []
    wrong = []
    for case in cases:
        details = all_details.get(case.served.export_id)
        if details is None or details.export.state is not case.expected:
            wrong.append(f"{case.served.export_id}: {case.behaviour}")
        if details is None:
            continue
        export = details.export
        digest = export.sha256 or "-"
        if export.state is State.SAVED and digest != vms.truth(case.served).sha256:
            wrong.append(f"{export.label}: its SHA-256 is not the VMS's")
        done = Text().append_text(_state(export.state, case.expected))
        done.append(f": {_attempts(details)}")
        rows.append((export.label, Text(case.behaviour), done, digest[:_DIGITS]))
    head = ("EXPORT", "WHAT THE VMS DID", "WHAT WE DID", "SHA-256")
    render.show("", render.table(head, rows, cut=head[1:3]), "")
    kept = sum(details.export.state is State.SAVED for details in exports)
    proven = "" if wrong else "; each SHA-256 is that of the VMS's own file"
    typer.echo(f"{kept} files saved{proven}")
    if not wrong:
        typer.echo("one is lost and one parked: that VMS never gave them, as is meant")
    for text in wrong:
        typer.echo(f"NOT AS IT SHOULD BE  {text}", err=True)
    return not wrong


def _attempts(details: ExportDetails) -> str:
    """Say in a few words what the attempts at an export brought."""
    words = []
    for attempt in details.attempts:
        times = f" x{attempt.times}" if attempt.times > 1 else ""
        resumed = f", resumed at {render.size(attempt.offset_bytes)}"
        start = resumed * bool(attempt.offset_bytes)
        words.append(f"{attempt.outcome}{start}{times}")
    return "; ".join(words) or "nothing"
