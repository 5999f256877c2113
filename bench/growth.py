"""What each step costs as the ledger grows: `python -m bench.growth`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measure import run
from mirror.ledger import Ledger
from mirror.lifecycle.list_row import plan
from tests import builders
from tests.builders import HOUR, NOW

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = (1_000, 10_000, 100_000, 1_000_000)
_AT_ONCE = 500
_CLAIMS = 200
_CONFIG = """
state_dir = "{folder}"
[sources.hq]
url = "http://127.0.0.1:9/"
token_file = "{folder}/token"
[targets.nas]
type = "directory"
path = "{folder}/nas"
"""


def main() -> None:
    """Print a table: a line for each size of the ledger."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=SIZES[-1], help="exports")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))  # noqa: S108 -- memory, not a folder of its own
    given = parser.parse_args()
    heads = (
        "exports",
        "new row, us",
        "unchanged row, us",
        "claim, us",
        "claim, half wait, us",
        "look for work, us",
        "start, ms",
        "status, CPU ms",
        "bytes each",
    )
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    for size in SIZES:
        if size <= given.most:
            with tempfile.TemporaryDirectory(dir=given.folder) as name:
                cells = [f"{size:,}", *map(str, _measure(Path(name), size))]
                print(f"| {' | '.join(cells)} |", flush=True)


def _measure(folder: Path, size: int) -> list[float]:
    ledger = Ledger.open(folder)
    new = _meet_all(ledger, size)
    unchanged = _meet_all(ledger, size)
    claim = _claim(ledger)
    with ledger._db.transaction() as connection:  # noqa: SLF001 -- time is not to pass
        connection.execute(
            "UPDATE exports SET due_us = ?1, not_before_us = ?1 "
            "WHERE key <= ?2 AND state = 'ready'",
            (NOW + HOUR, size // 2),
        )
    waiting = _claim(ledger)
    look = _time(lambda: _look(ledger), _CLAIMS)
    ledger.close()
    start = _time(lambda: Ledger.open(folder, check=False).close(), 5)
    (folder / "mirror.toml").write_text(_CONFIG.format(folder=folder))
    (folder / "token").write_text("token")
    command = Path(sys.executable).with_name("archive-mirror")
    status = run(
        f"{command} -c {folder}/mirror.toml status --json || true", folder / "log"
    )
    bytes_each = (folder / "ledger.sqlite3").stat().st_size / size
    return [
        round(new / size, 1),
        round(unchanged / size, 1),
        round(claim, 1),
        round(waiting, 1),
        round(look, 1),
        round(start / 1000, 1),
        round(status.cpu_s * 1000),
        round(bytes_each),
    ]


def _meet_all(ledger: Ledger, size: int) -> float:
    """Let a walk meet all rows; return the CPU time, in microseconds."""
    took = 0.0
    walk = builders.walk(at_us=NOW)
    for first in range(0, size, _AT_ONCE):
        rows = [
            builders.row(export_id=number, created_key=f"k{number}")
            for number in range(first, min(size, first + _AT_ONCE))
        ]
        took += _time(
            lambda rows: ledger.walks.meet(
                walk.source, rows, lambda prior, row: plan(prior, row, walk)
            ),
            1,
            rows,
        )
    return took


def _claim(ledger: Ledger) -> float:
    return _time(
        lambda: ledger.fetches.claim(["hq"], now_us=NOW, horizon_us=6 * HOUR), _CLAIMS
    )


def _look(ledger: Ledger) -> None:
    ledger.fetches.next_due()
    ledger.fetches.sources_with_work(now_us=NOW, horizon_us=6 * HOUR)


def _time(call: Callable[..., object], times: int, *given: object) -> float:
    """Return the CPU time of one call, in microseconds."""
    began = time.process_time()
    for _ in range(times):
        call(*given)
    return (time.process_time() - began) / times * 1e6


if __name__ == "__main__":
    main()
