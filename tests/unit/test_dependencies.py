"""What the code imports comes with an installation of its own, without `[dev]`."""

from __future__ import annotations

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

import mirror

_PACKAGE = Path(mirror.__file__).parent


def test_each_import_is_a_declared_dependency_or_comes_with_one():
    """A library that only a tool of the developers brings is absent when deployed."""
    providers = metadata.packages_distributions()
    installed = _closure("archive-mirror")
    missing = {
        name
        for name in _imported()
        if not {_normal(each) for each in providers[name]} & installed
    }

    assert missing == set()


def _imported() -> set[str]:
    """Return the top-level names of all that is imported, but ours and Python's."""
    names: set[str] = set()
    for path in _PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"mirror"}


def _closure(name: str) -> set[str]:
    """Return what an installation of `name` brings, itself included."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        name = _normal(waiting.pop())
        if name in found:
            continue
        found.add(name)
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another platform
        waiting += [
            re.split(r"[^\w.-]", each, maxsplit=1)[0]
            for each in requirements
            if "extra ==" not in each
        ]
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
