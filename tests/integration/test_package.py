"""The Debian package and the unit in it, as far as it needs no clean Debian.

It is built, which takes long. `make deb-check` installs and runs it on one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirror import __version__
from mirror.simulator import Vms
from tests.command import on, run_beside
from tests.prometheus import DEPLOY
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.timeout(900)
_TOOLS = ("dpkg-deb", "systemd-analyze")
_EXPOSURE = 15  # tenths
_UNIT = "usr/lib/systemd/system/archive-mirror.service"


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """Build it, and return it unpacked, with what controls it in `DEBIAN/`."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing or not Path("/usr/bin/python3").exists():
        pytest.skip(f"not a Debian with systemd: {', '.join(missing)} missing")
    folder: Path = tmp_path_factory.mktemp("package")
    environment = {**os.environ, "DIST": str(folder)}
    _run([str(DEPLOY / "debian" / "build")], env=environment)
    [built] = folder.glob(f"archive-mirror_{__version__}_*.deb")
    _run(["dpkg-deb", "-R", str(built), str(folder / "root")])
    return folder / "root"


@pytest.mark.proof
def test_it_holds_what_it_should(package):
    """The unit, the example as conffile, the man page, the completion; no secrets."""
    files = {
        str(path.relative_to(package))
        for path in package.rglob("*")
        if path.is_symlink() or path.is_file()
    }
    outside = {name for name in files if not name.startswith("opt/")}

    assert outside >= {
        _UNIT,
        "etc/archive-mirror/archive-mirror.toml.example",
        "usr/bin/archive-mirror",
        "usr/share/bash-completion/completions/archive-mirror",
        "usr/share/doc/archive-mirror/copyright",
        "usr/share/doc/archive-mirror/examples/prometheus/settings.sed",
        "usr/share/fish/vendor_completions.d/archive-mirror.fish",
        "usr/share/zsh/vendor-completions/_archive-mirror",
        "usr/share/doc/archive-mirror/install.md",
        "usr/share/doc/archive-mirror/runbook.md",
        "usr/share/man/man1/archive-mirror.1.gz",
    }
    assert {name.split("/")[0] for name in files} == {"DEBIAN", "etc", "opt", "usr"}
    assert [name for name in files if name.startswith("etc/")] == [
        "etc/archive-mirror/archive-mirror.toml.example"
    ]
    assert (package / "DEBIAN/conffiles").read_text().split() == [
        "/etc/archive-mirror/archive-mirror.toml.example"
    ]
    assert {path.name for path in (package / "opt/archive-mirror/bin").iterdir()} == {
        "archive-mirror",
        "python",
        "python3",
        os.path.realpath("/usr/bin/python3").rsplit("/", 1)[1],
    }


@pytest.mark.proof
def test_its_libraries_are_those_that_were_tested(package):
    """Each at the version of the constraints, and none that only developers need."""
    pins = dict(
        line.lower().replace("_", "-").split("==")
        for line in (DEPLOY / "constraints.txt").read_text().split()
    )
    infos = package.glob("opt/archive-mirror/lib/python3*/site-packages/*.dist-info")
    found = dict(info.name.removesuffix(".dist-info").split("-", 1) for info in infos)
    ours = {name.lower().replace("_", "-"): version for name, version in found.items()}

    assert ours.pop("archive-mirror") == __version__
    assert len(ours) > 15
    assert {name: pins.get(name) for name in ours} == ours
    assert not {"pytest", "mypy", "ruff", "pip", "setuptools"} & set(ours)


@pytest.mark.proof
def test_it_asks_for_the_python_it_was_built_with(package):
    """A virtual environment is of one minor version: no other may take its place."""
    control = (package / "DEBIAN/control").read_text()
    minor = re.search(r"python3 \(>= 3\.(\d+)~\), python3 \(<< 3\.(\d+)~\)", control)
    library = next(package.glob("opt/archive-mirror/lib/python3*"))

    assert minor is not None
    assert library.name == f"python3.{minor[1]}"
    assert int(minor[2]) == int(minor[1]) + 1


@pytest.mark.proof
def test_its_unit_is_valid_and_hardened(package, tmp_path):
    """By systemd's own judgement."""
    unit = (package / _UNIT).read_text()
    program = "/opt/archive-mirror/bin/archive-mirror"
    assert f"ExecStart={program} run\n" in unit
    assert "RestartPreventExitStatus=2 78\n" in unit
    assert not re.search(r"^(Requires|BindsTo|RequiresMountsFor)=", unit, re.MULTILINE)

    there = tmp_path / "archive-mirror.service"
    there.write_text(unit.replace(program, "/bin/true"))
    verified = _run(["systemd-analyze", "verify", "--man=no", str(there)])
    assert verified == ""
    threshold = f"--threshold={_EXPOSURE}"
    analyze = ["systemd-analyze", "security", "--offline=true", threshold]
    _run([*analyze, "--no-pager", str(package / _UNIT)])


@pytest.mark.proof
def test_a_softer_unit_shows(package, tmp_path):
    """The judgement is no formality."""
    softer = tmp_path / "archive-mirror.service"
    text = (package / _UNIT).read_text()
    softer.write_text(text.replace("CapabilityBoundingSet=\n", ""))
    analyze = ["systemd-analyze", "security", "--offline=true"]

    with pytest.raises(AssertionError, match="exposure level"):
        _run([*analyze, f"--threshold={_EXPOSURE}", "--no-pager", str(softer)])


async def test_a_purge_leaves_nothing_but_footage(tmp_path):
    """Nothing of the old ledger meets the new one of a later installation."""
    async with Vms() as vms:
        site = Site.make(tmp_path, vms)
        state = tmp_path / "state"
        state.mkdir(mode=0o700)
        (state / "ledger.sqlite3-wal").write_bytes(b"of a ledger that is gone")
        vms.add()
        await site.once()
        for words in (["rebuild", "--force"], ["verify", "--repair"]):
            assert (await run_beside(*on(site), *words)).code == 0
    killed = state / "rebuilding"
    shutil.copytree(state, killed, ignore=lambda *_: ["lock", "repair.lock"])
    footage = site.media()
    script = (DEPLOY / "debian/control/postrm").read_text()
    for ours, here in {
        "/var/lib/archive-mirror": str(state),
        "/etc/archive-mirror": str(tmp_path / "etc"),
        "deb-systemd-helper": ":",
    }.items():
        assert ours in script
        script = script.replace(ours, here)
    assert len(footage) == 1
    assert list(state.glob("*.replaced-*")) and list(state.glob("*-wal.left-*"))

    _run(["sh", "-euc", script, "postrm", "purge"])

    assert not state.exists()
    assert site.media() == footage


def test_the_container_files_name_what_is_there():
    """Each path that is copied or mounted exists."""
    compose = (DEPLOY / "compose.yaml").read_text()
    mounted = re.findall(r"- (\./[^:]+):", compose)
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", _containerfile(), re.MULTILINE)
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]

    assert len(mounted) >= 5 and len(copied) >= 5
    assert [path for path in mounted if not (DEPLOY / path).exists()] == []
    paths = [path for line in copied for path in line.split()]
    assert [path for path in paths if not (DEPLOY.parent / path).exists()] == []
    assert {"pyproject.toml", project["readme"], *project["license-files"]} <= {*paths}


@pytest.fixture
def compose(tmp_path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Return what starts the service as the compose file does, another in its place."""
    text = (DEPLOY / "compose.yaml").read_text()
    found = re.search(r"command:\n +- \|\n((?: {8}.*\n)+)", text)
    assert found is not None
    script = found[1].replace("$$", "$")
    started: list[subprocess.Popen[str]] = []

    def start(service: str) -> subprocess.Popen[str]:
        program = tmp_path / "archive-mirror"
        program.write_text(f"#!/bin/sh\n{service}\n")
        program.chmod(0o755)
        path = f"{tmp_path}:{os.environ['PATH']}"
        shell = subprocess.Popen(
            ["/bin/sh", "-c", script],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": path},
            start_new_session=True,
        )
        started.append(shell)
        return shell

    yield start
    for shell in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.communicate()


@pytest.mark.parametrize("code", [0, 1, 74, 75])
def test_in_compose_what_a_restart_may_mend_ends(compose, code):
    """So that it is started again; with the code of the service."""
    assert compose(f"exit {code}").wait(30) == code


def test_in_compose_a_wrong_configuration_rests(compose):
    """It is not started again and again, and stops when asked to."""
    shell = compose("echo refused; exit 78")

    assert shell.stdout.readline() == "refused\n"
    with pytest.raises(subprocess.TimeoutExpired):
        shell.wait(1)
    shell.send_signal(signal.SIGTERM)
    assert shell.wait(30) == 78


def test_in_compose_signals_reach_the_service(compose):
    """A reload first, then the end; the service takes its time for both."""
    service = """\
trap 'sleep 0.2; echo reloaded' HUP
trap 'sleep 0.2; echo drained; exit 0' TERM
echo up
while :; do sleep 0.05; done
"""
    shell = compose(service)

    assert shell.stdout.readline() == "up\n"
    shell.send_signal(signal.SIGHUP)
    assert shell.stdout.readline() == "reloaded\n"
    shell.send_signal(signal.SIGTERM)
    assert shell.stdout.readline() == "drained\n"
    assert shell.wait(30) == 0


def _containerfile() -> str:
    return (DEPLOY / "Containerfile").read_text()


def _run(command: list[str], *, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        check=False,
        timeout=850,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
