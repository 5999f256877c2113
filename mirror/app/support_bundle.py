"""One file with all that somebody far away needs to help, and nothing secret."""

from __future__ import annotations

import functools
import io
import json
import os
import platform
import tarfile
import time
from contextlib import suppress
from importlib import metadata
from typing import TYPE_CHECKING, Any

import aiofiles

from mirror import __version__
from mirror.app import check, lock
from mirror.app.build import proxies_of
from mirror.app.status import public_json
from mirror.errors import MirrorError
from mirror.ledger import LEDGER_NAME, SQLITE_VERSION, Ledger
from mirror.model import to_us, utc_now
from mirror.vms import token as tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from mirror.config import Setting, Settings
    from mirror.logs import Redactor

_LOG_BYTES = 256 * 1024
_NO_LOG = "none was named: --log FILE adds one, such as of journalctl"
_LIBRARIES = ("aiohttp", "aiofiles", "pydantic", "structlog", "typer")


async def make(
    path: Path,
    settings: Settings,
    *,
    effective: Sequence[Setting],
    log: Path | None,
    redactor: Redactor,
    opened: Callable[[], None],
) -> tuple[int, list[str]]:
    """Write the bundle to a new file, mode 0600.

    Args:
        path: Of the file.
        settings: The configuration.
        effective: The same, with where each value came from.
        log: A file of log lines, of which the end is added.
        redactor: Learns the secrets and removes them.
        opened: Called once the new file and the log are open; what follows needs
            nothing that only root may do.

    Returns:
        The length of the file in bytes, and the names of what is in it.

    Raises:
        MirrorError: It cannot be written, or is there already.
    """
    _learn_secrets(settings, redactor)
    log_text = _NO_LOG if log is None else await _tail(log)
    private = functools.partial(os.open, mode=0o600)
    try:
        async with aiofiles.open(path, "xb", opener=private) as file:
            try:
                opened()
                texts = await _texts(settings, effective, redactor)
                texts["log.txt"] = log_text
                packed = _pack({name: redactor.clean(texts[name]) for name in texts})
                await file.write(packed)
            except BaseException:
                with suppress(OSError):
                    path.unlink()  # noqa: ASYNC240 -- sure to be done
                raise
    except OSError as exc:
        raise MirrorError(
            f"the bundle cannot be written to {path} ({exc.strerror}); name a new "
            "file in a folder that you may write to"
        ) from exc
    return len(packed), list(texts)


async def _texts(
    settings: Settings, effective: Sequence[Setting], redactor: Redactor
) -> dict[str, str]:
    """Return the content of each file of the bundle but the log."""
    findings = await check.run(settings, secret=redactor.add)
    return {
        "versions.json": json.dumps(_versions(), indent=1),
        "configuration.txt": "\n".join(
            f"{'.'.join(each.path)} = {each.value}  # {each.origin}"
            for each in effective
        ),
        "check.txt": "\n".join(
            f"{each.grade} {each.name}: {each.detail}" for each in findings
        ),
        **_of_ledger(settings.state_dir),
    }


def _learn_secrets(settings: Settings, redactor: Redactor) -> None:
    """Give the redactor each token, password and address that is a secret."""
    for source in settings.sources.values():
        for hidden in proxies_of(source).secrets:
            redactor.add(hidden)
        token = tokens.content_of(source.token_path)
        if token is not None:
            redactor.add(token)
    urls = [source.heartbeat_url for source in settings.sources.values()]
    for url in (settings.heartbeat_url, *urls):
        if url is not None:
            redactor.add(url.get_secret_value())


def _pack(texts: Mapping[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as bundle:
        for name, text in texts.items():
            content = text.encode("utf-8", "replace")
            entry = tarfile.TarInfo(f"archive-mirror-support/{name}")
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            bundle.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _versions() -> dict[str, Any]:
    return {
        "archive-mirror": __version__,
        "python": platform.python_version(),
        "sqlite": SQLITE_VERSION,
        "system": platform.platform(),
    } | {name: metadata.version(name) for name in _LIBRARIES}


def _of_ledger(state_dir: Path) -> dict[str, str]:
    """Return the status and figures of the ledger, no names of footage among them."""
    files = {
        path.name: path.stat().st_size for path in state_dir.glob(f"{LEDGER_NAME}*")
    }
    running = lock.is_held(state_dir)
    figures: dict[str, Any] = {"running": running, "files": files}
    try:
        with Ledger.reading(state_dir, check=False) as ledger:
            queries, now_us = ledger.queries, to_us(utc_now())
            status = public_json.status(queries.counts(), queries, now_us)
            figures["rows"] = queries.sizes()
    except MirrorError as exc:
        status = {"error": str(exc)}
    return {
        "status.json": json.dumps(status, indent=1),
        "ledger.json": json.dumps(figures, indent=1),
    }


async def _tail(log: Path) -> str:
    try:
        async with aiofiles.open(log, "rb") as file:
            length = await file.seek(0, os.SEEK_END)
            await file.seek(max(0, length - _LOG_BYTES))
            text = (await file.read(_LOG_BYTES)).decode("utf-8", "replace")
    except OSError as exc:
        return f"{log} cannot be read: {exc.strerror}"
    # A secret that the cut goes through would not be removed: begin with a whole line.
    return text if length <= _LOG_BYTES else text.partition("\n")[2]
