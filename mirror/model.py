"""The values that travel between the parts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum


class State(StrEnum):
    """Where an export stands."""

    WAITING = "waiting"
    READY = "ready"
    FETCHING = "fetching"
    PARKED = "parked"
    SPOOLED = "spooled"
    SAVED = "saved"
    EXCLUDED = "excluded"
    UNAVAILABLE = "unavailable"
    LOST = "lost"
    DAMAGED = "damaged"
    ERASED = "erased"


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
class Receipt:
    """What a fetch proved of a file in the spool.

    Attributes:
        size_bytes: Length of the whole file.
        sha256: Lower-case hex, over the bytes as received.
        etag: As the server sent it.
        last_modified: As the server sent it.
    """

    size_bytes: int
    sha256: str
    etag: str | None
    last_modified: str | None


def utc_now() -> datetime:
    """Return the wall clock, aware, in UTC."""
    return datetime.now(UTC)


def to_us(moment: datetime) -> int:
    """Return microseconds since 1970 UTC."""
    return round(moment.timestamp() * 1_000_000)


def from_us(us: int) -> datetime:
    """Return the aware UTC datetime of `us` microseconds since 1970."""
    return datetime.fromtimestamp(us / 1_000_000, UTC)


def iso(us: int | None) -> str | None:
    """Return `us` as ISO 8601 with milliseconds, ending in `Z`; None stays None."""
    if us is None:
        return None
    return from_us(us).isoformat(timespec="milliseconds").replace("+00:00", "Z")
