"""Pin what is shipped: each library's version, and the digests of its wheels.

`make pins` writes `requirements.txt` (what the package and the image bring) and
`requirements-build.txt` (what builds them), for the Pythons and machines below. The
versions are those of `constraints.txt`; change them there first.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

_HERE: Final = Path(__file__).parent
_PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
_MACHINES: Final = ("x86_64", "aarch64")
_GLIBCS: Final = (36, 41)
"""Of Debian 12 and 13, 2.36 and 2.41: which wheel is taken depends on it."""
_OLDEST: Final = 5
_FILES: Final = {
    "requirements.txt": (str(_HERE.parent), "The libraries of the package"),
    "requirements-build.txt": ("hatchling", "What builds the package"),
}


def main() -> None:
    """Write both files anew."""
    for name, (root, what) in _FILES.items():
        pins = {_pin(one): set[str]() for one in _resolved(root) if not _local(one)}
        for python in _PYTHONS:
            for machine in _MACHINES:
                for glibc in _GLIBCS:
                    for one in _wheels(sorted(pins), python, machine, glibc):
                        pins[_pin(one)].add(_digest(one))
        text = f"# {what}, with the digest of each wheel. Written by `make pins`.\n"
        for pin, digests in sorted(pins.items()):
            hashes = (f"    --hash=sha256:{digest}" for digest in sorted(digests))
            text += " \\\n".join([pin, *hashes]) + "\n"
        (_HERE / name).write_text(text, "ascii")


def _resolved(root: str) -> list[dict[str, Any]]:
    """Return what `root` needs, itself included."""
    return _report("--constraint", str(_HERE / "constraints.txt"), root)


def _wheels(
    pins: list[str], python: str, machine: str, glibc: int
) -> list[dict[str, Any]]:
    """Return the wheels that pip takes there."""
    tags = [f"manylinux_2_{minor}" for minor in range(glibc, _OLDEST - 1, -1)]
    old = ["manylinux2014", "manylinux2010", "manylinux1", "linux"]
    platforms = (f"--platform={tag}_{machine}" for tag in [*tags, *old])
    where = ["--implementation=cp", f"--python-version={python}", "--target=nowhere"]
    return _report("--no-deps", "--only-binary=:all:", *where, *platforms, *pins)


def _report(*arguments: str) -> list[dict[str, Any]]:
    """Return what pip would install."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
    ran = subprocess.run(
        [*pip, "--ignore-installed", "--report=-", *arguments],
        check=True,
        stdout=subprocess.PIPE,
    )
    found: list[dict[str, Any]] = json.loads(ran.stdout)["install"]
    return found


def _pin(one: dict[str, Any]) -> str:
    name = one["metadata"]["name"].lower().replace("_", "-")
    return f"{name}=={one['metadata']['version']}"


def _local(one: dict[str, Any]) -> bool:
    return "dir_info" in one["download_info"]


def _digest(one: dict[str, Any]) -> str:
    return str(one["download_info"]["archive_info"]["hashes"]["sha256"])


if __name__ == "__main__":
    main()
