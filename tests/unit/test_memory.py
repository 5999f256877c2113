"""What glibc keeps for itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

_HEAPS = """
import ctypes, threading
from mirror.app import memory
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
{begin}
gate = threading.Barrier(8)
def take():
    gate.wait()
    for _ in range(100):
        libc.malloc(5000)
    gate.wait()
threads = [threading.Thread(target=take) for _ in range(8)]
for each in threads: each.start()
for each in threads: each.join()
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
"""


@pytest.mark.parametrize("shared", [True, False])
def test_all_threads_share_one_heap(shared):
    """Which they do not by themselves."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs glibc")
    begin = "memory.share_one_heap()" if shared else ""
    done = subprocess.run(
        [sys.executable, "-c", _HEAPS.format(begin=begin)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    heaps = done.stdout.count("<heap nr=")
    assert heaps == 1 if shared else heaps > 1
