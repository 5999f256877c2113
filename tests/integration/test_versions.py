"""Versions of one export in the ledger: names, drops, retry, and back from sidecars."""

from __future__ import annotations

import dataclasses
import itertools
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from mirror.backoff import Pace
from mirror.cli.exports import find
from mirror.errors import MirrorError
from mirror.layout import doubtful_form, with_number
from mirror.ledger import Filter, KeySet, Ledger, SidecarVerdict
from mirror.lifecycle import attempt, held_body
from mirror.lifecycle import version as versions
from mirror.lifecycle.copy import after_good
from mirror.lifecycle.list_row import plan
from mirror.model import Attempt, Export, Reason, Receipt, State, Verdict
from tests import builders
from tests.builders import HOUR, MINUTE, NOW

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ATTEMPT = Attempt(
    number=0,
    times=1,
    started_us=NOW - MINUTE,
    ended_us=NOW,
    outcome="whole",
    offset_bytes=0,
    held_bytes=0,
    error=None,
)
PACE = Pace(initial=timedelta(seconds=5), maximum=timedelta(minutes=10))
DATE = "Mon, 23 Nov 2026 12:00:00 GMT"
LATER = "Mon, 23 Nov 2026 12:05:00 GMT"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path)
    opened.walks.source("hq")
    yield opened
    opened.prove()
    opened.close()


def meet(ledger: Ledger, **row: Any) -> None:
    ledger.walks.meet(
        "hq",
        [builders.row(**row)],
        lambda prior, row: plan(prior, row, builders.walk()),
    )


def all_of(ledger: Ledger, **wanted: Any) -> list[Export]:
    found = [export for export, _ in ledger.queries.exports(Filter(**wanted))]
    return sorted(found, key=lambda export: (export.export_id, export.version))


def receipt(digit: str, **given: Any) -> Receipt:
    values: dict[str, Any] = {
        "size_bytes": 1 << 20,
        "sha256": digit * 64,
        "etag": '"1"',
        "last_modified": DATE,
    }
    return Receipt(**(values | given))


def fetch(ledger: Ledger, digit: str = "a", **given: Any) -> Any:
    """Fetch what is due; return how that left it."""
    claimed = ledger.fetches.claim(["hq"], now_us=NOW + HOUR, horizon_us=9 * HOUR)
    assert claimed is not None and claimed.key is not None
    body = receipt(digit, **given)

    def decide(export: Export) -> Export:
        if body.doubt is None:
            return attempt.whole(export, body, ATTEMPT)
        return held_body.wait_over(
            held_body.doubted(
                export,
                body,
                folder="spool",
                started_us=NOW,
                now_us=NOW,
                lifetime_us=3 * HOUR,
                pace=PACE,
                jitter=0,
                patient=True,
            )
        )

    settled = ledger.fetches.settle(claimed.key, decide, ATTEMPT, ["nas"])
    ledger.fetches.end_held(held_body.spooled_doubtful, targets=["nas"], now_us=NOW)
    return settled


def change(ledger: Ledger, reason: Reason = Reason.CHANGED) -> None:
    """Let the newest version be followed by one that is due."""
    newest = all_of(ledger)[-1]
    further = versions.further(newest, reason=reason, now_us=NOW)
    ledger.second_looks.settle(newest.stored_key, lambda export, _: (export, further))


def publish(ledger: Ledger, base: str = "hq/7.mp4") -> list[str]:
    """Name and save all copies that are owed; return their paths."""
    paths = []
    while duty := ledger.copies.claim("nas", now_us=NOW, horizon_us=HOUR):
        names = (with_number(base, number) for number in itertools.count(1))
        path = next(
            path
            for name in names
            for path in [doubtful_form(name) if duty.export.doubtful else name]
            if ledger.copies.fix_path(duty.export.stored_key, "nas", path)
        )
        ledger.copies.saved(
            duty.export.stored_key, "nas", verified=True, now_us=NOW, required=["nas"]
        )
        paths.append(path)
    return paths


def test_a_version_is_a_row_of_its_own(ledger):
    """With its own state, copies, size and digest; walks speak of the newest."""
    meet(ledger)
    fetch(ledger, "a")
    publish(ledger)
    change(ledger)
    meet(ledger, url="https://vms.example/storage/a/2.mp4")
    fetch(ledger, "b")
    first, second = all_of(ledger)

    assert (first.state, second.state) == (State.SAVED, State.SPOOLED)
    assert (first.sha256, second.sha256) == ("a" * 64, "b" * 64)
    assert (first.url, second.url) == (builders.URL, builders.URL.replace("1.", "2."))
    assert [copy.state for copy in ledger.copies.of(first.stored_key)] == ["saved"]
    assert [copy.state for copy in ledger.copies.of(second.stored_key)] == ["pending"]
    assert ledger.queries.counts() == {("hq", "saved"): 1, ("hq", "spooled"): 1}


@pytest.mark.parametrize(
    ("doubts", "paths"),
    [
        ([None], ["7.mp4"]),
        (["x"], ["7.doubtful.mp4"]),
        ([None, None], ["7.mp4", "7~2.mp4"]),
        (["x", None], ["7.doubtful.mp4", "7.mp4"]),
        ([None, "x"], ["7.mp4", "7.doubtful.mp4"]),
        (["x", "x", None], ["7.doubtful.mp4", "7~2.doubtful.mp4", "7.mp4"]),
        (["x", None, "x"], ["7.doubtful.mp4", "7.mp4", "7~2.doubtful.mp4"]),
    ],
)
def test_versions_share_a_base(ledger, doubts, paths):
    """The first whole one has the plain name, also after a doubtful one."""
    meet(ledger)
    found: list[str] = []
    for digit, doubt in zip("abc", doubts, strict=False):
        if found:
            change(ledger)
        fetch(ledger, digit, doubt=doubt)
        found += publish(ledger)

    assert [path.removeprefix("hq/") for path in found] == paths


def test_a_base_is_claimed_with_both_its_forms(ledger):
    """Another export that meets there gets a base of its own."""
    meet(ledger)
    fetch(ledger, "a", doubt="x")
    assert publish(ledger) == ["hq/7.doubtful.mp4"]
    meet(ledger, export_id=8)
    fetch(ledger, "b")

    assert publish(ledger) == ["hq/7~2.mp4"]


def test_other_footage_under_one_identity_has_a_base_of_its_own(ledger):
    meet(ledger)
    fetch(ledger, "a", doubt="x")
    publish(ledger)
    meet(ledger, camera_id=2)
    fetch(ledger, "b")

    assert publish(ledger) == ["hq/7~2.mp4"]
    assert [(one.version, one.camera_id) for one in all_of(ledger)] == [(1, 1), (2, 2)]


def test_two_rows_of_one_walk_the_first_counts(ledger):
    """Within a page, and over pages."""
    meet(ledger)
    fetch(ledger)
    publish(ledger)

    def decide(prior: Export | None, row: Any) -> Export:
        return plan(prior, row, builders.walk())

    same, other = builders.row(), builders.row(camera_id=2)
    within, keys = ledger.walks.meet("hq", [same, other], decide)
    before = KeySet()
    before.update(keys)
    later, _ = ledger.walks.meet("hq", [other], decide, before)

    assert [one.version for one in all_of(ledger)] == [1]
    assert [len(each.refused) for each in (within, later)] == [1, 1]


@pytest.mark.parametrize(
    ("given", "empty"),
    [
        ({"etag": '"2"'}, (True, False)),
        ({"last_modified": LATER}, (False, True)),
        ({"etag": '"2"', "last_modified": LATER}, (False, True)),
        ({}, (False, False)),
    ],
)
@pytest.mark.parametrize("doubt", [None, "x"])
def test_the_same_bytes_are_no_version(ledger, given, empty, doubt):
    """What differed counts no more for that source; after two there is no third."""
    meet(ledger)
    fetch(ledger, "a", doubt=doubt)
    publish(ledger)
    for times in (1, 2):
        change(ledger)
        settled = fetch(ledger, "a", doubt=doubt, **given)

        assert settled.dropped
        assert [(one.version, one.drops) for one in all_of(ledger)] == [(1, times)]
    [kept] = all_of(ledger)
    found = ledger.second_looks.empty("hq")

    assert (found.etag, found.modified) == empty
    assert not versions.may_follow(kept)
    assert sum(ledger.queries.counts().values()) == 1


def test_the_bytes_of_a_version_before_are_no_version_either(ledger):
    meet(ledger)
    fetch(ledger, "a")
    change(ledger)
    fetch(ledger, "b")
    change(ledger)

    assert fetch(ledger, "a").dropped
    assert [one.drops for one in all_of(ledger)] == [1, 1]


def test_the_looks_of_the_version_before_are_over(ledger):
    meet(ledger)
    fetch(ledger, "a")
    [first] = all_of(ledger)
    ledger.second_looks.settle(
        first.stored_key,
        lambda export, _: ((dataclasses.replace(export, look_due_us=NOW)),) * 2,
    )
    assert ledger.second_looks.due(["hq"], NOW) is not None
    change(ledger)
    assert ledger.second_looks.due(["hq"], NOW) is not None
    fetch(ledger, "b")

    assert ledger.second_looks.due(["hq"], NOW) is None


def test_retry_fetches_a_doubtful_one_anew(ledger):
    """Whatever the number of its versions; a whole one is left alone."""
    meet(ledger)
    for digit in "abcde":
        fetch(ledger, digit, doubt="x")
        publish(ledger)
        newest = all_of(ledger)[-1]
        assert ledger.retry([newest], NOW) == 1
        assert ledger.retry([newest], NOW) == 0
    fetch(ledger, "f")
    publish(ledger)
    *_, doubtful, whole = all_of(ledger)

    assert (whole.version, whole.state) == (6, State.SAVED)
    assert ledger.retry([doubtful, whole], NOW) == 0


def test_a_version_is_found_by_its_name(ledger):
    meet(ledger)
    fetch(ledger, "a")
    change(ledger)

    assert find(ledger, "hq/7").version == 2
    assert find(ledger, "7~1").version == 1
    assert find(ledger, "hq/7@2026-09-21T13:00:00.000000Z~2").version == 2
    with pytest.raises(MirrorError, match="hq/7~3"):
        find(ledger, "hq/7~3")


def told(digit: str, version: int, minute: int, doubt: str | None = None) -> Export:
    """Return a version as its sidecar tells it."""
    return builders.export(
        key=None,
        state=State.DOUBTFUL if doubt else State.SAVED,
        version=version,
        proof=Verdict.DOUBTFUL if doubt else Verdict.WHOLE,
        doubt=doubt,
        size_bytes=100,
        sha256=digit * 64,
        spooled_us=NOW + minute * MINUTE,
        saved_us=NOW + minute * MINUTE,
    )


@pytest.mark.parametrize("order", [*itertools.permutations(range(5))][::7])
def test_sidecars_become_versions_in_any_order(ledger, order):
    """Of one digest copies of one version; of several by number, then by time."""
    sidecars = [
        (told("a", 1, 1), "nas", "a.mp4"),
        (told("a", 1, 1), "vault", "a.mp4"),
        (told("b", 2, 2, "x"), "nas", "a.doubtful.mp4"),
        (told("c", 1, 5), "nas", "a~2.mp4"),
        (told("d", 4, 3), "vault", "a~3.mp4"),
    ]
    for number in order:
        export, target, path = sidecars[number]
        taken = ledger.inventory.take(export, target=target, path=path, whole=True)
        assert taken is SidecarVerdict.KEPT
    ledger.inventory.settle()
    found = all_of(ledger)

    assert [(one.version, (one.sha256 or "")[:1], one.state) for one in found] == [
        (1, "a", State.SAVED),
        (2, "c", State.SAVED),
        (3, "b", State.DOUBTFUL),
        (4, "d", State.SAVED),
    ]
    assert [len(ledger.copies.of(one.stored_key)) for one in found] == [2, 1, 1, 1]
    assert ledger.queries.totals("doubtful") == {("hq", ""): 1}


def test_a_flag_that_flaps_once_is_one_version(ledger):
    """After it was dropped the row is not seen as made anew a second time."""
    meet(ledger)
    fetch(ledger, "a", doubt="x")
    publish(ledger)
    meet(ledger, has_file=False)
    meet(ledger)
    assert fetch(ledger, "a", doubt="x").dropped
    meet(ledger)
    [kept] = all_of(ledger)

    assert (kept.drops, kept.has_file) == (1, True)


def test_what_came_back_from_a_sidecar_is_not_made_anew(ledger):
    ledger.inventory.take(told("a", 1, 1, "x"), target="nas", path="a.mp4", whole=True)
    ledger.inventory.settle()
    meet(ledger)

    assert [one.version for one in all_of(ledger)] == [1]


def test_a_version_that_was_kept_is_not_forgotten(ledger):
    """Fetched again after damage, it may bring the bytes of another."""
    meet(ledger)
    fetch(ledger, "a")
    publish(ledger)
    change(ledger)
    fetch(ledger, "b")
    publish(ledger)
    second = all_of(ledger)[-1]
    ready = dataclasses.replace(second, state=State.READY)
    ledger.second_looks.settle(second.stored_key, lambda *_: (ready, ready))

    assert not fetch(ledger, "a").dropped
    assert len(all_of(ledger)) == 2


def test_retry_of_an_older_version_fetches_nothing(ledger):
    """The VMS has the newest one alone."""
    meet(ledger)
    fetch(ledger, "a")
    first = all_of(ledger)[0]
    change(ledger)
    damaged = dataclasses.replace(first, state=State.DAMAGED)
    ledger.second_looks.settle(first.stored_key, lambda _, newest: (damaged, newest))

    assert ledger.retry([damaged], NOW) == 0
    assert all_of(ledger)[0].state is State.DAMAGED


def test_retry_asks_for_nothing_that_is_not_listed(ledger):
    """It would only be counted as lost."""
    meet(ledger)
    fetch(ledger, "a", doubt="x")
    meet(ledger, has_file=False)

    assert ledger.retry(all_of(ledger), NOW) == 0


def test_what_is_kept_after_all_holds_no_body(ledger):
    """A copy is found good again while a body of the export is held."""
    meet(ledger)
    fetch(ledger, "a")
    publish(ledger)
    [kept] = all_of(ledger)
    held = dataclasses.replace(
        kept, state=State.READY, held_sha256="c" * 64, held_us=NOW, held_until_us=NOW
    )

    assert not after_good(held).held
    assert ledger.fetches.held_until() is None
