"""Bring one file and its sidecar under their final names: blocking."""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mirror.disk import durable
from mirror.errors import TargetError
from mirror.ports import ContentError, PathTakenError, SpooledFile
from mirror.targets.directory.content import is_ours
from mirror.targets.directory.read import record_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.disk.durable import FileModes
    from mirror.ports import Publication
    from mirror.targets.directory.content import Content
    from mirror.targets.directory.temporaries import Temporaries

_IDENTITY: Final = ("source", "id", "sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One publish, with the folders it works in open.

    Attributes:
        target: The target's name.
        content: Of the file.
        folder: Descriptor of the folder the file shall lie in.
        tmp: Descriptor of the folder for temporary files.
        reserve: Raises TargetError unless so many bytes are free.
        beat: Called before each step that may take long and each name that is given;
            raises once nobody waits for this publish any longer.
    """

    target: str
    publication: Publication
    content: Content
    modes: FileModes
    folder: int
    tmp: int
    temporaries: Temporaries
    reserve: Callable[[int], None]
    beat: Callable[[], None]

    def run(self) -> bool:
        """Place both; tell whether the kept bytes were read back.

        Their names last once the folder is flushed. A foreign sidecar is looked for
        first, so that no file comes to lie beside it.

        Raises:
            PathTakenError: Something else lies under one of the names.
            ContentError: The content is not what was fetched.
        """
        has_sidecar = self._find_sidecar()
        verified = self._find_file()
        if verified is None:
            verified = self._place_file()
        self.beat()
        if not has_sidecar:
            self._place_sidecar()
        return verified

    @property
    def _name(self) -> str:
        return self.publication.path.rpartition("/")[2]

    def _find_file(self) -> bool | None:
        """Return None if the name is free, else whether the bytes there were read.

        They may be ours from a run that was killed before it could say so.
        """
        try:
            about = os.stat(self._name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        spooled = self._linkable()
        if spooled is not None and os.path.samestat(about, os.fstat(spooled)):
            return False
        self._compare(about)
        return True

    def _linkable(self) -> int | None:
        """Return the spooled file, if it may be kept and can only be as fetched."""
        spooled, origin = self.content.linkable, self.publication.content
        if spooled is None or not isinstance(origin, SpooledFile):
            return None
        return spooled if is_ours(spooled, origin.path) else None

    def _compare(self, about: os.stat_result) -> None:
        """Read what has the final name.

        Raises:
            PathTakenError: It is not what was fetched.
        """
        ours = self.publication
        if not stat.S_ISREG(about.st_mode) or about.st_size != ours.size_bytes:
            raise PathTakenError(f"something else lies at {ours.path}")
        with durable.closing(durable.open_file(self._name, within=self.folder)) as fd:
            os.fsync(fd)
            if self._digest(fd) != ours.sha256:
                raise PathTakenError(f"other bytes lie at {ours.path}")

    def _digest(self, fd: int) -> str:
        return durable.digest_on_disk(fd, lambda _: self.beat())

    def _check_named(self, proven: int) -> None:
        """Make sure that it is the open, proven file that got the final name.

        Not every file system keeps an inode's number; there it is read once more.

        Raises:
            PathTakenError: Something else has it.
        """
        about = os.stat(self._name, dir_fd=self.folder, follow_symlinks=False)
        if not os.path.samestat(about, os.fstat(proven)):
            self._compare(about)

    def _place_file(self) -> bool:
        try:
            spooled = self._linkable()
            if spooled is not None and self._link(spooled):
                self._check_named(spooled)
                return False
            self._copy()
        except FileExistsError:
            verified = self._find_file()
            if verified is None:
                raise
            return verified
        return True

    def _link(self, spooled: int) -> bool:
        """Give the spooled file itself its final name; False if links do not work.

        Linked by descriptor, so that it is the file that was looked at.
        """
        if os.fstat(spooled).st_dev != os.fstat(self.folder).st_dev:
            return False
        self.reserve(len(self.publication.sidecar))
        if durable.give_mode(spooled, self.modes.file_mode, self.modes.gid):
            os.fsync(spooled)
        self.beat()
        try:
            durable.link_open(spooled, self._name, within=self.folder)
        except FileExistsError:
            raise
        except OSError as exc:
            if os.fstat(spooled).st_nlink == 0:
                raise ContentError(f"{self.content.label} is gone") from exc
            return False
        return True

    def _copy(self) -> None:
        """Copy beside, prove by reading back, then give the final name."""
        ours = self.publication
        self.reserve(ours.size_bytes + len(ours.sidecar))
        with self.temporaries.named(ours.token, within=self.tmp) as name:
            written = durable.write_new(
                name,
                self.content.chunks(),
                within=self.tmp,
                modes=self.modes,
                beat=self.beat,
            )
            if written != ours.sha256:
                raise ContentError(
                    f"{self.content.label} holds other bytes than fetched"
                )
            with durable.closing(durable.open_file(name, within=self.tmp)) as fd:
                if self._digest(fd) != ours.sha256:
                    raise TargetError(
                        "read_back_differs",
                        f"target {self.target}: {ours.path} reads back otherwise "
                        "than it was written, and was thrown away; test the disk and "
                        "the memory",
                    )
                self.beat()
                durable.place(
                    name, self._name, source=self.tmp, within=self.folder, fd=fd
                )
                self._check_named(fd)

    def _place_sidecar(self) -> None:
        ours = self.publication
        with self.temporaries.named(ours.token, within=self.tmp) as name:
            durable.write_new(name, [ours.sidecar], within=self.tmp, modes=self.modes)
            self.beat()
            try:
                durable.place(
                    name, f"{self._name}.json", source=self.tmp, within=self.folder
                )
            except FileExistsError:
                if not self._find_sidecar():
                    raise

    def _find_sidecar(self) -> bool:
        """Tell whether the sidecar is there, of this run or an earlier one."""
        name, ours = f"{self._name}.json", self.publication
        try:
            about = os.stat(name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        taken = PathTakenError(f"something else lies at {ours.path}.json")
        if not stat.S_ISREG(about.st_mode):
            raise taken
        with durable.closing(durable.open_file(name, within=self.folder)) as fd:
            os.fsync(fd)
            content = record_in(fd)
        if content != ours.sidecar and not _same_export(content, ours.sidecar):
            raise taken
        return True


def _same_export(content: bytes, ours: bytes) -> bool:
    """Tell whether a sidecar is of the same bytes of the same export as ours.

    What lies there may be anybody's: it is searched, never parsed.
    """
    fields = json.loads(ours)
    return all(
        re.search(
            rb'[{,]\s*"%s"\s*:\s*%s\s*[,}]'
            % (key.encode(), re.escape(json.dumps(fields[key]).encode())),
            content,
        )
        for key in _IDENTITY
    )
