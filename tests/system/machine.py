"""A clean Debian in a container: a real systemd, and no network but loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

INSTALL = "apt-get install -y -qq -o Dpkg::Use-Pty=0"
_PROJECT = Path(__file__).parents[2]
_CACHE = _PROJECT / "build" / "debian"
_DEBIAN_MIRROR = os.environ.get("DEBIAN_MIRROR", "")
"""Where to get Debian from; debootstrap knows a place."""
_APT = 'Acquire::Check-Valid-Until "false";\nAcquire::Check-Date "false";\n'
_BOOT_S = 60.0


class FailedError(Exception):
    """Something is not as it should be."""


def wait(what: str, ready: Callable[[], object], *, limit_s: float = 60.0) -> float:
    """Wait until something is so; return how many seconds it took.

    Raises:
        FailedError: It was not so in time.
    """
    began = time.monotonic()
    while not ready():
        if time.monotonic() - began > limit_s:
            raise FailedError(f"{what}: not within {limit_s:.0f} s")
        time.sleep(0.2)
    return time.monotonic() - began


def expect(true: bool, otherwise: str) -> None:
    """Make sure that something is so.

    Raises:
        FailedError: It is not.
    """
    if not true:
        raise FailedError(otherwise)


def tell(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def newest_package() -> Path:
    """Return the package that was built last."""
    return max((_PROJECT / "dist").glob("*.deb"), key=lambda each: each.stat().st_mtime)


def suite() -> str:
    """Return the name of the Debian that this machine runs."""
    release = Path("/etc/os-release").read_text().splitlines()
    return next(
        line.split("=")[1].strip('"')
        for line in release
        if line[:17] == "VERSION_CODENAME="
    )


def bootstrap(suite: str) -> Path:
    """Return a clean Debian, made once and kept in `build/debian/`."""
    root = _CACHE / suite
    if not (root / "complete").exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        with_systemd = "--include=systemd,systemd-sysv,dbus"
        command = ["debootstrap", "--variant=minbase", with_systemd, suite]
        subprocess.run(
            [*command, str(root), *filter(None, [_DEBIAN_MIRROR])],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (root / "etc/apt/apt.conf.d/10dates").write_text(_APT)
        (root / "complete").touch()
    return root


class Machine:
    """One container; its root is a copy that goes at the end.

    Args:
        suite: Of Debian, such as `bookworm`.
    """

    def __init__(self, suite: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="archive-mirror-machine-"))
        self.root = self._folder / "root"
        self.network = f"machine{os.getpid()}"
        self._booted: subprocess.Popen[bytes] | None = None
        self._helpers: list[subprocess.Popen[bytes]] = []
        self._suite = suite

    def __enter__(self) -> Self:
        base = bootstrap(self._suite)
        subprocess.run(
            ["cp", "-a", "--reflink=auto", str(base), str(self.root)], check=True
        )
        ip = ["ip", "netns", "add", self.network]
        subprocess.run(ip, check=True)
        up = ["ip", "-n", self.network, "link", "set", "lo", "up"]
        subprocess.run(up, check=True)
        return self

    def __exit__(self, *_: object) -> None:
        for helper in self._helpers:
            helper.kill()
            helper.wait()
        if self._booted is not None:
            with contextlib.suppress(FailedError, ProcessLookupError):
                os.kill(self._leader(), signal.SIGKILL)
            self._booted.wait(60)
        subprocess.run(["ip", "netns", "del", self.network], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def prepare(self, script: str) -> str:
        """Run a script before the first boot, with the network of the host."""
        return _run([*self._nspawn("--pipe"), "sh", "-euc", script])

    def boot(self) -> None:
        """Start systemd and wait until all that starts by itself has started."""
        network = f"--network-namespace-path=/run/netns/{self.network}"
        with (self._folder / "console").open("ab") as console:
            self._booted = subprocess.Popen(
                self._nspawn("--boot", "--console=pipe", network),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        up = "systemctl is-system-running | grep -q -E 'running|degraded'"
        wait("the boot", lambda: self.succeeds(up), limit_s=_BOOT_S)

    def reboot(self) -> None:
        """Shut down in good order, and boot again."""
        self.shell("systemctl reboot", check=False)
        self._end()
        self.boot()

    def cut_power(self) -> None:
        """End all processes at once, and boot again."""
        os.kill(self._leader(), signal.SIGKILL)
        self._end()
        self.boot()

    def _end(self) -> None:
        if self._booted is not None:
            self._booted.wait(120)

    def shell(self, script: str, *, check: bool = True, text: str = "") -> str:
        """Run a script in the booted machine; return what it said.

        Raises:
            FailedError: It failed, or the machine is not up.
        """
        leader = self._leader()
        enter = ["nsenter", "--all", "-t", str(leader), "env", "-i"]
        environment = [
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND=noninteractive",
        ]
        command = [*enter, *environment, "sh", "-euc", script]
        return _run(command, check=check, text=text)

    def succeeds(self, script: str) -> bool:
        """Tell whether a script ends well."""
        try:
            self.shell(script)
        except FailedError:
            return False
        return True

    def beside(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Run a program of the root in the machine's network; it outlives reboots."""
        inside = ["ip", "netns", "exec", self.network, "chroot", str(self.root)]
        helper = subprocess.Popen(
            [*inside, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._helpers.append(helper)
        return helper

    def _nspawn(self, *options: str) -> list[str]:
        """Return the command; its `/run` hides from it a systemd of the host."""
        nspawn = (
            "systemd-nspawn -q --register=no --keep-unit --resolv-conf=copy-host "
            f'-D "{self.root}" "$@"'
        )
        # Network namespaces have their names in /run, which is replaced.
        script = (
            "set -e; hold=$(mktemp -d); mkdir -p /run/netns; "
            'mount --rbind /run/netns "$hold"; mount -t tmpfs none /run; '
            'mkdir -p /run/systemd /run/netns; mount --rbind "$hold" /run/netns; '
            f'umount -l "$hold"; rmdir "$hold" 2>/dev/null || true; exec {nspawn}'
        )
        unshare = ["unshare", "-m", "--propagation", "private"]
        return [*unshare, "sh", "-c", script, "sh", *options]

    def _leader(self) -> int:
        """Return the process that is number 1 in there."""
        if self._booted is None or self._booted.poll() is not None:
            raise FailedError("the machine is not up")
        waiting = [self._booted.pid]
        while waiting:
            pid = waiting.pop()
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            except OSError:
                continue
            inner = next(line for line in status.splitlines() if line[:6] == "NSpid:")
            if inner.split()[2:] == ["1"]:
                return pid
            waiting += [int(child) for child in children.split()]
        raise FailedError("the machine is not up")


def _run(command: list[str], *, check: bool = True, text: str = "") -> str:
    done = subprocess.run(
        command,
        input=text.encode(),
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
        check=False,
    )
    said = done.stdout.decode(errors="replace")
    if check and done.returncode != 0:
        raise FailedError(f"{command[-1]}: exit {done.returncode}\n{said}")
    return said
