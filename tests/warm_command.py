"""The command `archive-mirror`, forked from an interpreter that has it loaded.

All but the start of the interpreter is as in a process of its own: arguments,
environment, standard streams, exit code. It takes a tenth of the time.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parents[1]
_LONGEST_ORDER = 1 << 17
_STREAMS = 3


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended.

    Attributes:
        code: Its exit code; negative is the signal that ended it.
    """

    code: int
    out: bytes
    err: bytes


def run(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    given: bytes = b"",
    timeout_s: float = 60,
) -> Ended:
    """Run the command to its end; may be called from any thread.

    Args:
        arguments: Without the program.
        env: All of its environment; by default ours.
        given: Its standard input.
        timeout_s: How long it may take.

    Raises:
        TimeoutError: It has not ended by then, and was killed.
    """
    order = {
        "argv": list(arguments),
        "env": dict(os.environ if env is None else env),
        "cwd": os.getcwd(),  # noqa: PTH109 -- a text is wanted
    }
    reader, writer = os.pipe()
    with contextlib.ExitStack() as held:
        told = held.enter_context(os.fdopen(reader, "rb"))
        ours = held.enter_context(os.fdopen(writer, "wb"))
        streams = [
            held.enter_context(tempfile.TemporaryFile()) for _ in range(_STREAMS)
        ]
        streams[0].write(given)
        streams[0].seek(0)
        fds = [file.fileno() for file in (*streams, ours)]
        socket.send_fds(_interpreter(), [json.dumps(order).encode()], fds)
        ours.close()
        code = _ended(reader, told, timeout_s, arguments)
        for file in streams:
            file.seek(0)
        return Ended(code, streams[1].read(), streams[2].read())


def _ended(reader: int, told: Any, timeout_s: float, what: Sequence[str]) -> int:
    """Return the exit code, when it is told."""
    pid = int(told.readline())
    if not select.select([reader], [], [], timeout_s)[0]:
        os.killpg(pid, signal.SIGKILL)
        raise TimeoutError(f"{' '.join(what)}: not ended after {timeout_s} s")
    return int(told.readline())


@functools.cache
def _interpreter() -> socket.socket:
    """Start the interpreter, once in each process of tests."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    started = subprocess.Popen(
        [sys.executable, "-m", "tests.warm_command", str(its.fileno())],
        pass_fds=[its.fileno()],
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
    )
    its.close()

    def end() -> None:
        ours.close()
        started.wait()

    atexit.register(end)
    return ours


def _serve(orders: socket.socket) -> None:
    """Fork a process for each order, until there are no more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        order, fds, _, _ = socket.recv_fds(orders, _LONGEST_ORDER, _STREAMS + 1)
        if not order:
            return
        if os.fork() == 0:
            orders.close()
            _watch(json.loads(order), fds)
        for fd in fds:
            os.close(fd)


def _watch(order: dict[str, Any], fds: list[int]) -> NoReturn:
    """Fork the command; tell who it is and how it ended."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, tell = fds
    os.write(tell, b"%d\n" % os.getpid())
    pid = os.fork()
    if pid == 0:
        os.close(tell)
        _become(order, streams)
    _, status = os.waitpid(pid, 0)
    os.write(tell, b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _become(order: dict[str, Any], streams: list[int]) -> NoReturn:
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    os.chdir(order["cwd"])
    program = importlib.import_module("mirror.__main__")
    sys.modules["__main__"] = program
    sys.argv = [str(program.__file__), *order["argv"]]
    program.main()
    raise AssertionError("the command has returned")


def _warm_up() -> None:
    """Load all of the program."""
    mirror = importlib.import_module("mirror")
    for module in pkgutil.walk_packages(mirror.__path__, "mirror."):
        importlib.import_module(module.name)
    gc.freeze()


if __name__ == "__main__":
    _warm_up()
    _serve(socket.socket(fileno=int(sys.argv[1])))
