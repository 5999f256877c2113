"""What an error of a target's file system means, and what helps."""

from __future__ import annotations

import errno
import os
import pwd
import shlex
from pathlib import Path
from typing import Final

from mirror.errors import TargetError

_AWAY: Final = (
    "away",
    "the disk or its server is away; check the mount, mount it anew",
)
_FULL: Final = ("no_space", "free some space there, or raise its quota")
_DENIED: Final = (
    "no_permission",
    (
        "give it to the service's user: `chown -R {user} {root}`, of a share on its "
        "server; `group` must be one of that user's"
    ),
)
_READ_ONLY: Final = (
    "read_only",
    (
        "mount it for writing; look for disk errors first. If only the service cannot "
        "write there: ReadWritePaths=-{above} under [Service] by `systemctl edit "
        "archive-mirror`, and restart it"
    ),
)
_IN_THE_WAY: Final = (
    "in_the_way",
    "a link or file lies where a folder belongs; move it",
)
_MEANINGS: Final = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EIO: ("io_error", "check the disk or the network mount (dmesg says more)"),
    errno.ENOENT: (
        "missing",
        "something was removed there meanwhile; it is tried again",
    ),
    errno.ENOTDIR: _IN_THE_WAY,
    errno.ELOOP: _IN_THE_WAY,
    errno.ENAMETOOLONG: (
        "name_too_long",
        "shorten the layout, or check iocharset=utf8",
    ),
    errno.EMFILE: ("too_many_files", "raise LimitNOFILE of the service"),
    errno.ENFILE: ("too_many_files", "raise fs.file-max of the machine"),
    errno.EFBIG: ("file_too_big", "this file system cannot hold a file of that size"),
    errno.ESTALE: _AWAY,
    errno.EAGAIN: _AWAY,  # SMB, while its client connects anew
    errno.ENODEV: _AWAY,
    errno.ENXIO: _AWAY,
    errno.ENOTCONN: _AWAY,
    errno.ETIMEDOUT: _AWAY,
    errno.EHOSTDOWN: _AWAY,
    errno.EHOSTUNREACH: _AWAY,
}
_OTHER: Final = ("os_error", "check the target's file system")


def user() -> str:
    """Return the name of the user that this runs as."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def target_error(exc: OSError, *, target: str, path: str, root: Path) -> TargetError:
    """Return what `exc` means for the target; `path` is as the operator knows it."""
    reason, remedy = _MEANINGS.get(exc.errno or 0, _OTHER)
    above = root if root.parent == Path("/") else root.parent
    remedy = remedy.format(user=user(), root=shlex.quote(str(root)), above=above)
    said = os.strerror(exc.errno) if exc.errno else str(exc)
    code = errno.errorcode.get(exc.errno or 0, "")
    return TargetError(
        reason, f"target {target}: {path}: {said} ({code or 'no code'}); {remedy}"
    )
