"""Files written so that a crash leaves all or nothing: blocking, by descriptor.

Every name is taken relative to an open folder, so that what is written lands on the
file system that was looked at, even if another one is mounted there meanwhile.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

READ_BYTES: Final = 1024 * 1024
_FLUSH_BYTES: Final = 64 * 1024 * 1024
_CANNOT_CHMOD: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
_NO_SPECIAL: Final = 0o777
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_RENAME_NOREPLACE: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FileModes:
    """The modes and the group of what is made; `gid` -1 leaves the group alone."""

    file_mode: int
    dir_mode: int
    gid: int = -1


@contextlib.contextmanager
def closing(fd: int) -> Iterator[int]:
    """Close a descriptor that nothing was written to at the end."""
    try:
        yield fd
    finally:
        os.close(fd)


def open_folder(name: str, *, within: int) -> int:
    """Open a folder, never through a symbolic link."""
    return os.open(name, _FOLDER, dir_fd=within)


def open_file(name: str, *, within: int) -> int:
    """Open a file for reading, never through a symbolic link, never blocking."""
    return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=within)


def make_folder(name: str, *, within: int, mode: int, gid: int = -1) -> bool:
    """Make a folder unless it is there; tell whether it is new. Not yet durable."""
    try:
        os.mkdir(name, mode & _NO_SPECIAL, dir_fd=within)
    except FileExistsError:
        return False
    with closing(open_folder(name, within=within)) as fd:
        give_mode(fd, mode, gid)
    return True


def give_mode(fd: int, mode: int, gid: int) -> bool:
    """Set mode and group where they differ; tell whether they did.

    A file system without modes (FAT, SMB) is left as its mount options say. Where
    set-group-ID is forbidden (systemd's RestrictSUIDSGID=), the mode is without it.
    """
    about = os.fstat(fd)
    regroup = gid not in {-1, about.st_gid}
    differ = regroup or about.st_mode & 0o7777 != mode
    if regroup:
        os.fchown(fd, -1, gid)
    if differ:
        for possible in (mode, mode & _NO_SPECIAL):
            try:
                os.fchmod(fd, possible)
            except OSError as exc:
                if exc.errno not in _CANNOT_CHMOD:
                    raise
            else:
                break
    return differ


def write_new(
    name: str,
    chunks: Iterable[bytes],
    *,
    within: int,
    modes: FileModes,
    beat: Callable[[], None] = lambda: None,
) -> str:
    """Write and flush a new file; return the digest of what was written.

    A long one is flushed as it grows, so that no single flush takes long. A failed
    flush is not tried again on the same file: the caller throws it away. `within` is
    the descriptor of its folder; `beat` is called after each step.

    Raises:
        FileExistsError: The name is taken.
        OSError: Anything else, also at closing; the file is not to be trusted.
    """
    digest, unflushed = hashlib.sha256(), 0
    fd = os.open(name, _NEW_FILE, 0o600, dir_fd=within)
    try:
        for chunk in chunks:
            digest.update(chunk)
            _write_all(fd, chunk)
            unflushed += len(chunk)
            if unflushed >= _FLUSH_BYTES:
                os.fdatasync(fd)
                unflushed = 0
            beat()
        give_mode(fd, modes.file_mode, modes.gid)
        os.fsync(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise
    os.close(fd)  # NFS and SMB may tell of a lost write only here
    return digest.hexdigest()


def chunks_of(fd: int) -> Iterator[bytes]:
    """Yield what lies in an open file, from its beginning."""
    offset = 0
    while chunk := os.pread(fd, READ_BYTES, offset):
        offset += len(chunk)
        yield chunk


def digest_on_disk(fd: int, came: Callable[[int], None] = lambda _: None) -> str:
    """Return the digest of a flushed file, read past the page cache if possible.

    `came` is called with the number of bytes of each read.
    """
    forget_cached(fd)
    digest = hashlib.sha256()
    for chunk in chunks_of(fd):
        digest.update(chunk)
        came(len(chunk))
    return digest.hexdigest()


def forget_cached(fd: int) -> None:
    """Drop a flushed file from the page cache, so that the next read is of the disk."""
    with contextlib.suppress(OSError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def place(
    temporary: str, name: str, *, source: int, within: int, fd: int | None = None
) -> None:
    """Give a flushed file its final name at once, never replacing anything.

    The temporary name may remain where links are made; the folder is not flushed. What
    a link or a rename fails with is not believed before another way failed too: some
    file systems give EIO for what they do not have.

    `source` and `within` are descriptors of folders on one file system: of the old and
    the new name. `fd` is that of the file, to link this very one whatever bears the
    temporary name.

    Raises:
        FileExistsError: The name is taken.
    """
    try:
        if fd is not None:
            link_open(fd, name, within=within)
        else:
            os.link(
                temporary,
                name,
                src_dir_fd=source,
                dst_dir_fd=within,
                follow_symlinks=False,
            )
    except FileExistsError:
        raise
    except OSError:
        move(temporary, name, source=source, within=within)


def link_open(fd: int, name: str, *, within: int) -> None:
    """Give an open file one more name (Linux); errors as of `os.link`."""
    os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=within)


def move(old: str, new: str, *, source: int, within: int) -> None:
    """Rename, never replacing anything; arguments and errors as for `place`."""
    try:
        rename_noreplace(old, new, source=source, within=within)
    except FileExistsError:
        raise
    except OSError:
        pass
    else:
        return
    # Neither way is there (some FUSE file systems): all names carry an export's id,
    # so nobody else makes this one between the look and the rename.
    if exists(new, within=within):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
    os.rename(old, new, src_dir_fd=source, dst_dir_fd=within)


def move_numbered(name: str, *, source: int, within: int) -> str:
    """Move to another folder under its name, or that and a number; return it."""
    number = 1
    while True:
        free = name if number == 1 else f"{name}~{number}"
        try:
            move(name, free, source=source, within=within)
        except FileExistsError:
            number += 1
        else:
            return free


def flush(path: Path) -> None:
    """Bring what was written to a file, or the names in a folder, onto its disk."""
    with closing(os.open(path, os.O_RDONLY)) as fd:
        os.fsync(fd)


def exists(name: str, *, within: int) -> bool:
    """Tell whether anything has the name, a dangling link included."""
    try:
        os.stat(name, dir_fd=within, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def rename_noreplace(old: str, new: str, *, source: int, within: int) -> None:
    """Rename unless the new name is taken (Linux, renameat2)."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError as exc:  # glibc before 2.28
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from exc
    # It takes what ctypes makes of these by itself: int and char *.
    if call(source, os.fsencode(old), within, os.fsencode(new), _RENAME_NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), new)


def _write_all(fd: int, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(fd, rest) :]
