"""The life of exports follows the clock, and only the clock."""

from datetime import UTC, datetime, timedelta

import pytest

from mirror.simulator import Life, Stage, Vms

START = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **span: float) -> None:
        self.now += timedelta(**span)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_by_default_nothing_happens_by_itself(clock: Clock) -> None:
    vms = Vms(clock=clock)
    asked, made = vms.add(stage=Stage.ASKED), vms.add()
    clock.forward(days=400)
    vms.advance()

    assert (asked.stage, made.stage) == (Stage.ASKED, Stage.MADE)
    assert len(vms.exports) == 2


def test_an_export_is_made_and_deleted_when_due(clock: Clock) -> None:
    life = Life(generation_delay=timedelta(minutes=5), file_lifetime=timedelta(hours=3))
    vms = Vms(clock=clock, life=life)
    export = vms.add(stage=Stage.ASKED)

    stages = []
    for minutes in (4, 1, 179, 1):
        clock.forward(minutes=minutes)
        vms.advance()
        stages.append(export.stage)
    assert stages == [Stage.ASKED, Stage.MADE, Stage.MADE, Stage.DELETED]
    assert export.updated_at == START + timedelta(minutes=5)


def test_a_long_absence_is_caught_up_with_in_order(clock: Clock) -> None:
    life = Life(generation_delay=timedelta(minutes=5), file_lifetime=timedelta(hours=3))
    vms = Vms(clock=clock, life=life)
    export = vms.add(stage=Stage.ASKED)
    clock.forward(days=2)
    vms.advance()

    assert export.stage is Stage.DELETED
    assert len(export.versions) == 1


def test_speed_divides_durations_and_leaves_the_clock_alone(clock: Clock) -> None:
    life = Life(file_lifetime=timedelta(hours=3), speed=60)
    vms = Vms(clock=clock, life=life)
    export = vms.add()
    clock.forward(seconds=179)
    vms.advance()
    before = export.stage
    clock.forward(seconds=1)
    vms.advance()

    assert (before, export.stage) == (Stage.MADE, Stage.DELETED)
    assert export.created_at == START


def test_the_job_that_deletes_runs_only_now_and_then(clock: Clock) -> None:
    life = Life(
        file_lifetime=timedelta(hours=3), cleanup_interval=timedelta(minutes=10)
    )
    vms = Vms(clock=clock, life=life)
    clock.forward(minutes=3)
    export = vms.add()
    clock.forward(hours=3, minutes=6)
    vms.advance()
    before = export.stage
    clock.forward(minutes=1)
    vms.advance()

    assert (before, export.stage) == (Stage.MADE, Stage.DELETED)


def test_a_file_made_again_is_another_one_and_lives_its_own_life(clock: Clock) -> None:
    vms = Vms(clock=clock, life=Life(file_lifetime=timedelta(hours=3)))
    export = vms.add(size=50_000)
    first = vms.truth(export)
    etag = export.versions[0].etag
    clock.forward(hours=4)
    vms.advance()
    vms.make_file(export)
    clock.forward(hours=2)
    vms.advance()

    second = vms.truth(export)
    assert export.stage is Stage.MADE
    assert export.updated_at == START + timedelta(hours=4)
    assert second.size_bytes == first.size_bytes
    assert second.sha256 != first.sha256
    assert export.versions[1].etag != etag
    assert second.versions[0] == first.versions[0]


def test_exports_arrive_at_about_the_rate_told_and_alike_for_one_seed(
    clock: Clock,
) -> None:
    def arrivals() -> list[tuple[datetime, int | None, str]]:
        clock.now = START
        vms = Vms(clock=clock, life=Life(arrivals_per_min=2, seed=9))
        clock.forward(hours=1)
        vms.advance()
        return [(each.created_at, each.size_bytes, each.clip) for each in vms.exports]

    first = arrivals()
    assert 100 < len(first) < 140
    assert first == arrivals()
    assert all(START <= at <= START + timedelta(hours=1) for at, _, _ in first)


def test_ids_are_taken_once(clock: Clock) -> None:
    vms = Vms(clock=clock)
    vms.add(export_id=7)

    assert vms.add().export_id == 8
    with pytest.raises(ValueError, match="7"):
        vms.add(export_id=7)
