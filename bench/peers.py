"""The commands that are measured: the product, and what people would use instead."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.corpus import Corpus
    from bench.servers import Servers

AT_ONCE = 8
"""Transfers at once, for everyone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one run has to do.

    Attributes:
        work: An empty folder for lists and configuration.
        into: An empty folder for the files.
    """

    corpus: Corpus
    url: str
    servers: Servers
    work: Path
    into: Path

    @property
    def urls(self) -> list[str]:
        """Return the address of each file."""
        return [f"{self.url}/{self.corpus.name}/{n}" for n in self.corpus.names()]


def ours(job: Job) -> str:
    """Return `archive-mirror once` as shipped: durable, recorded, proven."""
    (job.work / "token").write_text(job.servers.token)
    (job.work / "token").chmod(0o600)
    tls = f'tls = {{ ca_file = "{job.servers.cert}" }}\n'
    (job.work / "mirror.toml").write_text(
        f'state_dir = "{job.work}/state"\n'
        f'[sources.hq]\nurl = "{job.url}"\ntoken_file = "{job.work}/token"\n'
        f"concurrency = {AT_ONCE}\n{tls if job.url.startswith('https') else ''}"
        f'[targets.nas]\ntype = "directory"\npath = "{job.into}"\n'
        f"[transfer]\nconcurrency = {AT_ONCE}\n"
    )
    command = Path(sys.executable).with_name("archive-mirror")
    return f"{command} -c {job.work}/mirror.toml --log-level error once"


def rclone(job: Job) -> str:
    """Return rclone, then its own checksums of what it wrote."""
    return (
        f"rclone copy :http: {job.into} --http-url {job.url}/{job.corpus.name}/ "
        f"--no-check-certificate --transfers {AT_ONCE} --checkers {AT_ONCE} -q && "
        f"rclone hashsum sha256 {job.into}"
    )


def curl(job: Job) -> str:
    """Return curl, then openssl's checksums."""
    lines = [
        f'url = "{u}"\noutput = "{job.into}/{u.rsplit("/")[-1]}"' for u in job.urls
    ]
    (job.work / "curl").write_text("\n".join(lines))
    return (
        f"curl -sk --parallel --parallel-max {AT_ONCE} -K {job.work}/curl && "
        f"{_digests(job)}"
    )


def wget2(job: Job) -> str:
    """Return wget2, then openssl's checksums."""
    (job.work / "urls").write_text("\n".join(job.urls))
    return (
        f"wget2 -q --no-check-certificate --max-threads={AT_ONCE} -P {job.into} "
        f"-i {job.work}/urls && {_digests(job)}"
    )


def aria2(job: Job) -> str:
    """Return aria2, then openssl's checksums."""
    (job.work / "urls").write_text("\n".join(job.urls))
    return (
        f"aria2c -q --check-certificate=false -j{AT_ONCE} -x1 --file-allocation=none "
        f"-d {job.into} -i {job.work}/urls && {_digests(job)}"
    )


def _digests(job: Job) -> str:
    folder = shlex.quote(str(job.into))
    return f"find {folder} -name '*.mp4' -exec openssl dgst -sha256 {{}} +"


PEERS: dict[str, Callable[[Job], str]] = {
    "archive-mirror": ours,
    "rclone+hashsum": rclone,
    "curl+dgst": curl,
    "wget2+dgst": wget2,
    "aria2+dgst": aria2,
}
