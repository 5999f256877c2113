"""The command `archive-mirror`: options that go with every command, exit codes."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from mirror import __version__, errors
from mirror.cli import (
    ack,
    backup,
    check,
    config,
    demo,
    once,
    pause,
    probe,
    rebuild,
    retry,
    run,
    show,
    simulate_vms,
    status,
    support_bundle,
    token,
    verify,
)
from mirror.cli import list as list_command
from mirror.cli.globals import Globals

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_LOCKED = 75
EXIT_CONFIG = 78
EXIT_LEDGER = 74
EXIT_UNFORESEEN = 70
_CODES = ((errors.LockedError, EXIT_LOCKED), (errors.LedgerError, EXIT_LEDGER))
_GLOBAL = ("--config", "-c", "--log-level", "--log-format")

app = typer.Typer(
    name="archive-mirror",
    help="Keeps the footage a VMS exports before the VMS deletes it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"archive-mirror {__version__}")
        raise typer.Exit


@app.callback()
def _globals(
    context: typer.Context,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "-c",
            metavar="PATH",
            help="Configuration file; default $ARCHIVE_MIRROR_CONFIG, else "
            "/etc/archive-mirror/archive-mirror.toml.",
        ),
    ] = None,
    log_level: Annotated[
        str, typer.Option("--log-level", help="debug, info, warning or error.")
    ] = "info",
    log_format: Annotated[
        str | None,
        typer.Option(
            "--log-format",
            help="console, json or logfmt; default console on a terminal and in the "
            "journal, else json.",
        ),
    ] = None,
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show it."
        ),
    ] = False,
) -> None:
    globals_ = context.ensure_object(Globals)
    globals_.config, globals_.log_level = config, log_level
    globals_.log_format = log_format
    globals_.configure_logs()


app.command("run")(run.run)
app.command("once")(once.once)
app.command("status")(status.status)
app.command("list")(list_command.list_exports)
app.command("show")(show.show)
app.command("retry")(retry.retry)
app.command("check")(check.check)
app.command("probe")(probe.probe)
app.command("verify")(verify.verify)
app.command("rebuild")(rebuild.rebuild)
app.command("pause")(pause.pause)
app.command("resume")(pause.resume)
app.command("ack")(ack.ack)
app.command("support-bundle")(support_bundle.support_bundle)
app.command("backup")(backup.backup)
app.command("demo")(demo.demo)
app.command("simulate-vms")(simulate_vms.simulate_vms)
_token = typer.Typer(help="The token of a source.", no_args_is_help=True)
_token.command("set")(token.token_set)
app.add_typer(_token, name="token")
_config = typer.Typer(help="The configuration.", no_args_is_help=True)
_config.command("show")(config.config_show)
_config.command("check")(config.config_check)
app.add_typer(_config, name="config")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code."""
    _open_closed_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    globals_ = Globals()
    try:
        try:
            app(_globals_first(words), standalone_mode=True, obj=globals_)
        finally:
            globals_.end_logs()
    except SystemExit as exc:
        _leave(exc.code if isinstance(exc.code, int) else 0)
    except errors.ConfigError as exc:
        for problem in exc.problems:
            typer.echo(f"configuration: {problem}", err=True)
        _leave(EXIT_CONFIG)
    except errors.MirrorError as exc:
        typer.echo(f"archive-mirror: {exc}", err=True)
        _leave(next((code for kind, code in _CODES if isinstance(exc, kind)), 1))
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 -- lives to the end
        _leave(0)
    except Exception as exc:  # noqa: BLE001 -- the last boundary
        _leave(_unforeseen(exc, globals_))
    _leave(0)


def _unforeseen(exc: BaseException, globals_: Globals) -> int:
    """Say on one line what happened, to debug also where; return the exit code."""
    clean = globals_.redactor.clean
    if isinstance(exc, OSError) and exc.filename is None and not _can_print():
        typer.echo(
            f"archive-mirror: standard output cannot be written ({exc.strerror}); give "
            "it a place with room",
            err=True,
        )
        return 1
    if globals_.log_level == "debug":
        typer.echo(clean("".join(traceback.format_exception(exc))), err=True)
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    if isinstance(exc, errors.LedgerError):
        typer.echo(f"archive-mirror: {exc}", err=True)
        return EXIT_LEDGER
    typer.echo(
        f"archive-mirror: unexpected failure ({type(exc).__name__}: {clean(str(exc))});"
        " run it with --log-level debug to see where, and report it",
        err=True,
    )
    return EXIT_UNFORESEEN


def _can_print() -> bool:
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError:
        return False
    return True


def _leave(code: int) -> NoReturn:
    """Exit even if a thread hangs in a dead mount."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _open_closed_streams() -> None:
    """Let standard streams that are closed lead nowhere.

    Else the next file that is opened, the ledger perhaps, would be one of them.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            stream = os.fdopen(number, "w" if number else "r", closefd=False)
            setattr(sys, name, stream)


def _globals_first(arguments: Sequence[str]) -> list[str]:
    """Let the global options stand after the command too."""
    front: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        name = argument.split("=", 1)[0]
        if argument == "--":
            rest += [argument, *waiting]
        elif name in _GLOBAL or (argument[:2] == "-c" and argument != "-c"):
            front.append(argument)
            if "=" not in argument and argument in _GLOBAL:
                front.extend([value for value in [next(waiting, None)] if value])
        else:
            rest.append(argument)
    return front + rest
