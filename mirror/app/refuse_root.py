"""Refuse to run as root where another user's service runs."""

from __future__ import annotations

import os
import pwd
import shlex
from typing import TYPE_CHECKING

from mirror.errors import MirrorError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def refuse_root(state_dir: Path, arguments: Sequence[str]) -> None:
    """Keep root from making files that the service could not use.

    The remedy repeats the arguments of the command line.

    Raises:
        MirrorError: This is root, and the state directory is another user's.
    """
    try:
        owner = state_dir.stat().st_uid
    except OSError:
        return
    if os.geteuid() != 0 or owner == 0:
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"#{owner}"
    command = ["runuser", "-u", name, "--", "archive-mirror", *arguments]
    raise MirrorError(
        f"this is root, and {state_dir} belongs to {name}, who could not use the files "
        f"that this makes; run it as {name}: `{shlex.join(command)}`"
    )
