"""Bugs in how the answers of a VMS are taken: its lists, the bodies of its files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import msgspec
from aiohttp import StreamReader

from mirror.errors import ListError
from mirror.vms import schema
from mirror.vms.body import Body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mirror.ports import Batch


def unchecked_numbers() -> None:
    """Take what a row says for a number without looking."""
    decode = schema.decode_page

    def decoded(body: Any, **more: Any) -> Any:
        page = decode(body, **more)
        for row in page.rows:
            item = msgspec.json.decode(row.raw.decode("utf-8", "replace"))
            int(item.get("user_id") or 0)
        return page

    patch.object(schema, "decode_page", decoded).start()


def strict_pages() -> None:
    """Refuse a page for one bad row."""
    decode = schema.decode_page

    def decoded(body: Any, **more: Any) -> Any:
        page = decode(body, **more)
        if page.bad_rows:
            raise ListError("not_a_list", "it holds a bad row")
        return page

    patch.object(schema, "decode_page", decoded).start()


def boundless_pages() -> None:
    """Hold a page in memory however long it is."""

    async def whole(self: StreamReader) -> AsyncIterator[bytes]:
        yield await self.read()

    patch.object(StreamReader, "iter_any", whole).start()


def hoarded_bodies() -> None:
    """Keep all bytes of all files in memory."""
    fill, hoard = Body.fill, []

    async def hoarding(self: Body, batch: Batch, until: float = 0.0) -> bool:
        before = batch.size
        came = await fill(self, batch, until)
        hoard.append(bytes(batch.held[before:]))
        return came

    patch.object(Body, "fill", hoarding).start()
