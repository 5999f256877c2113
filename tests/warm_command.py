"""A fork server: the command `archive-mirror` from an interpreter that has it loaded.

All but the start of the interpreter is as in a process of its own: arguments,
environment, standard streams, exit code. It takes a tenth of the time.
"""

from __future__ import annotations

import atexit
import codecs
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


class ForkServer:
    """An interpreter that forks a process of the command for each order.

    Args:
        preload: A library for all its processes.
    """

    def __init__(self, preload: Path | None = None) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._interpreter = subprocess.Popen(
            [sys.executable, "-m", "tests.warm_command", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env=os.environ | ({"LD_PRELOAD": str(preload)} if preload else {}),
        )
        theirs.close()

    def start(
        self,
        arguments: Sequence[str],
        streams: Sequence[int],
        *,
        env: Mapping[str, str],
        folder: str | Path = ROOT,
        plant: str = "",
    ) -> int:
        """Start the command.

        Args:
            arguments: Without the program.
            streams: Descriptors of its standard input, output and error.
            env: All of its environment.
            folder: It runs in it.
            plant: Bugs to plant in it; see `planted_bugs.plant`.

        Returns:
            The descriptor of a pipe on which two lines come: its process id; its exit
            code, negative for a signal, and the most memory it had, in KiB.
        """
        order = {
            "argv": list(arguments),
            "env": dict(env),
            "cwd": str(folder),
            "plant": plant,
        }
        reports, writer = os.pipe()
        text = json.dumps(order).encode()
        try:
            socket.send_fds(self._orders, [text], [*streams, writer])
        finally:
            os.close(writer)
        return reports

    def close(self) -> None:
        """Let it end; the processes it forked go on."""
        self._orders.close()
        self._interpreter.wait()


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
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(_STREAMS)]
        files[0].write(given)
        files[0].seek(0)
        fd = _server().start(
            arguments,
            [file.fileno() for file in files],
            env=os.environ if env is None else env,
            folder=os.getcwd(),  # noqa: PTH109 -- a text is wanted
        )
        reports = stack.enter_context(os.fdopen(fd, "rb"))
        pid = int(reports.readline())
        waiting = select.poll()
        waiting.register(reports, select.POLLIN)
        if not waiting.poll(timeout_s * 1000):
            os.killpg(pid, signal.SIGKILL)
            what = " ".join(arguments)
            raise TimeoutError(f"{what}: not ended after {timeout_s} s")
        code = int(reports.readline().split()[0])
        for file in files:
            file.seek(0)
        return Ended(code, files[1].read(), files[2].read())


@functools.cache
def _server() -> ForkServer:
    """Start the server, once in each process of tests."""
    server = ForkServer()
    atexit.register(server.close)
    return server


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
    """Fork the command; report its process id and how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, reports = fds
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.write(reports, b"%d\n" % os.getpid())
        os.close(reports)
        _become(order, streams)
    _, status, used = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(BrokenPipeError):
        os.write(reports, b"%d %d\n" % (code, used.ru_maxrss))
    os._exit(0)


def _become(order: dict[str, Any], streams: list[int]) -> NoReturn:
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    os.chdir(order["cwd"])
    if order["plant"]:
        importlib.import_module("tests.proof.planted_bugs.plant").plant(order["plant"])
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
    # A command that is root no more need not read our Python: all of it is loaded.
    for encoding in ("utf-16-le", "utf-16-be", "utf-16"):
        codecs.lookup(encoding)
    service_user = importlib.import_module("mirror.app.service_user")
    vars(service_user)["_LOADED_LATER"] = ()
    gc.freeze()


if __name__ == "__main__":
    _warm_up()
    _serve(socket.socket(fileno=int(sys.argv[1])))
