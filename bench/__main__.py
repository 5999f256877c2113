"""Run the benchmark: `python -m bench`; `make bench` does all set-up first."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from bench.corpus import CORPORA, Corpus
from bench.measure import Run, run, whole
from bench.peers import PEERS, Job
from bench.servers import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OURS = "archive-mirror"


def main() -> None:
    """Measure what is asked for, and print a table for each corpus and scheme."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpora", default="ABC")
    parser.add_argument("--schemes", default="http,https")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))  # noqa: S108 -- memory, not a folder of its own
    parser.add_argument("--slow", action="store_true", help="over a slow link")
    parser.add_argument("--cut-bytes", type=int, default=0, help="cut each connection")
    given = parser.parse_args()
    peers = [name for name in given.peers.split(",") if _is_there(name)]
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        for letter in given.corpora:
            corpus = CORPORA[letter]
            corpus.write(Path(name) / "served")
            for scheme in given.schemes.split(","):
                runs = _measure(Path(name), corpus, scheme, peers, given)
                print(_table(corpus, scheme, runs, slow=given.slow), flush=True)
            shutil.rmtree(Path(name) / "served" / letter)


def _is_there(name: str) -> bool:
    command = name.partition("+")[0].replace("aria2", "aria2c")
    if name == OURS or shutil.which(command):
        return True
    print(f"{command} is not installed: left out", file=sys.stderr)
    return False


def _measure(
    folder: Path,
    corpus: Corpus,
    scheme: str,
    peers: list[str],
    given: argparse.Namespace,
) -> dict[str, list[Run]]:
    """Return each peer's runs.

    Raises:
        RuntimeError: A file is missing or short though nothing was cut.
    """
    runs: dict[str, list[Run]] = {name: [] for name in peers}
    own = folder / "nginx"
    own.mkdir(exist_ok=True)
    with serving(own, folder / "served", corpus) as servers:
        for number in range(given.rounds):
            for name in peers if number % 2 == 0 else reversed(peers):
                print(f"{corpus.name} {scheme} {number + 1} {name}", file=sys.stderr)
                with _link(servers.urls[scheme], given) as (url, carried):
                    work, into = folder / "work", folder / "into"
                    for each in (work, into):
                        shutil.rmtree(each, ignore_errors=True)
                        each.mkdir()
                    job = Job(
                        corpus=corpus, url=url, servers=servers, work=work, into=into
                    )
                    took = run(PEERS[name](job), work / "log")
                    took = dataclasses.replace(
                        took,
                        carried_bytes=carried(),
                        whole_files=whole(into, corpus.size_bytes),
                    )
                    if took.whole_files != corpus.files and not given.cut_bytes:
                        raise RuntimeError(f"{name} kept {took.whole_files} files")
                    runs[name].append(took)
    return runs


@contextlib.contextmanager
def _link(
    url: str, given: argparse.Namespace
) -> Iterator[tuple[str, Callable[[], int]]]:
    """Give the url to use, and what tells how many bytes the link carried."""
    if not given.slow:
        yield url, lambda: 0
        return
    scheme, _, port = url.rpartition(":")
    command = [sys.executable, "-m", "bench.slow_link", port]
    command += ["--cut-bytes", str(given.cut_bytes)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as link:
        ask, answer = cast("IO[str]", link.stdin), cast("IO[str]", link.stdout)
        near = answer.readline().strip()

        def carried() -> int:
            print(file=ask, flush=True)
            return int(answer.readline())

        yield f"{scheme}:{near}", carried
        ask.close()


def _table(
    corpus: Corpus, scheme: str, runs: dict[str, list[Run]], *, slow: bool
) -> str:
    """Return a table of medians; the last two columns are ours divided by theirs."""
    size = f"{corpus.files} x {corpus.size_bytes:,} bytes"
    heads = (
        "",
        "whole files",
        "wall s",
        "files/s",
        "CPU s",
        "CPU s/GB",
        "ms/file",
        "peak MiB",
        "bytes twice",
        "wall, ours/it",
        "CPU, ours/it",
    )
    lines = [
        f"## {corpus.name}: {size}, {scheme}{', 50 ms and 100 Mbit/s' if slow else ''}",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    ours = _medians(runs[OURS])
    for name, taken in runs.items():
        wall, cpu = _medians(taken)
        twice = max(0, *(each.carried_bytes - corpus.total_bytes for each in taken))
        cells = (
            name,
            min(each.whole_files for each in taken),
            f"{wall:.2f}",
            f"{corpus.files / wall:.0f}",
            f"{cpu:.2f}",
            f"{cpu / corpus.total_bytes * 1e9:.2f}",
            f"{cpu / corpus.files * 1000:.2f}",
            f"{max(each.peak_bytes for each in taken) / 2**20:.0f}",
            f"{twice:,}",
            f"{ours[0] / wall:.2f}",
            f"{ours[1] / cpu:.2f}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, ""])


def _medians(taken: list[Run]) -> tuple[float, float]:
    """Return wall and CPU seconds."""
    return (
        statistics.median(each.wall_s for each in taken),
        statistics.median(each.cpu_s for each in taken),
    )


if __name__ == "__main__":
    main()
