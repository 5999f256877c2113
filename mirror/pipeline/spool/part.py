"""One file in the spool: what lies there, and what of it is proven."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirror import mp4
from mirror.pipeline.spool.reserve import room_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from mirror.model import Export

_READ_BYTES = 1024 * 1024
_MAX_IOV = 512


@dataclass(frozen=True, slots=True, order=True)
class PartName:
    """The name of a file in the spool.

    Attributes:
        mark: Tells exports of one id, and their versions, apart.
        number: Tells the bodies of one version apart.
    """

    source: str
    export_id: int
    mark: str
    node_id: str
    number: int = 1

    @classmethod
    def of(cls, export: Export, node_id: str, number: int) -> PartName:
        """Return the name of one body of an export."""
        version = f"~{export.version}" if export.version > 1 else ""
        key = f"{export.created_key}{version}".encode("utf-8", "replace")
        mark = hashlib.sha256(key).hexdigest()[:8]
        return cls(export.source, export.export_id, mark, node_id, number)

    @classmethod
    def read(cls, text: str) -> PartName | None:
        """Return what a file's name says; None if it is no such name."""
        match = re.fullmatch(
            r"(.+)-(\d+)-([0-9a-f]{8})\.([^.]+)(?:\.(\d+))?\.part", text
        )
        if match is None:
            return None
        return cls(match[1], int(match[2]), match[3], match[4], int(match[5] or 1))

    def is_of(self, export: Export) -> bool:
        """Tell whether it names a body of this version of an export."""
        return self == PartName.of(export, self.node_id, self.number)

    @property
    def text(self) -> str:
        """The name."""
        number = f".{self.number}" if self.number > 1 else ""
        return f"{self.source}-{self.export_id}-{self.mark}.{self.node_id}{number}.part"


class Part:
    """One file in the spool, open for appending. Blocking; one thread at a time.

    Attributes:
        path: Where it lies.
        size: Bytes written and hashed.
        min_free: Bytes that must stay free on its file system.
        beside_ledger: The ledger lies there too, and must find room when all else does
            not.
        give_mode: Gives an open file the mode it shall have once it is whole.
        left: A call about it that hung; it must not be used any more.
        broken: An fsync failed: what is not yet proven must be fetched anew.
    """

    def __init__(
        self, fd: int, folder: int, path: Path, size: int, digest: hashlib._Hash
    ) -> None:
        self._fd = fd
        self._folder = folder
        self.path = path
        self._digest = digest
        self.size = size
        self.min_free = 0
        self.beside_ledger = False
        self.give_mode: Callable[[int], None] | None = None
        self.left: Future[Any] | None = None
        self.broken = False
        self._stuck = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        size: int,
        sha256: str | None,
        beat: Callable[[], None] = lambda: None,
    ) -> Part:
        """Open a part and keep of it what is proven, perhaps nothing.

        Args:
            path: Of the file; made if absent. Its folder must exist.
            size: Durable length, as the ledger has it.
            sha256: Digest of these bytes.
            beat: Called after each block of them.

        Raises:
            BlockingIOError: Somebody else writes it, or copies from it.
            OSError: It cannot be used.
        """
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        fd = -1
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(path.name, flags, 0o600, dir_fd=folder)
            _lock(fd)
            if os.fstat(fd).st_nlink > 1:
                # A target keeps this very file: it must never change again.
                os.close(fd)
                fd = -1
                os.unlink(path.name, dir_fd=folder)
                fd = os.open(path.name, flags | os.O_EXCL, 0o600, dir_fd=folder)
                _lock(fd)
            digest = _prefix_digest(fd, size, beat)
            if digest is None or digest.hexdigest() != sha256:
                size, digest = 0, hashlib.sha256()
            os.ftruncate(fd, size)
            return cls(fd, folder, path, size, digest)
        except BaseException:
            if fd >= 0:
                os.close(fd)
            os.close(folder)
            raise

    def append(self, chunks: Sequence[bytes | memoryview]) -> None:
        """Hash and write bytes at the end, all of them or an error.

        After an error nothing more is taken: what came next would lie where the
        bytes that failed belong.
        """
        if self._stuck:
            raise OSError(errno.EIO, "an earlier write to this file failed")
        for start in range(0, len(chunks), _MAX_IOV):
            group = chunks[start : start + _MAX_IOV]
            self._stuck = True
            self._write(group)
            self._stuck = False
            for chunk in group:
                self._digest.update(chunk)
                self.size += len(chunk)

    def restart(self) -> None:
        """Throw away all bytes."""
        os.ftruncate(self._fd, 0)
        self.size = 0
        self._digest = hashlib.sha256()

    def tail(self, size: int) -> bytes:
        """Return the last `size` bytes, at most all there are."""
        size = min(size, self.size)
        return os.pread(self._fd, size, self.size - size)

    def flush(self) -> tuple[int, str]:
        """Make what is written durable; return its length and digest."""
        size, sha256 = self.size, self._digest.hexdigest()
        self._sync(os.fdatasync)
        return size, sha256

    def room_bytes(self) -> int:
        """Return how much may still be written before the reserve is touched."""
        return room_of(
            os.fstatvfs(self._fd),
            min_free=self.min_free,
            beside_ledger=self.beside_ledger,
        )

    def examine(self, announced: bool) -> mp4.Proof:
        """Return what the structure of the file proves.

        Args:
            announced: The end of the body was announced.
        """
        return mp4.prove(self._fd, self.size, explicit_end=not announced)

    def finish(self) -> str:
        """Make the whole file and its name durable; return its digest."""
        if self.give_mode is not None:
            self.give_mode(self._fd)
        self._sync(os.fsync)
        os.fsync(self._folder)
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Remove the file's name; nothing of it is worth keeping."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path.name, dir_fd=self._folder)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
        os.close(self._folder)

    def _sync(self, how: Callable[[int], None]) -> None:
        if self.broken:
            raise OSError(errno.EIO, "an earlier fsync of this file failed")
        try:
            how(self._fd)
        except OSError:
            self.broken = True
            raise

    def _write(self, chunks: Sequence[bytes | memoryview]) -> None:
        offset = self.size
        pending = [memoryview(chunk) for chunk in chunks]
        while pending:
            written = os.pwritev(self._fd, pending, offset)
            offset += written
            while pending and written >= len(pending[0]):
                written -= len(pending.pop(0))
            if written:
                pending[0] = pending[0][written:]


def holds(path: Path, size: int, sha256: str, beat: Callable[[], None]) -> bool:
    """Tell whether a file is so long and has that digest.

    Raises:
        OSError: It cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_size != size:
            return False
        digest = _prefix_digest(fd, size, beat)
        return digest is not None and digest.hexdigest() == sha256
    finally:
        os.close(fd)


def _prefix_digest(
    fd: int, size: int, beat: Callable[[], None]
) -> hashlib._Hash | None:
    """Return the digest of the first `size` bytes; None if there are fewer."""
    digest = hashlib.sha256()
    offset = 0
    while offset < size:
        block = os.pread(fd, min(_READ_BYTES, size - offset), offset)
        if not block:
            return None
        digest.update(block)
        offset += len(block)
        beat()
    return digest


def _lock(fd: int) -> None:
    """Lock a part for this process alone; not every file system can.

    A part's name is that of its node. Two processes are of one node if the state
    directory of one is a copy.

    Raises:
        BlockingIOError: Somebody else has it open.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return
