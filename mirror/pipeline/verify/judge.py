"""Judge what was read of a kept copy, and say what helps: pure, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from mirror import sidecar
from mirror.errors import MirrorError
from mirror.model import CopyState, iso

if TYPE_CHECKING:
    from mirror.ledger import CopyToRead
    from mirror.model import Export
    from mirror.ports import StoredFile


class Problem(StrEnum):
    """What is wrong with a copy."""

    MISSING = "missing"
    NOT_A_FILE = "not_a_file"
    WRONG_LENGTH = "wrong_length"
    WRONG_BYTES = "wrong_bytes"
    SIDECAR_MISSING = "sidecar_missing"
    SIDECAR_WRONG = "sidecar_wrong"
    NOT_CHECKED = "not_checked"


OF_THE_FILE = frozenset(
    {
        Problem.MISSING,
        Problem.NOT_A_FILE,
        Problem.WRONG_LENGTH,
        Problem.WRONG_BYTES,
    }
)
IN_THE_WAY = OF_THE_FILE - {Problem.MISSING} | {Problem.SIDECAR_WRONG}
"""What lies there must be moved before the right thing can lie there."""
_REPAIR = "`archive-mirror verify --repair`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing wrong with a copy, in words that say what was found."""

    problem: Problem
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyFinding:
    """What the operator reads of one problem.

    Attributes:
        source: With `export_id`, `created_at` and `path` None where it is about the
            whole target.
        text: What was found, and what helps.
        repaired: It is right again.
    """

    problem: Problem
    target: str
    text: str
    source: str | None = None
    export_id: int | None = None
    created_at: str | None = None
    path: str | None = None
    repaired: bool = False


@dataclass(slots=True, kw_only=True)
class VerifyTally:
    """What a run came to, in copies; `checked` are the good and the damaged."""

    checked: int = 0
    good: int = 0
    damaged: int = 0
    repaired: int = 0
    not_checked: int = 0

    @property
    def exit_code(self) -> int:
        """4 damage was found; else 1 not all could be checked; else 0."""
        if self.damaged:
            return 4
        return 1 if self.not_checked else 0


def judge(export: Export, stored: StoredFile) -> tuple[Fault, ...]:
    """Return what is wrong with a copy: with its file, with its sidecar."""
    faults = (_of_file(export, stored), _of_sidecar(export, stored.sidecar))
    return tuple(fault for fault in faults if fault is not None)


def broken(faults: tuple[Fault, ...]) -> bool:
    """Tell whether the file itself is not what was kept."""
    return any(fault.problem in OF_THE_FILE for fault in faults)


def finding(
    subject: CopyToRead,
    problem: Problem,
    text: str,
    *,
    repaired: bool = False,
) -> CopyFinding:
    """Return the finding about one copy."""
    return CopyFinding(
        problem=problem,
        target=subject.copy.target,
        text=text,
        source=subject.export.source,
        export_id=subject.export.export_id,
        created_at=subject.export.created_at,
        path=subject.path,
        repaired=repaired,
    )


def advice(subject: CopyToRead, problem: Problem, now_us: int) -> str:
    """Return what helps against a fault that is not repaired."""
    if problem not in OF_THE_FILE:
        return f"{_REPAIR} writes it anew"
    if subject.spooled:
        return "the spool holds its file still; the service publishes it again"
    saved_on = [copy.target for copy in subject.others if copy.state is CopyState.SAVED]
    if saved_on:
        return (
            f"{_REPAIR} brings it back from the copy on {saved_on[0]}, if that is good"
        )
    return no_sibling(subject.export, now_us)


def no_sibling(export: Export, now_us: int) -> str:
    """Say that only the VMS can help, and whether it can."""
    alone = "no good copy of it is known on another target; "
    ask = "ask for the export again there, while the camera's archive has the footage"
    if not export.shows_file:
        return f"{alone}the VMS lists no file for it any more: {ask}"
    if export.past_deadline(now_us):
        return (
            f"{alone}the VMS was to delete it at {iso(export.deadline_us)}; if it "
            f"lists it still, the service fetches it at its next walk; else {ask}"
        )
    until = iso(export.deadline_us) or "it deletes it"
    return (
        f"{alone}the VMS should list its file until {until}: the service fetches it "
        "at its next walk"
    )


def _of_file(export: Export, stored: StoredFile) -> Fault | None:
    if not stored.present:
        return Fault(problem=Problem.MISSING, what="the file is gone")
    if stored.size_bytes is None:
        return Fault(
            problem=Problem.NOT_A_FILE,
            what="a link, a folder or the like lies where the file was",
        )
    if stored.size_bytes != export.size_bytes:
        return Fault(
            problem=Problem.WRONG_LENGTH,
            what=f"the file is {stored.size_bytes} bytes long, not {export.size_bytes}",
        )
    if stored.sha256 != export.sha256:
        return Fault(
            problem=Problem.WRONG_BYTES,
            what="the file's bytes are not those that were saved",
        )
    return None


def _of_sidecar(export: Export, raw: bytes | None) -> Fault | None:
    if raw is None:
        return Fault(problem=Problem.SIDECAR_MISSING, what="its sidecar is gone")
    try:
        record = sidecar.read(raw, 0)
    except MirrorError as exc:
        return Fault(
            problem=Problem.SIDECAR_WRONG,
            what=f"its sidecar cannot be understood ({exc})",
        )
    fields = {
        "source": (record.source, export.source),
        "id": (record.export_id, export.export_id),
        "created_key": (record.created_key, export.created_key),
        "size_bytes": (record.size_bytes, export.size_bytes),
        "sha256": (record.sha256, export.sha256),
    }
    for name, (theirs, ours) in fields.items():
        if theirs != ours:
            return Fault(
                problem=Problem.SIDECAR_WRONG,
                what=f"its sidecar says {name} {theirs}, not {ours}",
            )
    return None
