"""The contracts of a source and of a target, the edges of the program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from mirror.errors import MirrorError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from mirror.model import Row

UNFIT_RANGE: Final = "unfit_range"
"""The reason of a `FetchError`: the answer does not fit the bytes that are held."""
FIRST_BYTE: Final = "first_byte"
"""The reason of a `FetchError`: no first byte came in time."""
MAX_SIDECAR_BYTES: Final = 512 * 1024
"""No record that we write is longer; a longer one is none of ours, and is not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What a target is asked to keep.

    Attributes:
        spooled: The whole, proven, fsynced file in the spool.
        path: Where it shall lie, relative to the target's root, `/` between
            segments, already sanitised, ends in `.mp4`.
        sidecar: The provenance record's bytes, to lie at `path` + `.json`.
        size_bytes: Length of the file.
        sha256: Lower-case hex digest of the file.
        token: A name for temporary files, unique to this node and export; safe
            in a file name.
        may_link: The kept file may be the spooled file itself, where both lie on
            one file system; otherwise the bytes must be copied.
    """

    spooled: Path
    path: str
    sidecar: bytes
    size_bytes: int
    sha256: str
    token: str
    may_link: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a publish proved.

    Attributes:
        path: As asked.
        verified: The kept bytes were read back and their digest compared; False
            where the file was moved within one file system.
    """

    path: str
    verified: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What lies where a file was kept.

    Attributes:
        present: Something lies at the path.
        size_bytes: Of the file there; None if what lies there is no regular file.
        sha256: Of its bytes as they read now; None unless it has the length asked
            for.
        sidecar: The bytes beside it; None if nothing lies there, empty if what does
            cannot be a record.
    """

    present: bool
    size_bytes: int | None
    sha256: str | None
    sidecar: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A sidecar on a target, and what lies beside it.

    Attributes:
        path: Of the file it tells of, as it lies now.
        sidecar: Its bytes; None if there is none, empty if it can be no record.
        size_bytes: Of the file; None if no regular file lies there.
        problem: Why neither is known.
    """

    path: str
    sidecar: bytes | None
    size_bytes: int | None
    problem: str | None = None


class PathTakenError(MirrorError):
    """Another file lies at the path; nothing was changed."""


class SpoolFileError(MirrorError):
    """The spooled file is gone, or its bytes are not what the ledger says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetHealth:
    """What a probe of a target found.

    Attributes:
        marker_id: The id in the target's marker.
        free_bytes: Space left for us; None where the target does not say.
        full: Why nothing more can be kept there now; the target is there all the same.
        warning: Who else may write where only we should; it can be used all the same.
    """

    marker_id: str
    free_bytes: int | None
    full: str | None = None
    warning: str | None = None


class Target(Protocol):
    """A place that keeps copies. Methods are safe to repeat after a crash."""

    @property
    def name(self) -> str:
        """The name in the configuration."""

    async def open(self, remembered: str | None) -> TargetHealth:
        """Check that this is the target we know, and make it ready.

        Args:
            remembered: The marker id the ledger holds; None adopts what is found,
                or makes a marker where there is none.

        Raises:
            TargetError: Not mounted, another disk, not writable, or away. The
                text says what to do.
        """

    async def publish(self, publication: Publication) -> Kept:
        """Keep one file and its sidecar durably, under the final name at once.

        Idempotent: a file already at the path with the right bytes is taken as
        ours. Nothing is ever overwritten.

        Raises:
            PathTakenError: Different bytes lie at the path.
            SpoolFileError: The spooled file is gone or damaged.
            TargetError: The target cannot take it now.
        """

    async def look(self, marker_id: str) -> None:
        """Check that this is the target we know. Changes nothing there.

        Raises:
            TargetError: It is another, or away.
        """

    async def examine(
        self,
        path: str,
        *,
        size_bytes: int,
        marker_id: str,
        read: Callable[[int], None],
    ) -> Examined:
        """Read a kept file and its sidecar, past caches where possible.

        Changes nothing there, and needs no `open`. What is missing or wrong is told,
        not raised.

        Args:
            path: Of the file, as published.
            size_bytes: Length it should have; a file of another is not read.
            marker_id: Of the target it was published to.
            read: Told how many bytes came, as they come, from any thread.

        Raises:
            TargetError: It cannot be read just now, or this is another target;
                nothing may be concluded.
        """

    async def identify(self) -> str:
        """Return the id in the target's marker. Changes nothing there.

        Raises:
            TargetError: There is none, or the target is away.
        """

    def survey(self, marker_id: str) -> AsyncGenerator[list[Beside], None]:
        """Yield all sidecars there are, some at a time, in no order.

        Changes nothing there. What cannot be read is told, not raised.

        Raises:
            TargetError: It is another target, or away; what was not yielded may be
                there all the same.
        """

    async def beside(self, path: str, marker_id: str) -> Beside | None:
        """Return the sidecar of one path and what lies there; None if nothing does.

        Raises:
            TargetError: It cannot be read just now, or this is another target;
                nothing may be concluded.
        """

    async def set_aside(self, path: str, *, sidecar: bool) -> str:
        """Move what lies at a path out of the way, durably; it is not changed.

        Args:
            path: Of a file, as published.
            sidecar: Move what lies at its sidecar's path instead.

        Returns:
            Where it lies now, for people.

        Raises:
            TargetError: It cannot be moved now.
        """

    async def close(self) -> None:
        """Release threads and descriptors; never blocks on a hung mount."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row without what identifies an export.

    Attributes:
        raw: Its text as received.
        error: What is wrong with it.
    """

    raw: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Some rows of a page, as many as are decoded at once."""

    rows: list[Row]
    bad_rows: list[BadRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of the source's list.

    Attributes:
        rows: The rows that can be used; of a large page the first of them.
        bad_rows: Those that cannot, likewise.
        later: The rest of a large page, decoded while it is read.
        digest: Of all its rows as received; empty if unknown.
        size: How many rows the server sent, good or bad.
        total: How many rows the server says the window holds.
        last_page: The number of the last page, if the server says it.
        per_page: How many rows the server puts on a page, if it says so.
        clock_offset_us: The server's clock less ours; None if it sent no date.
    """

    rows: list[Row]
    bad_rows: list[BadRow]
    size: int
    total: int | None
    last_page: int | None
    clock_offset_us: int | None
    per_page: int | None = None
    digest: bytes = b""
    later: AsyncIterator[Rows] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Validators:
    """Which version of a file an answer is of; None where it does not say.

    Attributes:
        total_bytes: Length of the whole file.
        etag: As sent.
        last_modified: As sent.
        firm: The file was not changed within the second of `last_modified` again: that
            lay a second or more before the answer's own date.
    """

    total_bytes: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    firm: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePoint(Validators):
    """Where in a file a transfer goes on, and which version the bytes before are of.

    Attributes:
        size_bytes: Proven length of the partial; 0 asks for the whole file.
        overlap_bytes: So many of the last bytes held are asked for again, for the
            caller to compare; the date guards the rest then, not the ETag.
    """

    size_bytes: int
    overlap_bytes: int = 0


class FileBody(Protocol):
    """An open answer with the bytes of a file, checked to fit what was asked.

    Attributes:
        start_bytes: Where its first byte belongs in the file; either the end of what is
            held less the overlap, or 0.
        total_bytes: Length of the whole file; None if not announced.
        explicit_end: The end of the body is announced by a length or by chunks.
        firm: As in `Validators`.
    """

    start_bytes: int
    total_bytes: int | None
    explicit_end: bool
    etag: str | None
    last_modified: str | None
    firm: bool

    async def read(self) -> bytes:
        """Return the next bytes as received; empty at the announced end.

        Raises:
            FetchError: The body was cut, or no byte came for too long; its reason is
                `FIRST_BYTE` if not one came.
        """


class Source(Protocol):
    """One account on one VMS."""

    @property
    def name(self) -> str:
        """The name in the configuration."""

    @property
    def origin(self) -> str:
        """Where it is; sources of one origin are one server."""

    @property
    def oldest_us(self) -> int | None:
        """When files deleted now were made, by the VMS's clock, if known."""

    @property
    def lifetime_us(self) -> int:
        """How long the VMS keeps a file."""

    @property
    def second_look(self) -> bool:
        """Files may be looked at again after they were fetched."""

    async def page(self, number: int, *, since_us: int, until_us: int) -> Page:
        """Read one page of the list, rows created between the two instants.

        Args:
            number: 1-based.
            since_us: Lower bound by the VMS's clock, microseconds since 1970 UTC.
            until_us: Upper bound likewise.

        Raises:
            AuthError: The token is missing or refused.
            ListError: No page could be had; nothing may be concluded.
        """

    def open_file(
        self, url: str, name: str | None, point: ResumePoint, *, first_byte_s: float
    ) -> AbstractAsyncContextManager[FileBody]:
        """Ask for a file, or for the rest of it.

        Args:
            url: As listed; a folder is completed with `name`.
            name: As listed.
            point: What we have of it; the answer continues it or starts over.
            first_byte_s: How long to wait for the first byte, redirects included.

        Raises:
            FileGoneError: There is no file behind the url just now.
            OriginRefusedError: The url leads where we may not go.
            FetchError: Anything else; its reason is `FIRST_BYTE` if nothing came within
                `first_byte_s`.
        """

    async def look(self, url: str, name: str | None) -> Validators | None:
        """Ask for one byte of a file, to learn its version from the headers.

        Returns:
            None if the answer says nothing of the file.

        Raises:
            FileGoneError: There is no file behind the url just now.
            OriginRefusedError: The url leads where we may not go.
            FetchError: Anything else.
        """
