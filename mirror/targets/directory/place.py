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
from mirror.ports import PathTakenError, SpoolFileError
from mirror.targets.directory import spooled_file
from mirror.targets.directory.read import record_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.disk.durable import Manners
    from mirror.ports import Publication
    from mirror.targets.directory.temporaries import Temporaries

_IDENTITY: Final = ("source", "id", "sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placing:
    """One publish, with the folders it works in open.

    Attributes:
        target: The target's name.
        folder: Descriptor of the folder the file shall lie in.
        below: Descriptor of the folder for temporary files.
        reserve: Raises TargetError unless so many bytes are free.
    """

    target: str
    publication: Publication
    manners: Manners
    folder: int
    below: int
    temporaries: Temporaries
    reserve: Callable[[int], None]

    def run(self, spool: int) -> bool:
        """Place both durably; tell whether the kept bytes were read back.

        A foreign sidecar is looked for first, so that no file comes to lie beside it.

        Raises:
            PathTakenError: Something else lies under one of the names.
            SpoolFileError: The spooled bytes are not what was fetched.
        """
        has_sidecar = self._find_sidecar()
        verified = self._find_file(spool)
        if verified is None:
            verified = self._place_file(spool)
        if not has_sidecar:
            self._place_sidecar()
        os.fsync(self.folder)
        return verified

    @property
    def _name(self) -> str:
        return self.publication.path.rpartition("/")[2]

    def _find_file(self, spool: int) -> bool | None:
        """Return None if the name is free, else whether the bytes there were read.

        They may be ours from a run that was killed before it could say so.
        """
        try:
            found = os.stat(self._name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        may_link = self.publication.may_link
        if may_link and os.path.samestat(found, os.fstat(spool)) and self._ours(spool):
            return False
        self._read(found)
        return True

    def _ours(self, spool: int) -> bool:
        """Tell whether the spooled file can only be the one that was fetched."""
        return spooled_file.is_ours(spool, self.publication)

    def _read(self, found: os.stat_result) -> None:
        """Read what has the final name.

        Raises:
            PathTakenError: It is not what was fetched.
        """
        wanted = self.publication
        if not stat.S_ISREG(found.st_mode) or found.st_size != wanted.size_bytes:
            raise PathTakenError(f"something else lies at {wanted.path}")
        with durable.closing(durable.open_file(self._name, within=self.folder)) as fd:
            os.fsync(fd)
            if durable.digest_on_disk(fd) != wanted.sha256:
                raise PathTakenError(f"other bytes lie at {wanted.path}")

    def _look(self, proven: int) -> None:
        """Make sure that it is the open, proven file that got the final name.

        Not every file system keeps an inode's number; there it is read once more.

        Raises:
            PathTakenError: Something else has it.
        """
        found = os.stat(self._name, dir_fd=self.folder, follow_symlinks=False)
        if not os.path.samestat(found, os.fstat(proven)):
            self._read(found)

    def _place_file(self, spool: int) -> bool:
        near = os.fstat(spool).st_dev == os.fstat(self.folder).st_dev
        try:
            may_link = self.publication.may_link and near and self._ours(spool)
            if may_link and self._link(spool):
                self._look(spool)
                return False
            self._copy(spool)
        except FileExistsError:
            verified = self._find_file(spool)
            if verified is None:
                raise
            return verified
        return True

    def _link(self, spool: int) -> bool:
        """Give the spooled file itself its final name; False if links do not work.

        Linked by descriptor, so that it is the file that was looked at.
        """
        self.reserve(len(self.publication.sidecar))
        durable.give_mode(spool, self.manners.file_mode, self.manners.gid)
        os.fsync(spool)
        try:
            durable.link_open(spool, self._name, within=self.folder)
        except FileExistsError:
            raise
        except OSError as exc:
            if os.fstat(spool).st_nlink == 0:
                raise SpoolFileError(f"{self.publication.spooled} is gone") from exc
            return False
        return True

    def _copy(self, spool: int) -> None:
        """Copy beside, prove by reading back, then give the final name."""
        wanted = self.publication
        self.reserve(wanted.size_bytes + len(wanted.sidecar))
        with self.temporaries.named(wanted.token, within=self.below) as name:
            written = durable.write_new(
                name,
                spooled_file.chunks(spool, wanted),
                within=self.below,
                manners=self.manners,
            )
            if written != wanted.sha256:
                raise SpoolFileError(f"{wanted.spooled} holds other bytes than fetched")
            with durable.closing(durable.open_file(name, within=self.below)) as fd:
                if durable.digest_on_disk(fd) != wanted.sha256:
                    raise TargetError(
                        "read_back_differs",
                        f"target {self.target}: {wanted.path} reads back otherwise "
                        "than it was written, and was thrown away; test the disk and "
                        "the memory",
                    )
                durable.place(
                    name, self._name, source=self.below, within=self.folder, fd=fd
                )
                self._look(fd)

    def _place_sidecar(self) -> None:
        wanted = self.publication
        with self.temporaries.named(wanted.token, within=self.below) as name:
            durable.write_new(
                name, [wanted.sidecar], within=self.below, manners=self.manners
            )
            try:
                durable.place(
                    name, f"{self._name}.json", source=self.below, within=self.folder
                )
            except FileExistsError:
                if not self._find_sidecar():
                    raise

    def _find_sidecar(self) -> bool:
        """Tell whether the sidecar is there, of this run or an earlier one."""
        name, wanted = f"{self._name}.json", self.publication
        try:
            found = os.stat(name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        taken = PathTakenError(f"something else lies at {wanted.path}.json")
        if not stat.S_ISREG(found.st_mode):
            raise taken
        with durable.closing(durable.open_file(name, within=self.folder)) as fd:
            os.fsync(fd)
            content = record_in(fd)
        if content != wanted.sidecar and not _same_export(content, wanted.sidecar):
            raise taken
        return True


def _same_export(found: bytes, ours: bytes) -> bool:
    """Tell whether a sidecar is of the same bytes of the same export as ours.

    What lies there may be anybody's: it is searched, never parsed.
    """
    fields = json.loads(ours)
    return all(
        re.search(
            rb'[{,]\s*"%s"\s*:\s*%s\s*[,}]'
            % (key.encode(), re.escape(json.dumps(fields[key]).encode())),
            found,
        )
        for key in _IDENTITY
    )
