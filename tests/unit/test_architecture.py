"""The page about the architecture names what is there."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest

from tests.operator_texts import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = (ROOT / "docs" / "architecture.md").read_text("utf-8")
SPANS = set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)))
LINKS = set(re.findall(r"\]\(([^)#]+)", TEXT))
TOP = r"(mirror|tests|docs|deploy|config)/"
PATHS = sorted({span.partition("::")[0] for span in SPANS if re.match(TOP, span)})
NAMES = sorted(span for span in SPANS if "::" in span)


def defined(path: str) -> Iterator[str]:
    """Yield the classes and functions of a module, and the methods of its classes."""
    for node in ast.parse((ROOT / path).read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
            for part in node.body:
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{node.name}.{part.name}"


@pytest.mark.parametrize("path", PATHS)
def test_each_path_is_there(path):
    """A path that the page names is a file or folder of the project."""
    assert (ROOT / path).exists()


@pytest.mark.parametrize("name", NAMES)
def test_each_class_and_function_is_there(name):
    """A `path::name` of the page is defined in that file."""
    path, _, of = name.partition("::")

    assert of in set(defined(path))


def test_each_link_is_there():
    """A link of the page leads to a file."""
    assert LINKS
    assert [link for link in LINKS if not (ROOT / "docs" / link).exists()] == []


def test_the_layers_are_those_that_are_checked():
    """The picture shows the layers that the linter checks, in its order."""
    layers = re.search(
        r"^layers = \[\n(.*?)\]",
        (ROOT / "pyproject.toml").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    drawn = re.search(r"```text\n(.*?)```", TEXT, re.DOTALL)

    assert layers
    assert drawn
    for wanted, line in zip(
        re.findall(r'"(.+?)"', layers[1]), drawn[1].splitlines(), strict=True
    ):
        assert line.startswith(wanted)


def test_the_tables_are_those_of_the_ledger():
    """The page names each table that the migrations make."""
    scripts = (ROOT / "mirror" / "ledger" / "migrations").glob("*.sql")
    text = "".join(script.read_text("utf-8") for script in scripts)

    renamed = dict(re.findall(r"ALTER TABLE (\w+) RENAME TO (\w+)", text))
    for table in re.findall(r"CREATE TABLE (\w+)", text):
        assert renamed.get(table, table) in SPANS
