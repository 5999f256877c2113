"""Go on as the service's user where root began: what root makes, it could not use."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

import mirror
from mirror.errors import MirrorError

if TYPE_CHECKING:
    from pathlib import Path

_LOADED_LATER = (mirror.__file__, os.__file__)
"""Of the program and of Python, parts are loaded after root was given up."""


def become(state_dir: Path) -> str | None:
    """Stop being root, for good, if another user owns the state directory.

    Returns that user's name; None if nothing had to change.

    Raises:
        MirrorError: That user cannot go on with this program.
    """
    try:
        owner = state_dir.stat()
    except OSError:
        return None
    if os.geteuid() != 0 or owner.st_uid == 0:
        return None
    try:
        user = pwd.getpwuid(owner.st_uid)
        name, group = user.pw_name, user.pw_gid
    except KeyError:
        name, group = f"user {owner.st_uid}", owner.st_gid
    try:
        os.setgroups(os.getgrouplist(name, group))
        os.setresgid(group, group, group)
        os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)
    except PermissionError as exc:
        raise MirrorError(
            f"this is root, and {state_dir} belongs to {name}, who could not use the "
            f"files that this makes; become {name} first, this process may not"
        ) from exc
    for path in _LOADED_LATER:
        if not os.access(path, os.R_OK):
            raise MirrorError(
                f"this is root, and {state_dir} belongs to {name}, who may not read "
                f"{path}; install this program, and its Python, where all may read it"
            )
    return name
