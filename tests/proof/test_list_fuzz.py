"""Malformed list answers, made up under the guidance of what code they reach."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.proof.figures import Figures

_PROJECT = Path(__file__).parents[2]
_SHARE_S = 0.35


def fuzz(folder: Path, runs: int, *, seed: int, longest_s: int, plant: str = "") -> str:
    """Fuzz in a process of its own; return what it said.

    Raises:
        AssertionError: Some input broke what must hold.
    """
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("needs atheris, which there is for Linux and some Pythons only")
    found = folder / "corpus"
    found.mkdir(exist_ok=True)
    options = [
        f"-runs={runs}",
        f"-seed={seed}",
        f"-max_total_time={longest_s}",
        f"-artifact_prefix={folder}/",
        "-max_len=2048",
        "-timeout=60",
        "-print_final_stats=1",
    ]
    plants = [f"--plant={plant}"] if plant else []
    done = subprocess.run(
        [sys.executable, "-m", "tests.proof.list_fuzz", *plants, *options, str(found)],
        capture_output=True,
        cwd=_PROJECT,
        check=False,
    )
    said = (done.stderr + done.stdout).decode("utf-8", "replace")
    assert done.returncode == 0, said[-3000:]
    return said


@pytest.mark.timeout(900)
def test_list_fuzz(tmp_path, figures: Figures):
    """Nothing but `ListError` comes out, and good rows are met beside bad ones."""
    budget_s = round((figures.total_s or 0) * _SHARE_S)
    said = fuzz(
        tmp_path,
        1_000_000 if figures.long else 20_000,
        seed=figures.seed,
        longest_s=budget_s,
    )
    inputs = re.findall(r"number_of_executed_units: (\d+)", said)
    reached = re.findall(r"cov: (\d+)", said)
    assert inputs
    assert figures.long or int(inputs[0]) >= 20_000
    figures.record(7, inputs=int(inputs[0]), branches=int(reached[-1]), crashes=0)


@pytest.mark.parametrize(
    ("plant", "shown"),
    [
        ("unchecked_numbers", r"Error: (int\(\)|invalid literal for int\(\))"),
        ("strict_pages", "AssertionError: a good row was not met"),
    ],
)
def test_a_planted_bug_is_found(tmp_path, plant, shown):
    """The fuzzer makes up an input that shows it."""
    with pytest.raises(AssertionError, match=shown):
        fuzz(tmp_path, 20_000, seed=1, longest_s=100, plant=plant)
