"""A doubtful body in the spool: held, asked for again, and kept in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mirror.errors import FetchError, FileGoneError, NoRoomError, OriginRefusedError
from mirror.lifecycle import held_body
from mirror.model import Export, Reason, State
from mirror.ports import Validators
from tests import builders
from tests.builders import HOUR, MINUTE
from tests.integration.test_attempt import WHOLE, Bench, Body, _met

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KIB = 1024


@pytest.fixture
async def bench(tmp_path) -> AsyncIterator[Bench]:
    async with Bench.open(tmp_path) as made:
        yield made


def odd(letter: int, size: int = 70 * KIB) -> bytes:
    """Return a body that is neither text nor an mp4."""
    return bytes([letter, 0]) * (size // 2)


def body(content: bytes, **given: Any) -> Body:
    return Body([content], total_bytes=len(content), **given)


async def again(bench: Bench, *answers: Any, seen: Any = None, **row: Any) -> Export:
    """Ask once more, when it is time; return how that leaves the export."""
    bench.now_us += 5 * MINUTE
    bench.vms.seen = [seen]
    await bench.attempt(*answers, **row)
    return await bench.export()


async def ended(bench: Bench) -> Export:
    """Let the clock look at what is held; return the export."""
    await bench.thread(
        lambda ledger: ledger.fetches.end_held(
            held_body.spooled_doubtful, targets=["nas"], now_us=bench.now_us
        )
    )
    return await bench.export()


@pytest.mark.parametrize(
    "failure",
    [
        FileGoneError(Reason.FILE_GONE, "the VMS answers 404 for the file"),
        OriginRefusedError("another host"),
        NoRoomError("spool_full", "no room"),
    ],
)
async def test_what_is_held_is_kept_when_no_other_can_be_had(bench, failure):
    """Gone, refused, no room: the body that came is the file."""
    await bench.attempt(body(odd(1)))
    held = await again(bench, failure)
    kept = await ended(bench)

    assert (held.state, held.held_until_us) == (State.READY, 0)
    assert (kept.state, kept.reason) == (State.SPOOLED, "doubtful")
    assert bench.parts() == [odd(1)]


async def test_what_is_held_is_kept_when_nothing_is_gained_any_more(bench):
    """It would be parked after ten attempts."""
    await bench.attempt(body(odd(1)))
    for _ in range(10):
        assert (await bench.export()).held_until_us != 0
        await bench.thread(lambda ledger: ledger.fetches.ask_again())
        await again(bench, FetchError("server_error", "the VMS answers 500"))
    kept = await ended(bench)

    assert kept.state is State.SPOOLED
    assert kept.doubtful


async def test_a_whole_body_takes_its_place(bench):
    """Nothing of the doubtful one is left in the spool."""
    await bench.attempt(body(odd(1)))
    whole = await again(bench, body(WHOLE))

    assert (whole.state, whole.proof, whole.held) == (State.SPOOLED, "whole", False)
    assert bench.parts() == [WHOLE]


@pytest.mark.parametrize(
    ("bodies", "kept"),
    [
        ([odd(1), odd(2, 80 * KIB), odd(3)], 1),
        ([odd(1), odd(2), odd(3)], 2),
        ([odd(1, 90 * KIB), odd(2), odd(3, 80 * KIB)], 0),
    ],
)
async def test_the_longest_of_three_is_kept(bench, bodies, kept):
    """Of equal length the newest; the others are removed."""
    await bench.attempt(body(bodies[0]))
    for content in bodies[1:]:
        await again(bench, body(content))
    export = await ended(bench)

    assert (export.state, export.size_bytes) == (State.SPOOLED, len(bodies[kept]))
    assert bench.parts() == [bodies[kept]]


async def test_the_bytes_of_another_try_lie_beside_it(bench):
    """A second body that is cut is a partial of its own."""
    await bench.attempt(body(odd(1)))
    half = await again(
        bench, Body([odd(2), FetchError("cut", "gone")], total_bytes=200 * KIB)
    )

    assert half.held
    assert half.part_bytes == 70 * KIB
    assert sorted(bench.parts()) == [odd(1), odd(2)]


@pytest.mark.parametrize(
    ("seen", "asks", "ends"),
    [
        (
            Validators(total_bytes=70 * KIB, etag='"e"', last_modified=None),
            False,
            True,
        ),
        (Validators(total_bytes=70 * KIB, etag=None, last_modified=None), True, True),
        (Validators(total_bytes=71 * KIB, etag='"e"', last_modified=None), True, True),
        (None, True, True),
        (FileGoneError(Reason.FILE_GONE, "404"), False, True),
        (FetchError("timeout", "slow"), False, False),
    ],
)
async def test_a_look_may_confirm_it(bench, seen, asks, ends):
    """By its validators; by the length alone it shows nothing."""
    await bench.attempt(body(odd(1)))
    requests = len(bench.vms.points)
    after = await again(bench, body(odd(1)), seen=seen)

    assert (len(bench.vms.points) > requests) is asks
    assert (after.held_until_us == 0) is ends
    assert after.looks == (0 if isinstance(seen, Exception) else 1)


async def test_no_look_where_there_is_nothing_to_compare(bench):
    """No ETag came with what is held: the VMS is not asked, and nothing is held on."""
    await bench.attempt(body(odd(1), etag=None))
    after = await again(bench, body(odd(1)), seen=AssertionError("no look"))

    assert after.held_until_us == 0
    assert after.looks == 0


async def test_an_attempt_ends_when_the_time_is_up(bench):
    """A body that never ends must not keep what is held from being kept."""
    await bench.attempt(body(odd(1)))
    bench.now_us = (await bench.export()).held_until_us - 200_000
    bench.vms.seen = [None]
    await bench.attempt(Body([odd(2), ...], total_bytes=200 * KIB))
    bench.now_us += HOUR
    kept = await ended(bench)

    assert kept.state is State.SPOOLED
    assert kept.size_bytes == 70 * KIB


async def test_a_small_body_does_not_end_by_one_failure(bench):
    """However often the placeholder came before."""
    for _ in range(12):
        await again(bench, body(odd(1, 2000)))
        await bench.thread(lambda ledger: ledger.fetches.ask_again())
        bench.now_us -= 4 * MINUTE
    after = await again(bench, FetchError("server_error", "the VMS answers 500"))

    assert after.held
    assert after.held_until_us != 0


async def test_other_footage_does_not_cost_what_is_held(bench):
    """Its row speaks of another camera while a second body is on its way."""
    await bench.attempt(body(odd(1)))
    bench.now_us += 5 * MINUTE
    bench.vms.seen = [None]
    export = await bench.claim()
    await bench.thread(_met, builders.row(camera_id=2), bench.now_us)
    bench.vms.answers = [body(WHOLE)]
    await bench.try_once(export)
    kept = await ended(bench)

    assert (kept.camera_id, kept.size_bytes) == (1, 70 * KIB)
    assert kept.doubtful
