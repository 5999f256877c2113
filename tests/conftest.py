"""Options and the closing table of the proofs; in CI nothing may be skipped.

All of `tests/proof` is marked `proof`, and so is what else takes long: `make test` runs
the other tests, `make proofs` these.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirror.vms import body
from tests.proof.figures import REACHED, Figures, budget_s
from tests.temp_folders import memory

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROOFS = Path(__file__).parent / "proof"
_reached: list[str] = []
# The files of tests are small; most go the way of large ones, some that of small ones.
body.LEAST_TAKEN_BYTES = 16 * 1024

if (_in_memory := memory()) is not None:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_in_memory))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the budget of the proofs' long form, and the seed of their rounds."""
    parser.addoption(
        "--chaos", metavar="BUDGET", help="the proofs' long form, within 90s, 60m, 2h"
    )
    parser.addoption("--seed", type=int, default=1, help="of the proofs' rounds")


def pytest_sessionstart() -> None:
    """Let no width of a terminal, which a worker is told, reach what tests print."""
    os.environ.pop("COLUMNS", None)


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Mark the proofs; let their long form take its time."""
    for item in items:
        if _PROOFS in item.path.parents:
            item.add_marker(pytest.mark.proof)
        if config.getoption("--chaos") is not None:
            item.add_marker(pytest.mark.timeout(0), append=False)


@pytest.fixture
def on_disk() -> Iterator[Path]:
    """Give a folder on the system's disk; `tmp_path` may lie in memory."""
    with tempfile.TemporaryDirectory(prefix="archive-mirror-") as folder:
        yield Path(folder)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Tell a proof how much to try."""
    budget = request.config.getoption("--chaos")
    return Figures(
        test=request.node.name,
        seed=request.config.getoption("--seed"),
        total_s=None if budget is None else budget_s(budget),
        reached=request.node.user_properties,
    )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Gather what the proofs reached, from all processes that run tests."""
    if report.when == "call":
        _reached.extend(str(v) for name, v in report.user_properties if name == REACHED)


def pytest_terminal_summary(terminalreporter) -> None:
    """Print what the proofs reached."""
    if _reached:
        terminalreporter.section("what the proofs reached")
        for line in sorted(_reached):
            terminalreporter.write_line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a CI run that skipped a test."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if skipped and os.environ.get("CI") == "true" and session.exitstatus == 0:
        session.exitstatus = 1


@pytest.fixture
def dead_descriptors_closed(tmp_path: Path) -> Iterator[None]:
    """Close at the end what a process that only plays dead has left open."""
    yield
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(each.readlink()).startswith(str(tmp_path)):
                os.close(int(each.name))
