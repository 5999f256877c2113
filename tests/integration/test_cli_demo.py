"""`demo` and `simulate-vms`."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys

import pytest

from tests.command import environment, run, run_beside

RAW_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


async def test_the_demo_ends_well(tmp_path):
    """Exit 0 by itself; it leaves nothing, or with --keep all, and that is usable."""
    scratch, kept = tmp_path / "scratch", tmp_path / "kept"
    scratch.mkdir()
    passing, keeping = await asyncio.gather(
        run_beside("demo", TMPDIR=str(scratch), COLUMNS="80"),
        run_beside("demo", "--keep", kept, TMPDIR=str(scratch)),
    )

    for ran in (passing, keeping):
        assert (ran.code, ran.err) == (0, "")
        assert "files saved" in ran.out and not RAW_CONTROL.search(ran.out)
    assert list(scratch.iterdir()) == []
    table = passing.out.partition("EXPORT")[2].splitlines()
    assert max(map(len, table)) <= 80
    assert len(re.findall(r" [0-9a-f]{8}$", passing.out, re.MULTILINE)) == 14
    for state in ("lost", "parked"):
        assert f"{state}, as is meant here: " in passing.out
    assert str(kept) in keeping.out
    config = kept / "archive-mirror.toml"
    listed = run("list", "--json", "--state", "saved", "-c", config)
    assert listed.lines
    assert len(listed.lines) == len(list(kept.glob("archive/**/*.mp4")))
    log = (kept / "demo.log").read_text()
    assert "demo-token" not in log and "/storage/archive" not in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_simulator_serves_until_it_is_told_to_stop(number):
    """It prints a configuration to paste, and ends with 0."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mirror", "simulate-vms", "--port", "0", "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    assert process.stdout is not None
    try:
        printed = ""
        while "simulator-archive" not in printed:
            line = process.stdout.readline()
            assert line, "it ended before it served"
            printed += line
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()

    assert (process.returncode, errors) == (0, "")
    assert re.search(r'url = "http://127\.0\.0\.1:[1-9]\d*"', printed)


async def test_what_the_simulator_prints_can_be_used(tmp_path):
    """Pasted as it says, `check` passes and `once` saves."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mirror", "simulate-vms", "--port", "0", "--rate", "0",
        "--size-min", "20000", "--size-max", "20000", "--token", "it's a-token",
        stdout=asyncio.subprocess.PIPE, env=environment(),
    )  # fmt: skip
    assert process.stdout is not None
    try:
        text = ""
        while "simulator-archive" not in text:
            text += (await process.stdout.readline()).decode()
        path = tmp_path / "simulator.toml"
        path.write_text(text + '[http]\nlisten = "127.0.0.1:0"\n')
        assert "printf %s 'it'\"'\"'s a-token' > simulator.token" in text
        (tmp_path / "simulator.token").write_text("it's-a-token")
        ran = await run_beside("check", "-c", path)
        assert ran.code == 1 and "401" in ran.out
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0


def test_a_port_that_is_taken_is_1():
    """Said in one line."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        ran = run("simulate-vms", "--port", port)

    assert ran.code == 1 and port in ran.err and ran.err.count("\n") == 1
