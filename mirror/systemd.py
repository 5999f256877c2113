"""Notify systemd of the state of the service (sd_notify(3))."""

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
    """Sends notifications; does nothing without an address."""

    def __init__(self, address: str | None) -> None:
        self._address = address

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Return the notifier that NOTIFY_SOCKET asks for."""
        return cls(environ.get("NOTIFY_SOCKET") or None)

    def ready(self) -> None:
        """Say that the service is up."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Say that the configuration is being read; `ready` follows."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now_us}")

    def stopping(self) -> None:
        """Say that the service is about to end."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """Say that the service is alive."""
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
