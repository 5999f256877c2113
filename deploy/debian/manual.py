"""Write the man page or the bash completion, from the program's own parser.

`manual.py man` and `manual.py bash` write to standard output.
"""

from __future__ import annotations

import enum
import sys
import typing
from pathlib import Path
from typing import Any

import typer

from mirror import __version__
from mirror.cli.main import (
    EXIT_CONFIG,
    EXIT_LEDGER,
    EXIT_LOCKED,
    EXIT_UNFORESEEN,
    app,
)

_FILES = ("PATH", "DIR", "FILE")
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
_BASH = """\
# bash completion of archive-mirror {version}
_archive_mirror() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}}
    local path='' word skip=''
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD - 1}}"; do
        if [[ $skip ]]; then skip=''; continue; fi
        case "$path $word" in
        {takes_value}) skip=1 ;;
        {steps}) path="$path $word" ;;
        esac
    done
    COMPREPLY=()
    if [[ $skip ]]; then
        case "$path $prev" in
        {files}) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
{choices}        esac
        return
    fi
    case "$path" in
{words}    esac
}}
complete -F _archive_mirror archive-mirror
"""


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
    page.append(
        _TAIL.format(
            unforeseen=EXIT_UNFORESEEN,
            ledger=EXIT_LEDGER,
            locked=EXIT_LOCKED,
            config=EXIT_CONFIG,
        )
    )
    return "".join(page)


def bash() -> str:
    """Return the completion."""
    parser = command()
    anywhere = _options_of(parser)
    nodes = [((), parser), *commands(parser)]
    takes_value, files, choices, words = [], [], [], []
    for path, each in nodes:
        below = list(getattr(each, "commands", {}))
        options = [*_options_of(each), *(anywhere if path else [])]
        names = [name for option in options for name in option.opts]
        line = " ".join([*below, *names, "--help"])
        files_here = _names_a_file(each)
        more = 'compgen -f -- "$cur"; ' if files_here else ""
        words.append(
            f"    {_key(path)}) mapfile -t COMPREPLY < <({more}compgen -W "
            f"'{line}' -- \"$cur\") ;;\n"
        )
        for option in options:
            if option.is_flag or (path and option in anywhere):
                continue
            mark = "" if path else "*"
            keys = "|".join(mark + _key((*path, name)) for name in option.opts)
            takes_value.append(keys)
            if option.metavar in _FILES or option.type_descriptor.annotation is Path:
                files.append(keys)
            elif values := _choices(option.type_descriptor.annotation):
                choices.append(
                    f"        {keys}) mapfile -t COMPREPLY < <(compgen -W "
                    f"'{' '.join(values)}' -- \"$cur\") ;;\n"
                )
    return _BASH.format(
        version=__version__,
        takes_value="|".join(takes_value),
        steps="|".join(_key(path) for path, _ in nodes if path),
        files="|".join(files),
        choices="".join(choices),
        words="".join(words),
    )


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


def _names_a_file(each: Any) -> bool:  # noqa: ANN401 -- typer's
    return any(
        parameter.type_descriptor.annotation is Path
        for parameter in _arguments_of(each)
    )


def _key(words: tuple[str, ...]) -> str:
    """Return a pattern of the completion's `case`: each word after a space."""
    return "'" + "".join(f" {word}" for word in words) + "'"


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return f"\\&{escaped}" if escaped[:1] in {".", "'"} else escaped


if __name__ == "__main__":
    sys.stdout.write({"man": man, "bash": bash}[sys.argv[1]]())
