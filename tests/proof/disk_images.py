"""Small file systems of a test's own: to fill, to take away, to swap."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_KIB = 1024
_BALLAST = ".ballast"
_PATIENCE_S = 25.0
_DETACH = 2


async def _do(*command: str | Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _, said = await process.communicate()
    if process.returncode:
        raise OSError(f"{command[0]}: {said.decode()}")


class DiskImage:
    """An ext4 or tmpfs file system and where it is mounted.

    Attributes:
        path: The mount point; what is below it while nothing is mounted there is the
            bare folder.
    """

    def __init__(self, path: Path, image: Path | None, options: str) -> None:
        self.path = path
        self._image = image
        self._options = options

    @classmethod
    @contextlib.asynccontextmanager
    async def make(
        cls,
        folder: Path,
        *,
        name: str = "disk",
        size_kib: int = 16 * _KIB,
        block: int = 4096,
        inodes: int = 4096,
        tmpfs: bool = False,
        at: Path | None = None,
    ) -> AsyncIterator[Self]:
        """Make it and mount it; it is unmounted at the end.

        Skips where that cannot be.

        Args:
            folder: For the image, and for the mount point.
            name: Of both.
            size_kib: Of the whole.
            block: Bytes of a block, of ext4.
            inodes: How many files there can be.
            tmpfs: It lies in memory, and is empty each time it is mounted.
            at: Another mount point; it is not mounted yet then.
        """
        if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
            pytest.skip("needs root and mkfs.ext4, for a disk of its own")
        path = at or folder / name
        path.mkdir(exist_ok=True)
        image = None if tmpfs else folder / f"{name}.image"
        size = f"size={size_kib}k,nr_inodes={inodes}"
        disk = cls(path, image, size if tmpfs else "loop,errors=remount-ro")
        if image is not None:
            with image.open("wb") as file:
                file.truncate(size_kib * _KIB)
            shape = ("-b", str(block), "-N", str(inodes), "-m", "0")
            await _do("mkfs.ext4", "-qF", *shape, image)
        try:
            if at is None:
                try:
                    await disk.mount()
                except OSError as exc:
                    pytest.skip(f"needs mounts, for a disk of its own: {exc}")
            yield disk
        finally:
            while path.is_mount():
                await disk.unmount()

    async def mount(self) -> None:
        """Mount it over what is there."""
        if self._image is None:
            await _do("mount", "-t", "tmpfs", "-o", self._options, "none", self.path)
        else:
            await _do("mount", "-o", self._options, self._image, self.path)

    @contextlib.asynccontextmanager
    async def mounted(self) -> AsyncIterator[None]:
        """Have it mounted for as long as the block lasts."""
        await self.mount()
        try:
            yield
        finally:
            await self.unmount()

    async def unmount(self) -> None:
        """Take it away at once, even from under open files."""
        await _do("umount", "-l", self.path)

    async def come_back(self) -> None:
        """Mount it anew, whatever was mounted there and whatever happened to it.

        A file system that failed is a new one only when nobody has a file of it open.
        """
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                while self.path.is_mount():
                    await self.unmount()
                await self.mount()
                try:
                    probe = self.path / ".probe"
                    probe.touch()
                    probe.unlink()
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    return

    def fail(self) -> None:
        """Have ext4 meet an error, after which it takes no more writes."""
        device = self.path.stat().st_dev
        block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
        trigger = Path("/sys/fs/ext4", block.resolve().name, "trigger_fs_error")
        trigger.write_text("1")

    def fill(self, leave_kib: int) -> None:
        """Take all space but so much."""
        self.free()
        fd = os.open(self.path / _BALLAST, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            size, step = 0, _free(fd) - leave_kib * _KIB
            while step >= _KIB:
                try:
                    os.posix_fallocate(fd, size, step)
                    size += step
                    step = _free(fd) - leave_kib * _KIB
                except OSError:
                    step //= 2
        finally:
            os.close(fd)

    def fill_inodes(self) -> None:
        """Take the last inode."""
        for number in range(1 << 20):
            name = f"{_BALLAST}.{number}"
            try:
                os.close(os.open(self.path / name, os.O_WRONLY | os.O_CREAT))
            except OSError:
                return

    def free(self) -> None:
        """Give back what `fill` and `fill_inodes` took."""
        for file in self.path.glob(f"{_BALLAST}*"):
            file.unlink()


@contextlib.contextmanager
def hung(path: Path) -> Iterator[None]:
    """Have all that touches a folder wait, as a share does whose server is dead."""
    system = ctypes.CDLL(None, use_errno=True)
    try:
        fuse = os.open("/dev/fuse", os.O_RDWR)
    except OSError as exc:
        pytest.skip(f"needs root and /dev/fuse, for a mount that hangs: {exc}")
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
    try:
        if system.mount(b"hung", os.fsencode(path), b"fuse.sshfs", 0, options):
            raise OSError(ctypes.get_errno(), "mount")
        try:
            yield
        finally:
            system.umount2(os.fsencode(path), _DETACH)
    finally:
        os.close(fuse)


def _free(fd: int) -> int:
    status = os.fstatvfs(fd)
    return status.f_bavail * status.f_frsize
