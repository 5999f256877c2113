"""The contracts of a source and of a target, the edges of the program."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from typing_extensions import override

from mirror.errors import MirrorError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from mirror.model import Export, Row

UNFIT_RANGE: Final = "unfit_range"
"""The reason of a `FetchError`: the answer does not fit the bytes that are held."""
FIRST_BYTE: Final = "first_byte"
"""The reason of a `FetchError`: no first byte came in time."""
MAX_SIDECAR_BYTES: Final = 512 * 1024
"""No record that we write is longer; a longer one is none of ours, and is not read."""
PROBE_S: Final = 15.0
"""A target that is well answers a probe within this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledFile:
    """The whole, proven, fsynced file in the spool, as the content of a copy.

    Attributes:
        path: Where it lies.
        may_link: The target may keep this very file, where both lie on one file system;
            otherwise the bytes must be copied.
    """

    path: Path
    may_link: bool = True

    @override
    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptCopy:
    """A copy on a target, as the content of another: for a repair, a fill, a restore.

    Attributes:
        target: Where it is kept.
        marker_id: Of that target.
        path: As published there.
    """

    target: Target
    marker_id: str
    path: str

    @override
    def __str__(self) -> str:
        return f"{self.target.place}/{self.path}"

    def read(self) -> AsyncGenerator[bytes, None]:
        """Yield its bytes; see `Target.read`."""
        return self.target.read(self.path, self.marker_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What a target is asked to keep.

    Attributes:
        content: Where the file's bytes are.
        path: Where it shall lie, relative to the target's root, `/` between
            segments, already sanitised, ends in `.mp4`.
        sidecar: The provenance record's bytes, to lie at `path` + `.json`.
        size_bytes: Length of the file.
        sha256: Lower-case hex digest of the file.
        token: A name for temporary files, unique to this node and export; safe
            in a file name.
    """

    content: SpooledFile | KeptCopy
    path: str
    sidecar: bytes
    size_bytes: int
    sha256: str
    token: str

    @classmethod
    def of(
        cls,
        export: Export,
        *,
        content: SpooledFile | KeptCopy,
        path: str,
        sidecar: bytes,
        node_id: str,
    ) -> Publication:
        """Return the publication of an export's whole file."""
        return cls(
            content=content,
            path=path,
            sidecar=sidecar,
            size_bytes=export.size_bytes or 0,
            sha256=export.sha256 or "",
            token=f"{node_id}-{export.key}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """That a file and its sidecar are kept, durably.

    Attributes:
        verified: The kept bytes were proven, by what `Traits.proves_by` says; False
            where the target keeps the spooled file itself.
    """

    verified: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """What lies at a path of a target, and the sidecar beside it.

    Attributes:
        path: Of the file.
        present: Something lies there.
        size_bytes: Of the file; None if what lies there is no regular file.
        sidecar: The bytes beside it; None if nothing lies there, empty if what does
            cannot be a record.
        sha256: Of the file's bytes as they read now; None unless they were read.
        problem: Why nothing is known, in words.
    """

    path: str
    present: bool = True
    size_bytes: int | None
    sidecar: bytes | None
    sha256: str | None = None
    problem: str | None = None


class PathTakenError(MirrorError):
    """Another file lies at the path; nothing was changed."""


class ContentError(MirrorError):
    """The content to keep is gone, or its bytes are not what the ledger says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetHealth:
    """What a probe of a target found.

    Attributes:
        marker_id: The id in the target's marker.
        free_bytes: Space left for us; None where the target does not say.
        full: Why nothing more can be kept there now; the target is there all the same.
        warning: Who else may write where only we should; it can be used all the same.
        size_bytes: Of the whole place; None where the target does not say.
    """

    marker_id: str
    free_bytes: int | None
    full: str | None = None
    warning: str | None = None
    size_bytes: int | None = None


class ProvesBy(Enum):
    """What proves the bytes of a copy.

    Attributes:
        READ_BACK: They are read again after they were written.
        DIGEST: The target computes a digest of what it stored, and it is compared.
    """

    READ_BACK = "read_back"
    DIGEST = "digest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a target can do, whatever state it is in.

    Attributes:
        at_once: So many publishes at once are of use.
        in_batch: So many small files in one publish are of use.
        proves_by: What proves a copy.
        links_in: It can keep a spooled file itself, with no copy of the bytes, where
            that lies on the file system of this folder; None if it cannot.
    """

    at_once: int
    in_batch: int
    proves_by: ProvesBy
    links_in: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolFolder:
    """A folder of a target's own that may hold the spool, so that files are linked.

    Attributes:
        path: Of the folder.
        network: It is known to lie on another machine, and may hang with it.
        min_free: Bytes that must stay free there.
        ready: Makes the folder where it is missing. Takes the marker id of the target
            and whether others are known to write there. Blocking. Raises OSError unless
            that target lies there, and its folders are ours alone.
        give_mode: Gives an open file the mode and group of kept ones, before it is
            flushed, so that a link need not flush it again. Blocking.
    """

    path: Path
    network: bool
    min_free: int
    ready: Callable[[str, bool], None]
    give_mode: Callable[[int], None]


class Target(Protocol):
    """A place that keeps copies: a folder, a bucket, a server.

    **Published** means: the whole file lies under its final name, its sidecar beside
    it, and both survive a loss of power. Before, nothing shows under these names. The
    order is: write under a temporary name, prove, make durable, name the file, name its
    sidecar, make the names durable. Whoever lists a target sees whole files only.

    **Idempotence**: each method may be called again after a crash at any point, and
    ends as if it had not been interrupted. Nothing that lies under a final name is ever
    overwritten; only `set_aside` moves it, only `delete` removes it.

    **Identity**: a marker with an id lies on each target. What lies elsewhere than
    where the marker is that of the id given is never read, written or judged.

    **Errors** are told by what they mean, never by their text: `TargetError` is the
    target's, is tried again later, and allows no conclusion about any file;
    `PathTakenError` is the path's; `ContentError` is the content's. Its own errors a
    target translates, with the reason and what helps. A batch has a result per member:
    a bad member harms no other.

    **Time**: no method waits for ever. A call that makes no step for too long is given
    up with a `TargetError` of reason `hung`; what of it still runs stops at its next
    step, and names nothing any more. Retries, bandwidth and how many publishes run at
    once are the caller's.

    **Writing** (`publish`, `set_aside`, `delete`) needs a `probe` with `write` before;
    the target that it found is the one that is written to.
    """

    @property
    def name(self) -> str:
        """The name in the configuration."""

    @property
    def place(self) -> str:
        """Where it is, as its operator calls it: a path, a url."""

    @property
    def traits(self) -> Traits:
        """What it can do."""

    @property
    def spool_folder(self) -> SpoolFolder | None:
        """A folder that may hold the spool, told without touching it; None if none."""

    async def first_use(self) -> str | None:
        """Say what the first `probe` that writes would make; None if nothing is needed.

        Changes nothing there.

        Raises:
            TargetError: `hung`.
        """

    async def probe(
        self, known: str | None, *, write: bool, patience_s: float = PROBE_S
    ) -> TargetHealth:
        """Answer: are you the target that we know, and how are you?

        While an earlier probe has not ended, one that asks the same waits for that one.

        Args:
            known: The marker id the ledger holds; None takes what is found.
            write: Make ready to be written to: prove that it can be, remove what
                earlier runs left, and with `known` None make a marker where there is
                none. Otherwise nothing is changed.
            patience_s: Longer is hung.

        Raises:
            TargetError: Not mounted, another disk, without a marker, not writable, hung
                or away. The text says what to do.
        """

    async def publish(self, batch: Sequence[Publication]) -> list[Kept | Exception]:
        """Keep files and their sidecars durably, each under its final name at once.

        The marker is looked at once for the batch. A file already at the path with the
        right bytes is taken as ours.

        Returns:
            One result per member, in order: `Kept`, or why not. `PathTakenError`:
            different bytes lie at the path. `ContentError`: the content is gone or
            damaged. `TargetError`: the target cannot take it now; reason `no_origin`:
            the content cannot be reached now. Anything else is a fault of ours.
        """

    async def examine(
        self,
        path: str,
        *,
        size_bytes: int,
        marker_id: str,
        came: Callable[[int], None],
    ) -> StoredFile:
        """Read a kept file and its sidecar, past caches where possible.

        Changes nothing there. What is missing or wrong is told, not raised.

        Args:
            path: Of the file, as published.
            size_bytes: Length it should have; a file of another is not read.
            marker_id: Of the target it was published to.
            came: Called with the number of bytes of each read, from any thread.

        Raises:
            TargetError: It cannot be read just now, or this is another target.
        """

    def read(self, path: str, marker_id: str) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a kept file, for whoever copies them elsewhere.

        Nobody vouches for them: the caller compares length and digest.

        Raises:
            ContentError: No file lies there.
            TargetError: It cannot be read just now, or this is another target.
        """

    def scan(self, marker_id: str) -> AsyncGenerator[list[StoredFile], None]:
        """Yield all sidecars there are, some at a time, in no order.

        Changes nothing there. What cannot be read is told, not raised; of the files
        beside the sidecars only the length is known.

        Raises:
            TargetError: It is another target, or away; what was not yielded may be
                there all the same.
        """

    async def find(self, path: str, marker_id: str) -> StoredFile | None:
        """Return the sidecar of one path and what lies there; None if nothing does.

        Raises:
            TargetError: It cannot be read just now, or this is another target.
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

    async def delete(self, path: str) -> None:
        """Remove a kept file and its sidecar, durably; what is gone is no error.

        The file goes first: what a crash leaves is a sidecar that tells of it.

        Raises:
            TargetError: They cannot be removed now.
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


class Batch:
    """Bytes of a file on their way from a connection to a disk.

    Args:
        most_bytes: It never holds more.

    Attributes:
        size: How many bytes there are.
    """

    __slots__ = ("_buffer", "size")

    def __init__(self, most_bytes: int) -> None:
        self._buffer = memoryview(bytearray(most_bytes))
        self.size = 0

    @property
    def held(self) -> memoryview:
        """The bytes, not copied."""
        return self._buffer[: self.size]

    @property
    def free(self) -> memoryview:
        """Where the next bytes go; empty if the batch is full."""
        return self._buffer[self.size :]

    def add(self, chunk: bytes) -> None:
        """Add bytes that are not longer than `free`."""
        self.free[: len(chunk)] = chunk
        self.size += len(chunk)

    def drop(self, number: int) -> None:
        """Take the first bytes away."""
        rest = bytes(self.held[number:])
        self.size = 0
        self.add(rest)


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

    async def fill(self, batch: Batch, until: float = 0.0) -> bool:
        """Add the next bytes to a batch as received; return False at the announced end.

        However the wait for them ends, what came is in the batch.

        Args:
            batch: It is not full.
            until: Before that, by `time.monotonic`, it is better to wait until the
                batch is full.

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
