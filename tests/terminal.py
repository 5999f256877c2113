"""Takes the picture of what a command says.

python -m tests.terminal docs/images/demo.png archive-mirror demo
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

from tests.afternoon import write
from tests.browser import Browser

_BIN = Path(sys.executable).parent
_MOST_LINES = 46
_STYLE = """
body { margin: 0; background: #1d1f21; color: #d8dade; }
pre { margin: 0; padding: 14px 18px; font: 13px/1.4 "DejaVu Sans Mono", monospace; }
b { color: #8fbf7f; font-weight: normal; }
"""


def said(*command: str) -> list[str]:
    """Run a command of ours and return its last lines."""
    ran = subprocess.run(
        [_BIN / command[0], *command[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=True,
        text=True,
        env=os.environ | {"COLUMNS": "80"},
    )
    lines = ran.stdout.splitlines()
    return lines if len(lines) <= _MOST_LINES else ["...", *lines[-_MOST_LINES:]]


async def picture(command: list[str], lines: list[str]) -> bytes:
    """Return the picture of a terminal."""
    shown = escape("\n".join(lines))
    prompt = f"<b>$ {escape(' '.join(command))}</b>"
    with tempfile.NamedTemporaryFile("w", suffix=".html") as file:
        file.write(f"<meta charset=utf-8><style>{_STYLE}</style>")
        file.write(f"<pre>{prompt}\n{shown}</pre>")
        file.flush()
        async with Browser.started() as browser:
            await browser.size(36 + 8 * max(map(len, lines)), 200)
            await browser.open(f"file://{file.name}")
            return await browser.screenshot(whole=True)


if __name__ == "__main__":
    _words = sys.argv[2:]
    write(Path(sys.argv[1]), asyncio.run(picture(_words, said(*_words))))
