"""What the contract of a target is tried on: each kind, and how to harm it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import pytest
from typing_extensions import override

from mirror.targets.directory.root import Root
from mirror.targets.directory.target import DirectoryTarget
from tests.memory_target import CrashError, Memory, MemoryTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from mirror.ports import Target

HIDDEN = ".archive-mirror"
_CHANGES = (
    "open", "mkdir", "link", "unlink", "rename", "write", "fsync", "fchmod", "close",
)  # fmt: skip


class Steps:
    """Counts the steps of a target, and kills it before one of them.

    Attributes:
        crashed: It was killed.
    """

    def __init__(self, last: int) -> None:
        self._last = last
        self._done = 0
        self.crashed = False

    def step(self) -> None:
        """Take a step, or be killed."""
        self._done += 1
        self.crashed = self.crashed or self._done > self._last
        if self.crashed:
            raise CrashError


class Subject(ABC):
    """One kind of target, and what a test may do to where it lies."""

    @abstractmethod
    def target(self) -> Target:
        """Return the target as a fresh process has it."""

    @abstractmethod
    def visible(self) -> dict[str, bytes]:
        """Return what lies under final names."""

    @abstractmethod
    def aside(self) -> list[bytes]:
        """Return what was set aside."""

    @abstractmethod
    def leftovers(self) -> int:
        """Return how many temporary files there are."""

    @abstractmethod
    def put(self, path: str, content: bytes) -> None:
        """Let a stranger, or damage, put bytes at a path."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Let a stranger take away what lies at a path."""

    @abstractmethod
    def swap(self) -> None:
        """Let an empty disk that was never ours lie there."""

    @abstractmethod
    def away(self) -> AbstractContextManager[None]:
        """Let it be out of reach for a while."""

    @abstractmethod
    def hanging(self) -> AbstractContextManager[None]:
        """Let it answer nothing for a while."""

    @abstractmethod
    def killed_after(self, steps: int) -> AbstractContextManager[Steps]:
        """Kill the process of the target after so many steps."""


class DirectorySubject(Subject):
    """A directory on a real file system."""

    def __init__(self, folder: Path) -> None:
        self._root = folder / "root"
        self._away = folder / "unplugged"
        self._root.mkdir()

    @override
    def target(self) -> Target:
        return DirectoryTarget(
            name="nas",
            root=self._root,
            node_id="n0de",
            mount=False,
            min_free=0,
            file_mode=0o640,
            dir_mode=0o750,
            group=None,
            threads=2,
        )

    @override
    def visible(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self._root)): path.read_bytes()
            for path in self._root.rglob("*")
            if path.is_file() and HIDDEN not in path.parts
        }

    @override
    def aside(self) -> list[bytes]:
        damaged = self._root / HIDDEN / "damaged"
        return [path.read_bytes() for path in damaged.rglob("*") if path.is_file()]

    @override
    def leftovers(self) -> int:
        return len(list((self._root / HIDDEN / "tmp").iterdir()))

    @override
    def put(self, path: str, content: bytes) -> None:
        place = self._root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)  # it may be the spooled file too
        place.write_bytes(content)

    @override
    def remove(self, path: str) -> None:
        (self._root / path).unlink()

    @override
    def swap(self) -> None:
        shutil.rmtree(self._root)
        self._root.mkdir()

    @override
    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        self._root.rename(self._away)
        try:
            yield
        finally:
            self._away.rename(self._root)

    @override
    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        wakes, opened = threading.Event(), Root.opened

        def hang(root: Root) -> Any:
            assert wakes.wait(60)
            return opened(root)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Root, "opened", hang)
            try:
                yield
            finally:
                wakes.set()

    @override
    @contextlib.contextmanager
    def killed_after(self, steps: int) -> Iterator[Steps]:
        counted = Steps(steps)
        with pytest.MonkeyPatch.context() as patch:
            for name in _CHANGES:
                patch.setattr(os, name, _counting(getattr(os, name), counted))
            yield counted


class MemorySubject(Subject):
    """A target without any folder."""

    def __init__(self) -> None:
        self._memory = Memory()

    @override
    def target(self) -> Target:
        return MemoryTarget("nas", self._memory)

    @override
    def visible(self) -> dict[str, bytes]:
        return dict(self._memory.files)

    @override
    def aside(self) -> list[bytes]:
        return list(self._memory.aside.values())

    @override
    def leftovers(self) -> int:
        return 0

    @override
    def put(self, path: str, content: bytes) -> None:
        self._memory.files[path] = content

    @override
    def remove(self, path: str) -> None:
        del self._memory.files[path]

    @override
    def swap(self) -> None:
        self._memory.files.clear()
        self._memory.marker_id = None

    @override
    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        self._memory.problem = os.strerror(errno.EHOSTUNREACH)
        try:
            yield
        finally:
            self._memory.problem = None

    @override
    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        self._memory.answers.clear()
        try:
            yield
        finally:
            self._memory.answers.set()

    @override
    @contextlib.contextmanager
    def killed_after(self, steps: int) -> Iterator[Steps]:
        counted = Steps(steps)
        self._memory.step = counted.step
        try:
            yield counted
        finally:
            self._memory.step = lambda: None


def _counting(real: Callable[..., Any], counted: Steps) -> Callable[..., Any]:
    """Return a call of `os` that is a step where a target's thread makes it."""

    def call(*given: Any, **named: Any) -> Any:
        if threading.current_thread().name.startswith("target-"):
            counted.step()
        return real(*given, **named)

    return call
