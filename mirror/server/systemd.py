"""Tell systemd how the service is (sd_notify(3))."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping


_TIMEOUT_S = 1.0


class Notifier:
    """Sends notifications; silent where nobody listens.

    Attributes:
        watchdog_interval_s: How often to call `watchdog`: half of what systemd allows;
            None if it does not watch.
    """

    def __init__(
        self, address: str | None, *, watchdog_interval_s: float | None = None
    ) -> None:
        self._address = address
        self.watchdog_interval_s = watchdog_interval_s

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Return the notifier that NOTIFY_SOCKET and WATCHDOG_USEC ask for."""
        return cls(
            environ.get("NOTIFY_SOCKET") or None,
            watchdog_interval_s=_watchdog_interval_s(environ),
        )

    def ready(self) -> None:
        """The service serves."""
        self._send("READY=1")

    def reloading(self) -> None:
        """The configuration is being read; `ready` follows."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now_us}")

    def stopping(self) -> None:
        """The service is about to end."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Show one line in `systemctl status`."""
        self._send("STATUS=" + " ".join(text.split()))

    def watchdog(self) -> None:
        """The service is alive."""
        self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if self._address is None:
            return
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.settimeout(_TIMEOUT_S)  # a full queue must not stop the loop
            sender.sendto(text.encode(errors="replace"), os.fsencode(address))


def _watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    """Read sd_watchdog_enabled(3): WATCHDOG_PID, if set, must be this process."""
    allowed_us = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    if not allowed_us.isascii() or not allowed_us.isdecimal() or int(allowed_us) == 0:
        return None
    return int(allowed_us) / 2e6
