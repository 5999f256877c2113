"""The options of every command: where the configuration is, how to log."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mirror import logs
from mirror.app import service_user

if TYPE_CHECKING:
    from collections.abc import Collection

    from mirror.config import Settings

_LEVELS = ("debug", "info", "warning", "error")
_FORMATS = ("console", "json", "logfmt")


@dataclass(slots=True)
class Globals:
    """The options that go with every command.

    Attributes:
        redactor: Learns the secrets that no log line may show.
        outlet: What writes the log.
    """

    config: str | None = None
    log_level: str = "info"
    log_format: str | None = None
    redactor: logs.Redactor = field(default_factory=logs.Redactor)
    outlet: logs.LogWriter | None = None

    def configure_logs(self) -> None:
        """Start logging to stderr as asked."""
        if self.log_level not in _LEVELS:
            raise typer.BadParameter(f"--log-level is one of {', '.join(_LEVELS)}")
        if self.log_format not in {None, *_FORMATS}:
            raise typer.BadParameter(f"--log-format is one of {', '.join(_FORMATS)}")
        self.outlet = logs.configure(
            self.log_level, self.log_format, sys.stderr, redactor=self.redactor
        )

    def end_logs(self) -> None:
        """Let the last lines go out, if they can."""
        if self.outlet is not None:
            self.outlet.drain()

    def settings(self, *, as_root: bool = False) -> Settings:
        """Read the configuration; root goes on as the service's user, or `as_root`.

        Raises:
            ConfigError: It cannot be understood.
            MirrorError: That user cannot go on.
        """
        from mirror import config  # noqa: PLC0415 -- costs a quarter of a second

        settings = config.load(self.config_path(), os.environ)
        if not as_root:
            self.become_service_user(settings)
        return settings

    def become_service_user(self, settings: Settings) -> None:
        """Stop being root, and say so; see `service_user.become`."""
        folder = settings.state_dir
        if name := service_user.become(folder):
            typer.echo(
                f"archive-mirror: goes on as {name}, who owns {folder}", err=True
            )

    def config_path(self) -> Path:
        """Return where the configuration is."""
        from mirror import config  # noqa: PLC0415 -- costs a quarter of a second

        if self.config:
            return Path(self.config)
        return config.default_config_path(os.environ)


def globals_of(context: typer.Context) -> Globals:
    """Return the global options of a command's context."""
    globals_ = context.obj
    if not isinstance(globals_, Globals):
        raise TypeError("the command was called without its context")
    return globals_


def targets_of(settings: Settings, names: list[str] | None) -> list[str]:
    """Return the targets that `--target` names, or all."""
    for name in names or []:
        expect_known("--target", name, settings.targets)
    return sorted(set(names or settings.targets))


def expect_known(option: str, name: str | None, known: Collection[str]) -> None:
    """Make sure that a source or target that an option names is known."""
    if name is not None and name not in known:
        kind = option.removeprefix("--")
        raise typer.BadParameter(
            f"{option}: there is no {kind} {name}; there are: "
            f"{', '.join(sorted(known))}"
        )
