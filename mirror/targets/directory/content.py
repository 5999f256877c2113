"""The content of a copy as a directory target reads it; its faults are no target's."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as WaitTimeoutError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from mirror.disk import durable, filesystem
from mirror.errors import TargetError
from mirror.ports import ContentError, SpooledFile

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
    from pathlib import Path

    from mirror.ports import KeptCopy, Publication

T = TypeVar("T")

_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_TURN_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Content that can be read now.

    Attributes:
        label: What it is, for people.
        chunks: Yields its bytes from the beginning. Raises ContentError where it is
            damaged or gone, TargetError where it cannot be reached now.
        linkable: Descriptor of the spooled file, if the target may keep that file.
    """

    label: str
    chunks: Callable[[], Iterator[bytes]]
    linkable: int | None = None


@contextlib.contextmanager
def opened(
    publication: Publication,
    loop: asyncio.AbstractEventLoop,
    beat: Callable[[], None],
) -> Iterator[Content]:
    """Hold the content of a publication open for reading.

    Args:
        publication: Whose content.
        loop: That reads a copy which lies on a target.
        beat: Called while that is waited for.

    Raises:
        ContentError: It is gone, or of another length.
        TargetError: It cannot be reached just now.
    """
    content = publication.content
    if not isinstance(content, SpooledFile):
        yield Content(label=str(content), chunks=lambda: _of_copy(content, loop, beat))
        return
    path = content.path
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as exc:
        if exc.errno in _GONE:
            raise ContentError(f"{path} is gone") from exc
        raise _unreachable(path, exc) from exc
    with durable.closing(fd):
        _lock(path, fd)
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode) or about.st_size != publication.size_bytes:
            raise ContentError(
                f"{path} is {about.st_size} bytes long, not {publication.size_bytes}"
            )
        yield Content(
            label=str(path),
            chunks=lambda: _of_file(path, fd),
            linkable=fd if content.may_link else None,
        )


def is_ours(fd: int, path: Path) -> bool:
    """Tell whether nobody else could have put an open spooled file there, or written.

    Then its bytes are those that were received; else they must be read to know.
    """
    us = frozenset({0, os.geteuid()})
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        with durable.closing(folder):
            named = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
            holder = os.fstat(folder)
    except OSError:
        return False
    return (
        os.path.samestat(named, os.fstat(fd))
        and filesystem.is_ours(named, owners=us)
        and filesystem.is_ours(holder, owners=us)
    )


def _of_file(path: Path, fd: int) -> Iterator[bytes]:
    chunks = durable.chunks_of(fd)
    while True:
        try:
            chunk = next(chunks, b"")
        except OSError as exc:
            if exc.errno == errno.EIO:
                raise ContentError(f"{path}: {exc.strerror}") from exc
            raise _unreachable(path, exc) from exc
        if not chunk:
            return
        yield chunk


def _of_copy(
    copy: KeptCopy, loop: asyncio.AbstractEventLoop, beat: Callable[[], None]
) -> Iterator[bytes]:
    """Yield in this thread what the loop reads of a copy on a target."""
    stream = copy.read()
    try:
        while chunk := _in_loop(_next(stream), loop, beat):
            yield chunk
    except TargetError as exc:
        raise TargetError("no_origin", f"the bytes to copy: {exc}") from exc
    finally:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            asyncio.run_coroutine_threadsafe(stream.aclose(), loop)


async def _next(stream: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(stream, b"")


def _in_loop(
    work: Coroutine[None, None, T],
    loop: asyncio.AbstractEventLoop,
    beat: Callable[[], None],
) -> T:
    job = asyncio.run_coroutine_threadsafe(work, loop)
    while True:
        try:
            return job.result(_TURN_S)
        except WaitTimeoutError:
            if job.done():
                return job.result()
            try:
                beat()
            except BaseException:
                job.cancel()
                raise
        except CancelledError as exc:
            raise TargetError("no_origin", "the bytes to copy: stopped") from exc


def _lock(path: Path, fd: int) -> None:
    """Keep the file from being fetched anew meanwhile; not all file systems can.

    Raises:
        TargetError: It is being fetched.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise _unreachable(path, exc) from exc
    except OSError:
        return


def _unreachable(path: Path, exc: OSError) -> TargetError:
    return TargetError("no_origin", f"the bytes to copy: {path}: {exc.strerror}")
