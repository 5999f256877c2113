"""Scripts are used up in order; every kind of fault has a name."""

import pytest

from mirror.simulator import FAULTS, Chaos, Fault, Kind, fault
from mirror.simulator.command import sort_faults
from mirror.simulator.faults import Script


def kinds(faults: tuple[Fault, ...]) -> list[Kind]:
    return [each.kind for each in faults]


def test_every_kind_can_be_had_by_a_name() -> None:
    assert {each.kind for each in FAULTS.values()} == set(Kind)


def test_steps_are_used_up_in_order_and_then_one_stays() -> None:
    script = Script()
    script.write(["cut", None, ("weak_etag", "stall")], then="status_404")

    assert kinds(script.take()) == [Kind.CUT]
    assert script.take() == ()
    assert kinds(script.take()) == [Kind.WEAK_ETAG, Kind.STALL]
    assert [kinds(script.take()) for _ in range(3)] == [[Kind.STATUS]] * 3


def test_a_fault_of_ranges_waits_for_a_range() -> None:
    script = Script()
    script.write(["ignore_range"])

    assert script.take(ranged=False) == ()
    assert kinds(script.take(ranged=True)) == [Kind.IGNORE_RANGE]
    assert script.over


def test_a_fault_of_a_page_waits_for_that_page() -> None:
    script = Script()
    script.write([Fault(kind=Kind.DELETE_ROW, size=1, page=2)])

    assert script.take(page=1) == ()
    assert kinds(script.take(page=2)) == [Kind.DELETE_ROW]
    assert script.take(page=2) == ()


def test_chaos_is_the_same_for_the_same_seed_and_about_as_often_as_told() -> None:
    one = Chaos(("cut", "reset"), 0.25, seed=4)
    two = Chaos(("cut", "reset"), 0.25, seed=4)
    drawn = [one.take() for _ in range(2000)]

    assert drawn == [two.take() for _ in range(2000)]
    assert 400 < sum(map(bool, drawn)) < 600
    assert not any(Chaos().take() for _ in range(10))


def test_an_unknown_fault_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="wrong_total"):
        fault("nonesuch")
    with pytest.raises(ValueError, match="nonesuch"):
        Chaos(("nonesuch",), 1.0)


def test_faults_of_the_command_line_are_sorted_by_whom_they_strike() -> None:
    files, lists = sort_faults(["cut", "list:cut", "bad_row", "weak_etag"])

    assert files == ["cut", "weak_etag"]
    assert lists == ["cut", "bad_row"]
    with pytest.raises(ValueError, match="a list cannot"):
        sort_faults(["list:weak_etag"])
