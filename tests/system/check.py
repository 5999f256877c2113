"""Install, run, upgrade, remove and purge the package on a clean Debian.

`make deb-check` builds the package and runs this, as root. Needs debootstrap,
systemd-container, iproute2 and a Debian mirror; the clean Debian is kept in `build/`.
Ends at the first thing that is not as it should be.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.system.installation import (
    UNIT,
    footage,
    healthy,
    last,
    listed,
    log,
    saved,
    serve,
    spooled_bytes,
    write,
)
from tests.system.machine import (
    INSTALL,
    FailedError,
    Machine,
    expect,
    newest_package,
    suite,
    tell,
    wait,
)

_CONFIGURATION = """\
[sources.hq]
url = "http://127.0.0.1:8080"
token_file = "/etc/archive-mirror/hq.token"
poll_interval = "1s"

[targets.nas]
type = "directory"
path = "/srv/footage"
group = "security"
"""
_SLOW = """
[sources.slow]
url = "http://127.0.0.1:8081"
poll_interval = "1s"

[targets.below]
type = "directory"
path = "/var/lib/archive-mirror/footage"

[targets.late]
type = "directory"
path = "/mnt/late"
mount = true
required = false

[targets.bare]
type = "directory"
path = "/data/bare"
mount = true
required = false
"""
_DROP_IN = """\
[Service]
LoadCredential=slow.token:/etc/archive-mirror/slow.token
ReadWritePaths=-/data/bare
WatchdogSec=5
Environment=PYTHONPATH=/usr/local/lib/blocking
"""
_BLOCKING = """\
import signal, time
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(3600))
"""
_AS_SERVICE = "runuser -u archive-mirror -- archive-mirror"
_EXPOSURE = 1.5
_GRACE_S = 25.0


def main() -> None:
    """Go through the life of an installation."""
    package = Path(sys.argv[1]) if sys.argv[1:] else newest_package()
    for tool in ("debootstrap", "systemd-nspawn", "ip", "dpkg-deb"):
        if shutil.which(tool) is None or os.geteuid() != 0:
            sys.exit("needs root, debootstrap, systemd-container, iproute2 and dpkg")
    with tempfile.TemporaryDirectory() as folder, Machine(suite()) as machine:
        shutil.copy(package, machine.root / "root/new.deb")
        newer = _with_a_migration(package, Path(folder))
        shutil.copy(newer, machine.root / "root/newer.deb")
        try:
            took_s = install(machine)
            took_s += first_export(machine)
            tell(f"{took_s:.1f} s from a clean Debian to the first saved export")
            sandbox(machine)
            configure_more(machine)
            mounts(machine)
            stops(machine)
            reboots(machine)
            upgrade(machine)
            remove(machine)
        except FailedError as exc:
            journal = machine.shell("journalctl -q --no-pager | tail -40", check=False)
            sys.exit(f"{journal}\nFAILED: {exc}")
    size = package.stat().st_size / 1e6
    tell(f"all is well with {package.name} ({size:.1f} MB)")


def install(machine: Machine) -> float:
    """Unconfigured, it is installed, enabled, quiet, and says what comes next."""
    began = time.monotonic()
    machine.prepare(
        "apt-get -qq update && apt-get -qq install -y --download-only /root/new.deb"
    )
    machine.boot()
    said = machine.shell(f"{INSTALL} /root/new.deb")
    took_s = time.monotonic() - began
    expect("archive-mirror token set SOURCE" in said, said)
    state = machine.shell(
        f"systemctl is-enabled {UNIT}; systemctl is-active {UNIT} || :"
    )
    expect(state.split() == ["enabled", "inactive"], state)
    machine.shell(f"systemctl start {UNIT}")
    state = machine.shell(f"systemctl is-active {UNIT} || :; systemctl --failed -q")
    expect(state.split() == ["inactive"], state)
    owner = machine.shell("stat -c '%U %a' /var/lib/archive-mirror").split()
    expect(owner == ["archive-mirror", "700"], str(owner))
    version = machine.shell("archive-mirror --version; dpkg --verify archive-mirror")
    expect(version.count("\n") == 1, version)
    tell("installed: enabled, not started, no failure, the next steps are told")
    return took_s


def first_export(machine: Machine) -> float:
    """Configure it as docs/install.md says; return how long that took."""
    serve(machine, 8080, "--initial", "3")
    began = time.monotonic()
    machine.shell(
        "addgroup --quiet security; adduser --quiet archive-mirror security;"
        "install -d -o archive-mirror -g security -m 0750 /srv/footage"
    )
    write(machine, "etc/archive-mirror/archive-mirror.toml", _CONFIGURATION)
    machine.shell("archive-mirror token set hq", text="demo-token\n")
    checked = machine.shell(f"{_AS_SERVICE} check")
    expect("fail" not in checked, checked)
    machine.shell(f"systemctl start {UNIT}")
    saved(machine, "hq", 1)
    took_s = time.monotonic() - began
    saved(machine, "hq", 3)
    modes = machine.shell("find /srv/footage -name '*.mp4*' -printf '%u:%g %m\\n'")
    expect(set(modes.splitlines()) == {"archive-mirror:security 640"}, modes)
    token = machine.shell("stat -c '%U %a' /etc/archive-mirror/hq.token").split()
    expect(token == ["archive-mirror", "600"], str(token))
    tell("first exports saved, for the group of readers; the token is the service's")
    return took_s


def sandbox(machine: Machine) -> None:
    """The running service can do little; `check` passes in its place too."""
    pid = machine.shell(f"systemctl show -P MainPID {UNIT}").strip()
    status = machine.shell(f"cat /proc/{pid}/status")
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    for sets in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
        expect(int(fields[sets], 16) == 0, f"{sets} is {fields[sets]}")
    expect(fields["NoNewPrivs"].strip() == "1", "NoNewPrivs")
    expect(fields["Seccomp"].strip() == "2", "Seccomp")
    expect("0" not in fields["Uid"].split(), fields["Uid"])
    analysis = f"systemd-analyze security --no-pager {UNIT} | tail -1"
    exposure = machine.shell(analysis)
    expect(float(exposure.split()[-3]) <= _EXPOSURE, exposure)
    checked = machine.shell(f"{_in_its_place(machine)} check")
    expect("fail" not in checked, checked)
    tell(f"in its sandbox: no capability, seccomp, exposure {exposure.split()[-3]}")


def _in_its_place(machine: Machine) -> str:
    """Return what runs a command as the running service would."""
    pid = machine.shell(f"systemctl show -P MainPID {UNIT}").strip()
    credentials = f"CREDENTIALS_DIRECTORY=/run/credentials/{UNIT}"
    return f"{credentials} nsenter -m -t {pid} -- {_AS_SERVICE}"


def configure_more(machine: Machine) -> None:
    """Take a second source, its token from a credential, and more targets."""
    serve(machine, 8081, "--initial", "1", "--size-min=12000000", "--size-max=12000000",
          "--bandwidth=400000")  # fmt: skip
    write(machine, "usr/local/lib/blocking/sitecustomize.py", _BLOCKING)
    write(machine, "etc/archive-mirror/conf.d/more.toml", _SLOW)
    write(machine, f"etc/systemd/system/{UNIT}.d/local.conf", _DROP_IN)
    machine.shell(
        "install -m 0600 /dev/null /etc/archive-mirror/slow.token; mkdir -p /mnt/late;"
        "install -d -o archive-mirror /data /data/bare; systemctl daemon-reload",
    )
    machine.shell("cat >/etc/archive-mirror/slow.token", text="demo-token\n")
    machine.shell(f"systemctl restart {UNIT}")
    wait("the slow file is on its way", lambda: spooled_bytes(machine) > 1_000_000)
    checked = json.loads(
        machine.shell(f"{_in_its_place(machine)} check --json 2>/dev/null || :")
    )
    results = {check["name"]: check["result"] for check in checked["checks"]}
    expect(results["source slow"] in {"pass", "warn"}, str(checked))
    tell("a token from a credential, readable by root alone; `check` finds it too")


def mounts(machine: Machine) -> None:
    """A share that is mounted later is used; a folder is not taken for a mount."""
    wait("bare is refused", lambda: "nothing is mounted at /data/bare" in log(machine))
    expect(not (machine.root / "data/bare/.archive-mirror").exists(), "bare was used")
    machine.shell("mount -t tmpfs -o mode=0777 late /mnt/late")
    files = "find /mnt/late -name '*.mp4' | grep -c . || :"
    wait("the late mount is used", lambda: int(machine.shell(files)) >= 3)
    tell("a late mount is seen and used; a bare folder is not taken for one")


def stops(machine: Machine) -> None:
    """A blocked loop is restarted by the watchdog; a stop keeps what was fetched."""
    pid = machine.shell(f"systemctl show -P MainPID {UNIT}")
    machine.shell(f"kill -USR1 {pid}")
    restarts = f"systemctl show -P NRestarts {UNIT}"
    wait("the watchdog restarts it", lambda: machine.shell(restarts).strip() == "1")
    expect("Watchdog timeout" in log(machine), "no word of the watchdog")
    wait("it serves again", lambda: healthy(machine))
    expect(listed(machine, "slow")[0]["state"] == "fetching", "nothing in flight")
    began = time.monotonic()
    machine.shell(f"systemctl stop {UNIT}")
    took_s = time.monotonic() - began
    result = machine.shell(f"systemctl show -P Result {UNIT}").strip()
    expect(
        (result, took_s < _GRACE_S) == ("success", True), f"{result}, {took_s:.1f} s"
    )
    expect(spooled_bytes(machine) > 1_000_000, "the stop threw bytes away")
    machine.shell(f"systemctl start {UNIT}")
    tell(
        f"blocked loop: restarted by the watchdog; SIGTERM: {took_s:.2f} s, bytes kept"
    )


def reboots(machine: Machine) -> None:
    """It comes back by itself after a reboot and after a cut, and resumes."""
    for again in (machine.reboot, machine.cut_power):
        size_bytes = spooled_bytes(machine)
        expect(size_bytes > 1_000_000, f"{size_bytes} bytes were held before it")
        state = listed(machine, "slow")[0]["state"]
        expect(state == "fetching", f"not in mid-download: {state}")
        again()
        wait("it serves after the reboot", lambda: healthy(machine))
    saved(machine, "slow", 1)
    label = f"slow/{listed(machine, 'slow')[0]['id']}"
    history = json.loads(machine.shell(f"archive-mirror show {label} --json"))[
        "history"
    ]
    expect(history[-1]["offset_bytes"] > 0, f"not resumed: {history}")
    machine.shell(f"{_AS_SERVICE} verify --target nas --target below")
    tell(f"rebooted and cut in mid-download: resumed at {history[-1]['offset_bytes']}")


def upgrade(machine: Machine) -> None:
    """The ledger is migrated, nothing is fetched again, no question is asked."""
    before = footage(machine)
    example = "etc/archive-mirror/archive-mirror.toml.example"
    write(machine, example, "# changed by the operator\n")
    digests = _digests(machine)
    machine.shell(f"{INSTALL} /root/newer.deb")
    wait("it serves after the upgrade", lambda: healthy(machine))
    expect(_digests(machine) == digests, "ledger")
    ledger = machine.shell("ls /var/lib/archive-mirror")
    expect(".v" in ledger, f"no copy of the ledger before its migration: {ledger}")
    expect((machine.root / example).read_text()[:9] == "# changed", "the example")
    expect(footage(machine) == before, "footage changed by the upgrade")
    machine.shell(f"{INSTALL} --allow-downgrades /root/new.deb")
    refused = "is of version"
    wait(
        "the older one refuses the ledger",
        lambda: refused in log(machine),
        limit_s=20,
    )
    tell(
        "upgraded, with a migration; a downgrade is refused: " + last(machine, refused)
    )
    machine.shell(f"{INSTALL} /root/newer.deb")
    wait("it serves again", lambda: healthy(machine))


def _digests(machine: Machine) -> dict[int, str]:
    """Return what the ledger has of the bytes of each export, by its id."""
    return {export["id"]: export["sha256"] for export in listed(machine, "hq")}


def remove(machine: Machine) -> None:
    """Removed and purged, all footage is there, byte for byte."""
    before = footage(machine)
    expect(len(before) >= 8, f"too little footage to prove anything: {len(before)}")
    machine.shell("apt-get remove -y archive-mirror")
    expect(not machine.succeeds(f"systemctl cat {UNIT}"), "the unit is still there")
    expect(not machine.succeeds("pgrep -f archive-mirror/bin"), "it still runs")
    expect(footage(machine) == before, "footage changed by the removal")
    expect(not (machine.root / "opt/archive-mirror").exists(), "/opt is not empty")
    machine.shell(f"{INSTALL} /root/newer.deb")
    wait("it serves after its return", lambda: healthy(machine))
    expect(footage(machine) == before, "footage changed by the return")
    machine.shell(f"systemctl stop {UNIT}")
    waiting = machine.root / "var/lib/archive-mirror/spool/left"
    waiting.parent.mkdir(exist_ok=True)
    waiting.write_bytes(b"footage that is on no target yet")
    said = machine.shell("apt-get purge -y archive-mirror")
    ledger = machine.root / "var/lib/archive-mirror/ledger.sqlite3"
    expect("its ledger stays too" in said and waiting.exists(), said)
    expect(ledger.exists(), "the ledger of waiting footage is gone")
    expect(footage(machine) == before, "footage changed by the purge")
    tokens = machine.shell("ls -A /etc/archive-mirror /etc/systemd/system/*.wants || :")
    expect("token" not in tokens and "archive-mirror" not in tokens.split(), tokens)
    shutil.rmtree(waiting.parent)
    machine.shell(f"{INSTALL} /root/newer.deb")
    # A rebuild that was killed leaves this.
    machine.shell(
        "cd /var/lib/archive-mirror; mkdir rebuilding; cp ledger.* rebuilding"
    )
    said = machine.shell("apt-get purge -y archive-mirror")
    expect(not ledger.exists() and "kept all footage" in said, said)
    left = machine.shell("ls -A /var/lib/archive-mirror 2>/dev/null || :").split()
    ours = ("ledger", "rebuilding")
    expect(not [name for name in left if name.startswith(ours)], f"left: {left}")
    expect(footage(machine) == before, "footage changed by the second purge")
    expect(
        machine.succeeds("systemctl --failed -q | grep -c . | grep -qx 0"),
        "a failed unit",
    )
    tell(f"removed and purged: {len(before)} files of footage are as they were")


def _with_a_migration(package: Path, folder: Path) -> Path:
    """Return the package of a later version whose ledger has one table more."""
    root = folder / "root"
    subprocess.run(["dpkg-deb", "-R", str(package), str(root)], check=True)
    migrations = next(root.glob("opt/archive-mirror/lib/*/*/mirror/ledger/migrations"))
    number = max(int(each.stem) for each in migrations.glob("*.sql")) + 1
    (migrations / f"{number:04}.sql").write_text("CREATE TABLE upgraded (x INTEGER);\n")
    control = root / "DEBIAN/control"
    control.write_text(control.read_text().replace("\nVersion: ", "\nVersion: 9+"))
    newer = folder / "newer.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(root), str(newer)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return newer


if __name__ == "__main__":
    main()
