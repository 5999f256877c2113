"""Keys set by `ARCHIVE_MIRROR__...` variables, laid over those of the files.

pydantic-settings is not used: it stops at the first value it cannot decode, ignores
variables that name no key, and reads only the process's own environment.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "ARCHIVE_MIRROR__"
KeyPath = tuple[str | int, ...]
"""Where a key is: names of tables and keys, numbers of list items."""
_NAMED: Final = ("sources", "targets")


def overlay(
    tree: dict[str, Any], environ: Mapping[str, str]
) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """Return `tree` with the variables laid over it, and the variable of each key.

    A value that is a list or a table is written as JSON. Deeper variables win over
    shallower ones.
    """
    variables: dict[KeyPath, str] = {}
    for variable in environ:
        if variable.startswith(PREFIX):
            variables[_path(variable.removeprefix(PREFIX).lower(), tree)] = variable
    merged = tree
    for path, variable in sorted(variables.items(), key=lambda item: len(item[0])):
        merged = _put(merged, path, _value(environ[variable]))
    return merged, variables


def variable_for(path: KeyPath) -> str:
    """Return the variable that sets the key at `path`."""
    return PREFIX + "__".join(str(part) for part in path).upper()


def _path(text: str, tree: dict[str, Any]) -> KeyPath:
    head, _, rest = text.partition("__")
    table = tree.get(head) if head in _NAMED else None
    # A name may itself hold two underscores; the files show which names do.
    names = table if isinstance(table, dict) else {}
    for name in sorted(names, key=len, reverse=True):
        if rest.startswith(f"{name}__"):
            return (head, name, *rest.removeprefix(f"{name}__").split("__"))
    return tuple(text.split("__"))


def _value(text: str) -> object:
    if not text.lstrip().startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # Layouts begin with a brace, and "[::1]:9533" with a bracket.
        return text


def _put(tree: dict[str, Any], path: KeyPath, value: object) -> dict[str, Any]:
    head, *rest = path
    if rest:
        below = tree.get(str(head))
        value = _put(below if isinstance(below, dict) else {}, tuple(rest), value)
    return {**tree, str(head): value}
