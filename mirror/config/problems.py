"""The problems of a configuration, in the operator's words.

No value is ever shown: it may be a secret in the wrong place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from mirror.config.environment import KeyPath, variable_for
from mirror.config.settings import HttpSettings, Settings, TransferSettings
from mirror.config.sources import (
    MatchSettings,
    RuleSettings,
    SourceSettings,
    TlsSettings,
)
from mirror.config.targets import TargetSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

INTERNAL: Final = ("name", "credentials_folder")
"""Fields of sources and targets that are no keys."""
_NAMED: Final = 2
"""Length of the path of a source or a target, or of the defaults of one."""
_LATER: Final = {
    ("transfer", "bandwidth"),
    ("transfer", "timetable"),
    ("targets", "*", "bandwidth"),
}
_SECRETS: Final = re.compile("token|password|passwd|secret|api_?key|credential|bearer")
_TABLES: Final[dict[KeyPath, frozenset[str]]] = {
    (): frozenset({"defaults", *Settings.model_fields}),
    ("defaults",): frozenset({"source", "target"}),
    ("sources", "*"): frozenset(SourceSettings.model_fields) - set(INTERNAL),
    ("sources", "*", "tls"): frozenset(TlsSettings.model_fields),
    ("sources", "*", "rules", "*"): frozenset(RuleSettings.model_fields),
    ("sources", "*", "rules", "*", "match"): frozenset(MatchSettings.model_fields),
    ("targets", "*"): frozenset(TargetSettings.model_fields) - {"name"},
    ("http",): frozenset(HttpSettings.model_fields),
    ("transfer",): frozenset(TransferSettings.model_fields),
}
_EXAMPLES: Final = {
    "url": 'url = "https://vms.example"',
    "type": 'type = "directory"',
    "path": 'path = "/srv/footage"',
    "action": 'action = "exclude"',
    "match": "match = { camera = 17 }",
    "name": 'name = "lobby"',
}
_WORDS: Final = {
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "int_from_float": "must be a whole number",
    "string_type": "must be text in quotes",
    "tuple_type": "must be a list, such as [...]; in the environment as JSON",
    "greater_than": "must be more than zero",
    "too_short": "must not be an empty list",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyProblem:
    """A key or table, with what is wrong there and what would be right."""

    path: KeyPath
    text: str
    kind: str = ""


def problems_of(
    error: ValidationError, variables: Mapping[KeyPath, str], under: KeyPath = ()
) -> list[KeyProblem]:
    """Return the problems pydantic reports, less those that follow from others.

    The error's paths start at `under`, where the validated table lies.
    """
    problems = [_problem_of(details, variables, under) for details in error.errors()]
    # Keys of another type of target are unknown only because of the type.
    refused = {
        problem.path[:-1]
        for problem in problems
        if problem.kind == "value_error" and _is_type(problem.path)
    }
    return [
        problem
        for problem in problems
        if _is_type(problem.path) or problem.path[:_NAMED] not in refused
    ]


def render(problems: list[KeyProblem], variables: Mapping[KeyPath, str]) -> list[str]:
    """Return one line per problem, each once; keys are named as the operator did."""
    lines = (f"{label(each.path, variables)}: {each.text}" for each in problems)
    return list(dict.fromkeys(lines))


def label(path: KeyPath, variables: Mapping[KeyPath, str]) -> str:
    """Return the variable that set `path`, else the path as TOML writes it."""
    for length in range(len(path), 0, -1):
        variable = variables.get(path[:length])
        if variable is not None:
            return variable + _dotted(path[length:])
    return _dotted(path).removeprefix(".")


def unknown_key(path: KeyPath, variables: Mapping[KeyPath, str]) -> str:
    """Return why there is no key at `path`, and which was likely meant."""
    table, key = path[:-1], str(path[-1])
    if _general(path) in _LATER:
        return "is not available in this version; remove it"
    if _SECRETS.search(key) and _general(table) == ("sources", "*"):
        return "unknown key; secrets are only named by file: use token_file"
    in_environment = path in variables
    keys = sorted(_TABLES.get(_general(table), ()))
    near = get_close_matches(key, keys, n=1)
    if near:
        meant = variable_for((*table, near[0])) if in_environment else near[0]
        return f"unknown key; did you mean {meant}?"
    for place, others in _TABLES.items():
        if key in others and place and key != "name":
            named = tuple("NAME" if part == "*" else part for part in place)
            return f"unknown key here; it belongs to [{label(named, {})}]"
    return f"unknown key; known here: {', '.join(keys)}" if keys else "unknown key"


def _problem_of(
    details: ErrorDetails, variables: Mapping[KeyPath, str], under: KeyPath
) -> KeyProblem:
    loc = tuple(part for part in details["loc"] if part != "[key]")
    if "rewrite_origins" in loc:
        # Its keys are addresses, and those may hold a password.
        loc = loc[: loc.index("rewrite_origins") + 1]
    path = (*under, *loc)
    text = _text(details, path, variables)
    return KeyProblem(path=path, text=text, kind=details["type"])


def _text(
    details: ErrorDetails, path: KeyPath, variables: Mapping[KeyPath, str]
) -> str:
    kind, key = details["type"], str(path[-1])
    context: dict[str, Any] = details.get("ctx", {})
    match kind:
        case "value_error":
            return str(context["error"])
        case "extra_forbidden":
            return unknown_key(path, variables)
        case "missing":
            return f"is missing; write {_EXAMPLES.get(key, key)}"
        case "string_pattern_mismatch":
            return "must be named with a-z, 0-9 and _ only"
        case "literal_error":
            return f"must be {context['expected']}".replace("'", '"')
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case "model_type" | "dict_type":
            return f"must be a table, [{label(path, {})}]"
    if kind == "int_parsing" and path[0] == "cameras":
        return "must be named by the camera's number"
    return _WORDS.get(kind, details["msg"])


def _is_type(path: KeyPath) -> bool:
    return _general(path) == ("targets", "*", "type")


def _general(path: KeyPath) -> KeyPath:
    """Return `path` with the operator's names and the numbers as `*`."""
    if path[:1] == ("defaults",) and len(path) > 1:
        path = (f"{path[1]}s", "*", *path[2:])
    named = path[:1] in {("sources",), ("targets",)}
    return tuple(
        "*" if isinstance(part, int) or (named and at == 1) else part
        for at, part in enumerate(path)
    )


def _dotted(path: KeyPath) -> str:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch("[A-Za-z0-9_-]+", part):
            text += f".{part}"
        else:
            text += '."..."' if "://" in part else f'."{part}"'
    return text
