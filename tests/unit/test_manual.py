"""The man page and the completion know what the parser knows."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.prometheus import DEPLOY

if TYPE_CHECKING:
    from types import ModuleType


@pytest.fixture(scope="module")
def manual() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "manual", DEPLOY / "debian" / "manual.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_man_page_has_each_command_and_option(manual):
    """Each under its command's heading, and with its help."""
    parts = manual.man().replace("\\-", "-").split(".SS ")
    pages = {part.split('"')[1]: part for part in parts[1:]}
    leaves = [
        (" ".join(words), each)
        for words, each in manual.commands(manual.command())
        if not hasattr(each, "commands")
    ]

    assert len(leaves) > 10
    for name, each in leaves:
        heading = next(
            head for head in pages if head == name or head.startswith(f"{name} ")
        )
        for parameter in each.params:
            told = parameter.opts[0] if parameter.opts[0][0] == "-" else name
            assert told in pages[heading]
    assert "--config" in parts[0] and "--log-level" in parts[0]
    assert "\\fR" in parts[0] and "\n.B 78\n" in parts[-1]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("", {"run", "status", "token", "--config"}),
        ("sta", {"status"}),
        ("--log-level debug sta", {"status"}),
        ("-c status sta", {"status"}),
        ("config ", {"show", "--help"}),
        ("config show --js", {"--json"}),
        ("check -c x.toml --ad", {"--adopt"}),
        ("list --state par", {"parked"}),
        ("list --state parked --sta", {"--state"}),
        ("show --adopt", set()),
    ],
)
def test_bash_completes(manual, typed, offered):
    """Commands, options and words an option takes, as far as they were typed."""
    bash = shutil.which("bash")
    assert bash is not None
    words = f"archive-mirror {typed}".split(" ")
    script = (
        f"{manual.bash()}\nCOMP_WORDS=({' '.join(repr(word) for word in words)})\n"
        f"COMP_CWORD={len(words) - 1}\n_archive_mirror\n"
        "printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(
        [bash, "-euc", script], capture_output=True, text=True, check=False
    )
    found = set(done.stdout.split())
    line_is_open = not typed or typed.endswith(" ")

    assert (done.returncode, done.stderr) == (0, "")
    assert found >= offered if line_is_open else found == offered


def test_bash_offers_files_where_one_is_named(manual, tmp_path):
    """For options and arguments that are paths."""
    bash = shutil.which("bash")
    assert bash is not None
    (tmp_path / "here.toml").touch()
    for line in ("backup", "run --config"):
        words = f"archive-mirror {line} he".split(" ")
        script = (
            f"compopt() {{ :; }}\n{manual.bash()}\nCOMP_WORDS=({' '.join(words)})\n"
            f"COMP_CWORD={len(words) - 1}\n_archive_mirror\n"
            "printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        done = subprocess.run(
            [bash, "-euc", script],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )

        assert done.stdout.split() == ["here.toml"], done.stderr
