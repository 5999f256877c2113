"""archive-mirror in a machine: what is asked of it, and the VMS it mirrors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from tests.system.machine import wait

if TYPE_CHECKING:
    from tests.system.machine import Machine

UNIT: Final = "archive-mirror.service"
PROGRAM: Final = "/opt/archive-mirror/bin/archive-mirror"


def serve(machine: Machine, port: int, *options: str) -> None:
    """Have a VMS in the machine's network."""
    vms = [PROGRAM, "simulate-vms", "--quiet", "--port", str(port), "--rate", "0"]
    machine.beside([*vms, *options])
    there = (
        f"python3 -c \"import socket; socket.create_connection(('127.0.0.1', {port}))\""
    )
    wait(f"the VMS at {port}", lambda: machine.succeeds(there))


def write(machine: Machine, path: str, text: str) -> None:
    """Write a file into the machine."""
    file = machine.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def listed(machine: Machine, source: str) -> list[dict[str, Any]]:
    """Return what the ledger has of a source."""
    said = machine.shell(f"archive-mirror list --source {source} --json")
    return [json.loads(line) for line in said.splitlines() if line[:1] == "{"]


def saved(machine: Machine, source: str, number: int) -> None:
    """Wait until so many exports of a source are saved."""

    def enough() -> bool:
        done = [
            export for export in listed(machine, source) if export["state"] == "saved"
        ]
        return len(done) >= number

    wait(f"{number} of {source} saved", enough, limit_s=120)


def healthy(machine: Machine) -> bool:
    """Tell whether the service says it is ready."""
    ask = "import urllib.request as u; u.urlopen('http://127.0.0.1:9533/readyz')"
    return machine.succeeds(f'python3 -c "{ask}"')


def spooled_bytes(machine: Machine) -> int:
    """Return the size of what is being fetched."""
    find = "find /srv /var/lib/archive-mirror -path '*spool*' -type f -printf '%b\\n'"
    return sum(int(blocks) * 512 for blocks in machine.shell(find).split())


def footage(machine: Machine) -> dict[str, str]:
    """Return the digest of every file on the targets."""
    find = "find /srv/footage /var/lib/archive-mirror/footage -name '*.mp4*' -type f"
    said = machine.shell(f"{find} -exec sha256sum {{}} +")
    return {line[66:]: line[:64] for line in said.splitlines()}


def log(machine: Machine) -> str:
    """Return what the service logged since the boot."""
    return machine.shell(f"journalctl -b -q --no-pager -o cat -u {UNIT}")


def last(machine: Machine, words: str) -> str:
    """Return the last line of the log with these words."""
    return [line for line in log(machine).splitlines() if words in line][-1]
