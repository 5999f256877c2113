"""The commands that a text shows, and whether the command line understands them."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

import typer

from mirror.cli.main import app

if TYPE_CHECKING:
    from collections.abc import Iterator

APP: Any = typer.main.get_command(app)


def commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments of each `archive-mirror` in blocks and spans of code."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in [*lines, *(" ".join(span.split()) for span in spans)]:
        bare = re.sub(r"^\s*(\w*[#$]) |\s# .*$", "", line)
        for part in re.split(r"[|;&<>]+", bare):
            if "archive-mirror" not in part or "archive-mirror()" in bare:
                continue
            words = shlex.split(part)
            if words[0] == "ln":
                continue
            for at, word in enumerate(words):
                if word.endswith("bin/archive-mirror") or (
                    word == "archive-mirror" and (at == 0 or words[at - 1] == "--")
                ):
                    yield from [words[at + 1 :]] if words[at + 1 :] else []


def understood(arguments: list[str]) -> None:
    """Let the command line parse a command, and not run it.

    Raises:
        Exception: There is no such command or option, or its value cannot be.
    """
    command, name, above = APP, "archive-mirror", None
    while True:
        try:
            above = command.make_context(name, arguments, parent=above)
        except typer.Exit:  # of --help
            return
        if not hasattr(command, "commands"):
            return
        arguments = [*above._protected_args, *above.args]
        if not arguments:
            return
        name, command, arguments = command.resolve_command(above, arguments)
