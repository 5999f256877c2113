"""Documents that come from the code are as the code is."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from mirror import __version__
from mirror.cli.main import app
from tests import docs
from tests.prometheus import DEPLOY


@pytest.mark.parametrize("name", docs.pages())
def test_a_page_is_what_the_code_says(name):
    """A stale one is mended by `python -m tests.docs`."""
    made = docs.pages()[name]()

    assert (docs.FOLDER / name).read_text("utf-8") == made


def test_each_metric_that_can_be_empty_says_when():
    """And none says so that cannot."""
    assert set(docs.WITHOUT_SAMPLE) == docs.can_be_empty()


def test_rules_and_dashboards_ask_for_metrics_that_are_there():
    """Every name in them is on the page; a histogram by its buckets."""
    known = set(re.findall(r"^\| `(archive_mirror_\w+)`", docs.metrics(), re.MULTILINE))
    rules = [*DEPLOY.glob("prometheus/*.rules.yml")]
    boards = [*DEPLOY.glob("grafana/dashboards/*.json")]
    text = "".join(path.read_text() for path in (*rules, *boards))
    recorded = set(re.findall(r"record: (\S+)", text))
    asked = set(re.findall(r"(?<![\w:])archive_mirror_\w+(?!:)\b", text))

    assert len(recorded) > 5
    assert {name.removesuffix("_bucket") for name in asked} == known
    assert set(re.findall(r"\w+:archive_mirror_\w+:\w+", text)) == recorded


def test_the_changelog_tells_of_this_version():
    """The newest heading with a number is what `--version` shows."""
    text = (docs.FOLDER.parent / "CHANGELOG.md").read_text("utf-8")
    headings = re.findall(r"^## (\d\S+) - (\d{4}-\d\d-\d\d)$", text, re.MULTILINE)
    shown = CliRunner().invoke(app, ["--version"]).output.split()

    assert headings[0][0] == __version__
    assert shown == ["archive-mirror", __version__]
