"""The man page and the completion know what the parser knows."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.operator_texts import ROOT
from tests.prometheus import DEPLOY
from tests.shown_commands import commands, understood

if TYPE_CHECKING:
    from pathlib import Path
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


def test_each_example_can_be_typed(manual):
    """As it stands on the page."""
    page = manual.man().replace("\\-", "-").replace("\\(dq", '"')
    shown = page.split(".SH EXAMPLES")[1].split(".SH ")[0]
    examples = [*commands(f"```\n{shown}\n```")]

    assert len(examples) > 10
    for words in examples:
        understood(words)


TYPED = [
    ("", {"run", "status", "token"}),
    ("sta", {"status"}),
    ("--log-level debug sta", {"status"}),
    ("-c status sta", {"status"}),
    ("config ", {"show"}),
    ("config show --js", {"--json"}),
    ("check -c x.toml --ad", {"--adopt"}),
    ("list --state par", {"parked"}),
    ("list --state parked --sta", {"--state"}),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """Return a folder with a command `archive-mirror` that runs this program."""
    folder: Path = tmp_path_factory.mktemp("bin")
    name = folder / "archive-mirror"
    name.write_text(
        f"#!{sys.executable}\n"
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "runpy.run_module('mirror', run_name='__main__', alter_sys=False)\n"
    )
    name.chmod(0o755)
    return folder


def ask(program: Path, line: str, **more: str) -> str:
    """Return what a shell is given that asks how a line goes on."""
    done = subprocess.run(
        line,
        shell=True,
        executable=shutil.which("bash"),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": f"{program}:{os.environ['PATH']}", **more},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(("typed", "offered"), TYPED)
def test_bash_completes(manual, program, typed, offered):
    """Commands, options and words an option takes, as far as they were typed."""
    words = f"archive-mirror {typed}".split(" ")
    script = (
        f"{manual.completion('bash')}\nCOMP_WORDS=({' '.join(map(repr, words))})\n"
        f"COMP_CWORD={len(words) - 1}\n_archive_mirror_completion archive-mirror\n"
        "printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    found = set(ask(program, script).split())
    line_is_open = not typed or typed.endswith(" ")

    assert found >= offered if line_is_open else found == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_answered(manual, program, shell):
    """By the variables that their scripts set."""
    script = manual.completion(shell)
    asked = {
        "_TYPER_COMPLETE_ARGS": "archive-mirror list --state par",
        "_ARCHIVE_MIRROR_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }

    assert "parked" in ask(program, "archive-mirror", **asked)
    for name in [*asked][: 2 if shell == "zsh" else 3]:
        assert f"{name}=" in script
    assert script.startswith(
        "#compdef archive-mirror" if shell == "zsh" else "complete"
    )
