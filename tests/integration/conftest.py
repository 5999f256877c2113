"""Fixtures of more than one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirror.pipeline.discover import walker
from tests.scripted_list import WalkBench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[WalkBench]:
    monkeypatch.setattr(walker, "PACE_S", 0.0)
    made = WalkBench(tmp_path)
    yield made
    await made.ledger.close()
