"""A spool that fails in the middle of a transfer leaves no gap and loses nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mirror.model import State
from mirror.simulator import Vms
from tests.site import Site


@pytest.mark.parametrize("failing", [1, 2, 3, 5])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_a_write_that_fails_once_leaves_no_gap(
    tmp_path, monkeypatch, failing, code
):
    """Half of a batch may be written when the disk is full; the bytes end up right."""
    calls = 0
    real = os.pwritev

    def pwritev(fd, buffers, offset):
        nonlocal calls
        calls += 1
        if calls == failing:
            real(fd, [bytes(buffers[0])[: len(buffers[0]) // 2]], offset)
            raise OSError(code, os.strerror(code))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", pwritev)
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        served = vms.add(size=8_000_000)
        report = await site.once()
        truth = vms.truth(served).sha256

    assert calls > failing
    assert report.exit_code == 0
    assert site.export(served).state is State.SAVED
    assert list(site.media().values()) == [truth]


@pytest.mark.parametrize("name", ["fdatasync", "fsync"])
async def test_a_failed_sync_is_not_trusted(tmp_path, monkeypatch, name):
    """The unproven part is fetched anew, and nothing is saved on its word."""
    failed: list[str] = []
    real = getattr(os, name)

    def sync(fd):
        path = str(Path(f"/proc/self/fd/{fd}").readlink())
        if path.endswith(".part") and not failed:
            failed.append(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd)

    monkeypatch.setattr(os, name, sync)
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        served = vms.add(size=600_000, faults=["cut"])
        report = await site.once()
        truth = vms.truth(served).sha256
        requests = vms.file_requests(served)

    assert failed
    assert report.exit_code == 0
    assert list(site.media().values()) == [truth]
    assert len(requests) >= 2
