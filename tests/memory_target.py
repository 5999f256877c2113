"""A target that keeps its copies in memory: shows that nobody needs a folder."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mirror.errors import TargetError
from mirror.ports import (
    PROBE_S,
    ContentError,
    Kept,
    PathTakenError,
    ProvesBy,
    SpooledFile,
    SpoolFolder,
    StoredFile,
    TargetHealth,
    Traits,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from mirror.ports import Publication

CHUNK: Final = 4096
_IDENTITY: Final = ("source", "id", "sha256")


class CrashError(BaseException):
    """The process was killed: nothing that follows happens any more."""


@dataclass(slots=True, kw_only=True)
class Memory:
    """What lasts when the process of a `MemoryTarget` ends.

    Attributes:
        files: Files and sidecars by their final names.
        aside: What was set aside.
        marker_id: None before the first use.
        problem: Why it is away, if it is.
        answers: Cleared, nothing is answered.
        step: Called before each change; may raise `CrashError`.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    aside: dict[str, bytes] = field(default_factory=dict)
    marker_id: str | None = None
    problem: str | None = None
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    step: Callable[[], None] = lambda: None
    ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.answers.set()


class MemoryTarget:
    """Implements `ports.Target` over a `Memory`, with a digest as its proof."""

    def __init__(self, name: str, memory: Memory) -> None:
        self._name = name
        self._memory = memory
        self._probed: str | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def place(self) -> str:
        return f"memory:{self._name}"

    @property
    def traits(self) -> Traits:
        return Traits(at_once=4, in_batch=8, proves_by=ProvesBy.DIGEST, links_in=None)

    @property
    def spool_folder(self) -> SpoolFolder | None:
        return None

    async def first_use(self) -> str | None:
        return None

    async def probe(
        self, known: str | None, *, write: bool, patience_s: float = PROBE_S
    ) -> TargetHealth:
        try:
            async with asyncio.timeout(patience_s):
                await self._memory.answers.wait()
        except TimeoutError as exc:
            raise TargetError("hung", f"target {self._name}: no answer") from exc
        self._reach(None)
        if write and known is None and self._memory.marker_id is None:
            self._memory.step()
            self._memory.marker_id = f"memory-{next(self._memory.ids)}"
        marker_id = self._memory.marker_id
        if marker_id is None:
            raise TargetError("marker_missing", f"target {self._name} has no marker")
        self._reach(known)
        if write:
            self._probed = marker_id
        return TargetHealth(marker_id=marker_id, free_bytes=None)

    async def publish(self, batch: Sequence[Publication]) -> list[Kept | Exception]:
        return [await self._result(publication) for publication in batch]

    async def examine(
        self,
        path: str,
        *,
        size_bytes: int,
        marker_id: str,
        came: Callable[[int], None],
    ) -> StoredFile:
        self._reach(marker_id)
        content = self._memory.files.get(path)
        digest = None
        if content is not None and len(content) == size_bytes:
            came(len(content))
            digest = hashlib.sha256(content).hexdigest()
        return StoredFile(
            path=path,
            present=content is not None,
            size_bytes=None if content is None else len(content),
            sidecar=self._memory.files.get(f"{path}.json"),
            sha256=digest,
        )

    async def read(self, path: str, marker_id: str) -> AsyncGenerator[bytes, None]:
        self._reach(marker_id)
        if path not in self._memory.files:
            raise ContentError(f"{self.place}/{path} is gone")
        content = self._memory.files[path]
        for start in range(0, len(content), CHUNK):
            self._reach(marker_id)
            yield content[start : start + CHUNK]

    async def scan(self, marker_id: str) -> AsyncGenerator[list[StoredFile], None]:
        self._reach(marker_id)
        for name in list(self._memory.files):
            if name.endswith(".mp4.json"):
                self._reach(marker_id)
                yield [self._stored(name.removesuffix(".json"))]

    async def find(self, path: str, marker_id: str) -> StoredFile | None:
        self._reach(marker_id)
        stored = self._stored(path)
        return stored if stored.present or stored.sidecar is not None else None

    async def set_aside(self, path: str, *, sidecar: bool) -> str:
        self._reach(self._known())
        name = f"{path}.json" if sidecar else path
        if name not in self._memory.files:
            raise TargetError("missing", f"nothing lies at {name}")
        free = next(
            f"{name}~{number}"
            for number in itertools.count(1)
            if f"{name}~{number}" not in self._memory.aside
        )
        self._memory.step()
        self._memory.aside[free] = self._memory.files.pop(name)
        return f"{self.place}/aside/{free}"

    async def delete(self, path: str) -> None:
        self._reach(self._known())
        for name in (path, f"{path}.json"):
            self._memory.step()
            self._memory.files.pop(name, None)

    async def close(self) -> None:
        """Hold nothing."""

    def _reach(self, marker_id: str | None) -> None:
        """Raise TargetError unless it is there, and the one that is meant."""
        if self._memory.problem is not None:
            raise TargetError("away", self._memory.problem)
        if marker_id is not None and marker_id != self._memory.marker_id:
            raise TargetError("marker_differs", f"{self._name} is another target")

    def _known(self) -> str:
        if self._probed is None:
            raise TargetError("not_open", f"target {self._name} was not looked at yet")
        return self._probed

    def _stored(self, path: str) -> StoredFile:
        content = self._memory.files.get(path)
        return StoredFile(
            path=path,
            present=content is not None,
            size_bytes=None if content is None else len(content),
            sidecar=self._memory.files.get(f"{path}.json"),
        )

    async def _result(self, publication: Publication) -> Kept | Exception:
        try:
            return await self._keep(publication)
        except Exception as exc:  # noqa: BLE001 -- it harms no other member
            return exc

    async def _keep(self, publication: Publication) -> Kept:
        self._reach(self._known())
        path, files = publication.path, self._memory.files
        bad = {"", ".", ".."} & set(path.split("/"))
        if bad or not path.endswith(".mp4"):
            raise TargetError("bad_path", f"no file is kept at {path!r}")
        if not self._ours(files.get(f"{path}.json"), publication.sidecar):
            raise PathTakenError(f"something else lies at {path}.json")
        if path not in files:
            content = await self._content(publication)
            self._reach(self._known())
            self._memory.step()
            files.setdefault(path, content)
        if hashlib.sha256(files[path]).hexdigest() != publication.sha256:
            raise PathTakenError(f"other bytes lie at {path}")
        self._memory.step()
        files.setdefault(f"{path}.json", publication.sidecar)
        return Kept(verified=True)

    async def _content(self, publication: Publication) -> bytes:
        """Return the bytes to keep, once they are proven."""
        origin = publication.content
        if isinstance(origin, SpooledFile):
            try:
                content = await asyncio.to_thread(origin.path.read_bytes)
            except OSError as exc:
                raise ContentError(f"{origin} is gone") from exc
        else:
            try:
                async with aclosing(origin.read()) as chunks:
                    content = b"".join([chunk async for chunk in chunks])
            except TargetError as exc:
                raise TargetError("no_origin", f"the bytes to copy: {exc}") from exc
        if hashlib.sha256(content).hexdigest() != publication.sha256:
            raise ContentError(f"{origin} holds other bytes than fetched")
        return content

    @staticmethod
    def _ours(there: bytes | None, sidecar: bytes) -> bool:
        """Tell whether a sidecar that lies there, if any, is of the same bytes."""
        if there is None or there == sidecar:
            return True
        try:
            record = json.loads(there)
            return all(record[key] == json.loads(sidecar)[key] for key in _IDENTITY)
        except (ValueError, KeyError, TypeError):
            return False
