"""What `retry` leaves of an export's past."""

from __future__ import annotations

import pytest

from mirror.lifecycle.retry import due_now
from mirror.model import State
from tests import builders


@pytest.mark.parametrize(
    "state", [State.READY, State.PARKED, State.LOST, State.WAITING, State.EXCLUDED]
)
def test_what_took_too_long_yields_no_more(state):
    """Somebody wants it now: it is as what was never tried."""
    after = due_now(
        builders.export(state=state, timeouts=3, due_us=builders.NOW), builders.NOW
    )

    assert (after.state, after.timeouts, after.due_us) == (State.READY, 0, 0)
