"""The commented example that operators start from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from mirror.config import (
    HttpSettings,
    MatchSettings,
    RuleSettings,
    Settings,
    SourceSettings,
    TargetSettings,
    TlsSettings,
    TransferSettings,
    load,
)

EXAMPLE = Path(__file__).parents[2] / "config" / "archive-mirror.toml"
LINES = EXAMPLE.read_text().splitlines()
SETTING = re.compile(r'#(\[|[a-z0-9_]+ = |")')


def blocks() -> list[tuple[int, int]]:
    """Return where each run of commented settings starts and ends."""
    runs: list[tuple[int, int]] = []
    for at, line in enumerate(LINES):
        if SETTING.match(line):
            joined = runs and runs[-1][1] == at
            runs[-1:] = (
                [(runs[-1][0], at + 1)] if joined else [*runs[-1:], (at, at + 1)]
            )
    return runs


def is_example(start: int) -> bool:
    """Tell whether the text above a block calls it an example."""
    return "Example" in LINES[start - 1] or "Example" in LINES[start - 2]


def load_lines(tmp_path: Path, lines: list[str]) -> Settings:
    path = tmp_path / "archive-mirror.toml"
    path.write_text("\n".join(lines))
    return load(path, {})


def uncommented(start: int, end: int) -> list[str]:
    return [line[1:] if start <= at < end else line for at, line in enumerate(LINES)]


def test_it_loads() -> None:
    """The example is a configuration as it stands."""
    settings = load(EXAMPLE, {})

    assert list(settings.sources) == ["hq"]
    assert list(settings.targets) == ["nas"]


@pytest.mark.parametrize(
    ("start", "end"), blocks(), ids=[LINES[start] for start, _ in blocks()]
)
def test_each_commented_setting(tmp_path: Path, start: int, end: int) -> None:
    """A commented key can be used as it stands, and shows its default."""
    as_it_stands = load_lines(tmp_path, LINES)

    settings = load_lines(tmp_path, uncommented(start, end))

    assert (settings == as_it_stands) is not is_example(start)


@pytest.mark.parametrize(
    ("table", "internal"),
    [
        (Settings, set()),
        (SourceSettings, {"name", "credentials_folder"}),
        (TargetSettings, {"name"}),
        (TlsSettings, set()),
        (RuleSettings, set()),
        (MatchSettings, set()),
        (HttpSettings, set()),
        (TransferSettings, set()),
    ],
)
def test_every_key_is_explained(table: type[Settings], internal: set[str]) -> None:
    text = "\n".join(LINES)

    missing = [
        key
        for key in table.model_fields.keys() - internal
        if not re.search(rf"\b{key}\b", text)
    ]

    assert missing == []


def test_the_example_names_no_unknown_section() -> None:
    assert set(tomllib.loads("\n".join(LINES))) == {
        "sources",
        "targets",
        "cameras",
        "http",
        "transfer",
    }
