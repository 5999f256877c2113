"""The token: read from its file, read again when the file changes."""

from __future__ import annotations

import base64
import binascii
import errno
import os
import re
import secrets
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

import aiofiles.os
import msgspec

from mirror.disk import durable
from mirror.errors import AuthError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_VISIBLE = re.compile(r"[\x21-\x7e]+")
_BEARER = re.compile(r"^bearer(\s+|$)", re.IGNORECASE)
_MODE = 0o600
MAX_BYTES = 65536
"""No server takes a header as long as that."""


class TokenFile:
    """One source's bearer token, kept in a file that others may replace.

    Args:
        path: Of the file; None where neither `token_file` nor a credential is there.
        source: For error texts.
        learned: Called with each token, so that logs never show it.

    Attributes:
        place: Where the operator puts the token, for error texts.
    """

    def __init__(
        self, path: Path | None, *, source: str, learned: Callable[[str], None]
    ) -> None:
        self._path = path
        self._source = source
        self._learned = learned
        self._stamp: tuple[int, int, int] | None = None
        self._token: str | None = None
        self._command = f"`archive-mirror token set {source}`"
        by_key = f"token_file of sources.{source}"
        self.place = by_key if path is None else f"{path} by {self._command}"

    async def changed(self) -> bool:
        """Tell whether the file is another than the one last read."""
        return await self._look() != self._stamp

    async def read(self) -> str:
        """Return the token, without a leading `Bearer`.

        Raises:
            AuthError: There is no usable token; the text says where to put one.
        """
        if self._path is None:
            raise AuthError(
                "no_token",
                f"no token: set token_file of sources.{self._source}, or give the "
                f"systemd credential {self._source}.token",
            )
        stamp = await self._look()
        if stamp is not None and stamp == self._stamp and self._token is not None:
            return self._token
        self._stamp, self._token = stamp, None
        try:
            raw = await _read_file(self._path)
        except FileNotFoundError as exc:
            raise AuthError(
                "no_token",
                f"there is no token file {self._path}; make it by {self._command}",
            ) from exc
        except OSError as exc:
            raise AuthError(
                "no_token",
                f"the token file {self._path} cannot be read: {exc.strerror}; let the "
                "service's user read it",
            ) from exc
        token = parse(raw, f"the token file {self._path}")
        self._learned(token)
        self._token = token
        return token

    async def _look(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            stamp = await aiofiles.os.stat(self._path)
        except OSError:
            return None
        return (stamp.st_mtime_ns, stamp.st_size, stamp.st_ino)


def _content(path: Path) -> bytes:
    # A pipe without a writer would not even open.
    with durable.closing(os.open(path, os.O_RDONLY | os.O_NONBLOCK)) as fd:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise AuthError(
                "no_token", f"the token file {path} is no regular file; make it one"
            )
        return os.read(fd, MAX_BYTES + 1)


_read_file = aiofiles.os.wrap(_content)
"""One call in a thread: cancelled between two, an open file would be nobody's."""


def parse(raw: bytes, place: str) -> str:
    """Return the token in what an operator wrote, without white space and `Bearer`.

    Raises:
        AuthError: It is none.
    """
    if len(raw) > MAX_BYTES:
        raise AuthError("no_token", f"{place} is longer than any token")
    token = _BEARER.sub("", raw.decode("utf-8-sig", "replace").strip())
    if not _VISIBLE.fullmatch(token):
        what = (
            "is empty; give the token alone"
            if not token
            else "holds more than one token on one line"
        )
        raise AuthError("no_token", f"{place} {what}")
    return token


def store(path: Path, token: str, *, reader: Path) -> None:
    """Write a token into its file, atomically and durably.

    The file is new each time, of mode 0600. If we are root it gets the owner of
    `reader`, a folder of the service, which has to read it.

    Raises:
        OSError: It cannot be written, the old file is as it was; ELOOP: a link leads
            there, which root does not follow.
    """
    if os.geteuid() != 0:
        path = path.resolve()
    name = f".{path.name}.{secrets.token_hex(8)}"
    with durable.closing(_opened(path.parent)) as folder:
        owner = _owner(path, folder, reader)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(name, flags, _MODE, dir_fd=folder)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(f"{token}\n".encode())
                os.fchmod(fd, _MODE)
                if owner is not None:
                    os.fchown(fd, *owner)
                file.flush()
                os.fsync(fd)
            os.replace(name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(name, dir_fd=folder)
            raise
        os.fsync(folder)


def _opened(folder: Path) -> int:
    """Open a folder; as root not through links, which others may have made (ELOOP)."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    if os.geteuid() != 0:
        return os.open(folder, flags)
    opened = os.open("/", flags)
    for name in folder.parts[1:]:
        with durable.closing(opened) as above:
            if stat.S_ISLNK(os.lstat(name, dir_fd=above).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
            opened = os.open(name, flags | os.O_NOFOLLOW, dir_fd=above)
    return opened


def _owner(path: Path, folder: int, reader: Path) -> tuple[int, int] | None:
    """Return the owner a token file must have; None if it cannot be chosen.

    Raises OSError where there is something else than a file.
    """
    owned: os.stat_result | None = None
    with suppress(FileNotFoundError):
        owned = os.lstat(path.name, dir_fd=folder)
    if owned is not None and not stat.S_ISREG(owned.st_mode):
        code = errno.ELOOP if stat.S_ISLNK(owned.st_mode) else errno.EEXIST
        raise OSError(code, os.strerror(code), path.name)
    if os.geteuid() != 0:
        return None
    with suppress(FileNotFoundError):
        owned = reader.stat()
    return None if owned is None else (owned.st_uid, owned.st_gid)


def content_of(path: Path | None) -> str | None:
    """Return the token in a file; None if there is none that can be read."""
    try:
        return None if path is None else parse(_content(path), str(path))
    except (OSError, AuthError):
        return None


def expiry_of(path: Path | None) -> int | None:
    """Return when the token in a file expires; None if that cannot be told."""
    token = content_of(path)
    return None if token is None else expiry(token)


def expiry(token: str) -> int | None:
    """Return when a JWT expires, in seconds since 1970; None if it is none."""
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004 -- header, claims, signature
        return None
    try:
        claims = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        value = msgspec.json.decode(claims)
    except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError):
        return None
    at = value.get("exp") if isinstance(value, dict) else None
    return int(at) if isinstance(at, int | float) and 0 < at < 2**40 else None
