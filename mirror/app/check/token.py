"""Try a token that is stored nowhere yet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.app import build
from mirror.model import to_us, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.config import Settings

_DAY_US = 86_400_000_000


async def try_token(
    settings: Settings, source: str, token: str, *, secret: Callable[[str], None]
) -> None:
    """Ask a source's VMS for its list with a token.

    Raises:
        AuthError: The VMS refuses it.
        ListError: Whether the VMS takes it cannot be told now.
    """
    fd = os.memfd_create("token")
    try:
        os.write(fd, token.encode())
        where = {"token_file": Path(f"/proc/self/fd/{fd}")}
        sources = {source: settings.sources[source].model_copy(update=where)}
        now_us = to_us(utc_now())
        async with build.open_clients(
            settings.model_copy(update={"sources": sources}),
            device_uuids={source: "archive-mirror-check"},
            secret=secret,
        ) as clients:
            await clients[source].page(
                1, since_us=now_us - _DAY_US, until_us=now_us + _DAY_US
            )
    finally:
        os.close(fd)
