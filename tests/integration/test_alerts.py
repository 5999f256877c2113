"""Alerts and dashboards: rule tests, and end to end with the real Prometheus.

The end-to-end test runs two services in processes of their own beside simulated VMSes
that fail in every way there is an alert for. Its copy of the rules is 60 times faster;
see `tests/prometheus.py`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from mirror.simulator import Behaviour, Life, Vms
from tests.prometheus import DEPLOY, faster, free_port, need, running, watching
from tests.site import FAST, Site

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.prometheus import Monitors

BRANCHES = 6
_GIB = 2**30
_PATIENCE_S = 120.0
_SOON = {"poll_interval": "500ms", "sweep_interval": "1s"}
_PROMETHEUS = DEPLOY / "prometheus"


@pytest.mark.parametrize("name", sorted(p.name for p in _PROMETHEUS.glob("tests/*")))
def test_rules_fire_when_they_must_and_only_then(name):
    """What is in deploy/prometheus/tests, run by promtool."""
    ran = subprocess.run(
        [need("promtool"), "test", "rules", name],
        cwd=_PROMETHEUS / "tests",
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_alert_has_a_test_that_it_fires():
    """By name, in the files that say when and in the one that says with what words."""
    alerts = set(re.findall(r"alert: (\w+)", _read("alerts.rules.yml")))
    words = _read("tests/texts.yml")
    when = "".join(
        path.read_text()
        for path in _PROMETHEUS.glob("tests/*.yml")
        if path.name != "texts.yml"
    )

    assert len(alerts) > 10
    for alert in alerts:
        assert f"alertname: {alert}\n" in words
        # Where only one alert is looked at, its name is in the question.
        assert re.search(rf'alertname="{alert}"', when), alert


def test_the_faster_copy_differs_in_its_durations_alone():
    """Each `for`, span and offset, and nothing else."""
    text = (
        'expr: increase(x[15m] offset 12h) > 7 * 86400\nfor: 5m\ngroup_wait: 30s # "3m"'
    )

    assert faster(text) == (
        "expr: increase(x[15000ms] offset 720000ms) > 7 * 86400\n"
        'for: 5000ms\ngroup_wait: 500ms # "3m"'
    )


def test_the_examples_are_valid():
    """Prometheus's and Alertmanager's own checks accept them."""
    for program, *words in (
        ("promtool", "check", "config", "--syntax-only", "scrape.yml"),
        ("promtool", "check", "rules", "recording.rules.yml", "alerts.rules.yml"),
        ("amtool", "check-config", "alertmanager.yml"),
    ):
        ran = subprocess.run(
            [need(program), *words], cwd=_PROMETHEUS, capture_output=True, check=False
        )
        assert ran.returncode == 0, (words, ran.stdout, ran.stderr)


@dataclass(slots=True)
class Running:
    """One service in a process of its own."""

    site: Site
    address: str
    process: Process

    async def command(self, *words: str, stdin: str = "") -> int:
        """Run another command of archive-mirror beside it; return its exit code."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mirror", "-c", self.config, *words),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        await process.communicate(stdin.encode())
        return process.returncode or 0

    @property
    def config(self) -> str:
        """The path of its configuration."""
        return str(self.site.folder / "archive-mirror.toml")


def _read(name: str) -> str:
    return (_PROMETHEUS / name).read_text()


def _jwt(ends_in_s: float) -> str:
    """Return a token that says when it ends."""
    claims = json.dumps({"exp": int(time.time() + ends_in_s)}).encode()
    parts = (b'{"alg":"none"}', claims, b"unsigned")
    return ".".join(base64.urlsafe_b64encode(p).decode().rstrip("=") for p in parts)


def _site(folder: Path, sources: dict[str, tuple[Vms, dict[str, str]]]) -> Site:
    folder.mkdir()
    tables: dict[str, Any] = {
        "state_dir": str(folder / "state"),
        "http": {"listen": f"127.0.0.1:{free_port()}"},
        "transfer": {**FAST, "retry_max": "1s"},
        "sources": {},
        "targets": {"nas": {"type": "directory", "path": str(folder / "archive")}},
    }
    for name, (vms, more) in sources.items():
        token = folder / f"{name}.token"
        token.write_text(vms.token)
        tables["sources"][name] = {
            "url": vms.url,
            "token_file": str(token),
            **_SOON,
            **more,
        }
    return Site(folder, tables)


@contextlib.asynccontextmanager
async def _serving(site: Site) -> AsyncIterator[Running]:
    site.settings()
    config = str(site.folder / "archive-mirror.toml")
    argv = (sys.executable, "-m", "mirror", "run", "-c", config)
    async with running(site.folder / "log", *argv) as process:
        yield Running(site, site.tables["http"]["listen"], process)


@dataclass(slots=True)
class World:
    """All VMSes, services and monitors of the end-to-end test.

    Attributes:
        hq: A service with a source for each way to fail, and one that is well.
        shop: Another, which loses an export and dies.
    """

    vms: dict[str, Vms]
    hq: Running
    shop: Running
    monitors: Monitors

    def expected(self) -> set[tuple[str, str]]:
        """Return the alerts that must be there before the shop dies."""
        hq, shop = self.hq.address, self.shop.address
        branches = {
            ("NoSuccessfulWalk", f"{hq}/branch_{number}") for number in range(BRANCHES)
        }
        return branches | {
            ("TokenRefused", f"{hq}/revoked"),
            ("NoSuccessfulWalk", f"{hq}/revoked"),
            ("TokenExpires", f"{hq}/expiring"),
            ("ClockOff", f"{hq}/skewed"),
            ("ExportsAtRisk", f"{hq}/late"),
            ("FetchesStuck", f"{hq}/late"),
            ("TargetDown", f"{hq}/away"),
            ("CopiesStuck", f"{hq}/away"),
            ("DiskLow", f"{hq}/small"),
            ("ConfigReloadFailed", hq),
            ("ExportLost", f"{shop}/lossy"),
        }

    async def alerts(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return what Alertmanager has, the common beginning of names left out."""
        found = await self.monitors.alerts()
        return {
            (name.removeprefix("ArchiveMirror"), about): alert
            for (name, about), alert in found.items()
            # The disk the test runs on is nobody's fault.
            if name not in {"ArchiveMirrorSpoolLow", "ArchiveMirrorHoldupShort"}
            and not (name == "ArchiveMirrorDiskLow" and "/small" not in about)
        }

    async def until(
        self, holds: Callable[[dict[tuple[str, str], dict[str, Any]]], bool]
    ) -> dict[tuple[str, str], dict[str, Any]]:
        """Wait until the alerts are as they must be; return them."""
        found = {}
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not holds(found := await self.alerts()):
                    await asyncio.sleep(0.5)
        except TimeoutError:
            pytest.fail(f"never so; last were {sorted(found)}")
        return found

    async def shown(self, expr: str) -> None:
        """Wait until Prometheus has a sample of an expression."""
        while not await self.monitors.ask(expr):
            await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def _world(folder: Path) -> AsyncIterator[World]:
    lively = Life(
        arrivals_per_min=60, generation_delay=timedelta(), sizes=(20_000, 90_000)
    )
    plans: dict[str, dict[str, Any]] = {
        "well": {"life": lively},
        "revoked": {},
        "expiring": {"token": _jwt(86_400)},
        "skewed": {"behaviour": Behaviour(clock_skew=timedelta(minutes=-10))},
        "late": {},
        "branch": {},
        "lossy": {},
    }
    async with contextlib.AsyncExitStack() as stack:
        vms = {
            name: await stack.enter_async_context(Vms(seed=number, **plan))
            for number, (name, plan) in enumerate(plans.items())
        }
        hq = _site(folder / "hq", _sources_of_hq(vms))
        _add_targets(hq)
        shop = _site(
            folder / "shop", {"lossy": (vms["lossy"], {"file_lifetime": "1s"})}
        )
        listening = [site.tables["http"]["listen"] for site in (hq, shop)]
        monitors = await stack.enter_async_context(watching(folder, listening))
        yield World(
            vms,
            await stack.enter_async_context(_serving(hq)),
            await stack.enter_async_context(_serving(shop)),
            monitors,
        )


def _sources_of_hq(vms: dict[str, Vms]) -> dict[str, tuple[Vms, dict[str, str]]]:
    sources: dict[str, tuple[Vms, dict[str, str]]] = {
        name: (vms[name], {}) for name in ("well", "revoked", "expiring", "skewed")
    }
    sources |= {f"branch_{number}": (vms["branch"], {}) for number in range(BRANCHES)}
    # Whatever is less than half an hour from its deadline is at risk.
    sources["late"] = (vms["late"], {"file_lifetime": "20m"})
    return sources


def _add_targets(site: Site) -> None:
    """Add a target that is not mounted, and one with hardly any space left."""
    (site.folder / "away").mkdir()
    free = shutil.disk_usage(site.folder).free
    for name, more in (
        ("away", {"mount": True}),
        ("small", {"min_free": max(0, free - 5 * _GIB)}),
    ):
        site.tables["targets"][name] = {
            "type": "directory",
            "path": str(site.folder / name),
            "required": False,
            **more,
        }


async def _read_often(vms: Vms) -> None:
    """Wait until a poll and a sweep of each source behind it must have ended."""
    await vms.until(lambda: len(vms.requests) >= 4 * BRANCHES)


async def _let_fail(world: World) -> None:
    """Have everything go wrong, once all sources were read and swept well."""
    vms = world.vms
    async with asyncio.timeout(_PATIENCE_S):
        for each in vms.values():
            await _read_often(each)
    vms["revoked"].token = "another"
    vms["branch"].script_list(then="status_500")
    vms["late"].script_files(then="status_500")
    vms["late"].add()
    # So that something is under way all the time.
    vms["well"].add(then="drip")
    gone = vms["lossy"].add(then="status_404")
    config = world.hq.site.folder / "archive-mirror.toml"
    config.write_text(config.read_text() + "\n[nonsense]\n")
    world.hq.process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(_PATIENCE_S):
        await vms["lossy"].until(lambda: bool(vms["lossy"].file_requests(gone)))
        vms["lossy"].delete_file(gone)
        await world.shown("archive_mirror_config_last_reload_successful == 0")
    # The commands are to read it again; the service is not told.
    world.hq.site.settings()


@pytest.mark.proof
@pytest.mark.timeout(480)
async def test_the_right_alerts_are_raised_and_one_message_tells_of_each_cause(
    tmp_path,
):
    """Each failure has its alert, what follows from it is silent, commands help."""
    async with _world(tmp_path) as world:
        await _let_fail(world)
        expected = world.expected()
        found = await world.until(lambda alerts: expected <= set(alerts))

        assert set(found) == expected
        await _judge_rules(world.monitors)
        await _judge_causes(world)
        await _judge_commands(world, found)
        await _judge_dashboards(world)
        await _judge_death(world)


async def _judge_rules(monitors: Monitors) -> None:
    """No rule fails, each recorded series is there, each alert says what to do."""
    for rule in await monitors.rules():
        assert rule["health"] == "ok", rule
        if rule["type"] == "recording":
            assert await monitors.ask(rule["name"]), rule["name"]
            continue
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert set(rule["annotations"]) == {
            *("summary", "description", "command", "runbook_url")
        }
        url = rule["annotations"]["runbook_url"]
        assert url.startswith("file:///")
        assert url.endswith(f"/runbook.md#{rule['name'].lower()}")


async def _judge_causes(world: World) -> None:
    """Consequences are inhibited; six branches of one VMS are one page."""
    hq = world.hq.address
    silent = {
        ("NoSuccessfulWalk", f"{hq}/revoked"),
        ("CopiesStuck", f"{hq}/away"),
    }
    found = await world.until(
        lambda alerts: silent == {k for k, a in alerts.items() if _suppressed(a)}
    )
    assert not [a for a in found.values() if "<error" in str(a["annotations"])]

    def told() -> dict[str, dict[str, set[str]]]:
        pages: dict[str, dict[str, set[str]]] = defaultdict(dict)
        for receiver, message in world.monitors.messages:
            sources = {a["labels"].get("source", "") for a in message["alerts"]}
            known = pages[receiver].setdefault(message["groupKey"], set())
            known |= sources
        return pages

    branches = {f"branch_{number}" for number in range(BRANCHES)}
    causes = {name for (name, _), alert in found.items() if _is_page(alert)}
    await world.until(
        lambda _: (
            branches in told()["critical"].values()
            and len(told()["critical"]) >= len(causes)
        )
    )
    assert len(told()["critical"]) == len(causes)


def _suppressed(alert: dict[str, Any]) -> bool:
    return bool(alert["status"]["state"] == "suppressed")


def _is_page(alert: dict[str, Any]) -> bool:
    return bool(alert["labels"]["severity"] == "critical")


async def _judge_commands(
    world: World, found: dict[tuple[str, str], dict[str, Any]]
) -> None:
    """Each first command runs as it is written; the right token ends its alert."""
    for (_, about), alert in found.items():
        program, *words = alert["annotations"]["command"].split()
        service = world.shop if world.shop.address in about else world.hq
        if program != "archive-mirror" or words[:2] == ["token", "set"]:
            continue
        assert await service.command(*words) in {0, 1}, words
    revoked = ("TokenRefused", f"{world.hq.address}/revoked")
    program, *words = found[revoked]["annotations"]["command"].split()
    assert await world.hq.command(*words, stdin="another\n") == 0
    await world.until(
        lambda alerts: not [k for k in alerts if k[1] == revoked[1]],
    )


async def _judge_dashboards(world: World) -> None:
    """Every query of both dashboards gives a number, once something was verified."""
    assert await world.hq.command("verify", "--target", "nas") == 0
    verified = "archive_mirror_target_last_verified_timestamp_seconds"
    async with asyncio.timeout(_PATIENCE_S):
        await world.shown(verified)
    sites = (world.hq.site.tables, world.shop.site.tables)
    chosen = {
        "$__rate_interval": "60s",
        "$__range": "10m",
        "$instance": f"{world.hq.address}|{world.shop.address}",
        "$source": "|".join(name for site in sites for name in site["sources"]),
        "$target": "|".join(name for site in sites for name in site["targets"]),
    }
    empty = []
    for path in sorted(DEPLOY.glob("grafana/dashboards/*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for query in panel.get("targets", ()):
                expr = _filled_in(query["expr"], chosen)
                now = time.time()
                span = {"start": str(now - 60), "end": str(now), "step": "5"}
                found = await world.monitors.ask(
                    expr, **({} if query["instant"] else span)
                )
                if not any(map(_has_number, found)):
                    empty.append((path.name, panel["title"], expr))

    assert not empty


def _filled_in(expr: str, chosen: dict[str, str]) -> str:
    """Return a query as Grafana would send it."""
    for name, value in chosen.items():
        expr = expr.replace(name, value)
    assert "$" not in expr
    return expr


def _has_number(series: dict[str, Any]) -> bool:
    values = series["values"] if "values" in series else [series["value"]]
    return any(not math.isnan(float(value)) for _, value in values)


async def _judge_death(world: World) -> None:
    """A dead service is one page; what it last said is silent."""
    shop = world.shop.address
    world.shop.process.kill()

    def told(alerts: dict[tuple[str, str], dict[str, Any]]) -> bool:
        return {
            name: _suppressed(alert)
            for (name, about), alert in alerts.items()
            if shop in about
        } == {"Down": False, "ExportLost": True}

    await world.until(told)
