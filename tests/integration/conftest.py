"""Fixtures of more than one file."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mirror.ledger import Ledger
from mirror.pipeline.discover import walker
from tests import filled_site as filled
from tests.scripted_list import WalkBench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.site import Site


@pytest.fixture
async def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[WalkBench]:
    monkeypatch.setattr(walker, "PACE_S", 0.0)
    made = WalkBench(tmp_path)
    yield made
    await made.ledger.close()


@pytest.fixture(scope="session")
def filled_site(tmp_path_factory) -> Site:
    """Give a site with exports of many kinds; only to be read."""
    return asyncio.run(filled.filled_site(tmp_path_factory.mktemp("filled")))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Return an empty ledger that knows one source."""
    opened = Ledger.open(tmp_path)
    opened.walks.source("hq")
    yield opened
    opened.close()
