"""A warm interpreter that forks the command `archive-mirror` as often as asked.

Reads one JSON object a line: {"number", "argv", "env", "err", "out", "plant"};
answers {"pid", "number"} at once and {"pid", "code", "peak_kib"} when that
process has ended.
"""

from __future__ import annotations

import json
import os
import select
import signal
from typing import Any, NoReturn

import mirror.app.once
import mirror.app.service
import mirror.config
import mirror.metrics
import mirror.web  # noqa: F401 -- all these are here to be warm
from mirror import cli
from tests.proof.planted_bugs import durability


def _live(order: dict[str, Any]) -> NoReturn:
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for fd, name, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, order["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, order["err"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(name, flags, 0o600)
        os.dup2(opened, fd)
        os.close(opened)
    os.environ.update(order["env"])
    if order["plant"]:
        durability.PLANTS[order["plant"]]()
    cli.main(order["argv"])


def _say(**words: int) -> None:
    os.write(1, json.dumps(words).encode() + b"\n")


def _reap() -> None:
    while True:
        try:
            pid, status, used = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        _say(pid=pid, code=code, peak_kib=used.ru_maxrss)


def main() -> None:
    """Serve until the orders end."""
    wake, wakened = os.pipe()
    os.set_blocking(wakened, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wakened)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    rest = b""
    while True:
        ready, _, _ = select.select([0, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            _reap()
        if 0 not in ready:
            continue
        more = os.read(0, 65536)
        if not more:
            return
        *lines, rest = (rest + more).split(b"\n")
        for line in lines:
            order = json.loads(line)
            pid = os.fork()
            if pid == 0:
                _live(order)
            _say(pid=pid, number=order["number"])


if __name__ == "__main__":
    main()
