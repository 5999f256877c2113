"""Who may change what the service trusts: none but root, and the service's user.

Whoever can write to the configuration or to a folder on the way to it can have the
service run a command; who can write to its state can send its writes elsewhere.
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
"""Where no user namespace hides the real owners of files."""


def trusted(state_dir: Path) -> frozenset[int]:
    """Return whose files are believed: root's, our own, for root also the service's.

    Args:
        state_dir: It belongs to the service's user.
    """
    found = {_ROOT, os.geteuid()}
    if os.geteuid() == _ROOT:
        with suppress(OSError):
            found.add(state_dir.stat().st_uid)
    with suppress(OSError):
        if Path("/proc/self/uid_map").read_text("ascii").split() != _WHOLE:
            # Nobody within a container can act as an owner from outside of it.
            found.add(int(Path("/proc/sys/kernel/overflowuid").read_text("ascii")))
    return frozenset(found)


def faults(
    path: Path, believed: Collection[int], *, closed: bool = False
) -> Iterator[str]:
    """Yield how others could change what lies at a path, each with its remedy.

    Each folder and link on the way is looked at. What is not there has no fault, and
    lists of access (ACLs) are not read.

    Args:
        path: Absolute.
        believed: Users who may.
        closed: It is a folder where nobody else may add files; else a sticky one will
            do, for there each can only change his own.
    """
    owner = _name(os.geteuid()) if closed else "root"
    for here, found, last in _steps(path):
        place = shlex.quote(str(here))
        if found.st_uid not in believed:
            yield (
                f"{here} belongs to {_name(found.st_uid)}, who may change it; "
                f"`chown {owner if last else 'root'} {place}`"
            )
        folder = stat.S_ISDIR(found.st_mode)
        shared = folder and found.st_mode & stat.S_ISVTX and not (last and closed)
        if shared or not (folder or stat.S_ISREG(found.st_mode)):
            continue
        if found.st_mode & stat.S_IWOTH or _others_in_group(found, believed):
            mode = stat.S_IMODE(found.st_mode)
            yield f"others may write to {here} ({mode:04o}); `chmod go-w {place}`"


def _steps(path: Path) -> Iterator[tuple[Path, os.stat_result, bool]]:
    """Yield each folder, link and file that leads to a path, and whether it is it."""
    here, pending, links = Path("/"), list(reversed(path.parts[1:])), 0
    yield here, here.lstat(), not pending
    while pending and links < _MOST_LINKS:
        name = pending.pop()
        if name == "..":
            here = here.parent
            continue
        here /= name
        try:
            found = here.lstat()
            link = here.readlink() if stat.S_ISLNK(found.st_mode) else None
        except OSError:
            return  # not there, or not to be looked at: whoever opens it tells
        yield here, found, not pending and link is None
        if link is not None:
            links += 1
            here = Path("/") if link.is_absolute() else here.parent
            pending += [part for part in reversed(link.parts) if part != "/"]


def _others_in_group(found: os.stat_result, believed: Collection[int]) -> bool:
    """Tell whether a group may write that has, or may have, other members.

    A user's own group, which many systems give each user, has none. Where users come
    from a directory service not all are told, so a group must also be named as one who
    is believed, or one of the system's own (`staff` of /usr/local) without a member. A
    group without a name is one that a container gave this process.
    """
    if not found.st_mode & stat.S_IWGRP:
        return False
    try:
        group = grp.getgrgid(found.st_gid)
    except KeyError:
        return found.st_gid not in {os.getegid(), *os.getgroups()}
    users = {one.pw_name: one for one in pwd.getpwall()}
    names = {name for name, one in users.items() if one.pw_gid == group.gr_gid}
    names |= set(group.gr_mem)
    own = {name for name, one in users.items() if one.pw_uid in believed}
    told = group.gr_name in own or (not names and group.gr_gid <= _LAST_OF_SYSTEM)
    return not (names <= own and told)


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
