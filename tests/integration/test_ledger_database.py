"""The ledger as a file: made, read beside a writer, refused."""

from __future__ import annotations

import os
import stat
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from mirror.errors import LedgerError
from mirror.ledger import LEDGER_NAME, Filter, Ledger
from tests.builders import NOW
from tests.ledger_bench import (
    meet,
    row,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_an_absent_ledger_reads_as_empty_and_is_not_made(tmp_path):
    """Looking changes nothing."""
    ledger = Ledger.read(tmp_path)
    assert ledger.queries.counts() == {}
    assert list(ledger.queries.exports(Filter())) == []
    ledger.close()

    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_reads_as_empty(tmp_path):
    """A service that was killed before its first write."""
    (tmp_path / LEDGER_NAME).touch()
    ledger = Ledger.read(tmp_path)
    assert ledger.queries.counts() == {}
    ledger.close()


def test_the_ledger_is_for_its_owner_alone(ledger, tmp_path):
    """It holds file urls, which are capabilities; so do the files beside it."""
    meet(ledger, row(1))
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()
    }

    assert LEDGER_NAME in modes
    assert set(modes.values()) == {0o600}


def test_a_reader_beside_a_writer(ledger, tmp_path):
    """It sees what is committed, sees that it changed, and never waits."""
    mode = ledger._db.connection.execute("PRAGMA journal_mode").fetchone()
    assert mode == ("wal",)
    reader = Ledger.read(tmp_path)
    before = reader.changed_elsewhere()
    meet(ledger, row(1))
    assert reader.queries.counts() == {("hq", "ready"): 1}
    assert reader.changed_elsewhere() != before
    with ledger._db.transaction() as connection:
        connection.execute("UPDATE exports SET state = 'parked'")
        began = time.monotonic()
        assert reader.queries.counts() == {("hq", "ready"): 1}
        assert time.monotonic() - began < 1.0
    assert reader.queries.counts() == {("hq", "parked"): 1}
    reader.close()


def test_readers_see_whole_pages_only(ledger, tmp_path):
    """While a walk writes page after page, a reader never sees half of one."""
    stop, seen = threading.Event(), set()

    def read() -> None:
        reader = Ledger.read(tmp_path)
        while not stop.is_set():
            seen.add(sum(reader.queries.counts().values()))
        reader.close()

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(40):
        meet(ledger, *(row(number * 10 + one) for one in range(10)))
    stop.set()
    thread.join()

    assert len(seen) > 1
    assert all(count % 10 == 0 for count in seen)


@pytest.mark.parametrize("how", [Ledger.open, Ledger.read])
def test_a_ledger_of_a_newer_program_is_refused(ledger, tmp_path, how):
    """With its version and what to do; it is left as it is."""
    ledger._db.connection.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerError, match=r"version 99.*(newer|program that wrote)"):
        how(tmp_path)

    assert ledger._db.connection.execute("PRAGMA user_version").fetchone()[0] == 99


def spoiled(path: Path, where: str) -> None:
    """Damage a closed ledger."""
    content = bytearray(path.read_bytes())
    if where == "head":
        content[:100] = b"\xff" * 100
    elif where == "pages":
        for start in range(4096, len(content), 4096):
            content[start : start + 200] = b"\xff" * 200
    else:
        content = content[: len(content) // 2]
    path.write_bytes(content)


@pytest.mark.parametrize("where", ["head", "pages", "cut"])
def test_a_damaged_ledger_is_refused(ledger, tmp_path, where):
    """The error names the file and says that it is damaged; nothing is mended."""
    meet(ledger, *(row(number) for number in range(300)))
    ledger.close()
    path = tmp_path / LEDGER_NAME
    spoiled(path, where)
    before = path.read_bytes()
    with pytest.raises(LedgerError) as caught:
        Ledger.open(tmp_path)

    text = str(caught.value)
    assert str(path) in text
    assert "damaged" in text or "malformed" in text or "not a database" in text
    assert path.read_bytes() == before


def test_a_ledger_that_cannot_be_opened_says_so(tmp_path):
    """A folder in its place, or a folder that is not there."""
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger.open(tmp_path / "absent")
    (tmp_path / LEDGER_NAME).mkdir()
    with pytest.raises(LedgerError, match="it is no file"):
        Ledger.open(tmp_path)


def write_beside(state: Path) -> None:
    """Write to a ledger as commands do."""
    with Ledger.reading(state, check=False) as ledger:
        ledger.node_id(NOW)


@pytest.mark.parametrize("way", [Ledger.open, write_beside])
@pytest.mark.parametrize(
    ("folder", "file"), [(0o700, 0o644), (0o755, 0o600), (0o755, 0o644)]
)
def test_who_may_not_use_a_ledger_is_not_told_to_rebuild(tmp_path, folder, file, way):
    """The ledger is sound, and wants its user."""
    state = tmp_path / "state"
    state.mkdir()
    Ledger.open(state).close()
    for path in state.iterdir():
        path.chmod(file)
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(0o755)
    state.chmod(folder)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    else:
        state.chmod(folder & 0o500)
    try:
        with pytest.raises(LedgerError, match="must belong to that user") as caught:
            way(state)
    finally:
        if root:
            os.seteuid(0)
        state.chmod(0o700)

    assert "rebuild" not in str(caught.value)


def test_the_node_and_the_markers_are_remembered(ledger, tmp_path):
    """Made once; None keeps what was known before."""
    node = ledger.node_id(NOW)
    given: dict[str, Any] = {"problem": None, "now_us": NOW}
    ledger.targets.checked("nas", marker_id="m", free_bytes=5, **given)
    ledger.targets.checked("nas", marker_id=None, free_bytes=None, **given)
    ledger.close()
    again = Ledger.open(tmp_path)

    assert again.node_id(NOW + 1) == node
    assert (again.targets.marker("nas"), again.targets.marker("usb")) == ("m", None)
    assert again.queries.targets()[0].free_bytes == 5
    again.close()
