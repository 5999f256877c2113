"""Write the man page, from the program's own parser, or what a shell completes by.

`manual.py man`, `manual.py bash`, `manual.py zsh`, `manual.py fish`: each writes to
standard output.
"""

from __future__ import annotations

import enum
import sys
import typing
from typing import Any

import typer
from typer.completion import (  # type: ignore[attr-defined]  # exported, unmarked
    get_completion_script,
)

from mirror import __version__
from mirror.cli.main import (
    EXIT_CONFIG,
    EXIT_LEDGER,
    EXIT_LOCKED,
    EXIT_UNFORESEEN,
    app,
)

_HEAD = """\
.TH ARCHIVE-MIRROR 1 "" "archive-mirror {version}" "System administration"
.SH NAME
archive\\-mirror \\- {summary}
.SH SYNOPSIS
.B archive\\-mirror
.RI [ OPTIONS ]
.I COMMAND
.RI [ ARGUMENTS ]
.SH DESCRIPTION
A VMS lets its users export footage and deletes each file some hours later.
This service lists the exports, fetches each file before its deadline, proves it, keeps
it on one or more targets, and records in its ledger what is held, owed and lost.
.PP
Under systemd it runs as the unit
.BR archive\\-mirror.service .
The other commands work beside it; root goes on as its user
.BR archive\\-mirror .
.SH OPTIONS
They may stand before or after the command.
"""
_TAIL = """\
.SH EXIT STATUS
.TP
.B 0
Done.
.TP
.BR 1 ", " 3 ", " 4
Not well; each command says above what it means.
.TP
.B 2
Wrong usage.
.TP
.B {unforeseen}
An unexpected failure, a fault of the program.
.TP
.B {ledger}
The ledger cannot be used: damaged, of a newer version, or its disk is in trouble.
.TP
.B {locked}
Another instance holds the state directory.
.TP
.B {config}
The configuration cannot be understood; every fault is named, with its key.
.SH ENVIRONMENT
.TP
.B ARCHIVE_MIRROR_CONFIG
The configuration file.
.TP
.BR ARCHIVE_MIRROR__SOURCES__HQ__URL " and the like"
Any key of the configuration, over all files.
.SH FILES
.TP
.I /etc/archive\\-mirror/archive\\-mirror.toml
The configuration; every key is explained in
.IR archive\\-mirror.toml.example " beside it."
.TP
.I /etc/archive\\-mirror/conf.d/*.toml
Merged over it, in the order of their names.
.TP
.I /var/lib/archive\\-mirror/
The ledger, and files that wait for a target.
.TP
.I /usr/share/doc/archive\\-mirror/
How to install it, the runbook, every key and every metric.
.SH SEE ALSO
.BR systemctl (1),
.BR journalctl (1)
"""
_EXAMPLES = (
    (
        "Test all that the configuration names, as the service will see it",
        "archive-mirror check",
    ),
    (
        "Is anything at risk? Once, and all the time",
        "archive-mirror status",
        "archive-mirror status --watch",
    ),
    (
        "What has a file and is not saved yet, and why",
        "archive-mirror list --state ready --state parked --state spooled",
    ),
    (
        "All that is known of one export: each attempt, each copy",
        "archive-mirror show hq/6414",
    ),
    ("Put a new token in place", "archive-mirror token set hq <new.token"),
    (
        "Leave a VMS alone while it is serviced",
        "archive-mirror pause hq --for 2h",
        "archive-mirror resume hq",
    ),
    (
        "Read a part of the kept copies again, those not read for longest",
        "archive-mirror verify --sample 5%",
    ),
    (
        "Replace damaged copies by good ones from another target",
        "archive-mirror verify --target nas --repair",
    ),
    (
        "Take note of a loss, so that it is reported no more",
        'archive-mirror ack hq/6414 --note "exported again by the guard"',
    ),
    ("All losses, for a script", "archive-mirror list --state lost --json"),
)


def command() -> Any:  # noqa: ANN401 -- typer's class for it is private
    """Return the parser."""
    return typer.main.get_command(app)


def commands(
    parser: Any,  # noqa: ANN401 -- typer's
    path: tuple[str, ...] = (),
) -> list[tuple[tuple[str, ...], Any]]:
    """Return every command with its words, groups before what is in them."""
    listed = []
    for name, each in getattr(parser, "commands", {}).items():
        if not each.hidden:
            words = (*path, name)
            listed += [(words, each), *commands(each, words)]
    return listed


def man() -> str:
    """Return the page in roff."""
    parser = command()
    page = [_HEAD.format(version=__version__, summary=_roff(parser.help.rstrip(".")))]
    page += _options(parser)
    page.append(".SH COMMANDS\n")
    for words, each in commands(parser):
        if not hasattr(each, "commands"):
            page += _command(words, each)
    page.append(_examples())
    page.append(
        _TAIL.format(
            unforeseen=EXIT_UNFORESEEN,
            ledger=EXIT_LEDGER,
            locked=EXIT_LOCKED,
            config=EXIT_CONFIG,
        )
    )
    return "".join(page)


def completion(shell: str) -> str:
    """Return the file by which a shell has the program complete what is typed."""
    script = get_completion_script(
        prog_name="archive-mirror",
        complete_var="_ARCHIVE_MIRROR_COMPLETE",
        shell=shell,
    )
    if shell == "zsh":
        # The file is read at the first Tab, which is to be answered too.
        script += '\n_archive_mirror_completion "$@"'
    return f"{script}\n"


def _examples() -> str:
    parts = [".SH EXAMPLES\n"]
    for meaning, *shown in _EXAMPLES:
        lines = "\n".join(f"# {each}" for each in shown)
        parts.append(f".TP\n{_roff(meaning)}:\n.nf\n{_roff(lines)}\n.fi\n")
    return "".join(parts)


def _command(words: tuple[str, ...], each: Any) -> list[str]:  # noqa: ANN401 -- typer's
    usage = " ".join(
        (parameter.metavar or parameter.name.upper()).removesuffix("...")
        + ("..." if parameter.nargs == -1 else "")
        for parameter in _arguments_of(each)
    )
    lines = [f'.SS "{_roff(" ".join(words))} {_roff(usage)}"\n'.replace(' "\n', '"\n')]
    paragraphs = [" ".join(part.split()) for part in (each.help or "").split("\n\n")]
    lines += [f"{_roff(part)}\n.PP\n" for part in paragraphs if part]
    lines += _options(each)
    return lines


def _options(each: Any) -> list[str]:  # noqa: ANN401 -- typer's
    context = typer.Context(each)
    lines = []
    for option in _options_of(each):
        _, help_text = option.get_help_record(context)
        value = "" if option.is_flag else _value(option)
        names = ", ".join(_roff(name) for name in option.opts)
        shown = f'.BR "{names}"' + (f' " \\fI{_roff(value)}\\fR"' if value else "")
        lines.append(f".TP\n{shown}\n{_roff(help_text)}\n")
        if choices := _choices(option.type_descriptor.annotation):
            lines.append(f"One of {_roff(', '.join(choices))}.\n")
    return lines


def _value(option: Any) -> str:  # noqa: ANN401 -- typer's
    if option.metavar:
        return str(option.metavar)
    annotation = option.type_descriptor.annotation
    if _choices(annotation):
        return str(option.name).upper()
    return {int: "NUMBER", float: "NUMBER"}.get(annotation, "TEXT")


def _options_of(each: Any) -> list[Any]:  # noqa: ANN401 -- typer's
    return [
        parameter
        for parameter in each.params
        if parameter.opts[0][0] == "-" and not parameter.hidden
    ]


def _arguments_of(each: Any) -> list[Any]:  # noqa: ANN401 -- typer's
    options = _options_of(each)
    return [parameter for parameter in each.params if parameter not in options]


def _choices(annotation: Any) -> list[str]:  # noqa: ANN401 -- typer's
    for kind in (annotation, *typing.get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return [str(member.value) for member in kind]
    return []


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return f"\\&{escaped}" if escaped[:1] in {".", "'"} else escaped


if __name__ == "__main__":
    wanted = sys.argv[1]
    sys.stdout.write(man() if wanted == "man" else completion(wanted))
