"""Give what several files of tests read."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests import filled_site as filled

if TYPE_CHECKING:
    from tests.site import Site


@pytest.fixture(scope="session")
def filled_site(tmp_path_factory) -> Site:
    """Give a site with exports of many kinds; only to be read."""
    return asyncio.run(filled.filled_site(tmp_path_factory.mktemp("filled")))
