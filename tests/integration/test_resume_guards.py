"""What is held is kept though ETags are of no use, and joined with nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from mirror.model import EtagUse, State, utc_now
from mirror.simulator import Behaviour, Fault, Kind, Vms
from mirror.simulator.behaviour import Etag
from tests.site import Site

SIZE, CUT, KI64 = 400_000, 150_000, 65_536
MADE = timedelta(minutes=20)


@pytest.fixture
async def vms():
    async with Vms() as served:
        yield served


@pytest.fixture
def site(tmp_path, vms):
    return Site.make(tmp_path, vms)


def ranges(vms, served):
    """Return what was asked for, and how many bytes each answer brought."""
    return [(one.range, one.if_range) for one in vms.file_requests(served)]


def kept(site, vms, served):
    """Tell that what is kept is the newest version, whole."""
    export, truth = site.export(served), vms.truth(served)
    assert (export.state, export.sha256) == (State.SAVED, truth.sha256)
    assert list(site.media().values()) == [truth.sha256]
    return True


@pytest.mark.parametrize(
    ("step", "use"),
    [
        ("other_etag", EtagUse.NONE),
        ("new_etag", EtagUse.NONE),
        ("if_range_full", EtagUse.COMPARES),
    ],
)
async def test_one_full_answer_shows_that_the_date_guards(site, vms, step, use):
    """Then the rest alone is asked for, and 64 KiB before it to be compared."""
    cut = Fault(kind=Kind.CUT, after=CUT)
    served = vms.add(
        size=SIZE, made_at=utc_now() - MADE, faults=[cut, step], then="if_range_full"
    )
    await site.once()

    assert kept(site, vms, served)
    first, second, third = ranges(vms, served)
    date = served.current.last_modified
    assert first == (None, None)
    assert second == (f"bytes={CUT}-", served.current.etag)
    assert third == (f"bytes={CUT - KI64}-", date)
    assert site.export(served).attempts == 2
    assert site.export(served).etag_use is use


@pytest.mark.parametrize("more", [(), ("ignore_if_range",)])
async def test_what_was_learnt_is_known_to_the_next_attempt(site, vms, more):
    """A line that breaks often brings a file whose ETag is another each time."""
    served = vms.add(
        size=SIZE,
        made_at=utc_now() - MADE,
        then=("new_etag", *more, Fault(kind=Kind.CUT, after=KI64 + 50_000)),
    )
    await site.once()

    assert kept(site, vms, served)
    asked = ranges(vms, served)
    by_date = [one for one in asked if one[1] == served.current.last_modified]
    assert len(by_date) >= 5
    assert len(asked) - len(by_date) <= 3, "asked anew what was learnt"


@pytest.mark.parametrize("etag", [Etag.STRONG, Etag.WEAK])
@pytest.mark.parametrize("by", [1, 10_000, 100_000])
async def test_other_bytes_under_the_same_date_are_not_joined(site, vms, etag, by):
    """A change within the overlap is seen, whatever the server says of it."""
    vms.behaviour = replace(Behaviour(), etag=etag)
    served = vms.add(
        size=SIZE,
        made_at=utc_now() - MADE,
        faults=[
            ("new_etag", Fault(kind=Kind.CUT, after=CUT)),
            ("change_hidden", "new_etag", Fault(kind=Kind.CUT, after=by)),
        ],
        then=("new_etag", "ignore_if_range"),
    )
    await site.once()

    assert kept(site, vms, served)


async def test_a_date_of_now_guards_nothing(site, vms):
    """Within its second the file may have been made again."""
    vms.behaviour = replace(Behaviour(), etag=Etag.NONE)
    served = vms.add(
        size=SIZE, faults=[("modified_now", Fault(kind=Kind.CUT, after=CUT))]
    )
    await site.once()

    assert kept(site, vms, served)
    assert ranges(vms, served) == [(None, None)] * 2
