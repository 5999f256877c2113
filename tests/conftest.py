"""Options and the closing table of the proofs; in CI nothing may be skipped."""

from __future__ import annotations

import os

import pytest

from tests.proof.effort import REACHED, Effort, budget_s

_reached: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the budget of the proofs' long form, and the seed of their rounds."""
    parser.addoption(
        "--chaos", metavar="BUDGET", help="the proofs' long form, within 90s, 60m, 2h"
    )
    parser.addoption("--seed", type=int, default=1, help="of the proofs' rounds")


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Let the long form take its time."""
    if config.getoption("--chaos") is not None:
        for item in items:
            item.add_marker(pytest.mark.timeout(0), append=False)


@pytest.fixture
def effort(request: pytest.FixtureRequest) -> Effort:
    """Tell a proof how much to try."""
    budget = request.config.getoption("--chaos")
    return Effort(
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
