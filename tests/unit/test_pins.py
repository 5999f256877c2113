"""What is shipped is pinned by digests, at the versions that were tested."""

from __future__ import annotations

import re

import pytest

from tests.prometheus import DEPLOY
from tests.unit.test_dependencies import _closure

_FILES = ("requirements.txt", "requirements-build.txt")


def pins(name):
    """Return versions by library, and how many digests each has."""
    text = (DEPLOY / name).read_text("ascii")
    entries = text.split("\n", 1)[1].replace("\\\n", " ").splitlines()
    found = {}
    for entry in entries:
        pin, *digests = entry.split()
        library, version = pin.split("==")
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", one) for one in digests)
        found[library] = (version, len(digests))
    return found


def constraints():
    """Return the tested versions by library."""
    lines = (DEPLOY / "constraints.txt").read_text().split()
    return dict(line.lower().replace("_", "-").split("==") for line in lines)


@pytest.mark.parametrize("name", _FILES)
def test_each_is_at_the_version_of_the_constraints_with_a_digest(name):
    tested, found = constraints(), pins(name)

    assert {library: tested.get(library) for library in found} == {
        library: version for library, (version, _) in found.items()
    }
    assert all(digests for _, digests in found.values())


def test_all_that_is_imported_is_among_them():
    """With a wheel for each Python and machine, where it is compiled."""
    found = pins("requirements.txt")

    assert _closure("archive-mirror") & set(constraints()) <= set(found)
    assert found["aiohttp"][1] >= 8
    assert found["pydantic-core"][1] >= 8


def test_the_build_takes_nothing_else():
    """Each download is by digest; no build tool comes by itself."""
    script = (DEPLOY / "debian" / "build").read_text()

    for use in re.findall(r'^"\$pip".*(?:\\\n.*)?', script, re.MULTILINE):
        assert re.search(r"pinned|--no-deps --no-(build-isolation|index)|check$", use)
    assert "--require-hashes" in script
    assert all(name in script for name in _FILES)


@pytest.mark.parametrize("name", _FILES)
def test_no_address_of_a_registry_is_written_down(name):
    """Where it is built decides where the wheels come from."""
    assert "://" not in (DEPLOY / name).read_text()
