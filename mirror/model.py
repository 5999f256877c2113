"""The values that travel between the parts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class State(StrEnum):
    """Where an export stands."""

    WAITING = "waiting"
    READY = "ready"
    FETCHING = "fetching"
    PARKED = "parked"
    SPOOLED = "spooled"
    SAVED = "saved"
    DOUBTFUL = "doubtful"
    EXCLUDED = "excluded"
    UNAVAILABLE = "unavailable"
    LOST = "lost"
    DAMAGED = "damaged"
    ERASED = "erased"


KEPT_STATES = frozenset({State.SPOOLED, State.SAVED, State.DOUBTFUL})
"""A file of the export is ours: complete in the spool, or on the targets."""


class Verdict(StrEnum):
    """What the structure of a body that ended as announced says of it."""

    WHOLE = "whole"
    DOUBTFUL = "doubtful"


class CopyState(StrEnum):
    """Where one export's copy on one target stands."""

    PENDING = "pending"
    PUBLISHING = "publishing"
    SAVED = "saved"
    FAILED = "failed"
    DAMAGED = "damaged"
    ERASED = "erased"


class Reason(StrEnum):
    """Why an export is in its state; rules add `rule:<name>`."""

    NO_FILE_YET = "no_file_yet"
    URL_WITHOUT_FILE = "url_without_file"
    FILE_GONE = "file_gone"
    NO_PROGRESS = "no_progress"
    ORIGIN_REFUSED = "origin_refused"
    SPOOL_LOST = "spool_lost"
    NEVER_HAD_A_FILE = "never_had_a_file"
    BEFORE_FIRST_RUN = "before_first_run"
    EXPIRED = "expired"
    ROW_GONE = "row_gone"
    MADE_AGAIN = "made_again"
    DOUBTFUL = "doubtful"
    CHANGED = "changed"


class EtagUse(StrEnum):
    """What the ETag of an export's file is good for.

    It guards a resumed transfer; or the server does not heed it there, and it is only
    compared; or it differs between answers of one file, and is not looked at.
    """

    GUARDS = "guards"
    COMPARES = "compares"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the source's list, decoded as far as it can be.

    Attributes:
        export_id: The VMS's number; counts anew when the VMS is reinstalled.
        created_key: Identity beside the id: the instant in normal form
            (`2019-09-24T13:54:44.000000Z`), or the raw text if unreadable.
        created_at: As listed, made to end in `Z`; None if unreadable.
        created_us: The same in microseconds since 1970 UTC; None if unreadable.
        updated_at: Raw text, only ever compared.
        updated_us: In microseconds since 1970 UTC; None if unreadable.
        url: As listed; None if null or empty.
        has_file: The list's own flag; only true means true.
        footage_from: ISO 8601 UTC ending in `Z`; None if unreadable.
        footage_to: As `footage_from`.
        user_id: Of who asked for the export.
        raw: The item's JSON as received.
    """

    export_id: int
    created_key: str
    created_at: str | None
    created_us: int | None
    updated_at: str | None
    updated_us: int | None
    url: str | None
    has_file: bool
    name: str | None
    camera_id: int | None
    stream_type: str | None
    footage_from: str | None
    footage_to: str | None
    user_id: int | None
    raw: bytes

    @property
    def shows_file(self) -> bool:
        """The flag is true and there is a url."""
        return self.has_file and self.url is not None

    @property
    def names_file(self) -> bool:
        """The flag is true and the url names a file, not a folder."""
        return self.has_file and self.url is not None and not is_folder(self.url)


def is_folder(url: str) -> bool:
    """Tell whether the path of `url` lacks a file name."""
    path = url.split("#", 1)[0].split("?", 1)[0]
    tail = path.split("://", 1)[-1]
    return "/" not in tail or tail.endswith("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One version of an export as the ledger knows it; each field is its column.

    Times end in `_us`: microseconds since 1970 UTC by our clock, but for
    `created_us`, which is the VMS's.

    Attributes:
        key: The ledger's own number; None before the first write.
        counts_as_ours: First seen after its source's first complete sweep; so its loss
            counts as our loss.
        had_file: A walk showed a url naming a file, or a folder url gave bytes.
        order_us: What fetches are ordered by: the deadline, or a guess at it.
        walk_us: When the walk began that last made it ready.
        without_us: When a try last found no file behind a folder url.
        without_walks: Walks in a row that saw it without a file.
        absent_sweeps: Complete sweeps in a row that should have shown it.
        version: 1 and up; walks speak of the newest.
        due_us: Not tried before.
        not_before_us: As `due_us` where that is no back-off, which has a bound; else 0.
        attempts: Fetch attempts ever made.
        attempts_without_gain: Attempts in a row that gained nothing.
        tries_without_file: Tries in a row that found no file behind the url, or a body
            too small to be held as proof.
        timeouts: Attempts in a row that ended because they took too long.
        best_bytes: The longest the partial ever was since it last became ready.
        part_number: Tells the partial from a held body, in its file's name.
        part_bytes: Durable length of the partial; `part_sha256` is over these.
        part_firm: `part_modified` is of one version; see `ports.ResumePoint.firm`.
        ask_without_range: The next attempt asks without Range.
        held_dir: Where the held body lies; it and the rest is None if there is none.
        held_number: As `part_number`.
        held_doubt: What is doubted of it.
        held_us: When it ended.
        held_until_us: It is spooled as doubtful from then on, whatever comes.
        bodies: Doubtful bodies of some size that were had.
        proof: What the file's structure says; None as long as it is not complete.
        doubt: Why it is not proven whole.
        proof_notes: What is odd about a whole file; separated by `; `.
        look_due_us: When the next second look is due; None if none is.
        looks: Second looks made, the last one at `looked_us`.
        look_total: What the last look showed, if that was a change; so the next two.
        drops: Further versions that brought the same bytes; one less in a version that
            was asked for by hand, which is not to count, until it is kept.
        late: How often in a row its first byte came too late.
        acknowledged_us: When somebody took note of the loss; None if nobody has.
        note: What he had to say of it.
    """

    key: int | None = None
    source: str
    export_id: int
    created_key: str
    version: int = 1
    created_at: str | None
    created_us: int | None
    updated_at: str | None
    state: State
    reason: str | None = None
    name: str | None = None
    camera_id: int | None = None
    stream_type: str | None = None
    footage_from: str | None = None
    footage_to: str | None = None
    user_id: int | None = None
    url: str | None = None
    has_file: bool = False
    first_seen_us: int
    counts_as_ours: bool = False
    had_file: bool = False
    deadline_us: int | None = None
    order_us: int
    walk_us: int = 0
    without_us: int | None = None
    without_walk_us: int | None = None
    without_walks: int = 0
    absent_sweeps: int = 0
    due_us: int = 0
    not_before_us: int = 0
    attempts: int = 0
    attempts_without_gain: int = 0
    tries_without_file: int = 0
    timeouts: int = 0
    best_bytes: int = 0
    last_error: str | None = None
    spool_dir: str | None = None
    part_number: int = 1
    part_bytes: int = 0
    part_sha256: str | None = None
    part_total: int | None = None
    part_etag: str | None = None
    part_modified: str | None = None
    part_firm: bool = False
    ask_without_range: bool = False
    held_dir: str | None = None
    held_number: int | None = None
    held_bytes: int | None = None
    held_sha256: str | None = None
    held_etag: str | None = None
    held_modified: str | None = None
    held_doubt: str | None = None
    held_started_us: int | None = None
    held_us: int | None = None
    held_until_us: int | None = None
    bodies: int = 0
    etag_use: EtagUse = EtagUse.GUARDS
    late: int = 0
    size_bytes: int | None = None
    sha256: str | None = None
    proof: str | None = None
    doubt: str | None = None
    proof_notes: str | None = None
    look_due_us: int | None = None
    looks: int = 0
    looked_us: int = 0
    look_total: int | None = None
    look_etag: str | None = None
    look_modified: str | None = None
    drops: int = 0
    started_us: int | None = None
    spooled_us: int | None = None
    saved_us: int | None = None
    acknowledged_us: int | None = None
    note: str | None = None

    @property
    def stored_key(self) -> int:
        """The key of an export that is in the ledger; ValueError for any other."""
        if self.key is None:
            raise ValueError("the export is not from the ledger")
        return self.key

    @property
    def identity(self) -> tuple[str, int, str]:
        """What all its versions have in common."""
        return self.source, self.export_id, self.created_key

    @property
    def label(self) -> str:
        """The name the command line knows it by."""
        version = f"~{self.version}" if self.version > 1 else ""
        return f"{self.source}/{self.export_id}{version}"

    @property
    def held(self) -> bool:
        """A doubtful body waits in the spool to be confirmed."""
        return self.held_sha256 is not None

    @property
    def doubtful(self) -> bool:
        """The file that is ours is not proven whole."""
        return self.proof == Verdict.DOUBTFUL

    @property
    def shows_file(self) -> bool:
        """As last listed, the flag is true and there is a url."""
        return self.has_file and self.url is not None

    def without_held(self) -> Export:
        """Return the export without its held body."""
        names = (field.name for field in dataclasses.fields(self))
        held: Any = {name: None for name in names if name.startswith("held_")}
        return dataclasses.replace(self, **held)

    def shows_other_footage(self, row: Row) -> bool:
        """Tell whether a row speaks of other footage, as far as both can be read."""
        pairs = (
            (self.camera_id, row.camera_id),
            (self.footage_from, row.footage_from),
            (self.footage_to, row.footage_to),
        )
        return any(
            ours is not None and theirs is not None and ours != theirs
            for ours, theirs in pairs
        )

    def past_deadline(self, now_us: int) -> bool:
        """The VMS may have deleted the file by `now_us`."""
        return self.deadline_us is not None and now_us > self.deadline_us


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One export's file on one target.

    Attributes:
        export: The key of its export.
        path: Below the root of the target; None as long as it is not fixed.
        verified_us: When it was last read and good.
        checked_us: When it was last read, or tried to be, good or not.
    """

    export: int
    target: str
    state: CopyState
    path: str | None
    verified_us: int | None
    saved_us: int | None
    attempts: int
    due_us: int
    last_error: str | None
    checked_us: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One fetch attempt, or several alike in a row (`times`).

    Attributes:
        offset_bytes: Where it started.
        held_bytes: What the partial held when it ended.
    """

    number: int
    times: int
    started_us: int
    ended_us: int
    outcome: str
    offset_bytes: int
    held_bytes: int
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a fetch proved of a file in the spool, and the validators as sent.

    Attributes:
        sha256: Lower-case hex, over the bytes as received.
        doubt: Why the file is not proven whole; None if it is.
        notes: What is odd about it all the same.
    """

    size_bytes: int
    sha256: str
    etag: str | None
    last_modified: str | None
    doubt: str | None = None
    notes: tuple[str, ...] = ()


def utc_now() -> datetime:
    """Return the wall clock, aware, in UTC."""
    return datetime.now(UTC)


def to_us(moment: datetime) -> int:
    """Return microseconds since 1970 UTC."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_us(us: int) -> datetime:
    """Return the aware UTC datetime of `us` microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=us)


def iso(us: int | None) -> str | None:
    """Return `us` as ISO 8601 with milliseconds, ending in `Z`; None stays None."""
    if us is None:
        return None
    return from_us(us).isoformat(timespec="milliseconds").replace("+00:00", "Z")
