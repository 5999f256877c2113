"""What tests against real files and servers share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirror.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Return an empty ledger that knows one source."""
    opened = Ledger.open(tmp_path)
    opened.walks.source("hq")
    yield opened
    opened.close()
