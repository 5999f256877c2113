"""The effective configuration: each key, its value, and where that was set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from mirror.config.environment import overlay
from mirror.config.files import config_files, read_file, read_files
from mirror.config.loader import load
from mirror.config.problems import INTERNAL
from mirror.config.settings import Listen
from mirror.config.values import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_MODES: Final = {"file_mode", "dir_mode"}
_DEEPEST: Final = 2
"""Tables below that of a source or target are written on one line."""
_UNITS: Final = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One key of the effective configuration.

    Attributes:
        path: Names of its tables, and its own.
        value: As TOML; None where it is not set and has no default.
        origin: `default`, a file, or a variable of the environment.
    """

    path: tuple[str, ...]
    value: str | None
    origin: str


def explain(path: Path, environ: Mapping[str, str]) -> list[Setting]:
    """Return every key, in the order of the settings; see `load`."""
    settings = load(path, environ)
    origins: dict[tuple[str, ...], str] = {}
    for file in config_files(path.absolute()):
        for key in _keys(read_file(file)):
            origins[key] = str(file)
    _, variables = overlay(read_files(path.absolute()), environ)
    for key_path, variable in variables.items():
        origins[tuple(map(str, key_path))] = f"${variable}"
    return [
        Setting(path=key, value=value, origin=_origin(key, origins))
        for key, value in _leaves((), settings)
    ]


def _keys(
    tree: dict[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    for name, value in tree.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from _keys(value, (*above, name))


def _origin(key: tuple[str, ...], origins: dict[tuple[str, ...], str]) -> str:
    """Return where a key was set: itself, a table that holds it, or a default."""
    part, _, *rest = (*key, "")
    if part in {"sources", "targets"}:
        shared = ("defaults", part.removesuffix("s"), *rest[:-1])
        own = _nearest(key, origins, least=3)
        return own or _nearest(shared, origins, least=3) or "default"
    return _nearest(key, origins, least=min(2, len(key))) or "default"


def _nearest(
    key: tuple[str, ...], origins: dict[tuple[str, ...], str], *, least: int
) -> str | None:
    for length in range(len(key), least - 1, -1):
        if key[:length] in origins:
            return origins[key[:length]]
    return None


def _leaves(
    above: tuple[str, ...], value: object
) -> Iterator[tuple[tuple[str, ...], str | None]]:
    if isinstance(value, Table) and len(above) <= _DEEPEST:
        for name in type(value).model_fields:
            if name not in INTERNAL:
                yield from _leaves((*above, name), getattr(value, name))
    elif isinstance(value, dict) and len(above) == 1 and value:
        for name, below in value.items():
            yield from _leaves((*above, str(name)), below)
    else:
        yield above, _toml(value, above[-1])


def _toml(value: object, name: str) -> str | None:
    match value:
        case None:
            return None
        case Table():
            return _toml({n: getattr(value, n) for n in value.model_fields_set}, name)
        case dict():
            inner = sorted(
                f"{json.dumps(str(k))} = {_toml(v, k)}" for k, v in value.items()
            )
            return f"{{ {', '.join(inner)} }}" if inner else "{}"
        case list() | tuple() if not isinstance(value, Listen):
            return f"[{', '.join(str(_toml(each, name)) for each in value)}]"
        case bool():
            return str(value).lower()
        case int() if name not in _MODES:
            return str(value)
        case _:
            return json.dumps(_text(value), ensure_ascii=False)


def _text(value: object) -> str:
    """Return the text of a value that TOML writes in quotes."""
    match value:
        case int():
            return f"{value:04o}"
        case float():
            return f"{value!r}B/s"
        case timedelta():
            return _duration(value)
        case bytes():
            return f"sha256:{value.hex()}"
        case datetime():
            return value.isoformat()
        case SecretStr():
            return _origin_of(value.get_secret_value())
        case Listen(host, port):
            host = host or ""
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case _:
            return str(value)


def _origin_of(secret: str) -> str:
    """Return an address without its user and its path, which may be secrets."""
    parts = urlsplit(secret)
    if not parts.netloc:
        return secret
    user, _, host = parts.netloc.rpartition("@")
    path = "/..." if parts.path.strip("/") or parts.query else ""
    return f"{parts.scheme}://{'...@' if user else ''}{host}{path}"


def _duration(value: timedelta) -> str:
    rest, text = round(value / timedelta(milliseconds=1)), ""
    for unit, length in _UNITS:
        number, rest = divmod(rest, length)
        text += f"{number}{unit}" if number else ""
    return text + (f"{rest}ms" if rest or not text else "")
