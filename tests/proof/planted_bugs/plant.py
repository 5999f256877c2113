"""Plant bugs by name: `python -m tests.proof.planted_bugs.plant NAMES ARGUMENTS`.

With commas between the names. What is replaced lasts when the program is rebuilt: calls
to the system and to libraries, the ledger's calls, public methods.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mirror import cli
from tests.proof.planted_bugs import answers, durability, leaks

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

_BUGS = vars(durability) | vars(answers) | vars(leaks)


def plant(names: str) -> None:
    """Plant these bugs in this process; there may be none."""
    for name in filter(None, names.split(",")):
        _BUGS[name]()


def replace_function(
    monkeypatch: pytest.MonkeyPatch,
    function: Callable[..., object],
    bug: Callable[..., object],
) -> None:
    """Replace a public function in each module of the program that has it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("mirror."):
            for attribute, value in list(vars(module).items()):
                if value is function:
                    monkeypatch.setattr(module, attribute, bug)


if __name__ == "__main__":
    plant(sys.argv[1])
    cli.main(sys.argv[2:])
