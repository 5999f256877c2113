"""`status --nagios`: one line and an exit code, whatever happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import typer

from mirror.app import lock
from mirror.app.status import nagios, overview
from mirror.app.status.overview import Surroundings
from mirror.errors import ConfigError, MirrorError
from mirror.ledger import Ledger
from mirror.model import to_us, utc_now
from mirror.vms import token as tokens

if TYPE_CHECKING:
    from mirror.cli.globals import Globals
    from mirror.config import Settings


def answer(globals_: Globals) -> NoReturn:
    """Print the line and leave with its code."""
    try:
        settings = globals_.settings()
        result, line = _look(settings)
    except ConfigError as exc:
        result = nagios.Result.UNKNOWN
        line = nagios.line(result, f"configuration: {exc.problems[0]}")
    except MirrorError as exc:
        result = nagios.Result.UNKNOWN
        line = nagios.line(result, str(exc))
    except Exception as exc:  # noqa: BLE001 -- a plugin answers, whatever happens
        result = nagios.Result.UNKNOWN
        line = nagios.line(
            result,
            f"unexpected failure ({type(exc).__name__}); see `archive-mirror status`",
        )
    typer.echo(line)
    raise typer.Exit(int(result))


def _look(settings: Settings) -> tuple[nagios.Result, str]:
    around = Surroundings(
        token_expiry_s={
            name: tokens.expiry_of(source.token_path)
            for name, source in settings.sources.items()
        }
    )
    running = lock.is_held(settings.state_dir)
    with Ledger.reading(settings.state_dir, check=not running) as ledger:
        status = overview.take(ledger, settings, around, to_us(utc_now()))
    return nagios.judge(status, running=running)
