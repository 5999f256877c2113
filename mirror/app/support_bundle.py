"""One file with all that somebody far away needs to help, and nothing secret."""

from __future__ import annotations

import io
import json
import os
import platform
import tarfile
import time
from importlib import metadata
from typing import TYPE_CHECKING, Any

from mirror import __version__
from mirror.app import instance, lock
from mirror.app.status import public_json
from mirror.errors import MirrorError
from mirror.ledger import LEDGER_NAME, SQLITE_VERSION, Ledger
from mirror.model import to_us, utc_now
from mirror.vms import token as tokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mirror.app.check import Finding
    from mirror.config import Setting, Settings
    from mirror.logs import Redactor

_LOG_BYTES = 256 * 1024
_NO_LOG = "none was named: --log FILE adds one, such as of journalctl"
_LIBRARIES = ("aiohttp", "aiofiles", "pydantic", "structlog", "typer")


def learn_secrets(settings: Settings, redactor: Redactor) -> None:
    """Have the redactor know each token, password and address that is a secret."""
    for source in settings.sources.values():
        for hidden in instance.proxies_of(source).secrets:
            redactor.add(hidden)
        token = tokens.content_of(source.token_path)
        if token is not None:
            redactor.add(token)
    urls = [one.heartbeat_url for one in settings.sources.values()]
    for url in (settings.heartbeat_url, *urls):
        if url is not None:
            redactor.add(url.get_secret_value())


def gather(
    settings: Settings,
    *,
    effective: Sequence[Setting],
    findings: Sequence[Finding],
    log: Path | None,
) -> dict[str, str]:
    """Return the texts of the bundle by name; they may still hold secrets."""
    return {
        "versions.json": json.dumps(_versions(), indent=1),
        "configuration.txt": "\n".join(
            f"{'.'.join(one.path)} = {one.value}  # {one.origin}" for one in effective
        ),
        "check.txt": "\n".join(
            f"{one.grade} {one.name}: {one.detail}" for one in findings
        ),
        "log.txt": _NO_LOG if log is None else _tail(log),
        **_of_ledger(settings.state_dir),
    }


def write(path: Path, texts: Mapping[str, str], redactor: Redactor) -> int:
    """Write the bundle to a new file, mode 0600; return its length in bytes.

    Raises:
        MirrorError: It cannot be written, or is there already.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as bundle:
        for name, text in texts.items():
            content = redactor.clean(text).encode("utf-8", "replace")
            entry = tarfile.TarInfo(f"archive-mirror-support/{name}")
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            bundle.addfile(entry, io.BytesIO(content))
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(packed.getvalue())
    except OSError as exc:
        raise MirrorError(
            f"the bundle cannot be written to {path} ({exc.strerror}); name a new "
            "file in a folder that you may write to"
        ) from exc
    return len(packed.getvalue())


def _versions() -> dict[str, Any]:
    return {
        "archive-mirror": __version__,
        "python": platform.python_version(),
        "sqlite": SQLITE_VERSION,
        "system": platform.platform(),
    } | {name: metadata.version(name) for name in _LIBRARIES}


def _of_ledger(state_dir: Path) -> dict[str, str]:
    """Return the status and figures of the ledger, no names of footage among them."""
    files = {one.name: one.stat().st_size for one in state_dir.glob(f"{LEDGER_NAME}*")}
    running = lock.is_held(state_dir)
    figures: dict[str, Any] = {"running": running, "files": files}
    try:
        with Ledger.reading(state_dir, check=False) as ledger:
            reads, now_us = ledger.queries, to_us(utc_now())
            status = public_json.status(reads.counts(), reads, now_us)
            figures["rows"] = reads.sizes()
    except MirrorError as exc:
        status = {"error": str(exc)}
    return {
        "status.json": json.dumps(status, indent=1),
        "ledger.json": json.dumps(figures, indent=1),
    }


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - _LOG_BYTES))
            text = file.read(_LOG_BYTES).decode("utf-8", "replace")
    except OSError as exc:
        return f"{log} cannot be read: {exc.strerror}"
    # A secret that the cut goes through would not be known: begin with a whole line.
    return text if length <= _LOG_BYTES else text.partition("\n")[2]
