"""The receiver: what came over the wire lies in the spool, whatever ended it."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from mirror.errors import FetchError, SpoolError
from mirror.pipeline.fetch import receive
from mirror.pipeline.fetch.receive import (
    BATCH_BYTES,
    ErrorPageError,
    ReceiveLimits,
    Receiver,
    read_head,
)
from mirror.pipeline.spool.part import Part
from mirror.pipeline.spool.spool import Place, Spool
from mirror.ports import Batch
from tests import builders

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    from mirror.ports import FileBody as PortBody


HEAD = (24).to_bytes(4, "big") + b"ftypisom" + bytes(12)
KIB = 1024


class Body:
    """An answer that plays a script: bytes are sent, errors raised, floats slept."""

    start_bytes = 0
    total_bytes = None
    explicit_end = True
    etag = None
    last_modified = None

    def __init__(self, script: Iterable[Any]) -> None:
        self._script = iter(script)
        self._rest = b""
        self.sent: list[bytes] = []
        self.waits = asyncio.Event()

    async def fill(self, batch: Batch, _: float = 0.0) -> bool:
        await asyncio.sleep(0)
        while self._rest == b"":
            step = next(self._script, None)
            if step is None:
                return False
            if isinstance(step, Exception):
                raise step
            if callable(step):
                step()
            elif step is ...:
                self.waits.set()
                await asyncio.Event().wait()
            else:
                self._rest = bytes(step)
        chunk = self._rest[: len(batch.free)]
        self._rest = self._rest[len(chunk) :]
        self.sent.append(chunk)
        batch.add(chunk)
        return True

    @property
    def content(self) -> bytes:
        """All that was sent so far."""
        return b"".join(self.sent)


class Rig:
    """A receiver on a real part, with what it told."""

    def __init__(self, spool: Spool, part: Part, path: Path) -> None:
        self.spool = spool
        self.part = part
        self.path = path
        self.batches: list[int] = []
        self.sizes: list[int] = []
        self.checkpoints: list[int] = []

    def receiver(
        self, *, max_bytes: int = 1 << 40, min_rate: float | None = None, check=None
    ) -> Receiver:
        """Return a receiver into the part."""

        async def checkpoint() -> None:
            size, _ = await self.spool.use(self.part, Part.flush)
            self.checkpoints.append(size)
            if check is not None:
                await check()

        def received(number: int, size: int) -> None:
            self.batches.append(number)
            self.sizes.append(size)

        return Receiver(
            self.spool,
            self.part,
            limits=ReceiveLimits(max_bytes=max_bytes, min_rate=min_rate),
            checkpoint=checkpoint,
            received=received,
        )

    def held(self) -> bytes:
        """Return what the part proves that it holds."""
        size, sha256 = self.part.flush()
        content = self.path.read_bytes()[:size]
        assert hashlib.sha256(content).hexdigest() == sha256
        assert len(content) == size == self.part.size
        return content


class Clock:
    """Stands in for the monotonic clock."""

    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now

    def later(self, seconds: float):
        """Return a step of a script that lets time pass."""

        def pass_by() -> None:
            self.now += seconds

        return pass_by


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    place = Place(path=tmp_path / "spool")
    spool = Spool(node_id="n", places=lambda: [place], threads=2)
    export = builders.export()
    part = await spool.open(export)
    folder = part.path.parent
    yield Rig(spool, part, folder / spool.file_name(export))
    part.close()
    spool.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(receive, "time", made)
    monkeypatch.setattr(made, "monotonic", made, raising=False)
    return made


def blocks(number: int, size: int = 64 * KIB) -> list[bytes]:
    """Return chunks that all differ, the first one the head of an mp4."""
    made = [
        index.to_bytes(4, "big") + bytes([index % 251]) * (size - 4)
        for index in range(number)
    ]
    return [HEAD, *made]


async def test_all_that_came_is_written_in_order(rig):
    """A body read to its end is in the part byte for byte."""
    body = Body(blocks(30))
    await rig.receiver().run(body)

    assert rig.held() == body.content
    assert sum(rig.batches) == len(body.content)
    assert rig.sizes[-1] == len(body.content)


@pytest.mark.parametrize("number", [0, 1, 3, 4, 5, 9])
async def test_all_that_came_before_an_error_is_written(rig, number):
    """A cut or a stall keeps each byte that came before it, and is told."""
    body = Body([*blocks(number), FetchError("cut", "gone")])
    with pytest.raises(FetchError, match="gone"):
        await rig.receiver().run(body)

    assert rig.held() == body.content


@pytest.mark.parametrize("number", [0, 1, 3, 4, 5, 9])
async def test_all_that_came_before_a_cancellation_is_written(rig, number):
    """A stop while the body is awaited keeps each byte that came before it."""
    body = Body([*blocks(number), ...])
    moving = asyncio.create_task(rig.receiver().run(body))
    await body.waits.wait()
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving

    assert rig.held() == body.content


@pytest.mark.parametrize("turns", range(1, 80, 3))
async def test_a_cancellation_at_any_await_keeps_what_came(
    rig, clock, monkeypatch, turns
):
    """Wherever the stop falls, the part is whole up to what came, and all is told."""
    real = os.pwritev

    def slow(fd: int, buffers, offset: int) -> int:
        time.sleep(0.002)
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", slow)
    script = [step for one in blocks(40) for step in (one, clock.later(0.4))]
    body = Body([*script, ...])
    moving = asyncio.create_task(rig.receiver().run(body))
    for _ in range(turns):
        await asyncio.sleep(0)
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving

    assert rig.held() == body.content
    assert sum(rig.batches) == len(body.content)


@pytest.mark.parametrize("more", [1, 2, 3])
async def test_further_cancellations_lose_nothing_either(rig, monkeypatch, more):
    """Cancelled again while the last batch is written, the write still ends first."""
    real = os.pwritev

    def slow(fd: int, buffers, offset: int) -> int:
        time.sleep(0.05)
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", slow)
    body = Body([*blocks(5), ...])
    moving = asyncio.create_task(rig.receiver().run(body))
    await body.waits.wait()
    moving.cancel()
    for _ in range(more):
        await asyncio.sleep(0.005)
        moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving

    assert rig.held() == body.content


async def test_a_cancellation_while_a_checkpoint_runs_keeps_what_came(rig, clock):
    """Bytes gathered meanwhile are written before the stop goes on."""
    within = asyncio.Event()

    async def stuck() -> None:
        within.set()
        await asyncio.Event().wait()

    body = Body([HEAD, b"a" * KIB, clock.later(2.0), b"b" * KIB, b"c" * KIB, ...])
    moving = asyncio.create_task(rig.receiver(check=stuck).run(body))
    await within.wait()
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving

    assert rig.held() == body.content


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("partly", [0, 100_000])
async def test_a_failed_write_leaves_no_hole(rig, monkeypatch, after, partly):
    """After a batch that could not be written, nothing may be written behind it."""
    real, calls = os.pwritev, []

    def fails_once(fd: int, buffers, offset: int) -> int:
        calls.append(offset)
        if len(calls) == after:
            if partly:
                os.pwrite(fd, b"".join(buffers)[:partly], offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", fails_once)
    body = Body(blocks(20))
    with pytest.raises(SpoolError) as caught:
        await rig.receiver().run(body)

    assert caught.value.reason == "spool_full"
    held = rig.held()
    assert held == body.content[: len(held)]


async def test_a_write_that_fails_as_the_body_ends_is_told(rig, monkeypatch):
    """The last batch is as much part of the file as the first."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(SpoolError):
        await rig.receiver().run(Body([HEAD, b"x" * KIB]))

    assert rig.held() == b""


@pytest.mark.parametrize("number", [1, 7, 8, 100, 5000])
async def test_binary_bytes_are_kept_however_few(rig, number):
    """A body that ended with them is no error page."""
    content = (HEAD * 300)[:number]
    await rig.receiver().run(Body([content]))

    assert rig.held() == content


@pytest.mark.parametrize("number", [1, 7, 8, 100, 5000])
async def test_binary_bytes_are_kept_where_the_line_broke(rig, number):
    """Unless they are fewer than tell anything."""
    content = (HEAD * 300)[:number]
    with pytest.raises(FetchError, match="gone"):
        await rig.receiver().run(Body([content, FetchError("cut", "gone")]))

    assert rig.held() == (content if number >= 8 else b"")


@pytest.mark.parametrize("steps", [[], [b""]])
async def test_an_empty_body_is_told_as_such(rig, steps):
    """It is no file, and no break either."""
    with pytest.raises(ErrorPageError) as caught:
        await rig.receiver().run(Body(steps))

    assert caught.value.head == b""
    assert rig.held() == b""


async def test_a_break_before_the_first_byte_is_a_break(rig):
    """Nothing can be said of what would have come."""
    with pytest.raises(FetchError, match="gone"):
        await rig.receiver().run(Body([FetchError("cut", "gone")]))

    assert rig.held() == b""


@pytest.mark.parametrize("size", [1, 3, 8, 9])
async def test_a_head_in_small_pieces_is_recognised(rig, size):
    """However the first bytes are cut up, an mp4 is an mp4."""
    content = HEAD + b"x" * 100
    pieces = [content[i : i + size] for i in range(0, len(content), size)]
    await rig.receiver().run(Body(pieces))

    assert rig.held() == content


PAGE = b"<html><body>Login</body></html>"


@pytest.mark.parametrize(
    "chunks",
    [
        [PAGE],
        [b"<htm", b"l><body>"],
        [b"<"] * 40,
        [b"x" * 300 * KIB],
        [PAGE, FetchError("cut", "gone")],
        [PAGE * 200, ...],
        ["\ufeffNot found".encode("utf-16-le")],
    ],
)
async def test_an_error_page_is_not_kept(rig, clock, chunks):
    """Not a byte of it is written, and its head is told."""
    body = Body([step for one in chunks for step in (clock.later(2.0), one)])
    with pytest.raises(ErrorPageError) as caught:
        async with asyncio.timeout(60):
            await rig.receiver().run(body)

    assert rig.held() == b""
    assert caught.value.head
    assert body.content.startswith(caught.value.head)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xd8\xff\xe0\0\x10JFIF" + b"x" * 5000,
        b"\0\0\1\xba\x44\0\4\0" + b"x" * 5000,
        PAGE * 10 + b"\0" + PAGE * 100,
    ],
)
async def test_all_else_is_received_to_its_end(rig, content):
    """Whatever it is, its structure is judged once all of it is there."""
    await rig.receiver().run(Body([content[i : i + 700] for i in range(0, 9000, 700)]))

    assert rig.held() == content


@pytest.mark.parametrize("size", [1, 700, 100_000])
async def test_a_look_reads_what_tells_a_page(size):
    """4 KiB and what came with them, or all of a shorter body."""
    content = HEAD * 1000
    body = Body([content[i : i + size] for i in range(0, len(content), size)])

    batch = Batch(BATCH_BYTES)
    await read_head(cast("PortBody", body), batch)

    head = bytes(batch.held)
    assert head == body.content
    assert 4096 <= len(head) < 4096 + size or head == content


@pytest.mark.parametrize("chunks", [[], [PAGE], [PAGE * 200, ...]])
async def test_a_look_refuses_a_page(chunks):
    """Before anything is done for its sake."""
    with pytest.raises(ErrorPageError):
        await read_head(cast("PortBody", Body(chunks)), Batch(BATCH_BYTES))


async def test_a_part_that_is_continued_needs_no_head(rig):
    """The first bytes of the rest of a file are any bytes."""
    rig.part.append([HEAD])
    await rig.receiver().run(Body([b"<html>"]))

    assert rig.held() == HEAD + b"<html>"


@pytest.mark.parametrize(
    ("steps", "max_bytes"), [([b"<html>" * 10], 1 << 40), (blocks(1), 100)]
)
async def test_a_cancelled_transfer_ends_as_cancelled(rig, steps, max_bytes):
    """What the last batch turns out to be does not swallow a cancellation."""
    body = Body([*steps, ...])
    moving = asyncio.create_task(rig.receiver(max_bytes=max_bytes).run(body))
    await body.waits.wait()
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving


@pytest.mark.parametrize("size", [1000, 16 * KIB, 100_000, BATCH_BYTES, 700_000])
async def test_a_batch_is_bounded(rig, size):
    """No hop to a thread carries more than 256 KiB and one chunk."""
    await rig.receiver().run(Body(blocks(2_000_000 // size + 3, size)))

    assert max(rig.batches) <= BATCH_BYTES + size
    assert rig.part.size > 2_000_000


async def test_a_slow_disk_stops_the_reading(rig, monkeypatch):
    """While a batch is written at most one more is gathered."""
    go: list[bool] = []
    real = os.pwritev
    stuck = asyncio.Event()
    loop = asyncio.get_running_loop()

    def waits(fd: int, buffers, offset: int) -> int:
        loop.call_soon_threadsafe(stuck.set)
        while not go:
            time.sleep(0.002)
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", waits)
    body = Body(blocks(60))
    moving = asyncio.create_task(rig.receiver().run(body))
    await stuck.wait()
    await asyncio.sleep(0.1)
    read_meanwhile = len(body.content)
    go.append(True)
    await moving

    assert read_meanwhile <= 2 * (BATCH_BYTES + 64 * KIB)
    assert rig.held() == body.content


async def test_a_checkpoint_each_second_and_not_more_often(rig, clock):
    """A second after the last one what came is made durable."""
    step = clock.later(0.4)
    script = [one for index in range(9) for one in (step, bytes([index]) * 10)]
    head = HEAD * 200
    await rig.receiver().run(Body([head, *script]))

    assert rig.checkpoints == [len(head) + 30, len(head) + 60, len(head) + 90]


async def test_no_checkpoint_before_a_second_is_over(rig, clock):
    """Bytes alone make none; the end of the attempt does that."""
    await rig.receiver().run(Body(blocks(20)))

    assert rig.checkpoints == []


async def test_a_checkpoint_that_fails_ends_the_transfer_and_keeps_the_bytes(
    rig, clock
):
    """What came is written even then."""

    async def fails() -> None:
        raise SpoolError("spool_failed", "no fsync")

    body = Body([HEAD, b"a" * 10, clock.later(2.0), b"b" * 10, b"c"])
    with pytest.raises(SpoolError, match="no fsync"):
        await rig.receiver(check=fails).run(body)

    assert rig.held() == body.content == HEAD + b"a" * 10 + b"b" * 10


async def test_the_reserve_is_looked_after_while_a_file_grows(rig, clock):
    """Once the reserve is touched the transfer ends, at the next checkpoint."""
    rig.part.min_free = 1 << 60
    body = Body([HEAD, clock.later(2.0), b"b" * 10, b"c" * 10])
    with pytest.raises(SpoolError) as caught:
        await rig.receiver().run(body)

    assert caught.value.reason == "spool_full"
    assert rig.held() == HEAD + b"b" * 10


def dripping(clock: Clock, *, seconds: int, size: int) -> list[Any]:
    """Return a script of one chunk in ten seconds."""
    step = clock.later(10.0)
    return [one for _ in range(seconds // 10) for one in (step, b"x" * size)]


@pytest.mark.parametrize(
    ("size", "seconds", "slow"),
    [(10, 290, False), (10, 310, True), (990, 310, True), (1010, 900, False)],
)
async def test_the_floor_of_the_rate_is_over_five_minutes(
    rig, clock, size, seconds, slow
):
    """Slower than min_rate over five minutes is refused, and not before."""
    body = Body([HEAD, *dripping(clock, seconds=seconds, size=size)])
    moving = rig.receiver(min_rate=100.0).run(body)
    if slow:
        with pytest.raises(FetchError) as caught:
            await moving
        assert caught.value.reason == "too_slow"
    else:
        await moving

    assert rig.held() == body.content


async def test_the_rate_is_that_of_the_last_five_minutes(rig, clock):
    """A fast start does not excuse a crawl after it."""
    fast = dripping(clock, seconds=310, size=100_000)
    body = Body([HEAD, *fast, *dripping(clock, seconds=620, size=10)])
    with pytest.raises(FetchError) as caught:
        await rig.receiver(min_rate=100.0).run(body)

    assert caught.value.reason == "too_slow"


async def test_what_was_held_before_does_not_count_as_fast(rig, clock):
    """Only the bytes of this transfer count."""
    rig.part.append([HEAD, b"x" * 1_000_000])
    with pytest.raises(FetchError) as caught:
        await rig.receiver(min_rate=100.0).run(
            Body(dripping(clock, seconds=320, size=10))
        )

    assert caught.value.reason == "too_slow"


async def test_without_a_floor_any_rate_will_do(rig, clock):
    """min_rate unset refuses nothing."""
    body = Body([HEAD, *dripping(clock, seconds=4000, size=1)])
    await rig.receiver().run(body)

    assert rig.held() == body.content


async def test_a_file_larger_than_allowed_is_refused_soon(rig):
    """A body that announced nothing ends at most two batches past max_bytes."""
    limit = 1_000_000
    body = Body(blocks(400))
    with pytest.raises(FetchError) as caught:
        await rig.receiver(max_bytes=limit).run(body)

    assert caught.value.reason == "too_large"
    assert len(body.content) <= limit + 3 * (BATCH_BYTES + 64 * KIB)


async def test_a_file_as_large_as_allowed_is_taken(rig):
    """The bound itself is allowed, one byte more is not, even at the very end."""
    content = HEAD + b"x" * 76
    await rig.receiver(max_bytes=100).run(Body([content]))
    assert rig.held() == content

    with pytest.raises(FetchError):
        await rig.receiver(max_bytes=100).run(Body([b"y"]))
