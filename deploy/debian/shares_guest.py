"""What `shares.py` has done inside its machine, with the package's own Python.

The VMS is simulated here, so that the judge knows what each file must hold; it looks at
the disks of the servers, not at the mounts. Ends at the first thing that is wrong.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hostile_names import NAMES  # type: ignore[import-not-found]

from mirror.simulator import Vms
from mirror.simulator.rows import row_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirror.simulator import Export

_CONFIGURATION: Final = """\
[sources.hq]
url = "http://127.0.0.1:8080"
token_file = "/etc/archive-mirror/hq.token"
poll_interval = "2s"

[targets.nfs]
type = "directory"
path = "/srv/nfs"
mount = true
layout = "{source}/{id}-{name}"

[targets.smb]
type = "directory"
path = "/srv/smb"
mount = true
layout = "{source}/{id}-{name}"
"""
_ETC: Final = Path("/etc/archive-mirror")
_DISKS: Final = {"nfs": Path("/export/footage"), "smb": Path("/export/smb")}
_AS_SERVICE: Final = ["runuser", "-u", "archive-mirror", "--", "archive-mirror"]
_SMALL, _MIDDLE = 20_000, 3_000_000
_AWAY_S: Final = 60.0
_LIMIT_S: Final = 600.0


class Shares:
    """A mirror on two shares, and its judge."""

    def __init__(self, vms: Vms) -> None:
        self._vms = vms
        self._right: dict[int, set[str]] = {}
        self._service: asyncio.subprocess.Process | None = None
        self._began = time.monotonic()

    def tell(self, text: str) -> None:
        """Say what comes or came."""
        print(f"{time.monotonic() - self._began:6.1f}  {text}", flush=True)

    async def run(self) -> None:
        """Start `archive-mirror run`."""
        self._service = await asyncio.create_subprocess_exec(
            *_AS_SERVICE, "run", stderr=subprocess.DEVNULL
        )

    async def kill(self) -> None:
        """End it at once; `runuser` has it as its child."""
        assert self._service is not None
        for child in shell(f"pgrep -P {self._service.pid}").split():
            os.kill(int(child), signal.SIGKILL)
        await self._service.wait()

    def offer(self, number: int, size: int) -> set[int]:
        """List new exports; return their ids."""
        return {self._take(self._vms.add(size=size)) for _ in range(number)}

    def offer_named(self, name: object) -> int:
        """List a new export under any name; return its id."""
        export = self._vms.add(name="clip", size=_SMALL)
        row = json.loads(row_json(export, self._vms.behaviour, self._vms.url))
        row["name"] = row["stream"]["type"] = name
        export.literal = row
        return self._take(export)

    def _take(self, export: Export) -> int:
        hashes = {sha256 for _, sha256 in self._vms.truth(export).versions}
        self._right[export.export_id] = hashes
        return export.export_id

    async def saved(self, ids: set[int]) -> None:
        """Wait until exports are saved, then judge all there is."""

        async def is_so() -> bool:
            rows = map(json.loads, (await ask("list", "--json")).splitlines())
            return ids <= {row["id"] for row in rows if row["state"] == "saved"}

        await self._until(f"{len(ids)} are saved", is_so)
        self.judge()

    async def kept(self, target: str, ids: set[int]) -> None:
        """Wait until exports are on the disk of one target."""

        async def is_so() -> bool:
            return ids <= {number(path) for path in files(target, ".mp4.json")}

        await self._until(f"{len(ids)} are kept by {target}", is_so)

    async def told(self, target: str) -> None:
        """Wait until `status` tells that a target cannot be used."""
        said = ""

        async def is_so() -> bool:
            nonlocal said
            targets = json.loads(await ask("status", "--json"))["targets"]
            said = next(x["problem"] for x in targets if x["name"] == target) or ""
            return bool(said)

        await self._until(f"status tells of {target}", is_so)
        self.tell(f"  {said}")

    def judge(self) -> None:
        """See that each file kept has the right bytes, and none is missing."""
        for target in _DISKS:
            kept = set()
            for path in files(target, ".mp4"):
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                assert digest in self._right[number(path)], f"wrong bytes in {path}"
                kept.add(number(path))
            if not kept >= self._right.keys():
                raise AssertionError(f"{target} misses {self._right.keys() - kept}")
        self.tell(f"  {len(self._right)} exports are right on both shares")

    async def _until(self, what: str, is_so: Callable[[], Awaitable[bool]]) -> None:
        began = time.monotonic()
        while not await is_so():
            assert time.monotonic() - began < _LIMIT_S, f"not so: {what}"
            await asyncio.sleep(2)
        self.tell(f"  {what} after {time.monotonic() - began:.0f} s")


def files(target: str, ending: str) -> list[Path]:
    """Return the files of a target with such an ending, as they lie on its disk."""
    return list((_DISKS[target] / "hq").rglob(f"*{ending}"))


def number(path: Path) -> int:
    """Return the id of the export that a file is of."""
    return int(path.name.split("-")[0])


def shell(script: str) -> str:
    """Run a script; return what it says."""
    command = ["bash", "-ec", script]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


async def ask(*arguments: str) -> str:
    """Run a command as the service's user; return what it says."""
    command = await asyncio.create_subprocess_exec(
        *_AS_SERVICE, *arguments, stdout=subprocess.PIPE
    )
    out, _ = await command.communicate()
    text = out.decode()
    assert command.returncode == 0, f"{arguments}: {command.returncode}\n{text}"
    return text


def smbd() -> list[int]:
    """Return the processes of the SMB server."""
    return [int(pid) for pid in shell("pgrep -x smbd").split()]


async def main() -> None:
    """Lose each share in each way; what cannot go there must go to the other."""
    async with Vms(port=8080, other_origin=False) as vms:
        (_ETC / "archive-mirror.toml").write_text(_CONFIGURATION)
        (_ETC / "hq.token").write_text(vms.token)
        shell(f"chown archive-mirror: {_ETC}/hq.token && chmod 600 {_ETC}/hq.token")
        shares = Shares(vms)
        print(shell("grep -E ' (nfs4|cifs) ' /proc/mounts"), await ask("check"), sep="")
        await shares.run()
        shares.tell(f"{len(NAMES)} names that mean harm")
        await shares.saved({shares.offer_named(name) for name in NAMES})
        await lose_nfs(shares)
        await lose_smb(shares)
        await lose_both(shares)
        shares.tell("the service is killed with files under way")
        ids = shares.offer(8, _MIDDLE)
        await asyncio.sleep(3)
        await shares.kill()
        await shares.run()
        await shares.saved(ids)
        print((await ask("verify")).splitlines()[-1])


async def lose_nfs(shares: Shares) -> None:
    """Swap the disk behind the export, then let the server be away."""
    shares.tell("another disk comes to lie behind the NFS export")
    ids = shares.offer(6, _MIDDLE)
    await asyncio.sleep(2)
    shell(
        "exportfs -ua; umount -l /export/footage; mount /dev/ubdc /export/footage; "
        "chown archive-mirror: /export/footage; exportfs -ra"
    )
    ids |= shares.offer(4, _SMALL)
    await shares.kept("smb", ids)
    await shares.told("nfs")
    strange = shell("ls -A /export/footage")
    assert strange == "lost+found\n", strange
    shell(
        "exportfs -ua; umount -l /export/footage; mount /dev/ubdb /export/footage; "
        "exportfs -ra"
    )
    await shares.saved(ids)

    shares.tell("the NFS server is away")
    ids = shares.offer(4, _MIDDLE)
    await asyncio.sleep(1)
    shell("rpc.nfsd 0")
    ids |= shares.offer(4, _SMALL)
    await shares.kept("smb", ids)
    await shares.told("nfs")
    await asyncio.sleep(_AWAY_S)
    shell("rpc.nfsd -G 10 -L 10 4")
    await shares.saved(ids)


async def lose_smb(shares: Shares) -> None:
    """Let the server hang, then die."""
    for what, how in (("hangs", signal.SIGSTOP), ("dies", signal.SIGKILL)):
        shares.tell(f"the SMB server {what}")
        ids = shares.offer(4, _MIDDLE)
        await asyncio.sleep(1)
        for pid in smbd():
            os.kill(pid, how)
        ids |= shares.offer(4, _SMALL)
        await shares.kept("nfs", ids)
        await shares.told("smb")
        if how == signal.SIGKILL:
            shell("smbd -D")
        else:
            await asyncio.sleep(_AWAY_S)
            for pid in smbd():
                os.kill(pid, signal.SIGCONT)
        await shares.saved(ids)


async def lose_both(shares: Shares) -> None:
    """Unmount both while in use."""
    shares.tell("both shares are unmounted")
    ids = shares.offer(4, _MIDDLE)
    await asyncio.sleep(1)
    shell("umount -l /srv/nfs /srv/smb")
    ids |= shares.offer(4, _SMALL)
    await shares.told("nfs")
    await shares.told("smb")
    below = shell("find /srv/nfs /srv/smb -mindepth 1")
    assert below == "", below
    shell("mount /srv/nfs; mount /srv/smb")
    await shares.saved(ids)


asyncio.run(main())
