"""Keep footage on real NFS and SMB shares while they fail in all the usual ways.

`make shares` builds the package and runs this, as root. Needs what `make deb-check`
needs, and user-mode-linux: its kernel has the clients and servers of both. The shares
are mounted as `docs/install.md` says; `shares_guest.py` is what happens there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.system.machine import Machine, newest_package

_PROJECT: Final = Path(__file__).parents[2]
_MODULES: Final = Path("/usr/lib/uml/modules")
_DISKS: Final = {"ubda": 16, "ubdb": 600, "ubdc": 600, "ubdd": 600, "ubde": 600}
"""MiB: the root of the NFS server, its share, another disk, the SMB share, state."""
_LIMIT_S: Final = 2400
_END: Final = "the end: "
_SAMBA: Final = """\
[global]
 interfaces = 127.0.0.1
 bind interfaces only = yes
 disable netbios = yes
 load printers = no
 passdb backend = tdbsam:/run/samba/passdb
 private dir = /run/samba
 lock directory = /run/samba
 state directory = /run/samba
 cache directory = /run/samba
 ncalrpc dir = /run/samba/rpc
 log file = /run/samba/log
[footage]
 path = /export/smb
 read only = no
"""
_INIT: Final = """\
#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
for place in /run /tmp /dev/shm /var/lib/nfs; do
    mkdir -p $place; mount -t tmpfs t $place
done
for module in cifs nfsv4 nfsd; do modprobe $module; done
ip link set lo up; echo '127.0.0.1 localhost nas' > /etc/hosts
for disk in a b c d e; do mkfs.ext4 -q -F /dev/ubd$disk; done
mkdir -p /export /srv/nfs /srv/smb /run/lock /run/samba /var/lib/nfs/{rpc_pipefs,sm}
mount /dev/ubda /export; mkdir /export/{footage,smb}
mount /dev/ubdb /export/footage; mount /dev/ubdd /export/smb
mount /dev/ubde /var/lib/archive-mirror
chown archive-mirror: /export/footage /var/lib/archive-mirror
mount -t nfsd nfsd /proc/fs/nfsd
mount -t rpc_pipefs r /var/lib/nfs/rpc_pipefs
touch /var/lib/nfs/{etab,rmtab}
rpcbind -w; exportfs -ra; rpc.mountd; rpc.nfsd -G 10 -L 10 4
printf 'secret\\nsecret\\n' | smbpasswd -s -a root
printf 'username=root\\npassword=secret\\n' > /etc/nas.credentials
smbd -D
for tries in $(seq 10); do mount /srv/smb && break; sleep 1; done
mount /srv/nfs
/opt/archive-mirror/bin/python -u /root/shares_guest.py < /dev/null 2>&1 | cat
echo "the end: ${PIPESTATUS[0]}"
echo o > /proc/sysrq-trigger; sleep 10
"""
_EXPORTS: Final = """\
/export 127.0.0.1(rw,fsid=0,no_subtree_check,insecure)
/export/footage 127.0.0.1(rw,fsid=1,no_subtree_check,insecure)
"""


def main() -> None:
    """Prepare a machine, boot it and show what it says."""
    package = newest_package()
    if os.geteuid() != 0 or shutil.which("linux.uml") is None:
        sys.exit("needs root, debootstrap, systemd-container and user-mode-linux")
    with Machine("bookworm") as machine:
        root = machine.root
        shutil.copy(package, root / "root/new.deb")
        machine.prepare(
            "apt-get -qq update && apt-get -qq install -y --no-install-recommends "
            "/root/new.deb nfs-kernel-server nfs-common samba cifs-utils rpcbind kmod "
            "iproute2 procps"
        )
        shutil.copytree(_MODULES, root / "lib/modules", dirs_exist_ok=True)
        for source in ("tests/system/shares_guest.py", "tests/proof/hostile_names.py"):
            shutil.copy(_PROJECT / source, root / "root")
        (root / "etc/exports").write_text(_EXPORTS)
        (root / "etc/samba/smb.conf").write_text(_SAMBA)
        (root / "etc/fstab").write_text(_fstab())
        init = root / "root/init"
        init.write_text(_INIT)
        init.chmod(0o755)
        sys.exit(_boot(root))


def _fstab() -> str:
    """Return what `docs/install.md` says of both kinds of share."""
    text = (_PROJECT / "docs/install.md").read_text()
    lines = re.findall(
        r"^\S*nas\S+ +/srv/footage +(?:nfs|cifs) .*$", text, re.MULTILINE
    )
    nfs, smb = lines
    return "\n".join(
        (
            nfs.replace("/srv/footage", "/srv/nfs"),
            smb.replace("/srv/footage", "/srv/smb"),
            "",
        )
    )


def _boot(root: Path) -> int:
    """Run the machine until it is off; return how its work ended."""
    disks = []
    for name, mib in _DISKS.items():
        image = root.parent / name
        image.touch()
        os.truncate(image, mib * 2**20)
        disks.append(f"{name}={image}")
    kernel = ["linux.uml", "mem=1024M", "root=/dev/root", "rootfstype=hostfs", "rw"]
    kernel += [f"rootflags={root}", "init=/root/init", "quiet", *disks]
    ended = None
    with subprocess.Popen(
        ["timeout", "-k", "5", str(_LIMIT_S), *kernel, "con=null", "con0=null,fd:1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as machine:
        for line in machine.stdout or ():
            if line.startswith(_END):
                ended = int(line.removeprefix(_END))
            else:
                print(line, end="", flush=True)
    return 1 if ended is None else ended


if __name__ == "__main__":
    main()
