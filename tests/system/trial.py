"""Thirty minutes of trouble: five failures, each seen, alarmed, and mended by the book.

`make deb-trial` installs the package on a clean Debian beside two VMS and the real
Prometheus and Alertmanager, all with the settings of `deploy/`, and follows what
`docs/runbook.md` says. Pictures go to `build/trial/`. Needs what `make deb-check`
needs, and chromium and pngquant for the pictures.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.system.installation import PROGRAM, healthy, listed, write
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

if TYPE_CHECKING:
    from collections.abc import Callable

_PROJECT = Path(__file__).parents[2]
_OUT = _PROJECT / "build" / "trial"
_CONFIG = "etc/archive-mirror/archive-mirror.toml"
_CONFIGURATION = """\
[sources.hq]
url = "http://127.0.0.1:8080"
token_file = "/etc/archive-mirror/hq.token"

[sources.shop]
url = "http://127.0.0.1:8081"
token_file = "/etc/archive-mirror/shop.token"

[targets.nas]
type = "directory"
path = "/mnt/nas"
mount = true

[targets.vault]
type = "directory"
path = "/srv/vault"
"""
_FSTAB = "/disk/nas /mnt/nas none bind,nofail 0 0\n"
_GET = (
    "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], None, 9)"
    ".read().decode())"
)
_PAGE = "http://127.0.0.1:9533/"
_LEAST_S = 1800.0
_ALERT_S = 1500.0


@dataclass(slots=True)
class Failure:
    """One thing that goes wrong.

    Attributes:
        alert: Its name, without `ArchiveMirror`.
        about: The source or target, or nothing.
        page: What the status page says of it; None while that cannot be had.
        looks: Commands of the runbook that must tell of it, with the words.
        mend: What the runbook says to do.
    """

    alert: str
    about: str
    inflict: Callable[[], object]
    page: str | None
    looks: dict[str, str]
    mend: Callable[[], object]
    began: float = 0.0
    told: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Alert and what it is about."""
        return f"{self.alert} {self.about}".strip()


class Trial:
    """One machine and what is in it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.vms: dict[int, subprocess.Popen[bytes]] = {}
        self.began = time.monotonic()

    def get(self, url: str) -> str:
        """Read a page of the machine's."""
        return self.machine.shell(f'python3 -c "{_GET}" "{url}"')

    def serve(self, port: int, token: str) -> None:
        """Start a VMS, or another one in its place."""
        if port in self.vms:
            self.vms[port].kill()
            self.vms[port].wait()
        command = [PROGRAM, "simulate-vms", "--quiet", "--port", str(port)]
        self.vms[port] = self.machine.beside(
            [*command, "--rate", "6", "--token", token, "--seed", str(port)]
        )

    def dead(self, port: int) -> None:
        """End a VMS."""
        self.vms[port].kill()
        self.vms[port].wait()

    def alerts(self) -> dict[str, dict[str, Any]]:
        """Return what Alertmanager would send now, by name and what it is about."""
        alerts = json.loads(self.get("http://127.0.0.1:9093/api/v2/alerts"))
        named = {}
        for alert in alerts:
            labels = alert["labels"]
            about = labels.get("source") or labels.get("target") or ""
            short = labels["alertname"].removeprefix("ArchiveMirror")
            if alert["status"]["state"] == "active":
                named[f"{short} {about}".strip()] = alert
        return named

    def picture(self, name: str) -> None:
        """Take pictures of the page and of the dashboard's data."""
        inside = ["ip", "netns", "exec", self.machine.network]
        python = str(_PROJECT / ".venv/bin/python")
        span = f"{max(5, round((time.monotonic() - self.began) / 60))}m"
        panels, page = (str(_OUT / f"{name}-{of}.png") for of in ("panels", "page"))
        chromium = ["chromium", "--headless=new", "--no-sandbox", "--hide-scrollbars"]
        for program in (
            [python, "-m", "tests.dashboards", "http://127.0.0.1:9090", span, panels],
            [*chromium, "--window-size=1120,1500", f"--screenshot={page}", _PAGE],
        ):
            ran = subprocess.run(
                [*inside, *program], cwd=_PROJECT, capture_output=True, check=False
            )
            expect(ran.returncode == 0, ran.stderr.decode())

    def minutes(self) -> str:
        """Return the time of the trial."""
        return f"{(time.monotonic() - self.began) / 60:5.1f} min"


def main() -> None:
    """Let five things go wrong, and mend each."""
    package = Path(sys.argv[1]) if sys.argv[1:] else newest_package()
    _OUT.mkdir(parents=True, exist_ok=True)
    with Machine(suite()) as machine:
        trial = Trial(machine)
        try:
            install(trial, package)
            slow, at_once, alone, last = failures(trial)
            inflict(trial, [slow])
            for some in ([alone], at_once):
                inflict(trial, some)
                see(trial, some)
                mend(trial, some)
            see(trial, [slow])
            mend(trial, [slow])
            inflict(trial, [last])
            see(trial, [last])
            mend(trial, [last])
            settle(trial)
        except FailedError as exc:
            looks = "journalctl -q --no-pager | tail -60; archive-mirror status"
            sys.exit(f"{machine.shell(looks, check=False)}\nFAILED: {exc}")


def install(trial: Trial, package: Path) -> None:
    """Install all, and wait until all is well."""
    machine = trial.machine
    shutil.copy(package, machine.root / "root/new.deb")
    machine.prepare(
        "apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq install -y "
        "--no-install-recommends prometheus prometheus-alertmanager >/dev/null; "
        "apt-get -qq install -y --download-only /root/new.deb >/dev/null"
    )
    rules = machine.root / "etc/prometheus/archive-mirror"
    rules.mkdir()
    deploy = _PROJECT / "deploy" / "prometheus"
    for file in deploy.glob("*.rules.yml"):
        shutil.copy(file, rules)
    shutil.copy(deploy / "scrape.yml", rules.parent / "prometheus.yml")
    shutil.copy(deploy / "alertmanager.yml", rules.parent)
    machine.boot()
    machine.shell(f"{INSTALL} /root/new.deb")
    for port, name in ((8080, "hq"), (8081, "shop")):
        trial.serve(port, f"token-of-{name}")
    write(machine, _CONFIG, _CONFIGURATION)
    write(machine, "etc/fstab", _FSTAB)
    # Without a network it finds no address to tell the others of.
    alone = 'ARGS="--cluster.listen-address="\n'
    write(machine, "etc/default/prometheus-alertmanager", alone)
    machine.shell(
        "install -d -o archive-mirror -m 0750 /srv/vault /disk/nas;"
        "mkdir -p /mnt/nas; mount /mnt/nas"
    )
    for name in ("hq", "shop"):
        token = f"token-of-{name}\n"
        machine.shell(f"archive-mirror token set {name}", text=token)
    machine.shell(
        "systemctl start archive-mirror; systemctl restart prometheus; "
        "systemctl restart prometheus-alertmanager"
    )
    wait("the service is ready", lambda: healthy(machine))
    wait("files are saved", lambda: _saved(trial) > 5, limit_s=180)
    wait("no alert", lambda: not trial.alerts(), limit_s=180)
    trial.began = time.monotonic()
    tell(f"{trial.minutes()}  all is well: {_saved(trial)} exports saved")


def failures(trial: Trial) -> tuple[Failure, list[Failure], Failure, Failure]:
    """Return what is told late, what goes wrong together, and what must be alone."""
    run, machine = trial.machine.shell, trial.machine

    def misconfigure() -> None:
        write(machine, _CONFIG, _CONFIGURATION.replace("[t", "[tt"))
        run("systemctl reload archive-mirror")

    def configure() -> None:
        write(machine, _CONFIG, _CONFIGURATION)
        run("archive-mirror check --json || :; systemctl reload archive-mirror")

    as_service = "runuser -u archive-mirror -- archive-mirror"
    refused = Failure(
        "TokenRefused",
        "hq",
        inflict=lambda: trial.serve(8080, "another"),
        page="token",
        looks={f"{as_service} check": "refuse"},
        mend=lambda: run("archive-mirror token set hq", text="another\n"),
    )
    away = Failure(
        "TargetDown",
        "nas",
        inflict=lambda: run("umount -l /mnt/nas"),
        page="nothing is mounted",
        looks={f"{as_service} check": "mounted", "archive-mirror status": "mounted"},
        mend=lambda: run("mount /mnt/nas"),
    )
    silent = Failure(
        "NoSuccessfulWalk",
        "shop",
        inflict=lambda: trial.dead(8081),
        page="no connection",
        looks={"archive-mirror status": "cannot be read"},
        mend=lambda: trial.serve(8081, "token-of-shop"),
    )
    confused = Failure(
        "ConfigReloadFailed",
        "",
        inflict=misconfigure,
        page=None,
        looks={
            f"{as_service} check": "unknown",
            "journalctl -u archive-mirror -n 200": "config.refused",
        },
        mend=configure,
    )
    dead = Failure(
        "Down",
        "",
        inflict=lambda: run("systemctl stop archive-mirror"),
        page=None,
        looks={"systemctl status archive-mirror || :": "inactive"},
        mend=lambda: run("systemctl restart archive-mirror"),
    )
    return silent, [refused, away], confused, dead


def inflict(trial: Trial, all_of: list[Failure]) -> None:
    """Let these go wrong."""
    for each in all_of:
        each.inflict()
        each.began = time.monotonic()
        tell(f"{trial.minutes()}  {each.name}: inflicted")


def see(trial: Trial, all_of: list[Failure]) -> None:
    """Wait until the page and an alert tell of each, and take pictures of that."""
    waiting = list(all_of)
    while waiting:
        alerts, page = trial.alerts(), trial.get(_PAGE) if waiting[0].page else ""
        for each in list(waiting):
            since_s = time.monotonic() - each.began
            expect(since_s < _ALERT_S, f"{each.name}: only {each.told}\n{page}")
            if each.page and each.page in page:
                each.told.setdefault("page", since_s)
            if each.name in alerts:
                each.told.setdefault("alert", since_s)
            if len(each.told) > (each.page is not None):
                waiting.remove(each)
                told = ", ".join(f"{by} after {s:.0f} s" for by, s in each.told.items())
                said = alerts[each.name]["annotations"]["summary"]
                tell(f"{trial.minutes()}  {each.name}: {told}: {said}")
        time.sleep(2)
    if all_of[0].page:
        trial.picture(all_of[0].alert)


def mend(trial: Trial, all_of: list[Failure]) -> None:
    """Look where the runbook says, do what it says, and see the alert end."""
    for each in all_of:
        for command, words in each.looks.items():
            said = trial.machine.shell(f"{command} 2>&1 || :")
            expect(words in said, f"{each.name}: {command} says\n{said}")
        each.mend()
        took_s = wait(f"{each.name} ends", partial(_over, trial, each), limit_s=900)
        tell(
            f"{trial.minutes()}  {each.name}: mended, the alert ended {took_s:.0f} s on"
        )


def settle(trial: Trial) -> None:
    """Go on until the time is up; nothing is owed, and no alert is left."""
    time.sleep(max(0.0, _LEAST_S - (time.monotonic() - trial.began)))
    wait("no alert is left", lambda: not trial.alerts(), limit_s=600)
    trial.picture("end")
    run = trial.machine.shell
    run("runuser -u archive-mirror -- archive-mirror verify")
    lost = [
        export["id"]
        for name in ("hq", "shop")
        for export in listed(trial.machine, name)
        if export["state"] == "lost"
    ]
    expect(not lost, f"lost: {lost}")
    tell(f"{trial.minutes()}  {_saved(trial)} exports saved and verified, none lost")


def _over(trial: Trial, failure: Failure) -> bool:
    return failure.name not in trial.alerts()


def _saved(trial: Trial) -> int:
    said = trial.machine.shell("archive-mirror list --state saved --json")
    return sum(line.startswith("{") for line in said.splitlines())


if __name__ == "__main__":
    main()
