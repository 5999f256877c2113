"""Names for files under way, so that no two attempts ever share one."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Temporaries:
    """This node's temporary files on one target; used by several threads.

    Each name begins with the node's id, so that several machines can share a target.
    """

    def __init__(self, node_id: str) -> None:
        self._prefix = f"{node_id}-"
        self._used: set[str] = set()
        self._left: set[str] = set()
        self._cleaned = False
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def named(self, token: str, *, within: int) -> Iterator[str]:
        """Reserve a name, not yet taken, in an open folder; removed at the end.

        A hung attempt that wakes up late finds its file gone, never another's.
        """
        stem = token if token.startswith(self._prefix) else f"{self._prefix}{token}"
        name = f"{stem}-{secrets.token_hex(4)}.part"
        with self._lock:
            self._used.add(name)
        try:
            yield name
        finally:
            removed = _remove(name, within)
            with self._lock:
                self._used.discard(name)
                if not removed:
                    self._left.add(name)

    def clean(self, folder: int) -> None:
        """Remove what earlier runs of this node left behind, and what this one did.

        The former once: what comes later is being written by another process of this
        node's id, a clone of this machine perhaps, which would never end a long copy.
        """
        for name in os.listdir(folder):
            if not name.startswith(self._prefix):
                continue
            with self._lock:
                left = name in self._left or not self._cleaned
                if left and name not in self._used and _remove(name, folder):
                    self._left.discard(name)
        self._cleaned = True


def _remove(name: str, within: int) -> bool:
    """Remove a file; tell whether it is gone."""
    try:
        os.unlink(name, dir_fd=within)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
