"""What systemd is told, over a real socket."""

from __future__ import annotations

import contextlib
import socket

import pytest

from mirror.systemd import Notifier


@pytest.mark.parametrize("abstract", [False, True])
def test_notifications_arrive(tmp_path, abstract):
    """READY, RELOADING with its time, WATCHDOG, STOPPING; abstract sockets too."""
    name = f"@archive-mirror-test-{tmp_path.name}" if abstract else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1) if abstract else name)
        listener.settimeout(60)
        notifier = Notifier.from_environ({"NOTIFY_SOCKET": name})
        for call in ("ready", "reloading", "watchdog", "stopping"):
            getattr(notifier, call)()
        told = [listener.recv(4096).decode() for _ in range(4)]

    assert told[0] == "READY=1"
    assert told[1].startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert told[2:] == ["WATCHDOG=1", "STOPPING=1"]


def test_nobody_listening_is_no_error(tmp_path):
    """Outside systemd nothing happens; who listens later hears what comes then."""
    path = str(tmp_path / "notify")
    Notifier.from_environ({}).ready()
    notifier = Notifier(path)
    notifier.ready()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        notifier.stopping()

        assert listener.recv(4096) == b"STOPPING=1"


def test_a_full_queue_does_not_stop_the_service(tmp_path):
    """A manager that does not read costs moments, and no error."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    filler.sendto(b"x", path)
            Notifier(path).watchdog()

        assert listener.recv(16) == b"x"
