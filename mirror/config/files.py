"""The configuration file and `conf.d` beside it, read and merged."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any

from mirror.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def read_files(path: Path) -> dict[str, Any]:
    """Return the keys of `path` and of `conf.d/*.toml` beside it.

    Later files win, in the order of their names; tables are merged, lists replaced.

    Raises:
        ConfigError: A file is missing, unreadable or no TOML; lists every such file.
    """
    merged: dict[str, Any] = {}
    problems: list[str] = []
    for file in config_files(path):
        try:
            merged = merge(merged, read_file(file))
        except ConfigError as exc:
            problems += exc.problems
    if problems:
        raise ConfigError(problems)
    return merged


def config_files(path: Path) -> list[Path]:
    """Return `path` and the files that are merged over it, in that order."""
    parts = [part for part in path.parent.glob("conf.d/*.toml") if part.name[0] != "."]
    return [path, *sorted(parts)]


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return both, tables merged into each other, `over` winning elsewhere."""
    merged = dict(under)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def read_file(file: Path) -> dict[str, Any]:
    """Return the keys of one file.

    Raises:
        ConfigError: It is missing, unreadable or no TOML.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as exc:
        remedy = "write one, or name another with --config or $ARCHIVE_MIRROR_CONFIG"
        raise ConfigError([f"{file}: there is no such file; {remedy}"]) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError([f"{file}: must be UTF-8 text"]) from exc
    except OSError as exc:
        remedy = "; run this as root" * isinstance(exc, PermissionError)
        problem = f"{file}: cannot be read: {exc.strerror}{remedy}"
        raise ConfigError([problem]) from exc
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError([_syntax(file, text, str(exc))]) from exc


def _syntax(file: Path, text: str, message: str) -> str:
    place = re.search(r" \(at line (\d+), column (\d+)\)$", message)
    if place is None:
        message = message.removesuffix(" (at end of document)")
        return f"{file}:{len(text.splitlines()) or 1}: {message} at the end of the file"
    message = message[: place.start()]
    hint = "; a text stands in quotes" * (message == "Invalid value")
    return f"{file}:{place[1]}: {message} in column {place[2]}{hint}"
