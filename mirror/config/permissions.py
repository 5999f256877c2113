"""Who may change what the service trusts: none but root, and the service's user.

Who can write to the configuration, or to a folder on the way to it, can make the
service run a command; who can write to its state can redirect its writes.
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_MOST_LINKS: Final = 40
_ROOT: Final = 0
_LAST_OF_SYSTEM: Final = 999
_WHOLE: Final = ["0", "0", "4294967295"]
"""The map of users where no namespace hides the real owners of files."""


def trusted(state_dir: Path) -> frozenset[int]:
    """Return the users whose files are trusted: root, we, for root also the service.

    `state_dir` belongs to the service's user.
    """
    users = {_ROOT, os.geteuid()}
    if os.geteuid() == _ROOT:
        with suppress(OSError):
            users.add(state_dir.stat().st_uid)
    with suppress(OSError):
        if Path("/proc/self/uid_map").read_text("ascii").split() != _WHOLE:
            # Nobody within a container can act as an owner from outside of it.
            users.add(int(Path("/proc/sys/kernel/overflowuid").read_text("ascii")))
    return frozenset(users)


def problems(
    path: Path, trusted: Collection[int], *, closed: bool = False
) -> Iterator[str]:
    """Yield how others could change what lies at a path, each with its remedy.

    Each folder and link on the way is checked. A path that does not exist has no
    problem; access control lists (ACLs) are not read.

    Args:
        path: Absolute.
        trusted: Ids of users who may change it.
        closed: It is a folder where nobody else may add files; otherwise a sticky
            folder will do, where users can change only their own files.
    """
    owner = _name(os.geteuid()) if closed else "root"
    for here, status, last in _steps(path):
        place = shlex.quote(str(here))
        if status.st_uid not in trusted:
            yield (
                f"{here} belongs to {_name(status.st_uid)}, who may change it; "
                f"`chown {owner if last else 'root'} {place}`"
            )
        is_folder = stat.S_ISDIR(status.st_mode)
        shared = is_folder and status.st_mode & stat.S_ISVTX and not (last and closed)
        if shared or not (is_folder or stat.S_ISREG(status.st_mode)):
            continue
        if status.st_mode & stat.S_IWOTH or _others_in_group(status, trusted):
            mode = stat.S_IMODE(status.st_mode)
            yield f"others may write to {here} ({mode:04o}); `chmod go-w {place}`"


def _steps(path: Path) -> Iterator[tuple[Path, os.stat_result, bool]]:
    """Yield each folder and link on the way to a path, and the path with True."""
    here, pending, links = Path("/"), list(reversed(path.parts[1:])), 0
    yield here, here.lstat(), not pending
    while pending and links < _MOST_LINKS:
        name = pending.pop()
        if name == "..":
            here = here.parent
            continue
        here /= name
        try:
            status = here.lstat()
            link = here.readlink() if stat.S_ISLNK(status.st_mode) else None
        except OSError:
            return  # absent or not accessible: whoever opens it reports that
        yield here, status, not pending and link is None
        if link is not None:
            links += 1
            here = Path("/") if link.is_absolute() else here.parent
            pending += [part for part in reversed(link.parts) if part != "/"]


def _others_in_group(status: os.stat_result, trusted: Collection[int]) -> bool:
    """Tell whether a group may write that has, or may have, other members.

    A user's own group, which many systems give each user, has none. A directory
    service need not list all users, so a group must also have the name of a trusted
    user, or be one of the system's own (`staff` of /usr/local) without a member. A
    group without a name comes from a container.
    """
    if not status.st_mode & stat.S_IWGRP:
        return False
    try:
        group = grp.getgrgid(status.st_gid)
    except KeyError:
        return status.st_gid not in {os.getegid(), *os.getgroups()}
    users = pwd.getpwall()
    members = {user.pw_name for user in users if user.pw_gid == group.gr_gid}
    members |= set(group.gr_mem)
    own = {user.pw_name for user in users if user.pw_uid in trusted}
    is_system = not members and group.gr_gid <= _LAST_OF_SYSTEM
    return not (members <= own and (group.gr_name in own or is_system))


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
