"""From files and environment to settings, or to every problem at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from mirror.config import permissions
from mirror.config.environment import overlay
from mirror.config.files import config_files, read_files
from mirror.config.problems import (
    INTERNAL,
    KeyProblem,
    problems_of,
    render,
    unknown_key,
)
from mirror.config.settings import Settings
from mirror.config.sources import SourceSettings
from mirror.config.targets import TargetSettings
from mirror.config.values import Context
from mirror.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

_DEFAULT_PATH: Final = "/etc/archive-mirror/archive-mirror.toml"
_KINDS: Final[
    tuple[tuple[str, type[SourceSettings | TargetSettings], dict[str, str]], ...]
] = (
    ("source", SourceSettings, {"url": "https://vms.example"}),
    ("target", TargetSettings, {"type": "directory", "path": "/"}),
)
"""Kinds of tables that have defaults, with values for what each must have."""


def default_config_path(environ: Mapping[str, str]) -> Path:
    """Return where the configuration is unless the command line says otherwise."""
    return Path(environ.get("ARCHIVE_MIRROR_CONFIG") or _DEFAULT_PATH)


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """Read and check the configuration.

    Args:
        path: The configuration file; `conf.d/*.toml` beside it is merged.
        environ: Its `ARCHIVE_MIRROR__...` variables win over the files.

    Raises:
        ConfigError: With every problem; none shows a value.
    """
    path = path.absolute()
    settings: Settings | None = None
    problems: list[str] = []
    try:
        settings = _Loader(path, environ).settings()
    except ConfigError as exc:
        problems = exc.problems
    trusted = permissions.trusted(path if settings is None else settings.state_dir)
    problems += permissions.problems(path.parent / "conf.d", trusted, closed=True)
    for file in config_files(path):
        problems += permissions.problems(file, trusted)
    if settings is None or problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return settings


class _Loader:
    """One reading of the configuration; collects problems."""

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self._tree, self._variables = overlay(read_files(path), environ)
        self._credentials = environ.get("CREDENTIALS_DIRECTORY") or None
        sources = self._tree.get("sources")
        self._context = Context(
            folder=path.parent,
            source_count=len(sources) if isinstance(sources, dict) else 0,
        )
        self._problems: list[KeyProblem] = []

    def settings(self) -> Settings:
        """Return the settings, or raise with all problems."""
        tree = {key: part for key, part in self._tree.items() if key != "defaults"}
        defaults = self._defaults()
        for kind, _, _ in _KINDS:
            self._fill(tree, f"{kind}s", defaults[kind])
        settings: Settings | None = None
        try:
            settings = Settings.model_validate(tree, context=self._context)
        except ValidationError as exc:
            self._problems += [
                problem
                for problem in problems_of(exc, self._variables)
                if not self._is_inherited(problem, defaults)
            ]
        if settings is None or self._problems:
            raise ConfigError(render(self._problems, self._variables))
        return settings

    def _defaults(self) -> dict[str, dict[str, Any]]:
        """Return the defaults by kind, checked by themselves."""
        table = self._tree.get("defaults", {})
        if not isinstance(table, dict):
            self._add(("defaults",), "must be a table, [defaults.source]")
            table = {}
        for key in table:
            if key not in {kind for kind, _, _ in _KINDS}:
                self._unknown(("defaults", key))
        defaults: dict[str, dict[str, Any]] = {}
        for kind, model, stand_ins in _KINDS:
            defaults[kind] = self._own_keys(("defaults", kind), table.get(kind, {}))
            try:
                model.model_validate(
                    {**stand_ins, **defaults[kind], "name": kind}, context=self._context
                )
            except ValidationError as exc:
                self._problems += problems_of(exc, self._variables, ("defaults", kind))
        return defaults

    def _own_keys(self, path: tuple[str, ...], table: object) -> dict[str, Any]:
        """Return `table` less the names that are no keys of a source or target."""
        if not isinstance(table, dict):
            self._add(path, f"must be a table, [{'.'.join(path)}]")
            return {}
        for key in INTERNAL:
            if key in table:
                self._unknown((*path, key))
        return {key: value for key, value in table.items() if key not in INTERNAL}

    def _fill(self, tree: dict[str, Any], part: str, defaults: dict[str, Any]) -> None:
        """Merge the defaults and the internal fields into each table of `part`."""
        tables = tree.get(part)
        if not isinstance(tables, dict):
            return
        internal = (
            {"credentials_folder": self._credentials} if part == "sources" else {}
        )
        tree[part] = filled = dict(tables)
        for name, table in tables.items():
            if isinstance(table, dict):
                own = self._own_keys((part, name), table)
                filled[name] = {**defaults, **own, **internal, "name": name}

    def _is_inherited(
        self, problem: KeyProblem, defaults: dict[str, dict[str, Any]]
    ) -> bool:
        """Tell whether a problem is one of the defaults, reported there already."""
        if problem.path[0] not in {"sources", "targets"}:
            return False
        part, name, key, *_ = (*problem.path, "", "")
        default = defaults[str(part).removesuffix("s")]
        return key in default and key not in self._tree[str(part)][name]

    def _unknown(self, path: tuple[str, ...]) -> None:
        self._add(path, unknown_key(path, self._variables))

    def _add(self, path: tuple[str, ...], text: str) -> None:
        self._problems.append(KeyProblem(path=path, text=text))
